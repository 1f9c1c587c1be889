"""A bare `pip install egup-trainer` trains; whatever needs an extra says which one before it starts."""

import subprocess
import sys

import pytest
from conftest import qa_rows
from fixtures_cli import json_lines

from egup_trainer.cli.main import main
from egup_trainer.extras import EXTRAS, MissingExtraError, require_extra

MODULES = sorted({module for modules in EXTRAS.values() for module in modules})
TRAIN = """
import sys
sys.modules.update(dict.fromkeys({modules}))  # None for a module makes its import fail, as if it were not installed
from peft import LoraConfig
from egup_trainer import EGUPConfig, EGUPTrainer
from egup_trainer.cli.main import main

model, forget, retain, out = {model!r}, {forget!r}, {retain!r}, {out!r}
options = dict(use_cpu=True, report_to="none", disable_tqdm=True, max_steps=1, stop_at_boundary=True)
trainer = EGUPTrainer(
    model, EGUPConfig(output_dir=out + "/python", **options), forget, retain, proxy_dataset=retain.replace("r.", "p."),
    peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
)
assert trainer.train().global_step == 1
trainer.save_model()
words = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--max_steps", "1", "--use_peft", "--merge"]
rows = ["--forget", forget, "--retain", retain, "--output_dir", out + "/command", "--model_name_or_path", model]
assert main(["unlearn", *rows, *words]) == 3  # no proxies, hence no verdict
"""


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Paths of forget, retain and proxy rows, by the first letter."""
    rows = {"f": qa_rows(0, 6), "r": qa_rows(20, 26), "p": qa_rows(40, 46)}
    for name, each in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json_lines(each))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def test_training_needs_no_extra(good_model, files, tmp_path):
    code = TRAIN.format(modules=MODULES, model=str(good_model), forget=files["f"], retain=files["r"], out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "python" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "command" / "merged" / "model.safetensors").is_file()
    assert "without bitsandbytes" in done.stdout + done.stderr


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("evaluation", ["evaluate", "--suite", "custom", "--output", "{out}/r.json"]),
        ("evaluation", ["audit", "--output", "{out}/a.json"]),
        ("evaluation", ["unlearn", "--eval_suite", "custom", "--eval_strategy", "epoch", "--output_dir", "{out}/u"]),
        ("evaluation", ["demo", "--output_dir", "{out}/demo"]),
        ("proxies", ["proxy", "--output", "{out}/p2.jsonl"]),
        ("quantization", ["unlearn", "--use_peft", "--load_in_4bit", "--output_dir", "{out}/u"]),
    ],
)
def test_a_command_names_the_extra_that_it_needs(extra, words, good_model, files, tmp_path, monkeypatch, capsys):
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    rows = ["--model_name_or_path", str(good_model), "--forget", files["f"], "--retain", files["r"], "--use_cpu"]
    words = [word.format(out=tmp_path) for word in words] + rows * (words[0] != "demo")
    assert main(words) == 2
    assert f"pip install 'egup-trainer[{extra}]'" in capsys.readouterr().err.splitlines()[-1]


def test_the_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(MissingExtraError) as raised:
        require_extra("evaluation", "an evaluation")
    assert raised.value.got == "an evaluation without rouge_score"
