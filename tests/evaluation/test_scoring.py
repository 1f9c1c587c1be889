"""The scoring pass: the numbers of a plain run, row by row, whatever the batches; each text run once."""

import copy
import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fixtures_evaluation import (
    LONG_TEXT,
    assert_same_numbers,
    chat_tokenizer,
    invented_sets,
    lively_model,
    numbers_by_name,
    plain_numbers,
    question,
    samples_of,
    taught_model,
)

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import OnLongRow, Row
from egup_trainer.errors import EgupError, ModelError
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling.memory.packing import Packer

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it


def options(batch_size=3, **more):
    return ScoringOptions(batch_size=batch_size, progress=False, **more)


def single(row, text):
    """The row of one answer that a text of `row` is."""
    return Row(row.prompt, text)


# Numbers


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3"])
def test_every_number_is_that_of_a_plain_run_row_by_row(tokenizer, name):
    model = taught_model(tokenizer, name)
    row_sets = invented_sets(new_tokens=0)
    scores = score_sets(model, tokenizer, row_sets, options())
    for row_set in row_sets:
        for sample, row in enumerate(row_set.rows):
            found = scores[row_set.name].samples[sample]
            texts = [(row.answer, found.answers[0]), *zip(row.alternatives, found.answers[1:], strict=True)]
            texts += zip(row.perturbed, found.perturbed, strict=True)
            texts += [] if row.paraphrase is None else [(row.paraphrase, found.paraphrase)]
            for place, (text, numbers) in enumerate(texts):
                samples = samples_of(single(row, text), tokenizer, max_length=row_set.max_length)
                plain = plain_numbers(model, samples)
                np.testing.assert_allclose(numbers.token_logps, plain["logps"], atol=1e-5)
                assert numbers.token_logps.dtype == np.float64
                assert numbers.greedy_match.tolist() == plain["greedy_match"].tolist()
                if row_set.with_membership and numbers is found.answers[0]:
                    np.testing.assert_allclose(numbers.token_z, plain["z"], atol=1e-4, rtol=1e-5)
                if row_set.with_features and place == 0:
                    row_features = scores[row_set.name].features[sample]
                    np.testing.assert_allclose(row_features, plain["features"], atol=1e-5)
    hits = np.concatenate([row.answers[0].greedy_match for row in scores["forget"].samples.values()])
    assert 0.1 < hits.mean() < 0.95


def test_numbers_are_read_where_they_are_asked_for(model, tokenizer):
    scores = score_sets(model, tokenizer, invented_sets(), options())
    asked = {name: [row.answers[0].token_z is not None for row in s.samples.values()] for name, s in scores.items()}
    assert asked == {"forget": [True] * 5, "holdout": [True] * 3, "retain": [False] * 3}
    shapes = {name: None if s.features is None else (s.features.shape, s.features.dtype) for name, s in scores.items()}
    assert shapes == {"forget": ((5, 32), np.float32), "holdout": ((3, 32), np.float32), "retain": None}
    written = {name: [row.generation is not None for row in s.samples.values()] for name, s in scores.items()}
    assert written == {"forget": [True] * 5, "holdout": [False] * 3, "retain": [True] * 3}
    assert {row.gradient_norm for s in scores.values() for row in s.samples.values()} == {None}
    assert {name: s.name for name, s in scores.items()} == {name: name for name in scores}


def test_a_row_keeps_its_answers_in_order_and_what_they_are_compared_with(model, tokenizer):
    scores = score_sets(model, tokenizer, invented_sets(), options())
    row = scores["retain"].samples[1]
    assert row.references == ("Kaia's", "Of Kaia Stone.", "Jon")
    assert row.zlib_bytes == len(zlib.compress(b"Kaia's"))
    assert (len(row.answers), row.paraphrase, row.perturbed) == (3, None, ())
    first = scores["forget"].samples[0]
    assert (len(first.answers), first.paraphrase is None, len(first.perturbed)) == (1, False, 2)
    assert scores["holdout"].samples[0].zlib_bytes == len(zlib.compress(LONG_TEXT.encode()))


def test_the_feature_layer_is_the_one_that_is_asked_for(model, tokenizer):
    row_set = RowSet("forget", [question("Who?", "Ada Lorn.")], with_features=True)
    (ids, labels), places = samples_of(row_set.rows[0], tokenizer)[0], []
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    places = [place for place in range(len(labels)) if labels[place] != -100]
    for layer in (0, 1):
        features = score_sets(model, tokenizer, [row_set], options(feature_layer=layer))["forget"].features
        np.testing.assert_allclose(features[0], states[layer + 1][0, places].mean(dim=0), atol=1e-5)


# Invariances


@pytest.fixture
def expected(model, tokenizer):
    return score_sets(model, tokenizer, invented_sets(), options(batch_size=1))


@pytest.mark.parametrize("batch_size", [3, 16, 1000])
def test_numbers_do_not_depend_on_the_batch_size(model, tokenizer, expected, batch_size):
    assert_same_numbers(score_sets(model, tokenizer, invented_sets(), options(batch_size)), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_numbers_do_not_depend_on_the_padding(model, tokenizer, expected, side):
    other = copy.deepcopy(tokenizer)
    other.padding_side = side
    assert_same_numbers(score_sets(model, other, invented_sets(), options()), expected)
    other.pad_token = "a"  # a token that stands in texts
    assert_same_numbers(score_sets(model, other, invented_sets(), options()), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_ids_follow_the_rows_whatever_their_order(model, tokenizer, expected, seed):
    draw = np.random.default_rng(seed)
    row_sets = invented_sets()
    orders = {row_set.name: draw.permutation(len(row_set.rows)).tolist() for row_set in row_sets}
    shuffled = [replace(each, rows=[each.rows[old] for old in orders[each.name]]) for each in reversed(row_sets)]
    found = score_sets(model, tokenizer, shuffled, options(batch_size=4))
    assert list(found) == ["retain", "holdout", "forget"]
    back = {}
    for name, order in orders.items():
        place = {old: new for new, old in enumerate(order)}
        samples = {old: found[name].samples[place[old]] for old in range(len(order))}
        features = found[name].features
        features = None if features is None else features[[place[old] for old in range(len(order))]]
        back[name] = replace(found[name], samples=samples, features=features)
    assert_same_numbers(back, expected)


def test_dropout_is_off_and_the_mode_is_as_it_was(tokenizer):
    model = lively_model(tokenizer, "gpt2")
    expected = score_sets(model, tokenizer, invented_sets(), options())
    assert any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    model.train()
    assert_same_numbers(score_sets(model, tokenizer, invented_sets(), options()), expected)
    assert model.training


def test_the_template_decides_how_a_prompt_is_written(model, tokenizer):
    """With the same text, a row has the same numbers: by markers, by markers though there is a chat template."""
    template, chatty = Template(user="<user> ", assistant="\n<assistant> ", always=True), chat_tokenizer(tokenizer)
    row = question("Who is Ada?", "Ada Lorn.")
    found = score_sets(model, chatty, [RowSet("forget", [row], template)], options())
    plain = score_sets(model, tokenizer, [RowSet("forget", [row], replace(template, always=False))], options())
    assert_same_numbers(found, plain)
    through_chat = score_sets(model, chatty, [RowSet("forget", [row], Template())], options())
    samples = samples_of(row, chatty)
    assert tokenizer.decode(samples[0][0][0]) == "<user> Who is Ada?\n<assistant> Ada Lorn.\n<eos>"
    logps = through_chat["forget"].samples[0].answers[0].token_logps
    np.testing.assert_allclose(logps, plain_numbers(model, samples)["logps"], atol=1e-5)


# Each text once


@pytest.fixture
def padded(monkeypatch):
    """Each row in a line of its own, so that what a model was called with tells which rows they were."""
    monkeypatch.setattr("egup_trainer.modeling.forward.Packer", lambda model, _: Packer(model, padding_free=False))
    monkeypatch.setattr("egup_trainer.modeling.forward.check_causal", lambda *_: None)  # its two rows are no texts


def rows_run(model, run):
    """Token ids of all rows that the model ran while `run` ran, and the numbers of rows a call."""
    rows, calls = Counter(), []

    def note(module, args, kwargs):
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        calls.append(len(ids))
        rows.update(tuple(each[kept.bool()].tolist()) for each, kept in zip(ids, mask, strict=True))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    run()
    handle.remove()
    return rows, calls


def all_texts(row_sets, tokenizer):
    """Token ids of all pieces of all texts."""
    texts = Counter()
    for row_set in row_sets:
        for row in row_set.rows:
            paraphrases = [] if row.paraphrase is None else [row.paraphrase]
            for answer in (row.answer, *row.alternatives, *paraphrases, *row.perturbed):
                pieces = samples_of(single(row, answer), tokenizer, max_length=row_set.max_length)
                texts.update(tuple(ids[0].tolist()) for ids, _ in pieces)
    return texts


@pytest.mark.parametrize("with_norms", [False, True])
def test_every_text_is_run_once_whatever_is_asked_of_it(model, tokenizer, padded, with_norms):
    row_sets = invented_sets(new_tokens=0)
    run = lambda: score_sets(model, tokenizer, row_sets, options(4, with_gradient_norms=with_norms))  # noqa: E731
    rows, calls = rows_run(model, run)
    assert rows == all_texts(row_sets, tokenizer)
    holdout = [piece for row in row_sets[1].rows for piece in samples_of(row, tokenizer, max_length=16)]
    single_runs = 5 + len(holdout) if with_norms else 0  # forget answers, pieces of holdout texts
    assert calls[:single_runs] == [1] * single_runs
    assert len(calls) - single_runs == -(-(rows.total() - single_runs) // 4)


def test_gradient_norms_are_computed_of_first_answers_alone(model, tokenizer, padded):
    """Nobody reads the norm of a further right answer, so a backward pass for it is wasted."""
    row = question("Whose?", "Kaia's", alternatives=("Jon's", "Ada's", "Leo's"))
    row_sets = [RowSet("forget", [row], with_membership=True)]
    run = lambda: score_sets(model, tokenizer, row_sets, options(16, with_gradient_norms=True))  # noqa: E731
    assert rows_run(model, run)[1] == [1, 3]


def test_a_generation_starts_from_the_prompt_as_it_stands_before_the_answer(model, tokenizer, monkeypatch):
    """Further answers may tokenize the prompt's end otherwise: the first one counts, as for its other numbers."""
    prompts = []

    def remember(model, tokenizer, given, *args, **kwargs):
        prompts.extend(map(tokenizer.decode, given))
        return ["" for _ in given]

    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", remember)
    rows = [question("Who?", "Ada", alternatives=("\nBo",)), question("Who?", "\nBo", alternatives=("Ada",))]
    score_sets(model, tokenizer, [replace(invented_sets()[2], rows=rows)], options())
    assert prompts == ["Question: Who?\nAnswer:", "Question: Who?\nAnswer: "]


# Mixed precision


@pytest.fixture
def mixed():
    """An `Accelerator` for bfloat16 on the CPU; its state is shared by all, so it is taken back."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_under_autocast_numbers_stay_near_and_the_last_step_is_in_float32(model, tokenizer, mixed):
    row_sets = invented_sets(new_tokens=0)
    plain = score_sets(model, tokenizer, row_sets, options(with_gradient_norms=True))
    scores = score_sets(model, tokenizer, row_sets, options(with_gradient_norms=True), mixed)
    first, second = numbers_by_name(scores), numbers_by_name(plain)
    assert first.keys() == second.keys()
    distances = []
    for name, value in first.items():
        assert np.isfinite(value).all()
        if name.endswith("logps"):
            assert value.dtype == np.float64
            distances.append(np.abs(value - second[name]).max())
            # In bfloat16, values of this size are whole multiples of 2**-8.
            assert (value * 2**8 % 1 != 0).any()
    assert 1e-4 < max(distances) < 0.2
    norms = [name for name in first if name.endswith("norm")]
    assert len(norms) == 8
    assert all(abs(first[name] / second[name] - 1) < 0.1 for name in norms)


# What cannot be scored


@pytest.mark.parametrize(
    ("name", "row_set", "got"),
    [
        # Named by the row's number, not by the index of one of its texts: rows before it have several.
        ("llama", lambda: broken_set(question("word " * 40, SECRET), max_length=30), "row 5 of the forget set"),
        ("llama", lambda: RowSet("forget", [Row((), f"Ada {SECRET}")], max_length=1), "row 0 of the forget set"),
        # GPT-2 looks positions up in a table: past its end there is nothing but an IndexError.
        ("gpt2", lambda: RowSet("forget", [Row((), LONG_TEXT * 6)]), "128"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(tokenizer, name, row_set, got):
    with pytest.raises(EgupError) as error:
        score_sets(lively_model(tokenizer, name), tokenizer, [row_set()], options())
    assert got in error.value.got
    assert SECRET not in str(error.value)


def broken_set(row, **more):
    return RowSet("forget", [*invented_sets(0)[0].rows, row], on_long_row=OnLongRow.CUT, **more)


def test_a_model_without_an_output_embedding_is_refused(model, tokenizer):
    with pytest.raises(ModelError) as error:
        score_sets(model.model, tokenizer, invented_sets(), options())
    assert error.value.got == "the model LlamaModel without an output embedding"
