"""The README's code runs as it stands, and its demo table is what the demo prints."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import qa_rows

from egup_trainer.cli.main import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(make_model, tokenizer, tmp_path, monkeypatch):
    """A folder with a model and rows under the names that the README uses; the current folder."""
    make_model().save_pretrained(tmp_path / "path/to/your-model")
    tokenizer.save_pretrained(tmp_path / "path/to/your-model")
    for name, (start, stop) in {"forget": (0, 6), "retain": (20, 30), "proxy": (40, 46)}.items():
        lines = "\n".join(json.dumps(row) for row in qa_rows(start, stop))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_lines_run(workplace):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert (workplace / "unlearned" / "model.safetensors").is_file()


def commands() -> list[list[str]]:
    text = README.replace("\\\n", " ")
    return [shlex.split(line.strip()) for line in text.splitlines() if line.startswith("    egup ")]


@pytest.mark.parametrize("command", commands(), ids=lambda words: " ".join(words[:2]))
def test_the_commands_run(workplace, command):
    assert main(command[1:]) == 0


def test_every_command_is_there():
    assert {words[1] for words in commands()} == {"unlearn", "inspect"}


def test_every_flag_that_is_named_exists(capsys):
    with pytest.raises(SystemExit):
        main(["unlearn", "--help"])
    known = capsys.readouterr().out
    flags = set(re.findall(r"--\w+", README)) - {"--help", "--config"}  # the parser takes --config before the flags
    assert {flag for flag in flags if flag not in known} == set()
