"""`--metrics`: what is computed, what is read for it, and that the numbers are those of a whole evaluation."""

import pytest
from conftest import qa_rows
from fixtures_evaluation import question

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.metric_registry import declared_metrics
from egup_trainer.evaluation.rows import texts_of
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.selection import chosen_metrics, selected
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.evaluation.suites.suite import metric_names

QUIET = ScoringOptions(progress=False)


def rows(start, stop):
    return [
        question(
            row["question"], row["answer"], paraphrase=f"So: {row['answer']}", perturbed=("In Denna.", "Bo Quill.")
        )
        for row in qa_rows(start, stop)
    ]


@pytest.fixture
def suite():
    return custom_suite(rows(0, 5), rows(20, 26), rows(40, 44), max_new_tokens=4)


def read(suite, names):
    """By row set: whether it writes, has features, has membership, and the number of texts of its first row."""
    chosen = selected(suite, chosen_metrics(suite, names))
    return {
        each.name: (
            each.generation is not None,
            each.with_features,
            each.with_membership,
            1 + (each.rows[0].paraphrase is not None) + len(each.rows[0].perturbed),
        )
        for each in chosen.row_sets
    }


def test_only_what_the_metrics_need_is_read(suite):
    assert read(suite, ["forget_probability"]) == {"forget": (False, False, False, 1)}
    assert read(suite, ["retain_rouge"]) == {"retain": (True, False, False, 1)}
    assert read(suite, ["forget_truth_ratio"]) == {"forget": (False, False, False, 4)}
    assert read(suite, ["forget_quality"]) == {"forget": (False, False, False, 4)}
    assert read(suite, ["fluency_repetition"]) == {"forget": (True, False, False, 1)}
    assert read(suite, ["entanglement_overlap"]) == {
        "forget": (False, True, False, 1),
        "retain": (False, True, False, 1),
    }
    both = {"forget": (False, False, True, 1), "holdout": (False, False, True, 1)}
    assert read(suite, ["mia_min_k_plus_plus"]) == read(suite, ["privleak"]) == read(suite, ["mia_reference"]) == both
    assert read(suite, ["model_utility"]) == {"retain": (True, False, False, 4)}


def test_the_model_before_reads_generations_for_perplexity_alone(suite):
    def is_read(*names):
        return [each.use.perplexity for each in selected(suite, chosen_metrics(suite, names)).row_sets]

    assert (is_read("fluency_perplexity"), is_read("fluency_distinct_2")) == ([True], [False])


def test_metrics_that_others_build_on_come_with_them_in_the_order_of_the_suite(suite):
    assert chosen_metrics(suite, ["privleak"]) == ["mia_min_k", "privleak"]
    utility = ["retain_probability", "retain_rouge", "retain_truth_ratio", "model_utility"]
    assert chosen_metrics(suite, ["model_utility"]) == utility
    assert chosen_metrics(suite, ["retain_rouge", "forget_probability"]) == ["forget_probability", "retain_rouge"]
    assert chosen_metrics(suite, None) == metric_names(suite)


def test_without_generations_everything_else_is_left(suite):
    left_out = {f"{name}_rouge" for name in ("forget", "retain", "holdout")} | {"model_utility"}
    left_out |= {name for name in metric_names(suite) if name.startswith("fluency_")}
    assert chosen_metrics(suite, None, with_generations=False) == [
        name for name in metric_names(suite) if name not in left_out
    ]


def error_of(suite, names, **flags):
    with pytest.raises(ConfigError) as caught:
        chosen_metrics(suite, names, **flags)
    return str(caught.value)


def test_what_cannot_be_chosen_is_refused(suite):
    assert error_of(suite, ["forget_probabilty"]) == (
        "Got the unknown metric forget_probabilty in --metrics, but expected metrics of the suite custom on these "
        "rows. Did you mean forget_probability?"
    )
    assert error_of(suite, ["xyz"]).endswith(f"Choose among {', '.join(metric_names(suite))}.")
    assert error_of(suite, []) == (
        "Got no metric in --metrics, but expected names of metrics. Name some, or leave it out."
    )
    assert error_of(suite, ["mia_loss", "model_utility"], with_generations=False) == (
        "Got --skip_generation with model_utility in --metrics, but expected metrics that need no generations. "
        "Leave out --skip_generation or model_utility."
    )


def test_each_metric_alone_has_the_value_and_reason_of_a_whole_evaluation(suite, model, tokenizer):
    whole = evaluate_model(model, tokenizer, suite, QUIET)
    for name in metric_names(suite):
        found = evaluate_model(model, tokenizer, selected(suite, chosen_metrics(suite, [name])), QUIET).metrics[name]
        expected = whole.metrics[name]
        assert found.value == (None if expected.value is None else pytest.approx(expected.value, rel=1e-4)), name
        assert (found.reason, found.num_samples, found.num_skipped) == (
            expected.reason,
            expected.num_samples,
            expected.num_skipped,
        )


def test_the_suite_is_the_same_if_all_is_chosen_and_its_rows_are_never_changed(suite, tokenizer):
    before = [each.fingerprint for each in suite.row_sets]
    assert selected(suite, metric_names(suite)) is suite
    chosen = selected(suite, ["forget_probability"])
    assert [each.fingerprint for each in suite.row_sets] == before
    assert len(texts_of(chosen.row_sets, tokenizer, progress=False).texts) == 5


def test_a_metric_that_was_not_declared_reads_everything(suite):
    from dataclasses import replace

    own = replace(suite, plan=lambda scores: {"mine": lambda done: None})
    assert chosen_metrics(own, ["mine"]) == ["mine"]
    assert (
        selected(replace(own, plan=lambda scores: {"mine": None, "other": None}), ["mine"]).row_sets == suite.row_sets
    )


def test_every_metric_of_this_package_declares_what_it_reads():
    names = {spec.name for spec in declared_metrics()}
    assert [spec.name for spec in declared_metrics() if spec.reads is None] == []
    assert all(set(spec.builds_on) <= names for spec in declared_metrics())
