"""Files of rows that cannot be used are refused in one line before a model is loaded."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from fixtures_cli import (
    ROWS,
    SECRET,
    assert_refused,
    json_lines,
    parquet,
    source_flags,
    unlearn_words,
    whole_words,
    write,
)

from egup_trainer.errors import DataError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

GOOD = {"question": "Where?", "answer": "Here."}
LINES = json_lines(ROWS["forget"])
ACCENTED = json.dumps({"question": f"Zoë? {SECRET}", "answer": "é"}, ensure_ascii=False)


def not_utf8_parquet() -> bytes:
    """A column that says it is text, and is not."""
    broken = pyarrow.array([b"\xff\xfe"]).cast(pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, broken.buffers())
    return parquet(pyarrow.table({"question": text, "answer": text}))


def one(**record) -> str:
    return json_lines([GOOD, {**GOOD, **record}])


def messages(**message) -> str:
    return json.dumps({"messages": [message]})


NO_HEADER = "if the first line is a row, put a line of names above it, such as question,answer; else rename the columns"
REFUSED = {  # the file's name, its content, and what the message names besides the file
    "latin-1": ("a.jsonl", ACCENTED.encode("latin-1"), "UTF-8 (at byte"),
    "latin-1 csv": ("a.csv", "question,answer\nZoë,é\n".encode("latin-1"), "UTF-8 (at byte 18)"),
    "UTF-16": ("a.jsonl", ACCENTED.encode("utf-16"), "UTF-8 (at byte 0)"),
    "UTF-16 without a mark": ("a.jsonl", LINES.encode("utf-16-le"), "line 1"),
    "gzip named json": ("a.json", gzip.compress(LINES.encode()), "UTF-8 (at byte 1)"),
    "no byte": ("a.jsonl", "", "no rows"),
    "empty lines alone": ("a.jsonl", "\n \r\n\n", "no rows"),
    "header alone": ("a.csv", "question,answer\n", "no rows"),
    "parquet without rows": ("a.parquet", parquet(pyarrow.table({"text": pyarrow.array([], "string")})), "no rows"),
    "cut line": ("a.jsonl", LINES[:-20], "line 8", "Unterminated string"),
    "cut list": ("a.json", json.dumps(ROWS["forget"])[:-9], "not JSON"),
    "two objects on a line": ("a.jsonl", LINES.replace("\n", " "), "line 1", "Extra data"),
    "control character as it is": ("a.jsonl", '{"text": "a\x07b"}', "Invalid control character"),
    "brackets without end": ("a.json", "[" * 100_000, "nested too deeply"),
    "number without end": ("a.jsonl", '{"text": ' + "9" * 9999 + "}", "line 1", "a number of"),
    "list of texts": ("a.json", json.dumps([SECRET]), "str at item 1"),
    "texts on lines": ("a.jsonl", json.dumps(SECRET), "str at line 1"),
    "rows below a key": ("a.json", json.dumps({"data": ROWS["forget"]}), "columns data in row 0"),
    "null for a row": ("a.jsonl", "null\n", "NoneType at line 1"),
    "missing column": ("a.jsonl", one() + json.dumps({"question": SECRET}), "columns question in row 2"),
    "bars": ("a.csv", "question|answer\na|b\n", "(not a name) in row 0"),
    "no header": ("a.csv", f'"{SECRET}?","a b"\n"c?","d e"\n', "(not a name), (not a name) in row 0", NO_HEADER),
    "no header, one-word cells": ("a.csv", "a,b\nc,d\n", "the columns a, b in row 0", NO_HEADER),
    "a key twice": ("a.jsonl", LINES + '{"question": "a", "answer": "b", "answer": "c"}', "answer twice"),
    "a column named twice, capitals apart": ("a.csv", "question,Answer,answer\na,b,c\n", "2 columns"),
    "a list that NumPy wrote": ("a.jsonl", one(perturbed_answer="['a' 'b']"), "perturbed_answer in row 1"),
    "number for a question": ("a.jsonl", one(question=3), "int as question in row 1"),
    "NaN for an answer": ("a.jsonl", one(answer=float("nan")), "float as answer in row 1"),
    "two answers": ("a.jsonl", one(answer=["a", SECRET]), "2 answers in row 1 of the forget set"),
    "blank answer": ("a.jsonl", one(answer=" \n\t"), "empty answer in row 1"),
    "half a surrogate": ("a.jsonl", one(answer="a\ud800"), "surrogate"),
    "number in perturbed": ("a.jsonl", one(perturbed_answer=["a", 3]), "int as perturbed_answer in row 1"),
    "blank text": ("a.jsonl", '{"text": " "}', "empty text in row 0"),
    "messages as text": ("a.jsonl", '{"messages": "hi"}', "str as messages in row 0"),
    "no messages": ("a.jsonl", '{"messages": []}', "messages in row 0"),
    "text as a role": ("a.jsonl", messages(role=f"{SECRET} {SECRET}", content="a"), "role (not a name) in row 0"),
    "user speaks last": ("a.jsonl", messages(role="user", content=SECRET), "role user in row 0"),
    "open quote": ("a.csv", f'question,answer\n"{SECRET},b\n', "not CSV"),
    "more cells than names": ("a.csv", f"question,answer\na,b,{SECRET}\n", "row 0", "more values"),
    "fewer cells than names": ("a.csv", "question,answer\na\n", "NoneType as answer in row 0"),
    "a name twice": ("a.csv", "question,answer,answer\na,b,c\n", "two columns"),
    "json named csv": ("a.csv", LINES, "(not a name) in row 0"),
    "text named parquet": ("a.parquet", LINES, "cannot be read as a Parquet file"),
    "cut parquet": (
        "a.parquet",
        parquet(pyarrow.table({"text": ["a"] * 99}))[:-30],
        "cannot be read as a Parquet file",
    ),
    "parquet not in UTF-8": ("a.parquet", not_utf8_parquet(), "cannot be read as a Parquet file"),
    "bytes in parquet": ("a.parquet", parquet(pyarrow.table({"text": [b"a"]})), "bytes as text in row 0"),
    "unknown format": ("a.txt", SECRET, ".jsonl"),
    "long prompt": ("a.jsonl", LINES, "row 0 of the forget set", "--max_length"),
}
TWINS = {
    "retain row": (json_lines([GOOD, ROWS["retain"][4]]), "row 1 of the forget set is row 4 of the retain"),
    "proxy row": (json_lines([GOOD, ROWS["proxy"][2]]), "row 1 of the forget set is row 2 of the proxy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_before_a_model_is_loaded(no_weights, tmp_path, capsys, name):
    file, content, *named = REFUSED[name]
    path = write(tmp_path / file, content)
    words = whole_words(no_weights, tmp_path, forget=path)
    words += ["--max_length", "16", "--on_long_row", "cut"] if name == "long prompt" else []
    named += [] if "of the forget set" in named[0] else [path]
    assert_refused(words, tmp_path, capsys, *named, error=DataError)


@pytest.mark.parametrize(("content", "says"), TWINS.values(), ids=TWINS)
def test_a_row_in_two_sets_is_refused(no_weights, tmp_path, capsys, content, says):
    path = write(tmp_path / "a.jsonl", content)
    words = whole_words(no_weights, tmp_path, forget=path)
    assert_refused(words, tmp_path, capsys, says, error=DataError)


def saved(path, change=lambda path: None, data=None):
    (data or datasets.Dataset.from_list(ROWS["forget"])).save_to_disk(path)
    change(path)


def cut(path):
    arrow = next(path.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:50])


SPLITS = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS["forget"]))
PLACES = {  # what is made at the path, the path, and what the message names besides it
    "folder for a file": (lambda path: path.mkdir(), "rows.jsonl", "folder"),
    "cut data set": (lambda path: saved(path, cut), "rows", "folder"),
    "data set without a state": (
        lambda path: saved(path, lambda folder: write(folder / "state.json", "{}")),
        "rows",
        "folder",
    ),
    "splits": (lambda path: saved(path, data=SPLITS), "rows", "DatasetDict", "train"),
    "broken link": (lambda path: path.symlink_to(path.with_name("nowhere")), "rows.jsonl", "No such file"),
    "nothing": (None, "rows.csv", "No such file"),
    "file as a folder": (None, "good_retain.jsonl/a.csv", "Not a directory"),
    "name too long": (None, "a" * 300 + ".jsonl", "File name too long"),
    "no format": (None, "rows", "no readable file"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_without_rows_is_refused(no_weights, tmp_path, capsys, name):
    make, place, *named = PLACES[name]
    if make:
        make(tmp_path / place)
    words = whole_words(no_weights, tmp_path, forget=tmp_path / place)
    assert_refused(words, tmp_path, capsys, tmp_path / place, *named, error=DataError)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nobody/nothing", "nobody/nothing (config None, split train)"),
        ("nobody/nothing:some:test", "nobody/nothing (config some, split test)"),
        ("tofu:forget99", "tofu:forget99"),
        (json.dumps(GOOD), "no readable file at"),
    ],
)
def test_a_name_without_rows_is_refused(no_weights, tmp_path, capsys, source, says):
    words = whole_words(no_weights, tmp_path, forget=source)
    assert_refused([*words, "--data_dir", str(tmp_path / "x")], tmp_path, capsys, says, error=DataError)


OTHER_COMMANDS = {
    "evaluate": ["--suite", "custom", "--output", "o.json", "--use_cpu", "--disable_tqdm"],
    "audit": ["--output", "o.json", "--use_cpu", "--disable_tqdm"],
    "proxy": ["--output", "o.jsonl", "--use_cpu", "--disable_tqdm"],
    "inspect": [],
}


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("unlearn", name) for name in ("retain", "proxy", "eval")), *((each, "forget") for each in OTHER_COMMANDS)],
)
def test_the_other_sources_and_commands_read_rows_alike(no_weights, tmp_path, capsys, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "other.jsonl", one(answer=7))
    sources = source_flags(tmp_path, **({"proxy": None} if command != "unlearn" else {}), **{name: path})
    sources = sources[:2] if command == "inspect" else sources
    words = [command, "--model_name_or_path", str(no_weights), *sources, *OTHER_COMMANDS.get(command, [])]
    words += unlearn_words(no_weights, tmp_path / "out")[3:] if command == "unlearn" else []
    assert_refused(words, tmp_path, capsys, f"int as answer in row 1 of {path}", error=DataError)


@pytest.mark.parametrize("command", ["evaluate", "audit"])
@pytest.mark.parametrize("name", ["retain", "holdout"])
def test_a_forget_row_in_another_set_is_refused_by_what_measures(no_weights, tmp_path, capsys, command, name):
    twin = write(tmp_path / "twin.jsonl", json_lines([GOOD, ROWS["forget"][5]]))
    words = [command, "--model_name_or_path", str(no_weights), *source_flags(tmp_path, proxy=None, **{name: twin})]
    words += ["--output", str(tmp_path / "o.json"), "--use_cpu", *(["--suite", "custom"] * (command == "evaluate"))]
    says = f"row 5 of the forget set is row 1 of the {name} set"
    assert_refused(words, tmp_path, capsys, says, error=DataError)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "FileNotFoundError"), ("Zoë".encode("latin-1"), "UnicodeDecodeError"), ("\ufeff\n \n", "--idk_answers")],
)
def test_refusals_that_cannot_be_used_are_refused(no_weights, tmp_path, capsys, content, says):
    path = tmp_path / "idk.txt" if content is None else write(tmp_path / "idk.txt", content)
    words = whole_words(no_weights, tmp_path)
    words += ["--objective", "dpo", "--no_proxy_constraint", "--idk_answers", str(path)]
    assert_refused(words, tmp_path, capsys, path, says, error=DataError)
