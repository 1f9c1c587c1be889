"""The TOFU release's own logs: our definitions give what the release's give; broken logs say what is wrong."""

import copy
import json
from math import inf, log, nan

import pytest
from conftest import SHARED

from egup_trainer.errors import DataError
from egup_trainer.evaluation import forget_quality_from_tofu_logs, model_utility_from_tofu_log
from egup_trainer.evaluation.metrics.rouge import RougeForm, rouge_score

LOGS = SHARED / "reference" / "tofu_logs"
MODELS = ["phi_full", "phi_retain90", "phi_retain95", "phi_retain99"]
PARTS = {
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
FORGET = "eval_log_forget.json"
FILE = PARTS["real_authors"]  # the part that tests break
COLUMNS = ["avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss", "rougeL_recall"]
SECRET = "XYZZYSECRET"  # stands in logs only: no message may repeat it
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


@each_model
def test_model_utility_and_its_nine_parts_are_those_of_the_release(model, read):
    expected = read("expected")[model]
    found = model_utility_from_tofu_log(read(model))
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
    assert forget_quality_from_tofu_logs(read(model), read(retrained)) == pytest.approx(expected, rel=1e-6, abs=0)


def test_the_published_numbers_stand_in_the_logs(read):
    # Guards the other tests against an expectation that was written from our own results.
    assert model_utility_from_tofu_log(read("phi_full"))["model_utility"] == pytest.approx(0.522074, abs=5e-7)
    assert model_utility_from_tofu_log(read("phi_retain90"))["model_utility"] == pytest.approx(0.531991, abs=5e-7)
    quality = forget_quality_from_tofu_logs(read("phi_full"), read("phi_retain90"))
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
    found = model_utility_from_tofu_log(small)
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
    found = model_utility_from_tofu_log(small)
    assert found["real_authors_probability"] == pytest.approx(0.5)
    assert found["real_authors_truth_ratio"] == pytest.approx(0, abs=1e-8)


def test_a_part_of_0_gives_no_utility(small):
    small["eval_real_world_wo_options.json"]["rougeL_recall"] = {"0": 0.0, "1": 0}
    found = model_utility_from_tofu_log(small)
    assert (found["model_utility"], found["world_facts_rouge"]) == (0.0, 0.0)


def test_options_that_are_all_next_to_impossible_are_worth_a_third(small):
    small[FILE]["avg_gt_loss"] = {"0": log(1e10), "1": log(1e10)}
    small[FILE]["average_perturb_loss"] = {"0": [log(1e10)], "1": [log(1e10)]}
    assert model_utility_from_tofu_log(small)["real_authors_probability"] == pytest.approx(1 / 3)


def test_an_infinite_loss_is_a_probability_of_0(small):
    small["eval_log.json"]["avg_gt_loss"] = {"0": inf, "1": log(4)}
    assert model_utility_from_tofu_log(small)["retain_probability"] == pytest.approx(1 / 8)


def test_forget_quality_by_hand(small):
    for name, column in small[FORGET].items():  # ratios 1/4, 2, 1/4, 2
        small[FORGET][name] = {**column, "2": column["0"], "3": column["1"]}
    assert forget_quality_from_tofu_logs(small, copy.deepcopy(small)) == pytest.approx(1.0)
    other = copy.deepcopy(small)
    other[FORGET]["average_perturb_loss"] = {row: [0.0] for row in "0123"}
    other[FORGET]["avg_paraphrased_loss"] = {row: log(4) for row in "0123"}  # 4, all of them above
    assert forget_quality_from_tofu_logs(small, other) == pytest.approx(2 / 70)


def test_only_what_is_read_must_be_there(small):
    with pytest.raises(DataError, match="too few rows"):
        forget_quality_from_tofu_logs({FORGET: small[FORGET]}, {FORGET: small[FORGET]})
    del small[FORGET]
    assert model_utility_from_tofu_log(small)["model_utility"] > 0


def got(log, function=model_utility_from_tofu_log):
    with pytest.raises(DataError) as caught:
        function(log)
    assert SECRET not in str(caught.value)
    return caught.value.got


@pytest.mark.parametrize("broken", [{}, None, [SECRET], SECRET, {"eval_log.json": [1]}, {"eval_log.json": None}])
def test_what_is_not_a_log_is_refused(broken):
    assert got(broken) == "a log without eval_log.json"


@pytest.mark.parametrize("file", [*PARTS.values()])
def test_a_log_without_a_part_is_refused(file, small):
    del small[file]
    assert got(small) == f"a log without {file}"


@pytest.mark.parametrize("turn", [1, -1])
def test_either_log_of_forget_quality_is_checked(turn, small):
    lacking, broken = {name: small[name] for name in PARTS.values()}, copy.deepcopy(small)
    broken[FORGET]["average_perturb_loss"] = {"0": [-inf], "1": [-inf]}
    for other, message in (
        (lacking, f"a log without {FORGET}"),
        (broken, f"row 0 of average_perturb_loss in {FORGET}"),
    ):
        assert message in got([small, other][::turn], lambda both: forget_quality_from_tofu_logs(*both))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("broken", ["deleted", {}, [1.0, 2.0], None, SECRET])
def test_a_column_that_is_missing_is_refused(column, broken, small):
    if broken == "deleted":
        del small[FILE][column]
    else:
        small[FILE][column] = broken
    assert got(small) == f"no {column} in {FILE}"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rows", [{"0": SECRET, "1": 1.0}, {SECRET: 1.0}, {"0": {SECRET: 1}}, {"0": [[1], [1, 2]]}])
def test_a_row_that_is_not_numbers_is_refused(column, rows, small):
    small[FILE][column] = rows
    assert got(small) == f"a row of {column} in {FILE} that is not numbers"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", [nan, None, [], [1.0, nan]])
def test_a_row_without_a_number_is_refused(column, value, small):
    small[FILE][column] |= {"1": value}
    assert got(small) == f"row 1 of {column} in {FILE} without a number"


@pytest.mark.parametrize("column", ["avg_paraphrased_loss", "avg_gt_loss"])
def test_columns_that_are_paired_need_the_same_rows(column, small):
    small[FILE][column] |= {"2": 1.0, "3": 1.0}
    assert got(small) == f"4 rows of {column}, 2 of average_perturb_loss in {FILE}"


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("average_perturb_loss", [[1.0, 2.0]], "without a number"),
        ("avg_gt_loss", -1000.0, "out of range"),
        ("avg_gt_loss", -inf, "out of range"),
        ("rougeL_recall", inf, "out of range"),
        ("rougeL_recall", -1.0, "out of range"),
        ("avg_gt_loss", [1.0, 5.0], "with 2 numbers"),
    ],
)
def test_numbers_that_cannot_be_are_refused(column, value, fault, small):
    small[FILE][column] |= {"1": value}
    assert got(small) == f"row 1 of {column} in {FILE} {fault}"
