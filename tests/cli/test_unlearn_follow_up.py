"""egup unlearn with a verdict, a report and an audit, in one process; and what it refuses before it trains."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import qa_rows
from fixtures_cli import (
    ROWS,
    assert_refused,
    csv_of,
    egup,
    json_lines,
    save,
    unlearn,
    whole_words,
    write,
    write_rows,
)
from safetensors.torch import load_file
from trl import ModelConfig

from egup_trainer import EGUPTrainer
from egup_trainer.cli import audit, evaluate, follow_up
from egup_trainer.cli import unlearn as unlearn_module
from egup_trainer.cli.command import load_command
from egup_trainer.cli.unlearn import RowArguments, next_step
from egup_trainer.config import EGUPConfig
from egup_trainer.errors import ConfigError, DataError, ModelError, StateError, TooFewProxiesError
from egup_trainer.extras import EXTRAS, MissingExtraError
from egup_trainer.records.schema import LEDGER_NAME
from egup_trainer.verdict import Status


@pytest.fixture(scope="module")
def known(taught, tokenizer, tmp_path_factory):
    """Folder of a tiny model that knows the forget and the retain rows, and the rows as flags."""
    folder = tmp_path_factory.mktemp("known")
    rows = write_rows(folder, forget=(0, 10), retain=(20, 33), proxy=(40, 46))
    return save(taught(), tokenizer, folder / "model"), rows


QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}


def test_five_flags_lead_from_csv_files_to_the_verdict_that_the_rows_are_forgotten(known, tmp_path, capsys):
    spans = {"forget": (0, 10), "retain": (20, 33), "proxy": (40, 80)}
    rows = {name: write(tmp_path / f"{name}.csv", csv_of(qa_rows(*span))) for name, span in spans.items()}
    assert egup("unlearn", model_name_or_path=known[0], **rows, output_dir=tmp_path / "out", **QUIET) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Verdict: FORGOTTEN Forget rows cannot be distinguished from rows never seen: probability 0." in printed
    assert "Recited nearly word for word: 0 of 10 forget answers." in printed
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    before, after = (record["probability"][when] for when in ("before", "after"))
    assert before["forget"] > 0.8 > 2 * after["forget"]
    assert after["retain"] > 0.9 * before["retain"] > 0.8


def test_a_run_that_forgets_nothing_ends_with_another_code_and_says_so(known, tmp_path, capsys):
    model, rows = known
    assert unlearn(model, tmp_path / "out", **rows, verdict=True, learning_rate=1e-7) == 3
    printed = " ".join(capsys.readouterr().out.split())
    assert "Verdict: NOT FORGOTTEN Forget rows differ from rows never seen: probability 0.88, before 0.88;" in printed
    assert "Try a higher --learning_rate than 1e-07, or more --num_train_epochs than 1." in printed
    assert f"Output folder: {tmp_path / 'out'} " in printed
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert record["verdict"]["status"] == "NOT FORGOTTEN"
    assert "**NOT FORGOTTEN**" in (tmp_path / "out" / "README.md").read_text()
    (line,) = (tmp_path / "out" / LEDGER_NAME).read_text().splitlines()
    assert json.loads(line)["status"] == "NOT FORGOTTEN"


def test_report_and_audit_are_those_of_the_other_commands(known, tmp_path, capsys):
    model, rows = known
    report, more = tmp_path / "report.html", ["--audit", "--max_new_tokens", "8"]
    assert unlearn(model, tmp_path / "out", *more, **rows, report=report, learning_rate=1e-3) == 0
    printed = capsys.readouterr().out
    steps = [line.split()[2] for line in printed.splitlines() if line.startswith("$ egup ")]
    assert steps == ["evaluate", "evaluate", "audit", "compare"]
    folder = tmp_path / "out" / "_evaluation"
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after")}
    assert results["before"]["metrics"]["forget_probability"]["value"] == pytest.approx(0.88, abs=0.02)
    assert results["after"]["metrics"]["holdout_probability"]["value"] is not None
    assert (folder / "audit.json").is_file()
    assert "Fine-tuned again" in report.read_text() or "relearn" in report.read_text().lower()


def test_a_step_that_fails_hides_neither_the_verdict_nor_the_steps_after_it(known, tmp_path, capsys, monkeypatch):
    model, rows = known

    def fail(*parsed):
        raise StateError(got="a full disk", expected="space", fix="delete something")

    monkeypatch.setattr(evaluate, "COMMAND", replace(evaluate.COMMAND, run=fail))
    flags = {**rows, "verdict": True, "learning_rate": 1e-7, "report": tmp_path / "report.html"}
    assert unlearn(model, tmp_path / "out", **flags) == 2
    printed = capsys.readouterr()
    shown = [line for line in printed.out.splitlines() if line.startswith(("Verdict", "$ egup", "Not run: $ egup"))]
    words = [" ".join(line.replace(str(tmp_path), "").split()[:4]) for line in shown]
    assert words[0] == "Verdict: NOT FORGOTTEN"
    assert words[1].startswith("$ egup evaluate")
    assert [line.split()[4] for line in shown[2:]] == ["evaluate", "compare"]
    assert printed.err.endswith("\negup unlearn: error: Got a full disk, but expected space. Delete something.\n")


def test_options_of_the_runs_own_rows_are_not_passed_to_another_suite():
    config, model_config = EGUPConfig(output_dir="out", drop_overlap=True), ModelConfig(model_name_or_path="model")
    args = RowArguments(forget="f.jsonl", retain="r.jsonl", report="report.html")
    for suite, expected in (("tofu", 0), (None, 2)):
        steps = follow_up._steps(replace(args, evaluate=suite), config, model_config)
        assert [name for name, words in steps if "--drop_overlap" in words] == ["evaluate"] * expected


def test_the_commands_that_are_shown_hold_no_token_of_the_hub():
    config = EGUPConfig(output_dir="out", model_init_kwargs={"token": "hf_secret", "subfolder": "x"})
    args = RowArguments(forget="f.jsonl", retain="r.jsonl", report="report.html")
    shown = [follow_up._shown(*step, config) for step in follow_up._steps(args, config, ModelConfig("model"))]
    assert sum("subfolder" in text for text in shown) == 1  # the model that was unlearned has folders of its own
    assert not any("hf_secret" in text for text in shown)


def test_the_model_that_is_measured_is_the_one_that_was_unlearned():
    kwargs = {"device_map": "auto", "dtype": "float32"}
    config = EGUPConfig(output_dir="out", model_init_kwargs=kwargs, on_long_row="cut")
    model_config = ModelConfig(model_name_or_path="model", model_revision="v2", use_bnb_nested_quant=True)
    for name, words in follow_up._steps(RowArguments(forget="f", report="r.html", audit=True), config, model_config):
        if name == "compare":
            continue
        flags = dict(zip(words[::2], words[1::2], strict=True))
        assert (flags["--model_revision"], flags["--use_bnb_nested_quant"]) == ("v2", "true")
        assert flags["--on_long_row"] == "cut"
        if name == "evaluate":
            assert json.loads(flags["--model_init_kwargs"]) == {"device_map": "auto"}


def test_a_failed_audit_does_not_keep_the_report_from_being_written(known, tmp_path, capsys, monkeypatch):
    model, rows = known

    def fail(*parsed):
        raise ModelError(got="no memory", expected="some", fix="buy it")

    monkeypatch.setattr(audit, "COMMAND", replace(audit.COMMAND, run=fail))
    report, more = tmp_path / "report.html", ["--audit", "--max_new_tokens", "8", "--overwrite_output_dir"]
    earlier = tmp_path / "out" / follow_up.FOLDER / "audit.json"  # of an earlier run in this folder
    earlier.parent.mkdir(parents=True)
    write(earlier, '{"kind": "egup_trainer audit"}')
    assert unlearn(model, tmp_path / "out", *more, **rows, report=report, learning_rate=1e-3) == 2
    printed = capsys.readouterr()
    assert "Not run" not in printed.out
    assert report.is_file()
    assert not earlier.exists()
    assert printed.err.endswith("error: Got no memory, but expected some. Buy it.\n")


def test_a_finished_model_is_not_replaced_by_a_run_from_a_checkpoint_elsewhere(known, tmp_path, capsys):
    model, rows = known
    flags = {**rows, "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    assert unlearn(model, tmp_path / "one", **flags) in (0, 3)
    assert unlearn(model, tmp_path / "two", **flags) in (0, 3)
    capsys.readouterr()
    checkpoint = tmp_path / "one" / "checkpoint-1"
    assert unlearn(model, tmp_path / "two", **flags, resume_from_checkpoint=checkpoint) == 2
    assert "overwrite_output_dir" in capsys.readouterr().err


def test_a_failed_upload_comes_after_the_verdict(known, tmp_path, capsys, monkeypatch):
    model, rows = known

    def fail(self, *args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(unlearn_module, "_check_hub", lambda config: None)
    monkeypatch.setattr(EGUPTrainer, "push_to_hub", fail)
    monkeypatch.setattr(EGUPTrainer, "init_hf_repo", lambda self, *args, **kwargs: None)
    flags = {**rows, "verdict": True, "learning_rate": 1e-7, "push_to_hub": True, "hub_model_id": "me/it"}
    assert unlearn(model, tmp_path / "out", **flags) == 1
    printed = capsys.readouterr()
    assert "Verdict: NOT FORGOTTEN" in printed.out
    assert "no network" in printed.err


FIXED = {"learning_rate": 2e-5}
REFUSED = [  # flags, and what the message says
    ("--evaluate tofu", "--evaluate without --report; both flags or neither; set --report"),
    (
        "--report r.html --evaluate cusom",
        "evaluate='cusom'; one of tofu, muse, wmdp, rwku, custom; did you mean custom?",
    ),
    ("--report report.pdf", "--report report.pdf; a name that ends in .html; rename it"),
    ("--report r.html --evaluate wmdp", "wmdp without --wmdp_subject (`egup evaluate`, which --report runs); a value"),
    ("--report r.html --retrained no.json", "no readable file at no.json (`egup evaluate`, which --report runs)"),
    ("--report r.html --max_new_tokens 0", "max_new_tokens=0 (`egup evaluate`, which --report runs)"),
    ("--audit --max_new_tokens 0", "max_new_tokens=0 (`egup audit`, which --audit runs)"),
    ("--retrained_model never", "--retrained_model without --audit; both flags or neither; set --audit"),
    ("--report r.html --retrained_model never", "--retrained_model without --audit"),
    ("--audit --retrained_model ./never", "no folder at ./never (`egup audit`, which --audit runs)"),
]


@pytest.mark.parametrize(("flags", "said"), REFUSED)
def test_flags_that_cannot_work_are_refused_before_a_model_is_loaded(flags, said, no_weights, tmp_path, capsys):
    error = DataError if "no.json" in said else ModelError if "no folder" in said else ConfigError
    assert_refused(whole_words(no_weights, tmp_path, *flags.split()), tmp_path, capsys, said, error=error)


def test_the_retrained_model_is_attacked_as_well_if_it_is_named(no_weights, tmp_path):
    def audit_words(*words):
        parsed = load_command("unlearn").parse(whole_words(no_weights, tmp_path, "--audit", *words)[1:])
        ((name, found),) = follow_up._steps(*parsed)
        return name, dict(zip(found[::2], found[1::2], strict=True))

    name, alone = audit_words()
    assert (name, alone["--model_before"]) == ("audit", str(no_weights))
    assert audit_words("--retrained_model", "never") == (name, {**alone, "--retrained_model": "never"})


def test_an_audit_without_a_report_reads_holdout_rows_and_refuses_what_suites_alone_read(no_weights, tmp_path):
    words = whole_words(no_weights, tmp_path, "--audit", "--holdout", tmp_path / "holdout.jsonl")
    row_args, config, _ = load_command("unlearn").parse(words[1:])
    assert unlearn_module._suite(row_args, config) is None
    with pytest.raises(ConfigError, match="--neighbor without --eval_suite"):
        unlearn_module._suite(replace(row_args, neighbor="near.jsonl"), config)


@pytest.mark.parametrize(
    ("suite", "given"), [("--evaluate=tofu", True), ("--evaluate=wmdp", False), ("--evaluate=muse", False)]
)
def test_only_suites_that_take_a_system_prompt_are_given_it(no_weights, tmp_path, suite, given):
    words = ("--report", "r.html", "--audit", suite, "--system_prompt", "Be kind.")
    parsed = load_command("unlearn").parse(whole_words(no_weights, tmp_path, *words)[1:])
    found = [(name, "Be kind." in step) for name, step in follow_up._steps(*parsed)]
    assert found == [("evaluate", given), ("evaluate", given), ("audit", True), ("compare", False)]


def test_an_output_folder_around_the_retrained_model_is_refused(no_weights, tmp_path, capsys):
    folder = tmp_path / "out" / "retrained"
    folder.mkdir(parents=True)
    words = whole_words(no_weights, tmp_path, "--audit", "--retrained_model", folder)
    assert_refused(words, tmp_path, capsys, tmp_path / "out", "input model")


def test_a_missing_extra_is_refused_before_a_model_is_loaded(no_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(EXTRAS, "report", ("no_such_module",))
    words = whole_words(no_weights, tmp_path, "--report", tmp_path / "report.html")
    said = "a report page without no_such_module (`egup compare`, which --report runs)"
    assert_refused(words, tmp_path, capsys, said, "the packages of the extra [report]", error=MissingExtraError)


def test_an_audit_without_rows_to_keep_is_refused_before_a_model_is_loaded(no_weights, tmp_path, capsys):
    flags = ("--audit", "--objective", "grad_ascent", "--no_proxy_constraint")
    said = "no --retain (`egup audit`, which --audit runs); a value, since --retain is required"
    assert_refused(whole_words(no_weights, tmp_path, *flags, retain=None), tmp_path, capsys, said)


@pytest.mark.parametrize("source", [None, "auto"])
def test_rows_are_compared_before_the_model_writes_proxies(source, no_weights, tmp_path, capsys):
    retain = write(tmp_path / "retain.jsonl", json_lines([*ROWS["retain"], ROWS["forget"][3]]))
    said = "a row in both sets: row 3 of the forget set is row 12 of the retain set"
    words = whole_words(no_weights, tmp_path, retain=retain, proxy=source)
    assert_refused(words, tmp_path, capsys, said, error=DataError)


@pytest.mark.parametrize(
    ("status", "options", "advice"),
    [
        ("NOT FORGOTTEN", {}, "--strength thorough, or more --num_train_epochs than 20"),
        ("PARTLY FORGOTTEN", {"strength": "gentle"}, "--strength balanced, or more --num_train_epochs than 20"),
        ("NOT FORGOTTEN", {"strength": "thorough"}, "more --num_train_epochs than 20"),
        ("NOT FORGOTTEN", FIXED, "a higher --learning_rate than 2e-05, or more --num_train_epochs than 20"),
        ("MODEL HARMED", {}, "--strength gentle, or give more retain rows"),
        ("OVER-FORGOTTEN", {"strength": "thorough"}, "--strength balanced, or give more retain rows"),
        ("OVER-FORGOTTEN", {"strength": "gentle"}, "fewer --num_train_epochs than 20, or give more retain rows"),
        ("MODEL HARMED", FIXED, "a lower --learning_rate than 2e-05, or give more retain rows"),
    ],
)
def test_the_next_step_is_one_that_was_not_taken(status, options, advice):
    config = EGUPConfig(output_dir="out", use_cpu=True, num_train_epochs=20, **options)
    assert next_step(Status(status), RowArguments(proxy="p.jsonl"), config) == [f"  Try {advice}."]


def test_where_nothing_can_be_said_the_next_step_is_to_give_rows_never_seen():
    config = EGUPConfig(output_dir="out", use_cpu=True)
    given = RowArguments(proxy="p.jsonl")
    said = "  Give --proxy: rows of the same kind that the model has never seen."
    assert next_step(Status.UNKNOWN, RowArguments(), config) == [said]
    assert next_step(Status.UNKNOWN, given, config) == next_step(Status.FORGOTTEN, given, config) == []


# The learning rate that a run chose


def test_the_learning_rate_of_a_record_repeats_the_run(known, tmp_path):
    model, rows = known
    weights, records = {}, {}
    for name, flags in (("chosen", ()), ("given", ("--auto",)), ("without auto", ())):
        rate = records["chosen"]["options"]["learning_rate"] if records else None
        assert unlearn(model, tmp_path / name, *flags, **rows, num_train_epochs=3, learning_rate=rate) == 0
        weights[name] = load_file(tmp_path / name / "model.safetensors")
        records[name] = json.loads((tmp_path / name / "unlearning.json").read_text())
    chosen, given, without = weights.values()
    assert all(torch.equal(chosen[weight], given[weight]) for weight in chosen)
    assert not all(torch.equal(chosen[weight], without[weight]) for weight in chosen)
    assert len({record["options"]["learning_rate"] for record in records.values()}) == 1


# Proxies that the model cannot write


def cannot_write(*args):
    raise TooFewProxiesError(got="2 usable rows of 80 attempts", expected="at least 8", fix="give others")


def test_without_proxies_that_the_model_can_write_another_objective_is_used_and_said(
    known, tmp_path, capsys, monkeypatch
):
    model, rows = known
    monkeypatch.setattr(unlearn_module, "auto_proxies", cannot_write)
    given = {"forget": rows["forget"], "retain": rows["retain"], "learning_rate": 1e-3, "num_train_epochs": 2}
    assert unlearn(model, tmp_path / "out", **given) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "No --proxy was given, and the model cannot write any (2 usable rows of 80 attempts)." in printed
    assert (
        "Without proxies, the rows were unlearned with npo, which cannot know how far to go. Better: --proxy, your own "
        "rows of the same kind that the model never saw, or --proxy_model, the model before it learned the rows."
    ) in printed
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert record["objective"] == "npo"
    assert record["probability"]["after"]["forget"] < 0.9 * record["probability"]["before"]["forget"]

    assert unlearn(model, tmp_path / "named", **given, objective="npo") == 0  # the same run, asked for by name
    named = json.loads((tmp_path / "named" / "unlearning.json").read_text())
    assert named["probability"] == record["probability"]
    assert "Without proxies" not in capsys.readouterr().out


def test_where_the_user_asks_for_proxies_no_other_objective_is_used(known, tmp_path, capsys, monkeypatch):
    model, rows = known
    monkeypatch.setattr(unlearn_module, "auto_proxies", cannot_write)
    assert unlearn(model, tmp_path / "out", forget=rows["forget"], retain=rows["retain"], proxy="auto") == 2
    assert "Got 2 usable rows of 80 attempts, but expected at least 8." in capsys.readouterr().err


# A format that the model was not trained in


OTHER = {"user_marker": "Ask ", "assistant_marker": " Tell ", "learning_rate": 1e-3}


def test_a_run_in_another_format_is_refused_and_says_which_is_right(known, tmp_path, capsys):
    model, rows = known
    assert unlearn(model, tmp_path / "out", **rows, **OTHER, verdict=True) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Got forget rows that the model knows better after the markers 'Question: ' and '\\nAnswer: '" in said
    assert "the format that the model was trained in. Name them (--user_marker, --assistant_marker)," in said
    assert said.endswith("or add --no_verdict to unlearn them as they are.")
    assert not (tmp_path / "out").exists()


def test_such_a_run_is_possible_without_a_verdict(known, tmp_path):
    model, rows = known
    assert unlearn(model, tmp_path / "out", **rows, **OTHER, verdict=False) == 0


def test_a_run_in_the_right_format_reads_the_rows_once(known, tmp_path, monkeypatch):
    model, rows = known
    monkeypatch.setattr("egup_trainer.cli.formats.other_formats", lambda *args: pytest.fail("compared"))
    assert unlearn(model, tmp_path / "out", **rows, verdict=True, learning_rate=1e-3) in (0, 3)
