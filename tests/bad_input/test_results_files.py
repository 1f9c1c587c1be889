"""Results of other versions, other rows, or broken ones are refused in one line by every command that reads them."""

import json
from dataclasses import replace

import pytest
from fixtures_audit import invented_audit
from fixtures_cli import SECRET, assert_refused, source_flags, whole_words, write
from fixtures_report import SETS, make_evaluation

from egup_trainer.errors import DataError
from egup_trainer.evaluation.evaluation import SetFacts, features_path, write_evaluation

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def results(tmp_path):
    """results(name, **changes): path of the results of an invented model."""

    def make(name="egup_clreg", **changes):
        evaluation = replace(make_evaluation(name, rows=12), **{"training": [], **changes})
        write_evaluation(tmp_path / f"{name}.json", evaluation)
        return tmp_path / f"{name}.json"

    return make


@pytest.fixture
def audit(tmp_path):
    """Path of an invented audit."""
    invented_audit("mine", 0.3).write(tmp_path / "audit.json")
    return tmp_path / "audit.json"


def compare(tmp_path, *words):
    return ["compare", *map(str, words), "--output", str(tmp_path / "out" / "report.html")]


def put(*keys_and_value):
    """A change of a document: the value, put where the keys lead."""
    *keys, last, value = keys_and_value

    def change(document):
        for key in keys:
            document = document[key]
        document[last] = value

    return change


def drop(*keys):
    """A change of a document: the entry that the keys lead to is gone."""
    *keys, last = keys

    def change(document):
        for key in keys:
            document = document[key]
        del document[last]

    return change


METRIC = ("metrics", "forget_probability")
NOT_JSON = "JSON"
NO_FIT = "does not fit"
OTHER = "something else"
BOTH = {  # a change of a sound document, or the whole content, and what the message says besides the path
    "no byte": ("", NOT_JSON),
    "cut": ('{"kind": "egup_trainer evaluation", "schema_version": 1, "name": "be', NOT_JSON),
    "latin-1": ('"Zoë"'.encode("latin-1"), NOT_JSON),
    "brackets without end": ("[" * 100_000, NOT_JSON),
    "number without end": ("9" * 9999, NOT_JSON),
    "a list": ("[1, 2]", OTHER),
    "a text": (json.dumps(SECRET), OTHER),
    "rows": (json.dumps({"question": SECRET, "answer": SECRET}), OTHER),
    "another kind": (put("kind", "egup_trainer comparison"), OTHER),
    "later version": (put("schema_version", 3), "schema version 3"),
    "version as text": (put("schema_version", "1"), "schema version 1"),
    "no version": (drop("schema_version"), "schema version None"),
    "sets as a list": (put("sets", []), NO_FIT),
    "rows as text": (put("sets", "forget", "num_rows", "many"), NO_FIT),
    "run as text": (put("run", "none"), NO_FIT),
}
EVALUATION = {
    "no metrics": (drop("metrics"), NO_FIT),
    "metric as a number": (put(*METRIC, 0.5), NO_FIT),
    "value as a switch": (put(*METRIC, "value", True), NO_FIT),
    "value NaN": (put(*METRIC, "value", float("nan")), NOT_JSON),
    "value too large": (put(*METRIC, "value", 10**400), NO_FIT),
    "row's number NaN": (put(*METRIC, "values", "forget", "3", float("nan")), NOT_JSON),
    "row without a number": (put(*METRIC, "values", "forget", "third", 0.5), NO_FIT),
    "three bounds": (put(*METRIC, "interval", [0.1, 0.2, 0.3]), NO_FIT),
    "bounds NaN": (put(*METRIC, "interval", [float("nan"), 0.3]), NOT_JSON),
    "samples as text": (put(*METRIC, "num_samples", "12"), NO_FIT),
    "another field": (put(*METRIC, "colour", "red"), NO_FIT),
    "training of numbers": (put("training", [1, 2]), NO_FIT),
    "examples as text": (put("examples", {"forget": [SECRET]}), NO_FIT),
    "ids as text": (put("feature_ids", "forget", ["a"]), NO_FIT),
    "another digest": (put("features_digest", "0" * 64), "as it was written"),
}
FOUND = ("findings", "sampling", "metrics", "best_rouge")
CURVES = ("findings", "relearning", "curves", "forget")
AUDIT = {
    "no findings": (drop("findings"), NO_FIT),
    "another attack": (put("findings", "hypnosis", {}), NO_FIT),
    "value NaN": (put(*FOUND, "value", float("nan")), NOT_JSON),
    "value as text": (put(*FOUND, "value", "0.5"), NO_FIT),
    "curve of numbers": (put(*CURVES, [1, 2]), NO_FIT),
    "curve with NaN": (put(*CURVES, [[0, float("nan")]]), NOT_JSON),
    "curve with half a step": (put(*CURVES, [[0.5, 0.5]]), NO_FIT),
    "model beside as text": (put("retrained", "folder"), NO_FIT),
}


def spoil(path, change):
    """Writes the content to the path, or what a change makes of its document."""
    if callable(change):
        document = json.loads(path.read_text())
        change(document)
        change = json.dumps(document)
    write(path, change)


@pytest.mark.parametrize("name", BOTH | EVALUATION)
def test_results_that_cannot_be_used_are_refused(results, tmp_path, capsys, name):
    change, says = (BOTH | EVALUATION)[name]
    good, bad = results("before"), results("egup_clreg")
    spoil(bad, change)
    assert_refused(compare(tmp_path, good, bad), tmp_path, capsys, bad.with_suffix(""), says, error=DataError)


@pytest.mark.parametrize("name", BOTH | AUDIT)
def test_audits_that_cannot_be_used_are_refused(results, audit, tmp_path, capsys, name):
    change, says = (BOTH | AUDIT)[name]
    spoil(audit, change)
    assert_refused(compare(tmp_path, results(), "--audit", audit), tmp_path, capsys, audit, says, error=DataError)


@pytest.mark.parametrize("flag", [(), ("--retrained",), ("--audit",)])
@pytest.mark.parametrize("place", ["nowhere.json", "", "egup_clreg.json/below.json", "a" * 300])
def test_places_without_results_are_refused(results, tmp_path, capsys, flag, place):
    words = compare(tmp_path, results(), *flag, tmp_path / place)
    assert_refused(words, tmp_path, capsys, f"no readable file at {tmp_path / place}", error=DataError)


def test_an_audit_is_no_evaluation_nor_the_other_way_round(results, audit, tmp_path, capsys):
    assert_refused(compare(tmp_path, results(), audit), tmp_path, capsys, audit, "`egup evaluate`", error=DataError)
    words = compare(tmp_path, results(), "--audit", results())
    assert_refused(words, tmp_path, capsys, results(), "`egup audit`", error=DataError)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"split": "forget05"}, ["split forget05", "split forget10"]),
        ({"suite": "custom"}, ["suite custom", "suite tofu"]),
        ({"sets": {**SETS, "forget": SetFacts(60, "f" * 16)}}, ["forget rows", "f" * 16, SETS["forget"].fingerprint]),
        ({"sets": {"forget": SETS["forget"]}}, ["retain rows", SETS["retain"].fingerprint]),
        ({"settings": {"feature_layer": 0.25}}, ["feature_layer 0.25"]),
    ],
)
def test_results_of_other_rows_are_refused(results, tmp_path, capsys, changes, named):
    good, other = results("before"), results("egup_clreg", **changes)
    assert_refused(compare(tmp_path, good, other), tmp_path, capsys, other, *named, error=DataError)
    words = compare(tmp_path, good, "--retrained", other)
    assert_refused(words, tmp_path, capsys, "--retrained", *named, error=DataError)


def test_features_that_are_not_those_of_the_results_are_refused(results, tmp_path, capsys):
    path = features_path(results())
    path.write_bytes(path.read_bytes()[:-1])
    words = compare(tmp_path, results("before"), tmp_path / "egup_clreg.json")
    assert_refused(words, tmp_path, capsys, path, error=DataError)


@pytest.mark.parametrize("flag", ["--retrained", "--before", "--reference"])
@pytest.mark.parametrize("name", ["cut", "later version", "value NaN", "other rows"])
def test_evaluate_refuses_bad_results_before_a_model_is_loaded(no_weights, results, tmp_path, capsys, flag, name):
    bad = results()
    named = (flag, "suite tofu", "suite custom") if name == "other rows" else (bad, (BOTH | EVALUATION)[name][1])
    if name != "other rows":
        spoil(bad, (BOTH | EVALUATION)[name][0])
    words = ["evaluate", "--model_name_or_path", str(no_weights), "--suite", "custom", "--use_cpu", flag, str(bad)]
    words += [*source_flags(tmp_path, proxy=None), "--output", str(tmp_path / "o.json")]
    assert_refused(words, tmp_path, capsys, *named, error=DataError)


def test_unlearn_refuses_bad_results_before_a_model_is_loaded(no_weights, results, tmp_path, capsys):
    words = whole_words(no_weights, tmp_path, "--eval_strategy", "epoch")
    words += ["--eval_suite", "custom", "--retrained", str(results())]
    assert_refused(words, tmp_path, capsys, "--retrained", "suite tofu", "suite custom", error=DataError)
    spoil(results(), BOTH["cut"][0])
    assert_refused(words, tmp_path, capsys, "egup_clreg.json", NOT_JSON, error=DataError)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--titel", "x"], ["--titel", "did you mean --title?"]),
        (["--retr", "x.json"], ["--retr"]),
        (["--audit"], ["--audit"]),
        (["--output", "report.pdf"], ["--output report.pdf", ".html"]),
        (["--output", "egup_clreg.html"], ["--output egup_clreg.json", "overwrite a file that the command reads"]),
        (["--output", "x.html", "--retrained", "x.json"], ["--output x.json", "overwrite"]),
        (["--retrained", "egup_clreg.json"], ["--retrained"]),
    ],
)
def test_options_of_compare_that_cannot_work_are_refused(results, tmp_path, capsys, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    assert_refused([*compare(tmp_path, results()), *flags], tmp_path, capsys, *named)


def test_compare_needs_results_and_an_output(results, tmp_path, capsys):
    assert_refused(["compare"], tmp_path, capsys, "RESULTS.json")
    assert_refused(["compare", str(results())], tmp_path, capsys, "--output", "required")
