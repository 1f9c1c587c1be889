"""The TOFU release's own logs: our definitions, given its losses by row, give its metrics."""

import copy
import json
from math import exp, inf, log

import numpy as np
import pytest
from conftest import SHARED

from egup_trainer.evaluation.metrics.forget_quality import forget_quality
from egup_trainer.evaluation.metrics.model_utility import harmonic_mean
from egup_trainer.evaluation.metrics.probability import EPSILON
from egup_trainer.evaluation.metrics.rouge import RougeForm, rouge_score
from egup_trainer.evaluation.metrics.truth_ratio import TruthRatioForm, raw_truth_ratio, truth_ratio_value

LOGS = SHARED / "reference" / "tofu_logs"
MODELS = ["phi_full", "phi_retain90", "phi_retain95", "phi_retain99"]
PARTS = {
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
FORGET = "eval_log_forget.json"
each_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(scope="module")
def read():
    """read("phi_full"): a log, or what is expected of all; skips where they are not at hand."""

    def load(name):
        if not (LOGS / f"{name}.json").is_file():
            pytest.skip(f"the TOFU release's logs are not at {LOGS.parent}")
        return json.loads((LOGS / f"{name}.json").read_text(encoding="utf-8"))

    return load


@pytest.fixture
def small():
    """A log of two rows in each part, with numbers to reckon with."""
    section = {
        "avg_gt_loss": {"0": log(2), "1": log(4)},
        "average_perturb_loss": {"0": [log(4), log(16)], "1": [log(2), log(2)]},
        "avg_paraphrased_loss": {"0": log(2), "1": log(4)},
        "rougeL_recall": {"0": 1.0, "1": 0.5},
    }
    return {file: copy.deepcopy(section) for file in (*PARTS.values(), FORGET)}


def truth_ratios(section):
    """Raw truth ratios by row."""
    wrong = {row: np.atleast_1d(values).tolist() for row, values in section["average_perturb_loss"].items()}
    return {int(row): raw_truth_ratio(right, wrong[row]) for row, right in section["avg_paraphrased_loss"].items()}


def model_utility_of(logged):
    """Model utility and its nine parts."""
    parts = {}
    for name, file in PARTS.items():
        section = logged[file]
        shares = {row: exp(-nll) for row, nll in section["avg_gt_loss"].items()}
        if name != "retain":
            others = {row: np.exp(-np.asarray(nlls)).sum() for row, nlls in section["average_perturb_loss"].items()}
            shares = {row: share / (share + others[row] + EPSILON) for row, share in shares.items()}
        ratios = [truth_ratio_value(ratio, TruthRatioForm.TRUTH) for ratio in truth_ratios(section).values()]
        columns = {"probability": shares.values(), "rouge": section["rougeL_recall"].values(), "truth_ratio": ratios}
        parts |= {f"{name}_{part}": float(np.mean(list(values))) for part, values in columns.items()}
    return {"model_utility": harmonic_mean(parts.values()), **parts}


def forget_quality_of(logged, retrained):
    return forget_quality(*(truth_ratios(each[FORGET]) for each in (logged, retrained))).value


@each_model
def test_model_utility_and_its_nine_parts_are_those_of_the_release(model, read):
    expected = read("expected")[model]
    found = model_utility_of(read(model))
    assert found.pop("model_utility") == pytest.approx(expected["model_utility"], rel=1e-6)
    sets = expected["sets"]
    assert found == pytest.approx(
        {
            f"{name}_{part}": sets[file][key]
            for name, file in PARTS.items()
            for part, key in (("probability", "prob"), ("rouge", "rouge"), ("truth_ratio", "truth_ratio"))
        },
        rel=1e-6,
    )


@each_model
@pytest.mark.parametrize("retrained", MODELS[1:])
def test_forget_quality_is_that_of_the_release(model, retrained, read):
    expected = read("expected")[model]["forget_quality"][retrained]
    assert forget_quality_of(read(model), read(retrained)) == pytest.approx(expected, rel=1e-6, abs=0)


def test_the_published_numbers_stand_in_the_logs(read):
    # Guards the other tests against an expectation that was written from our own results.
    assert model_utility_of(read("phi_full"))["model_utility"] == pytest.approx(0.522074, abs=5e-7)
    assert model_utility_of(read("phi_retain90"))["model_utility"] == pytest.approx(0.531991, abs=5e-7)
    quality = forget_quality_of(read("phi_full"), read("phi_retain90"))
    assert quality == pytest.approx(2.194274e-16, rel=1e-6, abs=0)


@each_model
@pytest.mark.parametrize("file", [*PARTS.values(), FORGET])
@pytest.mark.parametrize("variant", ["rougeL", "rouge1"])
def test_rouge_of_the_logged_generations_is_the_logged_one(model, file, variant, read):
    section = read(model)[file]
    form = RougeForm(variant)
    found = {
        key: round(rouge_score(reference, generation, form), 8)  # the digits of the logs
        for key, (_, generation, reference) in section["generated_text"].items()
    }
    assert len(found) == min(60, len(section["avg_gt_loss"]))
    assert found == {key: section[f"{variant}_recall"][key] for key in found}


def test_utility_by_hand(small):
    found = model_utility_of(small)
    # Rows: 1/2 against 1/4 + 1/16, 1/4 against 1/2 + 1/2; W = 1/8 and 1/2 against C = 1/2 and 1/4.
    options = (0.5 / (0.5 + 0.3125) + 0.25 / 1.25) / 2
    parts = {
        "retain_probability": 0.375,
        "retain_rouge": 0.75,
        "retain_truth_ratio": 0.375,
        "real_authors_probability": options,
        "real_authors_rouge": 0.75,
        "real_authors_truth_ratio": 0.375,
        "world_facts_probability": options,
        "world_facts_rouge": 0.75,
        "world_facts_truth_ratio": 0.375,
    }
    utility = 9 / sum(1 / value for value in parts.values())
    assert found == pytest.approx({"model_utility": utility, **parts}, rel=1e-8)


def test_rows_of_more_than_one_digit_are_paired_by_their_number(small):
    numbers = {str(place): place / 12 for place in range(12)}
    textwise = dict(sorted(numbers.items()))
    for section in small.values():
        section |= {"avg_gt_loss": numbers, "avg_paraphrased_loss": textwise, "rougeL_recall": textwise}
        section["average_perturb_loss"] = {key: [value] for key, value in textwise.items()}
    found = model_utility_of(small)
    assert found["real_authors_probability"] == pytest.approx(0.5)
    assert found["real_authors_truth_ratio"] == pytest.approx(0, abs=1e-8)


def test_a_part_of_0_gives_no_utility(small):
    small["eval_real_world_wo_options.json"]["rougeL_recall"] = {"0": 0.0, "1": 0}
    found = model_utility_of(small)
    assert (found["model_utility"], found["world_facts_rouge"]) == (0.0, 0.0)


def test_options_that_are_all_next_to_impossible_are_worth_a_third(small):
    small[PARTS["real_authors"]]["avg_gt_loss"] = {"0": log(1e10), "1": log(1e10)}
    small[PARTS["real_authors"]]["average_perturb_loss"] = {"0": [log(1e10)], "1": [log(1e10)]}
    assert model_utility_of(small)["real_authors_probability"] == pytest.approx(1 / 3)


def test_an_infinite_loss_is_a_probability_of_0(small):
    small["eval_log.json"]["avg_gt_loss"] = {"0": inf, "1": log(4)}
    assert model_utility_of(small)["retain_probability"] == pytest.approx(1 / 8)


def test_forget_quality_by_hand(small):
    for name, column in small[FORGET].items():  # ratios 1/4, 2, 1/4, 2
        small[FORGET][name] = {**column, "2": column["0"], "3": column["1"]}
    assert forget_quality_of(small, copy.deepcopy(small)) == pytest.approx(1.0)
    other = copy.deepcopy(small)
    other[FORGET]["average_perturb_loss"] = {row: [0.0] for row in "0123"}
    other[FORGET]["avg_paraphrased_loss"] = {row: log(4) for row in "0123"}  # 4, all of them above
    assert forget_quality_of(small, other) == pytest.approx(2 / 70)
