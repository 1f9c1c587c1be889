"""Commands in this process, and what every refusal is held to: an error that helps, nothing printed or written."""

import io
import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from accelerate.state import AcceleratorState
from conftest import make_tiny_model, qa_rows
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from egup_trainer.cli.command import load_command
from egup_trainer.cli.main import main
from egup_trainer.errors import ConfigError, EgupError

SECRET = "XYZZYSECRET"
"""Stands in rows only: no message may repeat it."""

ROWS = {"forget": qa_rows(0, 8), "retain": qa_rows(20, 32), "proxy": qa_rows(40, 46)}


@pytest.fixture
def fresh_accelerate():
    """The state of accelerate is shared by all; a run in a process of its own has a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def few_rows(monkeypatch):
    """`--proxy auto` with settings that suit a small model."""
    from egup_trainer.proxies import settings

    class Few(settings.ProxySettings):
        def __init__(self, **options):
            super().__init__(num_rows=3, num_examples=1, **options)

    monkeypatch.setattr(settings, "ProxySettings", Few)


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
    words = ["unlearn", "--model_name_or_path", str(model), "--output_dir", str(output), "--use_cpu", "--disable_tqdm"]
    return [*words, "1", "--report_to", "none", "--save_strategy", "no", "--max_steps", "1", "--no_verdict"]


def whole_words(model: str | Path, folder: Path, *words: object, **sources: str | Path | None) -> list[str]:
    """`unlearn_words` that write below the folder, with flags for all sources of rows, and further words."""
    return [*unlearn_words(model, folder / "out"), *source_flags(folder, **sources), *map(str, words)]


def egup(command: str, *words: object, **flags: object) -> int:
    """Exit code of a command. A flag that is None is left out; a list gives several values."""
    named: list[object] = []
    for name, value in flags.items():
        values = value if isinstance(value, list | tuple) else [value]
        named += [] if value is None else [f"--{name}", *values]
    return main([command, *map(str, [*named, *words])])


def write_rows(folder: Path, **sets: tuple[int, int] | list[dict]) -> dict[str, Path]:
    """Writes each set, given as rows or as a span of `qa_rows`, to NAME.jsonl; by default forget, retain and proxy.

    Returns:
        The paths, by set.
    """
    sets = sets or {"forget": (0, 8), "retain": (20, 32), "proxy": (40, 46)}
    rows = {name: qa_rows(*each) if isinstance(each, tuple) else each for name, each in sets.items()}
    return {name: write(folder / f"{name}.jsonl", json_lines(each)) for name, each in rows.items()}


def unlearn(model: str | Path, output: str | Path, *words: object, **flags: object) -> int:
    """Exit code of a short `egup unlearn`."""
    quick = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 1}
    quick |= {"per_device_train_batch_size": 4, "dataloader_pin_memory": False, "verdict": False}
    return egup("unlearn", *words, model_name_or_path=model, output_dir=output, **{**quick, **flags})


def assert_refused(
    words: list[str], folder: Path, capsys, *named: object, error: type[EgupError] = ConfigError
) -> None:
    """Runs a command that must be refused; it prints nothing, and leaves no file behind.

    Args:
        words: of the command line.
        folder: where the command could write.
        capsys: pytest's.
        named: what the message must name: the option, the value that was given, or the remedy.
        error: class of the error.
    """
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    with pytest.raises(EgupError) as caught:
        load_command(words[0]).main(words[1:])
    streams = capsys.readouterr()
    message = " ".join(f"{caught.value.got}; {caught.value.expected}; {caught.value.fix}".split())
    assert type(caught.value) is error, message
    assert [each for each in named if str(each) not in message] == [], message
    said = [line for line in streams.err.splitlines() if line.strip() and not line.startswith("Loading weights")]
    assert (streams.out, said) == ("", [])
    assert SECRET not in message
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
