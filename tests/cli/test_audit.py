"""`egup audit`: what it writes and prints, of which models, and what it refuses before any model is loaded."""

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_tiny_model, qa_rows
from fixtures_audit import FORGET, QUICK, RETAIN, taught
from fixtures_cli import assert_refused, egup, save, write_rows
from fixtures_report import make_evaluation

from egup_trainer.audit import ATTACKS
from egup_trainer.audit.audit import Audit, audit_model
from egup_trainer.cli import audit as audit_command
from egup_trainer.errors import ModelError
from egup_trainer.evaluation.evaluation import write_evaluation

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
ROWS = {"forget": qa_rows(0, 8), "retain": qa_rows(20, 26), "holdout": qa_rows(40, 46)}
FAST = {"relearn_steps": 3, "relearn_every": 2, "relearn_learning_rates": 1e-3, "relearn_seeds": 1}
FAST |= {"soft_prompt_steps": 3, "search_rounds": 1, "num_samples": 3, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """Folders of the unlearned model, which knows nothing, the retrained one and the one before, which knows all."""
    models = {
        "unlearned": make_tiny_model(tokenizer),
        "never": make_tiny_model(tokenizer, seed=1),
        "before": taught(tokenizer, FORGET),
    }
    for model in models.values():
        model.config.max_position_embeddings = 512
    below = tmp_path_factory.mktemp("models")
    return {name: save(model, tokenizer, below / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), **ROWS)


def run(folder, rows, output, without=("holdout",), **flags):
    sources = {name: path for name, path in rows.items() if name not in without}
    flags = {"use_cpu": True, "disable_tqdm": True, **FAST, **flags}
    return egup("audit", model_name_or_path=folder, output=output, **sources, **flags)


def test_the_model_stands_beside_the_others(folders, rows, tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    output = tmp_path / "below" / "audit.json"
    flags = {"retrained_model": folders["never"], "model_before": folders["before"], "name": "mine"}
    assert run(folders["unlearned"], rows, output, **flags, attacks=["relearning", "sampling"]) == 0
    found = Audit.read(output)
    assert (found.name, found.retrained.name, found.before.name) == ("mine", "never", "before")
    assert list(found.findings) == list(found.before.findings) == ["relearning", "sampling"]
    assert found.before.value("relearning", "forget_start") > 0.9 > 0.01 > found.value("relearning", "forget_start")
    expected = audit_model(make_tiny_model(tokenizer), tokenizer, FORGET, RETAIN, attacks=["relearning"], options=QUICK)
    assert found.value("relearning", "forget_speed") == pytest.approx(
        expected.value("relearning", "forget_speed"), rel=1e-4
    )
    assert found.run["command"].startswith(f"egup audit --model_name_or_path {folders['unlearned']} --output ")
    assert (found.run["model"], found.run["retrained_model"]) == (str(folders["unlearned"]), str(folders["never"]))
    assert {"python", "torch", "bitsandbytes"} <= set(found.run["versions"])
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    printed = capsys.readouterr()
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.out.splitlines()]
    assert ["relearning", "held-back forget rows, others relearned, start"] in [line[:2] for line in lines]
    assert ["", "held-back forget rows, related retain rows learned, start"] in [line[:2] for line in lines]
    assert lines[0] == ["mine: how far attacks get"]
    assert "Most successful attack: " in printed.out
    assert "; in the retrained model " in printed.out
    assert (
        "No value for relearning held-back forget rows, others relearned, steps to half; "
        "relearning held-back forget rows, related retain rows learned, steps to half; "
        "relearning held-back forget rows, unrelated retain rows learned, steps to half: not reached in 3 steps\n"
    ) in printed.out
    assert f"relearning: {ATTACKS['relearning'].reading}\n" in printed.out
    assert f"Written to {output}" in printed.out
    text = printed.out + printed.err + output.read_text()
    assert not any(row[key] in text for part in ROWS.values() for row in part for key in row)


def test_all_attacks_by_default_and_what_lacks_rows_is_told(folders, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert run(folders["unlearned"], rows, tmp_path / "a.json", max_new_tokens=2, seed=4) == 0
    found = Audit.read(tmp_path / "a.json")
    assert list(found.findings) == list(ATTACKS)
    assert (found.settings["seed"], found.settings["max_new_tokens"], found.name) == (4, 2, "unlearned")
    printed = capsys.readouterr().out
    assert "Not run: merging: needs the model before unlearning (--model_before)\n" in printed
    for attack in ("probe", "membership"):
        assert f"Not run: {attack}: needs rows that no model saw (--holdout)\n" in printed
        assert ATTACKS[attack].reading not in printed
    assert (
        "No value for prompts paraphrased probability; prompts paraphrased rouge: no row has a paraphrased_question"
        in (printed)
    )


@pytest.mark.parametrize("flag", ["retrained_model", "model_before"])
def test_a_missing_model_to_compare_with_is_refused_before_another_is_attacked(folders, rows, tmp_path, capsys, flag):
    sources = [word for name in ("forget", "retain") for word in (f"--{name}", str(rows[name]))]
    missing = folders["never"].with_name("nevr")
    words = ["--model_name_or_path", str(folders["before"]), *sources, f"--{flag}", str(missing)]
    words = ["audit", *words, "--output", str(tmp_path / "a.json"), "--use_cpu"]
    assert_refused(words, tmp_path, capsys, f"no folder at {missing}", "did you mean never?", error=ModelError)


def test_depth_is_measured_beside_the_model_before(folders, rows, tmp_path):
    flags = {"retrained_model": folders["never"], "model_before": folders["before"], "attacks": ["depth"]}
    assert run(folders["never"], rows, tmp_path / "a.json", **flags) == 0
    found = Audit.read(tmp_path / "a.json")
    assert found.value("depth", "score") == pytest.approx(1)
    assert found.value("depth", "drop") == found.retrained.value("depth", "drop") > 1
    assert run(folders["before"], rows, tmp_path / "b.json", **flags) == 0
    assert Audit.read(tmp_path / "b.json").value("depth", "score") == pytest.approx(0)


def test_holdout_rows_let_the_others_run(folders, rows, tmp_path):
    assert run(folders["before"], rows, tmp_path / "a.json", without=(), attacks=["membership", "probe"]) == 0
    assert Audit.read(tmp_path / "a.json").value("membership", "loss") == 1.0


def test_the_model_before_is_merged_with_each_model(folders, rows, tmp_path):
    flags = {"retrained_model": folders["never"], "model_before": folders["before"], "attacks": ["merging"]}
    assert run(folders["before"], rows, tmp_path / "a.json", name="mine", **flags) == 0
    found = Audit.read(tmp_path / "a.json")
    values = [each.value("merging", "halfway_forget_probability") for each in (found, found.retrained, found.before)]
    assert values[0] == values[2] > 0.9  # halfway between a model and itself
    assert values[1] < values[0] / 2


def test_the_same_command_writes_the_same_numbers(folders, rows, tmp_path):
    documents = []
    for name in ("a.json", "b.json"):
        assert run(folders["before"], rows, tmp_path / name, attacks=["sampling", "prompts", "relearning"]) == 0
        documents.append({**json.loads((tmp_path / name).read_text()), "run": None})
    assert documents[0] == documents[1]


def test_compare_takes_audits(folders, rows, tmp_path, capsys):
    assert run(folders["unlearned"], rows, tmp_path / "a.json", attacks="relearning") == 0
    assert run(folders["before"], rows, tmp_path / "b.json", attacks="relearning", name="unlearned") == 0
    write_evaluation(tmp_path / "r.json", make_evaluation("egup_clreg", rows=12))
    words = ["compare", f"{tmp_path}/r.json", "--audit", f"{tmp_path}/a.json", f"{tmp_path}/b.json"]
    assert egup(*words, output=tmp_path / "report.html") == 0
    metrics = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert list(metrics["relearning_forget_speed"]) == ["a", "b"]  # two of one name are distinguished by their files
    assert_refused([*words, "--output", str(tmp_path / "a.html")], tmp_path, capsys, f"--output {tmp_path}/a.json")


def test_each_model_is_loaded_at_its_own_revision(folders, rows, tmp_path, monkeypatch):
    load, seen = audit_command.load_on_device, {}

    def loaded(name, config, accelerator):
        seen[Path(name).name] = config.model_revision
        return load(name, replace(config, model_revision="main"), accelerator)

    monkeypatch.setattr(audit_command, "load_on_device", loaded)
    flags = {"model_before": folders["before"], "retrained_model": folders["never"], "attacks": "sampling"}
    assert run(folders["unlearned"], rows, tmp_path / "audit.json", model_revision="v2", **flags) == 0
    assert seen == {"unlearned": "v2", "before": "v2", "never": "main"}


def test_attacks_that_fail_are_told_and_the_rest_is_written(folders, rows, tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("egup_trainer.audit.merging.merging", _fail)
    output = tmp_path / "audit.json"
    flags = {"model_before": folders["before"], "attacks": ["merging", "sampling"]}
    assert run(folders["unlearned"], rows, output, **flags) == 2
    printed = capsys.readouterr()
    assert "Not run: merging: failed: MemoryError: no memory\n" in printed.out
    assert "Got attacks that failed: merging, but expected attacks that run to their end." in printed.err
    assert Audit.read(output).findings["sampling"].metrics


def _fail(target):
    raise MemoryError("no memory")


def test_folders_of_the_same_name_can_be_told_apart(folders, rows, tmp_path):
    before = tmp_path / "unlearned"
    shutil.copytree(folders["before"], before)
    output = tmp_path / "audit.json"
    assert run(folders["unlearned"], rows, output, model_before=before, attacks=["sampling"]) == 0
    found = Audit.read(output)
    assert (found.name, found.before.name) == ("unlearned", "unlearned (before)")
