"""A model on a suite: what the evaluation holds, who judges the generations, and what is left as it was."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import qa_rows
from fixtures_evaluation import (
    chat_tokenizer,
    plain_numbers,
    question,
    samples_of,
    taught_model,
    with_adapter,
)

from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.evaluation import write_evaluation
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.metric_registry import Measured
from egup_trainer.evaluation.metrics.fluency import perplexity
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.run import compute, evaluate_model
from egup_trainer.evaluation.scores import SetUse
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.evaluation.suites.suite import Suite

QUIET = ScoringOptions(batch_size=3, progress=False)
GENERATE = "egup_trainer.evaluation.scoring.generate"


@pytest.fixture
def lora(model):
    return with_adapter(model, std=0.1)


def speaking(*sets: RowSet) -> Suite:
    """A suite whose one metric a set is the perplexity of its generations."""

    def plan(scores):
        return {
            name: lambda _, each=each: perplexity(Measured({}, sets={"": replace(each, use=SetUse(fluency=True))}))
            for name, each in scores.items()
        }

    return Suite("custom", None, list(sets), plan)


def forget_rows(count=3) -> list[Row]:
    return load_rows(qa_rows(0, count))


def spoken(name="forget", rows=None, new=6, fluency=True, **options) -> RowSet:
    rows = forget_rows() if rows is None else rows
    return RowSet(name, rows, generation=Generation(new), use=SetUse(fluency=fluency), **options)


def texts_written(model, tokenizer, row_set) -> list[str]:
    shown = len(row_set.rows)
    examples = evaluate_model(model, tokenizer, speaking(row_set), QUIET, show_examples=shown).examples
    return [example.generation for example in examples[row_set.name]]


def plain_perplexities(judge, tokenizer, rows, written) -> list[float]:
    found = []
    for row, text in zip(rows, written, strict=True):
        found.append(math.exp(-plain_numbers(judge, samples_of(Row(row.prompt, text), tokenizer))["logps"].mean()))
    return found


# What it holds


def test_an_evaluation_holds_facts_of_the_rows_and_features(model, tokenizer):
    forget, retain = forget_rows(4), load_rows(qa_rows(20, 26))
    suite = custom_suite(forget, retain, max_new_tokens=3)
    evaluation = evaluate_model(model, tokenizer, suite, QUIET, name="mine")
    assert (evaluation.name, evaluation.suite, evaluation.split) == ("mine", "custom", None)
    assert {name: (facts.num_rows, facts.fingerprint) for name, facts in evaluation.sets.items()} == {
        each.name: (len(each.rows), each.fingerprint) for each in suite.row_sets
    }
    assert {name: value.shape for name, value in evaluation.features.items()} == {"forget": (4, 32), "retain": (6, 32)}
    assert evaluation.feature_ids == {"forget": [0, 1, 2, 3], "retain": [0, 1, 2, 3, 4, 5]}
    plain = plain_numbers(model, samples_of(retain[4], tokenizer))
    np.testing.assert_allclose(evaluation.features["retain"][4], plain["features"], atol=1e-5)
    assert evaluation.values["retain_probability"] == pytest.approx(
        np.mean([math.exp(plain_numbers(model, samples_of(row, tokenizer))["logps"].mean()) for row in retain]),
        rel=1e-5,
    )
    assert (evaluation.training, evaluation.run, evaluation.examples) == ([], {}, {})


def test_by_default_no_text_of_a_row_is_kept_shown_or_logged(model, tokenizer, tmp_path, capsys, caplog):
    secret = "XYZZYSECRET"
    rows = [question(f"Who is {secret}?", f"It is {secret}.", perturbed=(f"Not {secret}.",)), Row((), secret)]
    with caplog.at_level(logging.DEBUG):
        evaluation = evaluate_model(model, tokenizer, custom_suite(rows, rows, rows, max_new_tokens=3))
    write_evaluation(tmp_path / "results.json", evaluation)
    shown = capsys.readouterr()
    assert secret not in shown.out + shown.err + caplog.text + (tmp_path / "results.json").read_text()


def test_examples_are_of_the_first_rows_that_have_a_prompt(model, tokenizer):
    first = question("Who?", "Ada", alternatives=("Bo",))
    rows = [first, Row((), "A text."), question("Where?", "In Aren."), question("When?", "Now.")]
    suite = speaking(spoken(rows=rows), RowSet("holdout", rows))
    evaluation = evaluate_model(model, tokenizer, suite, QUIET, show_examples=3)
    assert list(evaluation.examples) == ["forget"]
    shown = evaluation.examples["forget"]
    assert [(each.sample, each.prompt, each.answer) for each in shown] == [
        (0, "Who?", "Ada"),
        (2, "Where?", "In Aren."),
    ]
    assert all(isinstance(each.generation, str) for each in shown)


def test_a_progress_bar_is_shown_unless_it_is_switched_off(model, tokenizer, capsys):
    evaluate_model(model, tokenizer, custom_suite(forget_rows(), max_new_tokens=3))
    shown = capsys.readouterr().err
    assert all(title in shown for title in ("Scoring texts", "Generating for forget rows", "Computing metrics"))
    evaluate_model(model, tokenizer, custom_suite(forget_rows(), max_new_tokens=3), QUIET)
    assert capsys.readouterr().err == ""


def test_metrics_are_computed_in_order_each_from_those_before():
    seen = []

    def note(name, value):
        return lambda done: seen.append((name, list(done))) or Metric(value, None)

    suite = Suite("x", None, [], lambda scores: {"b": note("b", 1.0), "a": note("a", 2.0)})
    assert {name: metric.value for name, metric in compute(suite, {}).items()} == {"b": 1.0, "a": 2.0}
    assert seen == [("b", []), ("a", ["b"])]


def test_a_metric_that_fails_has_no_value_and_one_that_says_what_to_do_stops():
    def broken(done):
        raise IndexError("of row 3\nand more")

    def without_extra(done):
        raise ConfigError(got="no package x", expected="it", fix="pip install x")

    metric = compute(Suite("x", None, [], lambda scores: {"a": broken}), {})["a"]
    assert (metric.value, metric.reason) == (None, "failed: IndexError: of row 3")
    with pytest.raises(ConfigError, match="Pip install x"):
        compute(Suite("x", None, [], lambda scores: {"a": without_extra}), {})


# Perplexity of generations


def test_without_another_model_nobody_judges_the_generations(model, tokenizer):
    metric = evaluate_model(model, tokenizer, speaking(spoken()), QUIET).metrics["forget"]
    assert (metric.value, metric.reason) == (None, "no generation was read by the model before unlearning")


def test_the_model_before_judges_what_the_model_wrote(model, tokenizer):
    judge = taught_model(tokenizer)
    row_set = spoken()
    metric = evaluate_model(model, tokenizer, speaking(row_set), QUIET, model_before=judge).metrics["forget"]
    expected = plain_perplexities(judge, tokenizer, row_set.rows, texts_written(model, tokenizer, row_set))
    assert list(metric.values["forget"].values()) == pytest.approx(expected, rel=1e-4)
    assert metric.value == pytest.approx(math.exp(np.mean(np.log(expected))), rel=1e-4)


def test_an_adapter_is_on_to_write_and_off_to_judge(lora, tokenizer):
    row_set = spoken()
    metric = evaluate_model(lora, tokenizer, speaking(row_set), QUIET).metrics["forget"]
    written = texts_written(lora, tokenizer, row_set)
    on = plain_perplexities(lora, tokenizer, row_set.rows, written)
    with lora.disable_adapter():
        expected = plain_perplexities(lora, tokenizer, row_set.rows, written)
        assert texts_written(lora.get_base_model(), tokenizer, row_set) != written
    assert list(metric.values["forget"].values()) == pytest.approx(expected, rel=1e-4)
    assert list(metric.values["forget"].values()) != pytest.approx(on, rel=0.05)
    assert plain_perplexities(lora, tokenizer, row_set.rows, written) == pytest.approx(on)  # it is on again


def test_a_model_before_that_is_given_goes_before_the_adapter_off(lora, tokenizer):
    judge, row_set = taught_model(tokenizer), spoken()
    metric = evaluate_model(lora, tokenizer, speaking(row_set), QUIET, model_before=judge).metrics["forget"]
    expected = plain_perplexities(judge, tokenizer, row_set.rows, texts_written(lora, tokenizer, row_set))
    assert list(metric.values["forget"].values()) == pytest.approx(expected, rel=1e-4)


def test_empty_generations_are_not_judged(model, tokenizer, monkeypatch):
    monkeypatch.setattr(GENERATE, lambda *args, **kwargs: ["Ada Lorn", "", "Bo"])
    metric = evaluate_model(model, tokenizer, speaking(spoken()), QUIET, model_before=model).metrics["forget"]
    assert list(metric.values["forget"]) == [0, 2]
    assert (metric.num_samples, metric.num_skipped) == (2, 1)
    monkeypatch.setattr(GENERATE, lambda *args, **kwargs: ["", "", ""])
    metric = evaluate_model(model, tokenizer, speaking(spoken()), QUIET, model_before=model).metrics["forget"]
    assert (metric.value, metric.reason) == (None, "no generation was read by the model before unlearning")


def test_a_generation_that_the_chat_template_would_change_does_not_end_the_evaluation(model, tokenizer, monkeypatch):
    """Templates of models that think cut an answer at the end of the thought; a model may write that in its answer."""
    thinking = chat_tokenizer(tokenizer)
    thinking.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content.split('</think>')[-1] }}{{ '\n' }}{% endfor %}"
    )
    monkeypatch.setattr(GENERATE, lambda *args, **kwargs: ["Ada Lorn", "So </think> it is Bo", "Bo"])
    metric = evaluate_model(model, thinking, speaking(spoken()), QUIET, model_before=model).metrics["forget"]
    assert {0, 2} <= set(metric.values["forget"])


# What is left as it was


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_as_it_was(lora, tokenizer, training):
    lora.train(training)
    weights = {name: value.clone() for name, value in lora.state_dict().items()}
    required = [parameter.requires_grad for parameter in lora.parameters()]
    options = ScoringOptions(batch_size=3, progress=False, with_gradient_norms=True)
    suite = custom_suite(forget_rows(), holdout=load_rows(qa_rows(40, 42)), max_new_tokens=3)
    evaluate_model(lora, tokenizer, suite, options)
    assert all(torch.equal(value, weights[name]) for name, value in lora.state_dict().items())
    assert [parameter.requires_grad for parameter in lora.parameters()] == required
    assert all(parameter.grad is None for parameter in lora.parameters())
    assert lora.training is training
