"""The command line: what it makes, what it says, what it refuses."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import transformers
from conftest import qa_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from egup_trainer.cli.common import parse
from egup_trainer.cli.main import COMMANDS, main
from egup_trainer.trainer.config import EGUPConfig


@pytest.fixture
def rows(tmp_path):
    """Paths of forget.jsonl, retain.jsonl and proxy.jsonl."""

    def write(name, records):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        return str(path)

    return {
        "forget": write("forget", qa_rows(0, 8)),
        "retain": write("retain", qa_rows(20, 32)),
        "proxy": write("proxy", qa_rows(40, 46)),
    }


@pytest.fixture
def model(make_model, tokenizer, tmp_path):
    """Folder of a saved tiny model."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def unlearn(model, rows, output, *flags, without=()):
    """Exit code of `egup unlearn` in this process."""
    words = ["unlearn", "--model_name_or_path", model, "--output_dir", str(output), "--use_cpu", "--report_to", "none"]
    words += ["--per_device_train_batch_size", "4", "--num_train_epochs", "1", "--dataloader_pin_memory", "false"]
    for name, path in rows.items():
        words += [] if name in without else [f"--{name}", path]
    return main([*words, *flags])


def test_help_comes_in_under_two_seconds_and_names_every_command():
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "egup_trainer.cli.main", "--help"], capture_output=True, text=True)
    assert time.perf_counter() - start < 2
    assert run.returncode == 0
    assert all(command in run.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["npo", "grad_diff", "grad_ascent", "simnpo"])
def test_unlearn_saves_a_model_that_changed_and_leaves_the_input_alone(model, rows, tmp_path, capsys, objective):
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    output = tmp_path / "out"
    flags = ("--objective", objective, "--clreg_weight", "0.1", "--learning_rate", "1e-3", "--save_strategy", "no")
    assert unlearn(model, rows, output, *flags) == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
    saved = AutoModelForCausalLM.from_pretrained(output).state_dict()
    original = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert any(not torch.equal(saved[name], original[name]) for name in original)
    assert AutoTokenizer.from_pretrained(output)("x").input_ids
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("forget", "retain", "proxy", "before", "after", "peak memory", "saved to"))
    assert not (output / "_scan").exists()
    assert qa_rows(0, 1)[0]["answer"] not in printed


def test_unlearn_with_lora_and_a_yaml_file_saves_an_adapter(model, rows, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("use_peft: true\nlora_r: 2\nlora_target_modules: [q_proj, v_proj]\nobjective: grad_diff\n")
    assert unlearn(model, rows, tmp_path / "out", "--config", str(config), "--inter_entanglement") == 0
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["r"], set(adapter["target_modules"])) == (2, {"q_proj", "v_proj"})
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_unlearn_resumes(model, rows, tmp_path, capsys):
    flags = ("--save_strategy", "steps", "--save_steps", "1", "--num_train_epochs", "2")
    assert unlearn(model, rows, tmp_path / "whole", *flags) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    for checkpoint in (tmp_path / "cut").glob("checkpoint-[3-9]"):
        shutil.rmtree(checkpoint)
    assert unlearn(model, rows, tmp_path / "cut", *flags, "--resume_from_checkpoint", "true") == 0
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_to_resume_without_a_checkpoint_starts_at_the_beginning_and_says_so(model, rows, tmp_path, caplog):
    flags = ("--save_strategy", "no", "--padding_free", "false")
    assert unlearn(model, rows, tmp_path / "plain", *flags) == 0
    assert unlearn(model, rows, tmp_path / "resumed", *flags, "--resume_from_checkpoint", "true") == 0
    assert caplog.messages == [f"No checkpoint in {tmp_path / 'resumed'}: starting at the beginning."]
    plain, resumed = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("plain", "resumed"))
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), resumed.parameters(), strict=True))


def test_padding_free_reads_false_true_and_nothing():
    options = [
        parse("unlearn", (EGUPConfig,), ["--output_dir", "x", *flag])[0]
        for flag in ([], ["--padding_free", "false"], ["--padding_free", "true"])
    ]
    assert [option.padding_free for option in options] == [None, False, True]


def test_a_run_that_forgot_nothing_says_what_to_raise(model, rows, tmp_path, capsys):
    flags = ("--save_strategy", "no", "--max_steps", "1")
    said = (
        "The forget rows are nearly as likely as before: raise --learning_rate ({}), by a factor of 3 or 10 at a time"
    )
    assert unlearn(model, rows, tmp_path / "slow", *flags, "--learning_rate", "1e-6") == 0
    assert said.format("1e-06") in capsys.readouterr().out
    fast = ("--objective", "grad_ascent", "--no_proxy_constraint", "--optim", "sgd", "--learning_rate", "1")
    assert unlearn(model, rows, tmp_path / "fast", *flags, *fast) == 0
    assert "nearly as likely" not in capsys.readouterr().out


BAD = "XYZZYSECRET"


def bad_inputs(tmp_path):
    """name -> (flags to add, sources to leave out, what the line must say)."""

    def file(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    twin = file("twin.jsonl", json.dumps(qa_rows(3, 4)[0]))
    column = file("column.jsonl", json.dumps({"question": "a", "reply": BAD}))
    empty = file("empty.jsonl", json.dumps({"question": BAD, "answer": "  "}))
    long = file("long.jsonl", json.dumps({"question": "word " * 40, "answer": "x"}))
    return {
        "missing column": (["--forget", column], ["forget"], "Got the columns question, reply in row 0 of"),
        "empty answer": (["--forget", empty], ["forget"], "Got an empty answer in row 0 of"),
        "empty forget set": (["--forget", file("none.jsonl", "\n")], ["forget"], "Got no rows in"),
        "row in both": (["--retain", twin], ["retain"], "Got a row in both sets: row 3 of the forget set is row 0 of"),
        "proxy equals forget": (
            ["--proxy", twin],
            ["proxy"],
            "Got a row in both sets: row 3 of the forget set is row 0",
        ),
        "unknown objective": (
            ["--objective", "npoo"],
            [],
            "Got objective='npoo', but expected one of grad_ascent, grad_diff",
        ),
        "unreadable file": (["--forget", str(tmp_path / "no.jsonl")], ["forget"], "Got no readable file at"),
        "broken file": (["--forget", file("b.jsonl", "{")], ["forget"], "Got line 1 of"),
        "cut answer": (
            ["--forget", long, "--max_length", "16", "--on_long_row", "cut"],
            ["forget"],
            "Got no answer token in row 0 of the",
        ),
        "no forget": ([], ["forget"], "Got no --forget, but expected it to be given"),
        "no retain": ([], ["retain"], "Got no retain set, but expected rows to keep"),
        "unknown flag": (["--objectiv", "npo"], [], "Got the unknown flag --objectiv, but expected a flag of"),
        "neither number nor auto": (
            ["--npo_beta", "much"],
            [],
            "Got npo_beta=much, but expected a number above 0, or auto",
        ),
        "bad number": (["--simnpo_beta", "much"], [], "invalid float value: 'much'"),
        "bad choice": (["--proxy_form", "wall"], [], "invalid choice: 'wall'"),
        "bad config file": (["--config", str(tmp_path / "no.yaml")], [], "Got options that cannot be used"),
        "contradiction": (["--load_in_4bit", "--load_in_8bit"], [], "4 bit"),
        "bad tofu name": (["--forget", "tofu:forget11", "--data_dir", str(tmp_path)], ["forget"], "Got tofu:forget11"),
        "no eval rows": (
            ["--eval_strategy", "epoch"],
            [],
            "Got eval_strategy=epoch without evaluation rows, but expected",
        ),
        "no such checkpoint": (
            ["--resume_from_checkpoint", "/no/such"],
            [],
            "Got no folder at /no/such, but expected a",
        ),
        "lora without peft": (["--lora_r", "8"], [], "Got --lora_r without --use_peft, but expected both or none"),
        "no paraphrase": (
            ["--clreg_weight", "1", "--clreg_positives", "paraphrase"],
            [],
            "Got no paraphrased_answer in row 0 of the",
        ),
        "no batch": (
            ["--dataloader_drop_last", "--per_device_train_batch_size", "9"],
            [],
            "Got 8 forget rows and data",
        ),
        "workers": (
            ["--dataloader_persistent_workers"],
            [],
            "Got dataloader_persistent_workers=True, but expected False",
        ),
        "4-bit alone": (
            ["--load_in_4bit"],
            [],
            "Got --load_in_4bit without an adapter, but expected one to train beside",
        ),
        "layer": (["--feature_layer", "9"], [], "Got feature_layer=9 for a model of 3 layers"),
    }


@pytest.mark.parametrize("name", bad_inputs(Path(tempfile.mkdtemp())))
def test_bad_input_ends_in_one_line_with_code_2_and_nothing_written(model, rows, tmp_path, capsys, name):
    flags, without, says = bad_inputs(tmp_path)[name]
    assert unlearn(model, rows, tmp_path / "out", *flags, without=without) == 2
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line and "Loading weights" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("egup unlearn: error: ")
    assert says in lines[0]
    assert BAD not in streams.err
    assert streams.out == ""
    assert not (tmp_path / "out").exists()


def test_the_models_own_folder_is_no_output_folder(model, rows, capsys):
    assert unlearn(model, rows, model) == 2
    assert "expected folders apart: the input model is never touched" in capsys.readouterr().err


def test_an_output_folder_around_the_model_is_refused(model, rows, tmp_path, capsys):
    assert unlearn(model, rows, tmp_path) == 2
    assert "expected folders apart: the input model is never touched" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_adapter_and_finds_the_scan_again(model, rows, tmp_path):
    """Also in another process: neither an adapter's start nor a scan's name may depend on what a process draws."""
    saved = []
    for name in ("first", "second"):
        words = ["unlearn", "--model_name_or_path", model, "--output_dir", str(tmp_path / name), "--use_cpu"]
        words += ["--use_peft", "--num_train_epochs", "1", "--scan_cache_dir", str(tmp_path / "scan"), "--seed", "5"]
        words += [word for source, path in rows.items() for word in (f"--{source}", path)]
        if name == "first":
            assert main(words) == 0
        else:
            subprocess.run([sys.executable, "-m", "egup_trainer.cli.main", *words], check=True)
        saved.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert saved[0] == saved[1]
    assert len(list((tmp_path / "scan").iterdir())) == 1


def test_unlearn_evaluates_on_rows_of_their_own(model, rows, tmp_path):
    flags = ("--eval", rows["retain"], "--eval_strategy", "epoch")
    assert unlearn(model, rows, tmp_path / "out", *flags) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert any(row.get("eval_loss", 0) > 0 for row in history)


def test_a_failing_command_leaves_with_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "egup_trainer.cli.main", "ledger", str(tmp_path / "nope")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("egup ledger: error: ")
    assert str(tmp_path / "nope") in line


def test_env_names_versions_and_machine_and_nobody(capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(["env"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert (lines["torch"], lines["transformers"]) == (torch.__version__, transformers.__version__)
    assert lines["ACCELERATE_USE_FSDP"] == "true"
    assert {"python", "system", "cores", "device", "CUDA of torch", "GPUs", "memory GB"} <= lines.keys()
    assert not any(secret in " ".join(lines.values()) for secret in (str(Path.home()), socket.gethostname()))


def test_an_unknown_command_is_answered_with_a_guess(capsys):
    assert main(["unlern"]) == 2
    assert capsys.readouterr().err == (
        f"egup: error: Got the unknown command unlern, but expected one of {', '.join(COMMANDS)}. Did you mean "
        "unlearn?\n"
    )


def test_inspect_sets_apart_what_is_scored_and_counts(model, rows, capsys):
    assert main(["inspect", "--model_name_or_path", model, "--forget", rows["forget"], "--index", "2"]) == 0
    row, printed = qa_rows(2, 3)[0], capsys.readouterr().out
    assert "rows: 8   samples: 8   rows cut: 0   in windows: 0" in printed
    assert "written by: plain markers" in printed
    before, scored = printed.split("\nscored, tokens ")
    assert row["question"] in before
    assert row["answer"] in scored
    assert row["answer"] not in before
    assert scored.rstrip().endswith("<eos>'")


def test_inspect_shows_the_cut(model, rows, capsys):
    words = ["inspect", "--model_name_or_path", model, "--forget", rows["forget"], "--max_length", "24"]
    assert main(words) == 0
    assert "rows: 8   samples: 16   rows cut: 0   in windows: 8" in capsys.readouterr().out
    assert main([*words, "--on_long_row", "cut"]) == 0
    printed = capsys.readouterr().out
    assert "rows: 8   samples: 8   rows cut: 8   in windows: 0" in printed
    assert "sample 0: 24 tokens, cut" in printed


def test_progress_is_shown_and_libraries_are_quiet(model, rows, tmp_path, capsys):
    assert unlearn(model, rows, tmp_path / "out", "--disable_tqdm", "false") == 0
    assert "2/2" in capsys.readouterr().err
    words = ["--output_dir", str(tmp_path / "o"), "--use_cpu"]
    (options,) = parse("unlearn", [EGUPConfig], words)
    assert options.disable_tqdm is False
