"""Evaluation by OpenUnlearning's definitions: its numbers, faults included, by a plain way to what it computes."""

import copy
import json
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import qa_rows
from fixtures_cli import egup, save
from fixtures_evaluation import lively_model, plain_tokens, question
from fixtures_muse import write_muse
from rouge_score.rouge_scorer import RougeScorer

from egup_trainer.data.schema import Row
from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.evaluation import read_evaluation
from egup_trainer.evaluation.metric_registry import declared_metrics
from egup_trainer.evaluation.metrics.memorization import extraction_strength
from egup_trainer.evaluation.open_unlearning_file import results_path, to_document, to_text
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores, SetUse, TextScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.suite import Suite

THEIRS = Definitions.OPEN_UNLEARNING
AFTER_END = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{{ '\n' }}{% endfor %}"
AFTER_END += "{% if add_generation_prompt %}<assistant>{% endif %}"
TOKENS = 5


def tofu_like() -> Suite:
    """A suite with TOFU's row sets, of invented rows."""
    facts = [question(row["question"], row["answer"]) for row in qa_rows(0, 12)]
    others = {"paraphrase": "It is so, in Aren.", "perturbed": ("No, in Denna.", "In Corvo with 3 cats.")}
    forget = [replace(row, **others) for row in facts[:4]]
    kept, choices = [replace(row, **others) for row in facts[4:7]], [replace(row, **others) for row in facts[7:9]]
    choices = [replace(row, paraphrase=None) for row in choices]
    generation, of_forget = Generation(TOKENS), SetUse(RowRole.FORGET, fluency=True, perplexity=False)
    return Suite(
        "tofu",
        "forget10",
        [
            RowSet("forget", forget, generation=generation, with_membership=True, use=of_forget),
            RowSet("retain", kept, generation=generation),
            RowSet("real_authors", choices, generation=generation, use=SetUse(RowRole.CHOICE)),
            RowSet("world_facts", choices, generation=generation, use=SetUse(RowRole.CHOICE)),
            RowSet("holdout", facts[9:], with_membership=True, use=SetUse(RowRole.UNSEEN)),
        ],
    ).following(THEIRS)


@pytest.fixture(scope="session", params=["chat template", "markers"])
def named_tokenizer(request, tokenizer):
    """A tokenizer whose template writes a line break after the end, and one whose prompt ends in a space."""
    if request.param == "markers":
        return tokenizer
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = AFTER_END
    return chatty


@pytest.fixture(scope="session")
def model(tokenizer):
    return lively_model(tokenizer)


@pytest.fixture(scope="session")
def results(named_tokenizer, model):
    """The evaluation, and the scores that it was computed from."""
    kept = {}

    def score(*args):
        kept.update(score_sets(*args))
        return kept

    options = ScoringOptions(batch_size=3, with_gradient_norms=True, progress=False)
    return evaluate_model(model, named_tokenizer, tofu_like(), options, score=score), kept


def written(row: Row, tokenizer) -> tuple[str, str]:
    """The prompt's text, and that of prompt and answer."""
    asked = f"Question: {row.prompt[0].content}\nAnswer: "
    if not tokenizer.chat_template:
        return asked, asked + row.answer
    asked = f"<user>{row.prompt[0].content}<eos>\n<assistant>"
    return asked, f"{asked}{row.answer}<eos>\n"


def tokens_of(row: Row, tokenizer) -> tuple[list[int], int]:
    """Ids, and how many of them are the prompt's by its own count."""
    prompt, whole = (
        tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"] for text in written(row, tokenizer)
    )
    end = tokenizer.eos_token_id
    return whole if whole[-1] == end else [*whole, end], len(prompt)


def logits_of(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()  # E[x^2] - E[x]^2 needs the digits


def plain(row: Row, tokenizer, model) -> dict[str, float]:
    """The numbers of a row, straight from logits."""
    ids, start = tokens_of(row, tokenizer)
    logits, targets = logits_of(model, ids)[start - 1 : -1], torch.tensor(ids[start:])
    logps = logits.log_softmax(-1)
    own = logps.gather(1, targets[:, None])[:, 0]
    inner, hits = own[:-1].numpy(), (logps.argmax(-1) == targets)[:-1]
    count = max(1, int(0.4 * len(inner)))
    mean = (logps.exp() * logps).sum(-1)
    sigma = ((logps.exp() * logps**2).sum(-1) - mean**2).clamp_min(1e-6).sqrt()
    z = ((own - mean) / sigma)[:-1].numpy()
    first = next((k for k in range(len(hits)) if hits[k:].all()), len(hits) - 1)
    text = tokenizer.decode(ids[start:], skip_special_tokens=True)
    loss = float(-own.mean())
    return {
        "probability": math.exp(-loss),
        "mia_loss": loss,
        "exact_memorization": float(hits.float().mean()),
        "extraction_strength": 1 - first / len(hits),
        "mia_min_k": float(-np.sort(inner)[:count].mean()),
        "mia_min_k_plus_plus": float(-np.sort(z)[:count].mean()),
        "mia_zlib": loss / len(zlib.compress(text.encode())),
        "mia_gradnorm": gradient_norm(model, ids, start),
    }


def gradient_norm(model, ids: list[int], start: int) -> float:
    """Mean over weights of the norm of the gradient of the mean loss without the last token."""
    logps = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    own = logps[range(start - 1, len(ids) - 1), ids[start:]][:-1]
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    found = torch.autograd.grad(-own.mean(), weights, allow_unused=True)
    return float(torch.stack([gradient.norm() for gradient in found if gradient is not None]).mean())


def test_numbers_of_each_row_are_theirs(results, named_tokenizer, model):
    evaluation, _ = results
    rows = {row_set.name: row_set.rows for row_set in tofu_like().row_sets}
    for set_name, names in (
        ("forget", ("probability", "exact_memorization", "extraction_strength")),
        ("forget", ("mia_loss", "mia_min_k", "mia_min_k_plus_plus", "mia_zlib", "mia_gradnorm")),
        ("holdout", ("mia_loss", "mia_min_k", "mia_zlib", "mia_gradnorm")),
        ("retain", ("probability",)),
    ):
        for sample, row in enumerate(rows[set_name]):
            expected = plain(row, named_tokenizer, model)
            for name in names:
                key = name if name.startswith("mia") else f"{set_name}_{name}"
                found = evaluation.values_of(key, set_name)[sample]
                assert found == pytest.approx(expected[name], rel=1e-5, abs=1e-6), (key, sample)


def test_truth_ratios_and_options_are_made_of_their_losses(results, named_tokenizer, model):
    evaluation, _ = results
    for set_name in ("forget", "real_authors"):
        row = next(each for each in tofu_like().row_sets if each.name == set_name).rows[0]
        right, *wrong = (
            plain(Row(row.prompt, text), named_tokenizer, model)["mia_loss"]
            for text in (row.paraphrase or row.answer, *row.perturbed)
        )
        ratio = math.exp(-np.mean(wrong)) / (math.exp(-right) + 1e-10)
        expected = min(ratio, 1 / ratio) if set_name == "forget" else max(0, 1 - ratio)
        assert evaluation.values_of(f"{set_name}_truth_ratio", set_name)[0] == pytest.approx(expected, rel=1e-5)
        if set_name == "real_authors":
            share = math.exp(-right) / (math.exp(-right) + sum(math.exp(-each) for each in wrong))
            assert evaluation.values_of("real_authors_probability", set_name)[0] == pytest.approx(share, rel=1e-5)


def test_generations_continue_the_prompt_alone(results, named_tokenizer, model):
    _, scores = results
    row = tofu_like().row_sets[0].rows[0]
    _, start = tokens_of(row, named_tokenizer)
    prompt = named_tokenizer(written(row, named_tokenizer)[0], add_special_tokens=not named_tokenizer.chat_template)
    assert len(prompt["input_ids"]) == start
    ids = plain_tokens(model, prompt["input_ids"], TOKENS, ends=(named_tokenizer.eos_token_id,))
    assert scores["forget"].samples[0].generation == named_tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_file_in_their_layout_is_read_back_with_the_same_numbers(results, tmp_path):
    evaluation, scores = results
    path = results_path(tmp_path / "mine.json", evaluation.suite)
    path.write_text(to_text(evaluation, scores), encoding="utf-8")
    again = read_evaluation(path, THEIRS)
    in_layout = {f"{name}_{kind}" for name in again.sets for kind in ("probability", "rouge", "truth_ratio")}
    expected = in_layout & evaluation.metrics.keys() | {spec.name for spec in declared_metrics() if spec.section}
    compared = [name for name in expected if evaluation.values.get(name) is not None and name in again.metrics]
    assert {"forget_probability", "forget_rouge", "world_facts_truth_ratio", "mia_gradnorm", "model_utility"} <= set(
        compared
    )
    for name in [*compared, "forget_extraction_strength", "forget_exact_memorization", "forget_quality"]:
        if evaluation.values[name] is not None and name != "privleak":  # of which the file has no parts
            assert again.values[name] == pytest.approx(evaluation.values[name], rel=1e-5), name
        for set_name, values in evaluation.metrics[name].values.items():
            assert again.values_of(name, set_name) == pytest.approx(values, rel=1e-5, abs=1e-5), (name, set_name)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["forget_Q_A_PERT_Prob"]["value_by_index"]["0"].keys() == {"prob", "avg_loss"}
    assert len(document["forget_Q_A_PERT_Prob"]["value_by_index"]["0"]["prob"]) == 2
    assert document["mia_min_k"].keys() == {"forget", "holdout", "auc", "agg_value"}
    auc = evaluation.values["mia_min_k"]
    assert document["privleak"]["agg_value"] == pytest.approx(100 * (0.5 - auc) / 0.5)  # chance, without retrained
    assert "Ada" not in path.read_text(encoding="utf-8")  # no texts of rows


@pytest.mark.parametrize(("definitions", "expected"), [(Definitions.OURS, 0.0), (THEIRS, 1 / 3)])
def test_an_answer_of_which_no_end_is_recited_counts_1_of_n(definitions, expected):
    text = TextScores(np.log([0.5, 0.5, 0.5, 0.5]), np.array([True, True, False, True]), is_closed=True)
    scores = SetScores("forget", {0: SampleScores((text,))}, use=SetUse(RowRole.FORGET, definitions=definitions))
    assert extraction_strength(scores).value == pytest.approx(expected)


def test_rouge_is_that_of_rouge_score_with_a_stemmer(results):
    evaluation, scores = results
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for sample, row in scores["retain"].samples.items():
        expected = scorer.score(row.references[0], row.generation)["rougeL"].recall
        assert evaluation.values_of("retain_rouge", "retain")[sample] == expected
    japanese = replace(scores["retain"].samples[0], references=("東京",), generation="東京")
    document = to_document(evaluation, {"retain": replace(scores["retain"], samples={0: japanese})})
    assert document["retain_Q_A_ROUGE"]["value_by_index"]["0"]["rougeL_recall"] == 0.0


# MUSE, by the command


@pytest.fixture
def muse(tmp_path, tokenizer):
    """muse(output, **flags): exit code of `egup evaluate` on MUSE's invented rows."""
    write_muse(tmp_path / "muse")
    save(lively_model(tokenizer, positions=512), tokenizer, tmp_path / "model")

    def evaluate(output, **flags):
        shared = {"suite": "muse", "muse_corpus": "news", "data_dir": tmp_path / "muse", "use_cpu": True}
        return egup(
            "evaluate",
            model_name_or_path=tmp_path / "model",
            output=tmp_path / output,
            disable_tqdm=True,
            **shared,
            **flags,
        )

    return evaluate


def test_muse_is_evaluated_and_written_as_they_do(muse, tmp_path, tokenizer, capsys):
    assert muse("theirs.json", **{"as": "open-unlearning"}) == 0
    written_at = tmp_path / "theirs.MUSE_EVAL.json"
    assert f"Written in the layout of OpenUnlearning to {written_at}" in capsys.readouterr().out
    ours, again = read_evaluation(tmp_path / "theirs.json"), read_evaluation(written_at, THEIRS)
    assert ours.definitions is again.definitions is THEIRS
    for name in ("forget_knowmem_rouge", "forget_verbmem_exact_memorization", "mia_loss", "mia_min_k"):
        assert again.values[name] == pytest.approx(ours.values[name], rel=1e-5)
        for set_name, values in ours.metrics[name].values.items():
            assert again.values_of(name, set_name) == pytest.approx(values, abs=1e-5)
    # A text is scored without its last token, and the space before a recital belongs to neither side.
    model, text = lively_model(tokenizer, positions=512), "Chapter 0. Ada Lorn went to Bryle with 2 cats."
    ids, start = tokenizer(text)["input_ids"], len(tokenizer("Chapter 0. Ada Lorn")["input_ids"])
    hits = logits_of(model, ids)[start - 1 : -1].argmax(-1) == torch.tensor(ids[start:])
    found = ours.values_of("forget_verbmem_exact_memorization", "forget_verbmem")[0]
    assert found == pytest.approx(float(hits[:-1].float().mean()))


def test_results_by_other_definitions_are_refused_and_theirs_are_compared(muse, tmp_path, capsys):
    flags = {"metrics": "forget_verbmem_exact_memorization,mia_loss,mia_min_k,privleak"}
    assert muse("ours.json", **flags) == 0
    assert muse("theirs.json", **flags, **{"as": "open-unlearning"}) == 0
    capsys.readouterr()
    assert egup("compare", tmp_path / "ours.json", tmp_path / "theirs.json", output=tmp_path / "r.html") == 2
    assert "definitions open-unlearning" in capsys.readouterr().err
    file = tmp_path / "theirs.MUSE_EVAL.json"
    assert muse("more.json", **flags, **{"as": "open-unlearning"}, retrained=file) == 0
    assert read_evaluation(tmp_path / "more.json").values["privleak"] == pytest.approx(0, abs=1e-6)
    assert muse("ours2.json", **flags, retrained=file) == 0
    assert "last token" in str(read_evaluation(tmp_path / "ours2.json").metrics["privleak"].reason)
