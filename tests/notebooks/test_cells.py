"""Every code cell of every notebook runs, with short trainings; what the results must be is in test_execution.py."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_notebooks import PATHS, cells, text
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from egup_trainer import load_rows
from egup_trainer.data import sources
from egup_trainer.demo import models
from egup_trainer.demo.experiment import demo_experiment
from egup_trainer.demo.twins import Schedule
from egup_trainer.modeling import loading
from egup_trainer.proxies import writer

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'egup-trainer[notebooks]'")
FOLDER = PATHS[0].parent
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


LONG = ("evaluation_and_audit",)
"""Notebooks whose cells take half a minute: every attack of an audit, each of which other tests run."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else []) for path in PATHS],
)
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
    move = "print('\\x1b[A', end='', file=sys.stderr, flush=True)"
    sources = [bar, move, "os.environ['PYTHONWARNINGS'], os.path.basename(os.getcwd())"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, tmp_path / "small.ipynb")
    execute(tmp_path / "small.ipynb", tmp_path / "out")
    first, second, third = nbformat.read(tmp_path / "out" / "small.ipynb", as_version=4).cells
    assert first.outputs == second.outputs == []
    assert third.outputs[0].data["text/plain"] == "('ignore', 'work')"


HUB = {
    "open-unlearning/tofu_Llama-3.2-3B-Instruct_full": "before",
    "open-unlearning/tofu_Llama-3.2-3B-Instruct_retain95": "retrained",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "before",
}
"""Models of the Hub that notebooks use on a GPU of 16 GB, and the demo's models that stand for them here."""
TOFU = {"tofu:forget05_perturbed": "forget", "tofu:retain95": "retain", "tofu:retain_perturbed": "retain"}


def run_as_on_a_gpu(source: str, names: dict, free: float, monkeypatch) -> None:
    """Runs a cell; if it asks for a GPU, it sees one with so many bytes of free memory."""
    with monkeypatch.context() as patch:
        if "cuda.is_available" in source:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
        exec(compile(re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M), "cell", "exec"), names)


@pytest.mark.parametrize(("free", "size"), [(8e9, "3.2-1B"), (15.5e9, "3.2-3B"), (79e9, "3.1-8B")])
def test_the_free_memory_of_a_gpu_decides_the_model(free, size, monkeypatch):
    code = [text(cell) for cell in cells(FOLDER / "tofu_lora_4bit.ipynb", "code")]
    (picks,) = (index for index, source in enumerate(code) if "mem_get_info" in source)
    names = {}
    for source in code[:picks]:
        run_as_on_a_gpu(source, names, free, monkeypatch)
    names["load_rows"] = list
    run_as_on_a_gpu(code[picks], names, free, monkeypatch)
    assert names["names"]["before"] == f"open-unlearning/tofu_Llama-{size}-Instruct_full"


@pytest.mark.slow  # beside test_every_cell_runs
@pytest.mark.parametrize("name", ["own_data", "tofu_lora_4bit"])
def test_the_cells_for_a_gpu_run_with_small_models(name, tmp_path, short, monkeypatch):
    monkeypatch.setattr(models, "demo_experiment", short_experiment)
    monkeypatch.chdir(tmp_path)  # of its own, since the cells write to the same folders as without a GPU
    demo = models.demo_models()
    used = set()

    def local(load):
        def from_pretrained(source, *args, device_map=None, **kwargs):
            used.add(source)
            return load(str(getattr(demo, HUB[source])) if source in HUB else source, *args, **kwargs)

        return from_pretrained

    def rows(source, **kwargs):
        used.add(str(source))
        return load_rows(getattr(demo.people, TOFU[source]) if str(source) in TOFU else source, **kwargs)

    for home in (AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(home, "from_pretrained", local(home.from_pretrained))
    monkeypatch.setattr(loading, "load_model", local(loading.load_model))
    monkeypatch.setattr(sources, "load_rows", rows)
    written = SimpleNamespace(rows=load_rows(demo.people.proxy))
    monkeypatch.setattr(writer, "write_proxies", lambda *args, **kwargs: written)
    names = {}
    for cell in cells(FOLDER / f"{name}.ipynb", "code"):
        run_as_on_a_gpu(text(cell), names, 15.5e9, monkeypatch)
    assert names["on_gpu"]
    assert len(used & set(HUB)) == (2 if name == "tofu_lora_4bit" else 1)
    assert names["trainer"].args.gradient_checkpointing == (name == "tofu_lora_4bit")
