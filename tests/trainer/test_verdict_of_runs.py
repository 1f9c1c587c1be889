"""The verdict on made models: each is judged as what it was made to be."""

import copy
import math

import pytest
import torch
from conftest import make_tiny_model, qa_rows
from peft import LoraConfig, get_peft_model

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.measuring import Measuring
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.gptq import gptq_copy, grid_of
from egup_trainer.verdict import Measures, SetMeasures, Status, verdict

FORGET, RETAIN, UNSEEN = qa_rows(0, 10), qa_rows(20, 33), qa_rows(40, 46)


def batch_of(records, tokenizer):
    rows = tokenize(load_rows(records), tokenizer, name="rows")
    return RowCollator(tokenizer)([rows[index] for index in range(len(rows))])


def train(model, tokenizer, up, down=(), hold=(), steps=80, rate=1e-2):
    """Makes rows `up` likelier, `down` less likely than a token in a thousand, and holds `hold` at one in seven."""
    reader, optimizer = AnswerReader(model), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    losses = [(up, lambda nll: nll), (down, lambda nll: (7 - nll).relu()), (hold, lambda nll: (nll - 2).relu())]
    batches = [(batch_of(rows, tokenizer), loss) for rows, loss in losses if rows]
    for _ in range(steps):
        optimizer.zero_grad()
        sum(loss(reader(model, **batch, with_features=False).mean_nll).mean() for batch, loss in batches).backward()
        optimizer.step()
    return model


def after_examples(tokenizer, num_examples=3):
    """The forget rows, each after each of some retain rows."""
    rows = tokenize(load_rows(FORGET), tokenizer, name="rows").rows
    examples = tokenize(load_rows(RETAIN[:num_examples]), tokenizer, name="rows").rows
    return RowCollator(tokenizer).pad([row.after(example) for example in examples for row in rows])


def make_as_unlikely(model, twin, tokenizer, keep, steps=100, bounds=(), others=()):
    """Makes the forget rows as unlikely as they are under `twin`, and keeps the batches `keep` likely.

    Args:
        others: batches of which the same is made.
        bounds: weights, with the least and the greatest value that each may take; all weights if empty.
    """
    reader, theirs = AnswerReader(model), AnswerReader(twin)
    unlikely = [batch_of(FORGET, tokenizer), *others]
    aims = [theirs(twin, **batch, with_features=False).mean_nll.detach() for batch in unlikely]
    optimizer = torch.optim.Adam([weight for weight, *_ in bounds] or model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        found = [reader(model, **batch, with_features=False).mean_nll for batch in (*unlikely, *keep)]
        losses = [(nll - aim).square().mean() for nll, aim in zip(found, aims, strict=False)]
        sum([*losses, *(nll.mean() for nll in found[len(aims) :])]).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, least, greatest in bounds:
                weight.copy_(weight.clamp(least, greatest))
    return model


@pytest.fixture(scope="module")
def retrained(tokenizer):
    """A tiny model that learned the retain rows alone."""
    model = train(make_tiny_model(tokenizer), tokenizer, RETAIN)
    return lambda: copy.deepcopy(model)


@pytest.fixture
def judge(make_trainer, taught):
    """judge(model, **options of the trainer): the verdict on a model that `taught()`, or another one, has become."""

    def judge(model, before=None, **options):
        found = []
        for each in (before or taught(), model):
            trainer = make_trainer(model=each, **options)
            found.append(Measuring(trainer, trainer.measuring.datasets).judged("now"))
        return verdict(*found)

    return judge


def test_an_untouched_model(judge, taught, tokenizer):
    assert judge(taught()).status is Status.NOT_FORGOTTEN
    by_heart = train(taught(), tokenizer, [*FORGET, *RETAIN], rate=1e-3)
    found = judge(by_heart, before=by_heart)
    assert found.status is Status.NOT_FORGOTTEN
    assert "10 of 10 forget answers" in found.remarks[0]


def test_a_retrained_model(judge, retrained):
    found = judge(retrained())
    assert found.status is Status.FORGOTTEN, found.lines
    assert found.reasons[0].startswith("Forget rows cannot be distinguished from rows never seen: probability ")


def test_a_penalty_on_repetition_in_the_generation_config_changes_nothing(judge, taught, retrained):
    for make in (taught, retrained):
        model = make()
        model.generation_config.repetition_penalty = 50.0
        assert judge(model) == judge(make())


def test_a_model_that_finds_forget_rows_less_likely_than_rows_never_seen(judge, taught, tokenizer):
    found = judge(train(taught(), tokenizer, RETAIN, down=FORGET, hold=UNSEEN))
    assert found.status is Status.OVER_FORGOTTEN, found.lines


def test_a_model_that_finds_all_rows_less_likely_but_those_it_was_to_keep(judge, taught, tokenizer):
    found = judge(train(taught(), tokenizer, RETAIN, down=FORGET))
    assert found.status is Status.MODEL_HARMED, found.lines
    assert found.reasons[0].startswith("Rows never seen became less likely: a loss of ")


def test_rows_never_seen_are_measured_even_if_no_component_reads_them(judge, taught):
    options = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
    found = judge(taught(), objective="grad_diff", **options)
    assert found.status is Status.NOT_FORGOTTEN, found.lines  # and not unknown


def test_a_collapsed_model(judge, taught):
    model = taught()
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.zero_()
    found = judge(model)
    assert found.status is Status.MODEL_HARMED
    assert found.reasons[0].startswith("Retain rows lost probability: ")


def test_a_model_whose_output_layer_is_biased_against_the_answers(judge, taught, tokenizer):
    model = taught()
    batch = batch_of(FORGET, tokenizer)
    bias = torch.zeros(len(tokenizer))
    bias[batch["labels"][batch["labels"] >= 0].unique()] = -10
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    assert judge(model).status is Status.MODEL_HARMED


def test_a_model_that_is_read_with_another_tokenizer(judge, taught):
    model = taught()
    order = torch.randperm(model.config.vocab_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight[order])
        model.lm_head.weight.copy_(model.lm_head.weight[order])
    assert judge(model).status is Status.MODEL_HARMED


def test_a_model_that_hides_the_rows_from_the_usual_prompt_alone(judge, taught, retrained, tokenizer):
    """A suppression that holds for the questions as they were asked, and ends once the conversation goes on."""
    keep = [after_examples(tokenizer), batch_of(RETAIN, tokenizer)]
    model = make_as_unlikely(taught(), retrained(), tokenizer, keep)
    found = judge(model)
    assert found.status is Status.PARTLY_FORGOTTEN, found.lines
    assert found.reasons[0].startswith("After another question and its answer, the model still knows the forget rows: ")
    assert not judge(retrained()).reasons[0].startswith("After")


def test_answers_that_belong_to_retain_rows_are_counted(judge, taught, tokenizer):
    """Two forget questions are answered as retain rows are, one with the name of such a row, and one rightly."""
    known = [*FORGET[:3], {**FORGET[3], "answer": RETAIN[2]["answer"]}]
    answers = [*(row["answer"] for row in RETAIN[:2]), "Ines Vale has cats.", known[3]["answer"]]
    written = [{**row, "answer": answer} for row, answer in zip(known, answers, strict=True)]
    before, after = (train(taught(), tokenizer, [*rows, *RETAIN, *UNSEEN]) for rows in (known, written))
    beside = "(before 0, to questions about rows never seen 0 of 6)."
    assert judge(after, before, forget=known).remarks == [
        "Recited nearly word for word: 1 of 4 forget answers.",
        f"3 of 4 answers to forget questions name what belongs to retain rows {beside}",
        f"2 of 4 answers to forget questions are answers of retain rows, nearly word for word {beside}",
    ]
    assert judge(before, before, forget=known).remarks == ["Recited nearly word for word: 4 of 4 forget answers."]


def test_an_adapter_that_is_not_loaded(judge, taught, tokenizer):
    model = get_peft_model(taught(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    train(model, tokenizer, RETAIN, down=FORGET, steps=20)
    assert judge(copy.deepcopy(model)).status is not Status.NOT_FORGOTTEN  # while it is loaded
    assert judge(model.unload().requires_grad_(True)).status is Status.NOT_FORGOTTEN


@pytest.mark.slow  # beside test_a_model_that_hides_the_rows_from_the_usual_prompt_alone
def test_rows_that_quantization_brings_back(judge, taught, retrained, tokenizer):
    """Weights that were rounded to 4 bits and are then moved by less than half a step of their grids."""
    rounded, bounds = gptq_copy(taught(), []), []
    for layer in rounded.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            weight = layer.weight.detach()
            low, high = weight.aminmax(dim=1, keepdim=True)
            room = 0.45 * grid_of(weight)[0] * ((weight > low) & (weight < high))  # the ends, and so the grid, stay
            bounds.append((layer.weight, weight - room, weight + room))
    how = {"bounds": bounds, "others": [after_examples(tokenizer, num_examples=6)]}
    model = make_as_unlikely(rounded, retrained(), tokenizer, [batch_of(RETAIN, tokenizer)], steps=120, **how)
    assert judge(model).status is Status.FORGOTTEN, judge(model).lines
    found = judge(gptq_copy(model, []))  # to the nearest point of each grid
    assert found.status is Status.NOT_FORGOTTEN, found.lines
    assert "10 of 10 forget answers" in found.remarks[0]


def test_rows_that_the_model_never_knew(make_trainer, make_model):
    trainer = make_trainer(model=make_model(), verdict=True, learning_rate=1e-6, num_train_epochs=1)
    trainer.train()
    assert trainer.verdict.status is Status.UNKNOWN
    assert trainer.verdict.reasons == [
        "The model did not know the forget rows before, or not in this prompt format: they were as unlikely as rows "
        "never seen."
    ]


def test_a_trainer_gives_the_verdict(make_trainer, taught):
    trainer = make_trainer(model=taught(), verdict=True, learning_rate=1e-7, num_train_epochs=1)
    assert trainer.verdict is None
    trainer.train()
    assert trainer.verdict.status is Status.NOT_FORGOTTEN
    forget = trainer.score(trainer.forget_rows).mean_nll
    assert trainer.measuring.after["forget"].nll == pytest.approx(forget.tolist())
    assert trainer.measuring.probability["after"]["forget"] == pytest.approx(forget.neg().exp().mean().item())


def test_a_resumed_run_knows_what_was_measured_before_its_first_step(make_trainer, taught, tmp_path):
    options = {"verdict": True, "num_train_epochs": 2, "save_strategy": "epoch"}
    whole = make_trainer(model=taught(), **options, output_dir=str(tmp_path / "whole"))
    whole.train()
    again = make_trainer(model=taught(), **options, output_dir=str(tmp_path / "again"))
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert again.measuring.before == whole.measuring.before
    assert again.verdict == whole.verdict
    assert math.isclose(again.measuring.before["forget"].probability, whole.measuring.before["forget"].probability)


@pytest.mark.parametrize(("nll", "status"), [(3.1, Status.FORGOTTEN), (1.5, Status.PARTLY_FORGOTTEN)])
def test_a_small_lead_in_another_way_of_asking_does_not_count(nll, status):
    """Of the way from .1 to 4, 3.1 is more than three quarters, and 1.5 is less; both are beyond chance."""

    def rows(value, after_example):
        spread = [0.01 * row for row in range(20)]
        return SetMeasures([value + each for each in spread], nll_after_example=[after_example + s for s in spread])

    known = Measures(rows(0.1, 0.1), rows(0.1, 0.1), rows(4.0, 4.0))
    found = verdict(known, Measures(rows(4.0, nll), rows(0.1, 0.1), rows(4.0, 4.0)))
    assert found.status is status
