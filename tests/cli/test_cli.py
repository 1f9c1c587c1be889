"""The command line: what it makes and what it prints."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from conftest import qa_rows
from fixtures_cli import egup, save, tokenizer_with, unlearn, write, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from egup_trainer import EGUPConfig, UnlearnConfig, UnlearnTrainer
from egup_trainer.cli.command import COMMANDS, load_command
from egup_trainer.cli.main import main
from egup_trainer.cli.parser import Parser
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.modeling import loading
from egup_trainer.modeling.loading import load_model
from egup_trainer.modeling.probability import probabilities_of


@pytest.fixture
def rows(tmp_path):
    """Paths of forget.jsonl, retain.jsonl and proxy.jsonl."""
    return write_rows(tmp_path)


@pytest.fixture
def model(make_model, tokenizer, tmp_path):
    """Folder of a saved tiny model."""
    return save(make_model(), tokenizer, tmp_path / "model")


def test_help_comes_in_under_two_seconds_and_names_every_command():
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "egup_trainer.cli.main", "--help"], capture_output=True, text=True)
    assert time.perf_counter() - start < 2
    assert run.returncode == 0
    assert all(f"  {name} " in run.stdout and load_command(name).summary in run.stdout for name in COMMANDS)


def test_every_command_file_declares_its_own_name():
    assert [load_command(name).name for name in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("objective", ["npo", "grad_diff", "grad_ascent", "simnpo"])
def test_unlearn_saves_a_model_that_changed_and_leaves_the_input_alone(model, rows, tmp_path, capsys, objective):
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    output = tmp_path / "out"
    assert unlearn(model, output, **rows, objective=objective, clreg_weight=0.1, learning_rate=1e-3) == 0
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    saved = AutoModelForCausalLM.from_pretrained(output).state_dict()
    original = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert any(not torch.equal(saved[name], original[name]) for name in original)
    assert AutoTokenizer.from_pretrained(output)("x").input_ids
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("forget", "retain", "proxy", "before", "after", "peak memory", "saved to"))
    assert not (output / "_scan").exists()
    assert qa_rows(0, 1)[0]["answer"] not in printed


def test_unlearn_with_lora_and_a_yaml_file_saves_an_adapter(model, rows, tmp_path):
    text = "use_peft: true\nlora_r: 2\nlora_target_modules: [q_proj, v_proj]\nobjective: grad_diff\n"
    config = write(tmp_path / "run.yaml", text)
    assert unlearn(model, tmp_path / "out", "--inter_entanglement", **rows, config=config) == 0
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["r"], set(adapter["target_modules"])) == (2, {"q_proj", "v_proj"})
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_unlearn_resumes(model, rows, tmp_path):
    flags = {**rows, "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
    assert unlearn(model, tmp_path / "whole", **flags) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    for checkpoint in (tmp_path / "cut").glob("checkpoint-[3-9]"):
        shutil.rmtree(checkpoint)
    assert unlearn(model, tmp_path / "cut", **flags, resume_from_checkpoint=True) == 0
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_to_resume_without_a_checkpoint_starts_at_the_beginning_and_says_so(model, rows, tmp_path, caplog):
    assert unlearn(model, tmp_path / "plain", **rows, padding_free=False) == 0
    assert unlearn(model, tmp_path / "resumed", **rows, padding_free=False, resume_from_checkpoint=True) == 0
    assert len(caplog.messages) == 1
    assert str(tmp_path / "resumed") in caplog.text
    plain, resumed = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("plain", "resumed"))
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "value"),
    [([], None), (["--padding_free"], True), (["--padding_free", "true"], True), (["--padding_free", "false"], False)],
)
def test_padding_free_reads_nothing_false_and_true(words, value):
    (config,) = Parser([EGUPConfig]).parse(["--output_dir", "x", *words])
    assert config.padding_free is value


def test_the_same_seed_gives_the_same_adapter_and_finds_the_scan_again(model, rows, tmp_path):
    """Also in another process: neither an adapter's start nor a scan's name may depend on what a process draws."""
    saved = []
    for name in ("first", "second"):
        words = ["unlearn", "--model_name_or_path", str(model), "--output_dir", str(tmp_path / name), "--use_cpu"]
        words += ["--use_peft", "--num_train_epochs", "1", "--scan_cache_dir", str(tmp_path / "scan"), "--seed", "5"]
        words += ["--no_verdict"]
        words += [word for source, path in rows.items() for word in (f"--{source}", str(path))]
        if name == "first":
            assert main(words) == 0
        else:
            subprocess.run([sys.executable, "-m", "egup_trainer.cli.main", *words], check=True)
        saved.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert saved[0] == saved[1]
    assert len(list((tmp_path / "scan").iterdir())) == 1


def test_unlearn_evaluates_on_rows_of_their_own(model, rows, tmp_path):
    assert unlearn(model, tmp_path / "out", **rows, eval=rows["retain"], eval_strategy="epoch") == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert any(row.get("eval_loss", 0) > 0 for row in history)


def test_answers_of_the_models_own_are_told_beside_the_rows(model, rows, tmp_path, capsys):
    assert unlearn(model, tmp_path / "out", **rows, max_steps=1, self_samples=1) == 0
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert f"{record['own_answers']} answers of the model's own" in capsys.readouterr().out
    assert record["own_answers"] <= record["rows"]["forget"]["rows"]
    assert not (tmp_path / "out" / "_scan").exists()


def forget_line(printed):
    """Probabilities before and after in the row of the forget set."""
    cells = next(line for line in printed.splitlines() if line.startswith("│ forget")).strip("│").split("│")
    return [float(cell) for cell in cells[1:]]


@pytest.mark.parametrize("adapter", [{}, {"use_peft": True, "lora_target_modules": "all-linear"}], ids=["all", "lora"])
def test_the_summary_of_a_task_vector_is_of_the_negated_model(model, rows, tmp_path, capsys, tokenizer, adapter):
    flags = {"objective": "task_vector", "proxy_constraint": False, "learning_rate": 1e-2}
    assert unlearn(model, tmp_path / "out", **rows, **flags, **adapter) == 0
    before, after = forget_line(capsys.readouterr().out)
    assert after < 0.99 * before
    config = UnlearnConfig(str(tmp_path / "judge"), use_cpu=True)
    sets = str(rows["forget"]), str(rows["retain"])
    judge = UnlearnTrainer(load_model(str(tmp_path / "out")), config, *sets, processing_class=tokenizer)
    assert judge.score(judge.forget_rows).probability == pytest.approx(after, rel=0.05)  # printed in two digits


def test_env_names_versions_and_machine_and_nobody(capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert egup("env") == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert (lines["torch"], lines["transformers"]) == (torch.__version__, transformers.__version__)
    assert lines["ACCELERATE_USE_FSDP"] == "true"
    assert {"python", "system", "cores", "device", "CUDA of torch", "GPUs", "memory GB"} <= lines.keys()
    assert not any(secret in " ".join(lines.values()) for secret in (str(Path.home()), socket.gethostname()))


def test_an_unknown_command_is_answered_with_a_guess(capsys):
    assert main(["unlern"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("egup: error: Got the unknown command unlern, but expected one of unlearn, ")
    assert printed.endswith(" Did you mean unlearn?\n")


def test_inspect_sets_apart_what_is_scored_and_counts(model, rows, capsys):
    assert egup("inspect", model_name_or_path=model, forget=rows["forget"], index=2) == 0
    row, printed = qa_rows(2, 3)[0], capsys.readouterr().out
    assert "rows: 8   samples: 8   rows cut: 0   in windows: 0" in printed
    assert "written by: plain markers" in printed
    before, scored = printed.split("\nscored, tokens ")
    assert row["question"] in before
    assert row["answer"] in scored
    assert row["answer"] not in before
    assert scored.rstrip().endswith("<eos>'")


def test_inspect_says_how_well_a_model_knows_the_rows_and_in_which_format(taught, tokenizer, tmp_path, capsys):
    model = taught()
    save(model, tokenizer, tmp_path / "model")
    rows = write_rows(tmp_path, forget=(0, 10))
    written = {"forget": tokenize(load_rows(str(rows["forget"])), tokenizer, name="forget set")}
    known = f"{probabilities_of(model, tokenizer, written, seed=0, batch_size=8)['forget']:.3g}"
    flags = {"model_name_or_path": tmp_path / "model", "forget": rows["forget"], "use_cpu": True}
    assert egup("inspect", **flags) == 0
    printed = capsys.readouterr().out
    assert f"probability of the answers: {known}, above one half in 10 of 10 rows" in printed
    assert "likelier" not in printed
    assert egup("inspect", **flags, user_marker="Ask ", assistant_marker=" Tell ") == 0
    printed = capsys.readouterr().out
    assert f"They are likelier ({known})" in printed
    assert r"after the markers 'Question: ' and '\nAnswer: '" in printed


def test_inspect_loads_the_model_as_it_is_told(model, rows, capsys, monkeypatch):
    """A model of 7 billion weights does not fit into many GPUs in float32."""
    loaded = []
    monkeypatch.setattr(
        loading, "load_model", lambda name, **kwargs: loaded.append(kwargs) or load_model(name, **kwargs)
    )
    flags = {"model_name_or_path": model, "forget": rows["forget"], "use_cpu": True}
    assert egup("inspect", **flags, dtype="bfloat16") == 0
    assert [each["dtype"] for each in loaded] == ["bfloat16"]
    assert egup("inspect", **flags, lora_r=8) == 2


def test_inspect_compares_written_rows_and_a_chat_template_with_the_markers(taught, tokenizer, tmp_path, capsys):
    model = save(taught(), tokenizer, tmp_path / "model")
    rows = qa_rows(0, 10)
    right = [{"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"} for row in rows]
    bare = [{"prompt": row["question"], "completion": row["answer"]} for row in rows]
    paths = write_rows(tmp_path, right=right, bare=bare, questions=rows)

    def printed(**flags):
        assert egup("inspect", model_name_or_path=model, use_cpu=True, **flags) == 0
        return capsys.readouterr().out

    found = printed(forget=paths["right"])
    assert "written by: nothing (the rows are written out)" in found
    assert "above one half in 10 of 10 rows" in found
    assert "likelier" not in found
    columns, markers = (
        "name the columns (--columns question=prompt,answer=completion)",
        "--user_marker, --assistant_marker",
    )
    assert (
        r"after the markers 'Question: ' and '\nAnswer: ': if the model was trained like that, "
        f"{columns} and name the markers ({markers})"
    ) in printed(forget=paths["bare"])
    advised = {"columns": "question=prompt,answer=completion", "assistant_marker": "\nAnswer: "}
    assert "above one half in 10 of 10 rows" in printed(forget=paths["bare"], **advised)
    tokenizer_with(model, chat_template="{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    found = printed(forget=paths["questions"])
    assert "written by: chat template" in found
    assert rf"'\nAnswer: ': if the model was trained like that, name them ({markers})" in found
    found = printed(forget=paths["questions"], user_marker="Question: ")
    assert "written by: plain markers (as given)" in found
    assert "above one half in 10 of 10 rows" in found


def test_inspect_shows_the_cut(model, rows, capsys):
    flags = {"model_name_or_path": model, "forget": rows["forget"], "max_length": 24}
    assert egup("inspect", **flags) == 0
    assert "rows: 8   samples: 16   rows cut: 0   in windows: 8" in capsys.readouterr().out
    assert egup("inspect", **flags, on_long_row="cut") == 0
    printed = capsys.readouterr().out
    assert "rows: 8   samples: 8   rows cut: 8   in windows: 0" in printed
    assert "sample 0: 24 tokens, cut" in printed


def test_progress_is_shown_and_libraries_are_quiet(model, rows, tmp_path, capsys):
    assert unlearn(model, tmp_path / "out", **rows, disable_tqdm=False) == 0
    assert "2/2" in capsys.readouterr().err
    (options,) = Parser([EGUPConfig]).parse(["--output_dir", str(tmp_path / "o"), "--use_cpu"])
    assert options.disable_tqdm is False
