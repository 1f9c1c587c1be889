"""Results as a file: everything comes back, nobody else can read it, and what a user reads when it is broken."""

import json
import os
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from egup_trainer.errors import DataError
from egup_trainer.evaluation.evaluation import (
    SCHEMA_VERSION,
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


def change(path, **fields):
    """Rewrites fields of the document at `path`."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def message_of(path):
    with pytest.raises(DataError) as caught:
        read_evaluation(path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_types_come_back(path):
    write_evaluation(path, an_evaluation())
    metric = read_evaluation(path).metrics["forget_probability"]
    assert isinstance(metric.interval, tuple)
    assert {type(sample) for sample in metric.values["forget"]} == {int}
    assert metric == an_evaluation().metrics["forget_probability"]
    assert read_evaluation(path).values == {
        "forget_probability": pytest.approx((0.25 + 1 / 3) / 3),
        "mia_loss": 1.0,
        "privleak": None,
        "forget_quality": None,
    }


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


def test_what_a_stopped_run_left_behind_does_not_make_results_public(path):
    leftover = path.with_name("ours.json.partial")
    leftover.touch()
    leftover.chmod(0o644)
    write_evaluation(path, an_evaluation())
    assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "ours.json"
    write_evaluation(path, an_evaluation())
    assert read_evaluation(path).name == "ours, “Zoë”"


def test_results_that_cannot_be_written_leave_the_old_ones(path):
    write_evaluation(path, an_evaluation(features={}, feature_ids={}))
    old = path.read_bytes()
    with pytest.raises(TypeError):
        write_evaluation(path, an_evaluation(run={"seed": object()}))
    assert path.read_bytes() == old
    assert [each.name for each in path.parent.iterdir()] == ["ours.json"]  # nor features without results


def test_a_missing_file_and_a_folder(path):
    message = "Got no readable file at {}, but expected results as `egup evaluate` writes them. Check the path."
    assert message_of(path) == message.format(path)
    assert message_of(path.parent) == message.format(path.parent)


@pytest.mark.parametrize("broken", [lambda whole: whole[:-20], lambda whole: b"", lambda whole: b"\xff\xfe" + whole])
def test_a_file_that_was_cut_short_or_is_no_text(path, broken):
    write_evaluation(path, an_evaluation())
    path.write_bytes(broken(path.read_bytes()))
    assert message_of(path) == (
        f"Got {path}, which is no whole JSON file, but "
        "expected results as `egup evaluate` writes them. Evaluate the model again."
    )


@pytest.mark.parametrize(
    "document", [{"kind": "egup_trainer results"}, {"schema_version": SCHEMA_VERSION}, [SECRET], SECRET, None]
)
def test_a_file_of_another_kind(path, document):
    path.write_text(json.dumps(document))
    assert message_of(path) == (
        f"Got {path}, which holds something else, but expected results as `egup evaluate` writes them. Name such a "
        "file."
    )


@pytest.mark.parametrize(("version", "shown"), [(SCHEMA_VERSION + 1, "3"), (0, "0"), (None, "None"), ("1", "1")])
def test_a_file_of_another_schema_version(path, version, shown):
    write_evaluation(path, an_evaluation())
    change(path, schema_version=version)
    assert message_of(path) == (
        f"Got {path} of schema version {shown}, but expected version 2. "
        "Evaluate the model again with this version of egup_trainer."
    )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"sets": {"forget": {"num_rows": 4}}}, "TypeError"),
        ({"sets": [SECRET]}, "AttributeError"),
        ({"metrics": {"forget_rouge": {"value": 0.5}}}, "KeyError"),
        ({"metrics": {"forget_rouge": {"interval": None, "values": {"forget": {SECRET: 1.0}}}}}, "ValueError"),
        ({"metrics": {"forget_rouge": {"value": "nan", "interval": None, "values": {}}}}, "TypeError"),
        ({"metrics": None}, "AttributeError"),
        ({"examples": {"forget": [{"prompt": SECRET}]}}, "TypeError"),
        ({"training": 5}, "TypeError"),
        ({"feature_ids": {"forget": [SECRET]}, "metrics": {}}, "ValueError"),
    ],
)
def test_a_file_whose_fields_do_not_fit(path, fields, error):
    write_evaluation(path, an_evaluation())
    features_path(path).unlink()
    change(path, **fields)
    assert message_of(path) == (
        f"Got {path}, whose contents do not fit the format ({error}), but "
        "expected results as `egup evaluate` writes them, version 2. Evaluate the model again."
    )


@pytest.mark.parametrize("field", ["name", "suite", "split", "sets", "metrics", "examples", "training", "run"])
def test_a_file_that_lacks_a_field(path, field):
    write_evaluation(path, an_evaluation())
    document = json.loads(path.read_text())
    del document[field]
    path.write_text(json.dumps(document))
    assert message_of(path) == (
        f"Got {path}, whose contents do not fit the format (KeyError), but "
        "expected results as `egup evaluate` writes them, version 2. Evaluate the model again."
    )


def with_sidecar_of(path, **changes):
    """Puts the features of other results beside those at `path`."""
    other = path.with_name("other.json")
    write_evaluation(other, an_evaluation(**changes))
    features_path(other).replace(features_path(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"forget": np.ones((3, 3), np.float32), "retain": np.ones((2, 3), np.float32)}},
        {"features": {"forget": np.ones((4, 3), np.float32)}},
        {"features": {name: np.ones((4, 3), np.float32) for name in ("forget", "holdout")}},
    ],
)
def test_features_of_another_evaluation(path, changes):
    write_evaluation(path, an_evaluation())
    with_sidecar_of(path, **changes)
    assert message_of(path) == (
        f"Got {features_path(path)}, which is not as it was written with the results beside it, but "
        "expected the two files of one evaluation. Evaluate the model again."
    )


def test_features_of_another_model_on_the_same_rows(path):
    write_evaluation(path, an_evaluation())
    with_sidecar_of(path, features={name: rows + 1 for name, rows in an_evaluation().features.items()})
    with pytest.raises(DataError):
        read_evaluation(path)


@pytest.mark.parametrize("broken", [lambda whole: whole[:-20], lambda whole: whole[:4], lambda whole: b""])
def test_features_that_were_cut_short(path, broken):
    write_evaluation(path, an_evaluation())
    features_path(path).write_bytes(broken(features_path(path).read_bytes()))
    assert message_of(path) == (
        f"Got {features_path(path)}, which is not as it was written with the results beside it, but "
        "expected the two files of one evaluation. Evaluate the model again."
    )
