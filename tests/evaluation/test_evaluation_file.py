"""Results as a file: everything comes back, and nobody else can read it.

Files that are broken are in tests/bad_input/test_results_files.py.
"""

import json
import os
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from egup_trainer.errors import DataError
from egup_trainer.evaluation.evaluation import (
    Evaluation,
    Example,
    SetFacts,
    features_path,
    read_evaluation,
    write_evaluation,
)
from egup_trainer.evaluation.metric import auc_metric, mean_metric, unavailable

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it


def an_evaluation(**changes):
    forget = {0: 0.25, 3: 1 / 3, 12: 1e-300}
    evaluation = Evaluation(
        name="ours, “Zoë”",
        suite="tofu",
        split="forget10",
        sets={"forget": SetFacts(4, "a" * 16), "retain": SetFacts(2, "b" * 16)},
        metrics={
            "forget_probability": mean_metric(
                "forget", forget, num_rows=4, higher_is_better=False, without="no row has a scored answer"
            ),
            "mia_loss": auc_metric(("forget", forget), ("holdout", {1: 0.5}), num_rows=6),
            "privleak": unavailable("no results of a retrained model", None),
            "forget_quality": unavailable("no results of a retrained model", True, forget={7: 0.1}),
        },
        examples={"forget": [Example(3, "Where?", SECRET, "In Aren\n“so”")], "retain": []},
        training=[{"loss": 1.5, "step": 1, "epoch": 0.5}, {"eval_loss": 2, "note": None}],
        run={"model": "models/ours", "seed": 0, "versions": {"torch": "2.13"}, "seconds": 1.25},
        features={
            "forget": np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
            "retain": np.full((2, 3), -0.0, np.float32),
        },
        feature_ids={"forget": [0, 3, 12, 2], "retain": [5, 1]},
    )
    return replace(evaluation, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ours.json"


def assert_same(read, written):
    assert replace(read, features={}) == replace(written, features={})
    assert read.features.keys() == written.features.keys()
    for name, rows in written.features.items():
        assert read.features[name].dtype == np.float32
        np.testing.assert_array_equal(read.features[name], rows)


@pytest.mark.parametrize("changes", [{}, {"features": {}, "feature_ids": {}}, {"split": None, "training": []}])
def test_everything_comes_back(path, changes):
    written = an_evaluation(**changes)
    write_evaluation(path, written)
    assert_same(read_evaluation(path), written)
    assert_same(read_evaluation(str(path)), written)


def test_features_stand_in_a_file_beside_the_results(path):
    assert features_path(path).name == "ours.features.safetensors"
    write_evaluation(path, an_evaluation())
    assert sorted(each.name for each in path.parent.iterdir()) == ["ours.features.safetensors", "ours.json"]
    assert "features" not in json.loads(path.read_text())


def test_results_without_features_have_one_file_and_ignore_an_old_one(path):
    write_evaluation(path, an_evaluation())
    write_evaluation(path, an_evaluation(features={}, feature_ids={}))
    assert read_evaluation(path).features == {}


def test_results_whose_features_were_deleted_can_still_be_read(path):
    write_evaluation(path, an_evaluation())
    features_path(path).unlink()
    assert_same(read_evaluation(path), an_evaluation(features={}))


def test_features_of_any_layout_are_kept(path):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4).T
    written = an_evaluation(features={"forget": rows}, feature_ids={"forget": [0, 1, 2, 3]})
    write_evaluation(path, written)
    np.testing.assert_array_equal(read_evaluation(path).features["forget"], rows)


@pytest.mark.parametrize(("value", "text"), [(nan, "nan"), (inf, "inf"), (-inf, "-inf")])
def test_a_training_log_that_went_wrong_comes_back_as_text(path, value, text):
    write_evaluation(path, an_evaluation(training=[{"loss": value, "parts": [1.0, value], "step": 3}]))
    assert read_evaluation(path).training == [{"loss": text, "parts": [1.0, text], "step": 3}]
    json.loads(path.read_text(), parse_constant=pytest.fail)  # the file is JSON, which has no NaN


def test_files_are_for_the_user_alone(path):
    path.write_text("an older file that all may read")
    path.chmod(0o644)
    features_path(path).write_text("an older file that all may read")
    old = os.umask(0)
    try:
        write_evaluation(path, an_evaluation())
    finally:
        os.umask(old)
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in path.parent.iterdir()} == {
        "ours.json": "0o600",
        "ours.features.safetensors": "0o600",
    }


def test_results_that_cannot_be_written_leave_the_old_ones(path):
    write_evaluation(path, an_evaluation(features={}, feature_ids={}))
    old = path.read_bytes()
    with pytest.raises(TypeError):
        write_evaluation(path, an_evaluation(run={"seed": object()}))
    assert path.read_bytes() == old
    assert [each.name for each in path.parent.iterdir()] == ["ours.json"]  # nor features without results


@pytest.mark.parametrize("field", ["name", "suite", "split", "sets", "metrics", "examples", "training", "run"])
def test_a_file_that_lacks_a_field_is_refused(path, field):
    write_evaluation(path, an_evaluation())
    document = json.loads(path.read_text())
    del document[field]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        read_evaluation(path)
    assert error.value.got == f"{path}, whose {field} is missing or does not fit the format"


@pytest.mark.parametrize("fields", [{"sets": [SECRET]}, {"examples": {SECRET: [{"prompt": SECRET}]}}])
def test_a_refusal_repeats_no_text_of_a_row(path, fields):
    write_evaluation(path, an_evaluation())
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(DataError) as error:
        read_evaluation(path)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "features",
    [
        {"forget": np.ones((3, 3), np.float32), "retain": np.ones((2, 3), np.float32)},
        {"forget": np.ones((4, 3), np.float32)},
        {name: np.ones(shape, np.float32) for name, shape in (("forget", (4, 3)), ("retain", (2, 3)))},
        None,  # cut short
    ],
)
def test_features_that_are_not_those_of_the_results_are_refused(path, features):
    write_evaluation(path, an_evaluation())
    if features is None:
        features_path(path).write_bytes(features_path(path).read_bytes()[:-20])
    else:
        other = path.with_name("other.json")
        write_evaluation(other, an_evaluation(features=features))
        features_path(other).replace(features_path(path))
    with pytest.raises(DataError) as error:
        read_evaluation(path)
    assert str(features_path(path)) in error.value.got
