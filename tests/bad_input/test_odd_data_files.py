"""Files of rows that are odd but sound give the rows that a plain file gives."""

import json
import math
import re

import pyarrow
import pytest
from fixtures_cli import ROWS, csv_of, json_lines, parquet, write

from egup_trainer.cli.main import main

LINES = json_lines(ROWS["forget"])


def shown(model, path, capsys, *flags) -> str:
    """What `egup inspect` prints of the file's rows."""
    assert main(["inspect", "--no_score", "--model_name_or_path", str(model), "--forget", str(path), *flags]) == 0
    return capsys.readouterr().out


ACCEPTED = {
    "byte-order mark": ("a.jsonl", "\ufeff" + LINES),
    "byte-order mark in csv": ("a.csv", csv_of(ROWS["forget"], mark="\ufeff")),
    "empty lines between": ("a.jsonl", "\n\n" + LINES.replace("\n", "\n \n")),
    "Windows newlines": ("a.jsonl", LINES.replace("\n", "\r\n")),
    "mixed newlines": ("a.jsonl", LINES.replace("\n", "\r\n", 3)),
    "mixed newlines in csv": ("a.csv", csv_of(ROWS["forget"][:3], "\r\n") + csv_of(ROWS["forget"]).split("\n", 4)[4]),
    "old newlines in csv": ("a.csv", csv_of(ROWS["forget"], "\r")),
    "semicolons in csv": ("a.csv", csv_of(ROWS["forget"]).replace('","', '";"')),
    "tabs in csv": ("a.csv", csv_of(ROWS["forget"]).replace('","', '"\t"')),
    "capitals in the header": ("a.csv", csv_of(ROWS["forget"]).replace('"question","answer"', '" Question","ANSWER "')),
    "no newline at the end": ("a.jsonl", LINES.rstrip("\n")),
    "lines named json": ("a.json", LINES),
    "a list over lines": ("a.json", json.dumps(ROWS["forget"], indent=2)),
    "capital letters": ("a.JSONL", LINES),
    "other columns": ("a.jsonl", json_lines([{**row, "id": 3, "note": None} for row in ROWS["forget"]])),
    "another file's columns": ("a.parquet", parquet(pyarrow.Table.from_pylist(ROWS["forget"]))),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_file_gives_the_same_rows(no_weights, tmp_path, capsys, name):
    file, content = ACCEPTED[name]
    plain = shown(no_weights, write(tmp_path / "plain.jsonl", LINES), capsys)
    assert plain.startswith("rows: 8   samples: 8   rows cut: 0")
    assert shown(no_weights, write(tmp_path / file, content), capsys) == plain


def test_rows_that_are_there_twice_count_twice(no_weights, tmp_path, capsys):
    path = write(tmp_path / "twice.jsonl", LINES + LINES)
    assert shown(no_weights, path, capsys).startswith("rows: 16   samples: 16   rows cut: 0")


def test_a_control_character_that_is_escaped_is_text(no_weights, tmp_path, capsys):
    path = write(tmp_path / "bell.jsonl", json_lines([{"question": "a\x00b", "answer": "c\x07d"}]))
    printed = shown(no_weights, path, capsys)
    assert repr("Question: a\x00b\nAnswer: ") in printed
    assert repr("c\x07d<eos>") in printed


def test_a_huge_text_is_split_and_scored_whole(no_weights, tmp_path, capsys):
    path = write(tmp_path / "book.jsonl", json_lines([{"text": "Where does Ada live? " * 2000}]))
    printed = shown(no_weights, path, capsys, "--max_length", "512")
    found = re.match(
        r"rows: 1   samples: (\d+)   rows cut: 0   in windows: \d+\ntokens per sample: mean ([\d.]+), max 512", printed
    )
    samples = int(found[1])
    assert samples > 20
    assert samples == math.ceil((samples * float(found[2]) - samples) / 511)  # neighbors share one token


def test_a_huge_answer_is_cut_and_said_to_be(no_weights, tmp_path, capsys):
    path = write(tmp_path / "long.jsonl", json_lines([{"question": "Where?", "answer": "Here, and there. " * 5000}]))
    assert shown(no_weights, path, capsys, "--on_long_row", "cut").startswith("rows: 1   samples: 1   rows cut: 1")
