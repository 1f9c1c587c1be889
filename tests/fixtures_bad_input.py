"""What every case of bad input is held to: one line that helps, code 2, and nothing else printed or written."""

import io
import json
import re
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from accelerate.state import AcceleratorState
from conftest import make_tiny_model, qa_rows
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from egup_trainer.cli.main import main

SECRET = "XYZZYSECRET"
"""Stands in rows only: no message may repeat it."""

ROWS = {"forget": qa_rows(0, 8), "retain": qa_rows(20, 32), "proxy": qa_rows(40, 46)}


@pytest.fixture
def fresh_accelerate():
    """The state of accelerate is shared by all; a run in a process of its own has a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def good_model(tokenizer, tmp_path_factory) -> Path:
    """Folder of a tiny model that nothing is wrong with."""
    return save(make_tiny_model(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "good")


@pytest.fixture(scope="session")
def no_weights(good_model, tmp_path_factory) -> Path:
    """Folder of a model without its weights: what is refused there with other words was refused before it loads."""
    folder = shutil.copytree(good_model, tmp_path_factory.mktemp("models") / "no_weights")
    (folder / "model.safetensors").unlink()
    return folder


def save(model, tokenizer, folder: Path) -> Path:
    """The folder, with model and tokenizer saved in it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def json_lines(records) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record) + "\n" for record in records)


def csv_of(records, end: str = "\n", mark: str = "") -> str:
    """Questions and answers as CSV, each line with that end, after a byte-order mark or the like."""
    return mark + "".join(f'"{a}","{b}"{end}' for a, b in [("question", "answer"), *(r.values() for r in records)])


def parquet(table: pyarrow.Table) -> bytes:
    """A table as a Parquet file."""
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    """The path, with the content written to it as it is."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def source_flags(folder: Path, **sources: str | Path | None) -> list[str]:
    """Flags for the sources of `ROWS`, written to the folder; a source given by name takes the place of its own."""
    words = []
    for name in dict.fromkeys([*ROWS, *sources]):
        path = sources[name] if name in sources else write(folder / f"good_{name}.jsonl", json_lines(ROWS[name]))
        words += [] if path is None else [f"--{name}", str(path)]
    return words


def unlearn_words(model: str | Path, output: Path) -> list[str]:
    """`egup unlearn` on that model, as quick and quiet as it can be."""
    words = [
        "unlearn",
        "--model_name_or_path",
        str(model),
        "--output_dir",
        str(output),
        "--use_cpu",
        "--disable_tqdm",
        "1",
    ]
    return [*words, "--report_to", "none", "--save_strategy", "no", "--max_steps", "1"]


def assert_refused(words: list[str], folder: Path, capsys, says: str, loads_a_model: bool = False) -> None:
    """Runs a command that must end in one line with code 2; nothing of what it has made by then may be left over.

    Args:
        words: of the command line.
        folder: where the command could write.
        capsys: pytest's.
        says: what the line must hold, spaces apart.
        loads_a_model: whether the fault can be seen only once the model is loaded, which shows a bar.
    """
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    code = main(words)
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line.strip()]
    if loads_a_model:
        lines = [line for line in lines if not line.startswith("Loading weights")]
    assert (code, len(lines)) == (2, 1), streams.err
    start = f"egup {words[0]}: error: Got "
    assert lines[0].startswith(start)
    assert re.fullmatch(r".+, but expected .+. .+.", lines[0])
    assert " ".join(says.split()) in lines[0]
    assert SECRET not in streams.err
    assert streams.out == ""
    assert sorted(folder.rglob("*")) == before


def tokenizer_with(folder: Path, **changes) -> None:
    """Changes the tokenizer that is saved in the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)


def smaller_vocabulary(folder: Path) -> None:
    """Puts a model into the folder that does not know all tokens of the tokenizer there."""
    config = LlamaConfig.from_pretrained(folder)
    config.vocab_size = 300
    save(LlamaForCausalLM(config), AutoTokenizer.from_pretrained(folder), folder)
