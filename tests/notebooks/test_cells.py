"""Every code cell of every notebook runs, with short trainings; what the results must be is in test_execution.py."""

import re
from dataclasses import replace

import pytest
from test_notebooks import PATHS, cells, text
from transformers import TrainingArguments

from egup_trainer.demo import models
from egup_trainer.demo.experiment import demo_experiment
from egup_trainer.demo.twins import Schedule

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'egup-trainer[notebooks]'")
EPOCHS = 8
"""The demo's models learn for so many: enough to know their rows better than rows never seen."""


def short_experiment(seed: int = 0):
    """The demo's experiment on fewer people."""
    whole = demo_experiment(seed)
    return replace(
        whole, forget=whole.forget[:12], retain=whole.retain[:24], learning=Schedule(epochs=EPOCHS, learning_rate=5e-3)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all notebooks work, so that the demo's models are made once."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture
def short(monkeypatch):
    """Trainings end after one epoch and log each step."""
    begin = TrainingArguments.__post_init__

    def begin_short(self):
        self.num_train_epochs = self.logging_steps = 1
        begin(self)

    monkeypatch.setattr(TrainingArguments, "__post_init__", begin_short)


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_every_cell_runs(path, folder, short, monkeypatch):
    monkeypatch.setattr(models, "demo_experiment", short_experiment)
    monkeypatch.chdir(folder)
    names = {}
    for cell in cells(path, "code"):
        source = re.sub(r"^(\s*)%.*$", r"\1pass", text(cell), flags=re.M)
        exec(compile(source, str(path), "exec"), names)


def test_a_notebook_is_executed_in_a_kernel_and_kept_without_its_bars(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    from notebooks.execute import execute

    bar = "import os, sys\nprint('\\r50%', file=sys.stderr)"
    sources = [bar, "os.environ['PYTHONWARNINGS'], os.path.basename(os.getcwd())"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, tmp_path / "small.ipynb")
    execute(tmp_path / "small.ipynb", tmp_path / "out")
    first, second = nbformat.read(tmp_path / "out" / "small.ipynb", as_version=4).cells
    assert first.outputs == []
    assert second.outputs[0].data["text/plain"] == "('ignore', 'work')"
