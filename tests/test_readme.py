"""The README's code runs as it stands, and its demo table is what the demo prints."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import qa_rows

from egup_trainer.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
README, EVALUATION = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/evaluation.md"))


@pytest.fixture
def workplace(make_model, tokenizer, tmp_path, monkeypatch):
    """A folder with a model and rows under the names that the README uses; the current folder."""
    model = make_model()
    model.config.max_position_embeddings = 512  # room for generations of 200 tokens
    model.save_pretrained(tmp_path / "path/to/your-model")
    tokenizer.save_pretrained(tmp_path / "path/to/your-model")
    for name, (start, stop) in {"forget": (0, 6), "retain": (20, 30), "proxy": (40, 46), "holdout": (50, 56)}.items():
        lines = "\n".join(json.dumps(row) for row in qa_rows(start, stop))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_lines_run(workplace):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert (workplace / "unlearned" / "model.safetensors").is_file()


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line.strip()) for line in lines if line.startswith("    egup ")]


def test_the_commands_run_one_after_the_other(workplace):
    for command in commands(README):
        assert main(command[1:]) == 0, command
    assert (workplace / "report.html").is_file()
    assert (workplace / "unlearned" / "README.md").is_file()


def test_every_command_is_there():
    assert {words[1] for words in commands(README)} == {"unlearn", "evaluate", "compare", "inspect"}


@pytest.mark.parametrize("text", [README, EVALUATION], ids=["README.md", "docs/evaluation.md"])
def test_every_flag_that_is_named_exists(text, capsys):
    for command in ("unlearn", "evaluate", "compare"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known = capsys.readouterr().out
    flags = set(re.findall(r"--\w+", text)) - {"--help", "--config"}  # the parser takes --config before the flags
    assert {flag for flag in flags if flag not in known} == set()
