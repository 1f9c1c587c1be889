"""The recipe files: each is a complete command line, and runs in small."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import qa_rows
from fixtures_audit import taught, wide_model
from fixtures_cli import save

import egup_trainer
from egup_trainer.cli.main import main
from egup_trainer.data.sources import load_rows

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
ROW_FLAGS = ("forget", "retain", "proxy")
IN_SMALL = shlex.split("--max_steps 1 --use_cpu --disable_tqdm true --no_verdict --report_to none --dtype float32")


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    """Folder of a small model that knows the forget and retain rows, and can be read in four bits."""
    rows = load_rows([*qa_rows(0, 8), *qa_rows(20, 28)])
    return save(taught(tokenizer, rows, model=wide_model(tokenizer)), tokenizer, tmp_path_factory.mktemp("wide"))


@pytest.fixture
def place(tmp_path, monkeypatch, fresh_accelerate):
    """A folder with the rows that recipes name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(recipe):
    for start, flag in enumerate(ROW_FLAGS):
        rows = qa_rows(20 * start, 20 * start + 8)
        if "book" in recipe["forget"]:
            rows = [{"text": f"{row['question']} {row['answer']}"} for row in rows]
        with open(recipe[flag], "w", encoding="utf-8") as file:
            file.write("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs(path, place, model):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    write_rows(recipe)
    batch = ["--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "4"]
    words = ["unlearn", "--config", str(path), "--model_name_or_path", str(model), *IN_SMALL, *batch]
    if "audit" in recipe:
        words += ["--audit", "false", "--max_new_tokens", "4"]  # tests of the audit have it; here it would take minutes
    assert main(words) == 0
    assert Path(recipe.get("report", ".")).exists()
    assert (place / recipe["output_dir"]).is_dir()
    record = json.loads((place / recipe["output_dir"] / "_run.json").read_text(encoding="utf-8"))
    assert record["rows"]["forget"]["rows"] == 8


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "egup_trainer", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"egup_trainer {egup_trainer.__version__}\n")


def test_the_public_names_are_listed():
    assert set(egup_trainer.__all__) <= set(dir(egup_trainer))
