"""Files of rows that cannot be used are refused in one line before a model is loaded."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from fixtures_bad_input import (
    ROWS,
    SECRET,
    assert_refused,
    csv_of,
    json_lines,
    parquet,
    source_flags,
    unlearn_words,
    write,
)

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


# name -> (the file's name, its content, what the line must say)
REFUSED = {
    "latin-1": ("a.jsonl", ACCENTED.encode("latin-1"), "Got bytes in {path} that are not UTF-8 (at byte"),
    "latin-1 csv": ("a.csv", "question,answer\nZoë,é\n".encode("latin-1"), "that are not UTF-8 (at byte 18)"),
    "UTF-16": ("a.jsonl", ACCENTED.encode("utf-16"), "that are not UTF-8 (at byte 0), but expected UTF-8 text"),
    "UTF-16 without a mark": ("a.jsonl", LINES.encode("utf-16-le"), "Got line 1 of {path} that is not JSON ("),
    "UTF-16 csv": ("a.csv", csv_of(ROWS["forget"]).encode("utf-16-le"), "Got {path}, which is not CSV ("),
    "gzip named json": ("a.json", gzip.compress(LINES.encode()), "that are not UTF-8 (at byte 1)"),
    "no byte": ("a.jsonl", "", "Got no rows in {path}, but expected at least one row. Check the source."),
    "empty lines alone": ("a.jsonl", "\n \r\n\n", "Got no rows in {path}"),
    "empty list": ("a.json", "[]", "Got no rows in {path}"),
    "header alone": ("a.csv", "question,answer\n", "Got no rows in {path}"),
    "no byte of csv": ("a.csv", "", "Got no rows in {path}"),
    "parquet without rows": ("a.parquet", parquet(pyarrow.table({"text": pyarrow.array([], "string")})), "Got no rows"),
    "cut line": ("a.jsonl", LINES[:-20], "Got line 8 of {path} that is not JSON (Unterminated string starting at"),
    "cut list": ("a.json", json.dumps(ROWS["forget"])[:-9], "Got the list of {path} that is not JSON ("),
    "two objects on a line": ("a.jsonl", LINES.replace("\n", " "), "Got line 1 of {path} that is not JSON (Extra data"),
    "control character as it is": ("a.jsonl", '{"text": "a\x07b"}', "that is not JSON (Invalid control character at"),
    "brackets without end": ("a.json", "[" * 100_000, "Got the list of {path} that is not JSON (nested too deeply)"),
    "number without end": (
        "a.jsonl",
        '{"text": ' + "9" * 9999 + "}",
        "Got line 1 of {path} that is not JSON (a number of",
    ),
    "list of texts": (
        "a.json",
        json.dumps([SECRET]),
        "Got a str at item 1 of {path}, but expected a JSON object such as",
    ),
    "list of numbers": ("a.json", "[1, 2]", "Got a int at item 1 of {path}"),
    "list of lists": ("a.json", json.dumps([GOOD, [SECRET, SECRET]]), "Got a list at item 2 of {path}"),
    "texts on lines": ("a.jsonl", json.dumps(SECRET), "Got a str at line 1 of {path}"),
    "rows below a key": ("a.json", json.dumps({"data": ROWS["forget"]}), "Got the columns data in row 0 of {path}"),
    "null for a row": ("a.jsonl", "null\n", "Got a NoneType at line 1 of {path}"),
    "missing column": ("a.jsonl", one() + json.dumps({"question": SECRET}), "Got the columns question in row 2 of"),
    "text as a column": ("a.csv", f"{SECRET} is a secret\n1\n", "Got the columns (not a name) in row 0 of {path}"),
    "bars": ("a.csv", "question|answer\na|b\n", "Got the columns (not a name) in row 0"),
    "a key twice": (
        "a.jsonl",
        LINES + '{"question": "a", "answer": "b", "answer": "c"}',
        "key answer twice in one obj",
    ),
    "a column named twice, capitals apart": (
        "a.csv",
        "question,Answer,answer\na,b,c\n",
        "Got 2 columns of {path} that",
    ),
    "a list that NumPy wrote": ("a.jsonl", one(perturbed_answer="['a' 'b']"), "Got a perturbed_answer in row 1 of"),
    "number for a question": (
        "a.jsonl",
        one(question=3),
        "Got a int as question in row 1 of {path}, but expected text",
    ),
    "NaN for an answer": ("a.jsonl", one(answer=float("nan")), "Got a float as answer in row 1 of"),
    "null for an answer": ("a.jsonl", one(answer=None), "Got a NoneType as answer in row 1 of"),
    "object for an answer": ("a.jsonl", one(answer={"text": SECRET}), "Got a dict as answer in row 1 of"),
    "no answers": ("a.jsonl", one(answer=[]), "Got a list as answer in row 1 of"),
    "two answers": ("a.jsonl", one(answer=["a", SECRET]), "Got 2 answers in row 1 of the forget set, but expected one"),
    "blank answer": ("a.jsonl", one(answer=" \n\t"), "Got an empty answer in row 1 of"),
    "half a surrogate": ("a.jsonl", one(answer="a\ud800"), "Got half a surrogate pair, which is not a character, in"),
    "number in perturbed": ("a.jsonl", one(perturbed_answer=["a", 3]), "Got a int as perturbed_answer in row 1 of"),
    "blank in perturbed": ("a.jsonl", one(perturbed_answer=["a", ""]), "Got an empty perturbed_answer in row 1 of"),
    "blank text": ("a.jsonl", '{"text": " "}', "Got an empty text in row 0 of"),
    "messages as text": ("a.jsonl", '{"messages": "hi"}', "Got a str as messages in row 0 of"),
    "no messages": (
        "a.jsonl",
        '{"messages": []}',
        "Got a list as messages in row 0 of {path}, but expected a non-empty",
    ),
    "text as a role": (
        "a.jsonl",
        json.dumps({"messages": [{"role": f"{SECRET} {SECRET}", "content": "a"}]}),
        "Got a message of role (not a name) in row 0 of {path}, but expected a role among system, user, assistant",
    ),
    "user speaks last": (
        "a.jsonl",
        json.dumps({"messages": [{"role": "user", "content": SECRET}]}),
        "Got a last message of role user in row 0 of",
    ),
    "open quote": ("a.csv", f'question,answer\n"{SECRET},b\n', "Got {path}, which is not CSV (unexpected end of data)"),
    "more cells than names": ("a.csv", f"question,answer\na,b,{SECRET}\n", "(row 0 has more values than the header)"),
    "fewer cells than names": ("a.csv", "question,answer\na\n", "Got a NoneType as answer in row 0 of"),
    "a name twice": ("a.csv", "question,answer,answer\na,b,c\n", "which is not CSV (two columns have the same name)"),
    "json named csv": ("a.csv", LINES, "Got the columns (not a name), (not a name) in row 0 of {path}"),
    "csv named json": ("a.json", csv_of(ROWS["forget"]), "Got line 1 of {path} that is not JSON ("),
    "text named parquet": ("a.parquet", LINES, "Got {path}, which is not a Parquet file"),
    "no byte of parquet": ("a.parquet", b"", "Got {path}, which is not a Parquet file"),
    "cut parquet": ("a.parquet", parquet(pyarrow.table({"text": ["a"] * 99}))[:-30], "which is not a Parquet file"),
    "parquet not in UTF-8": ("a.parquet", not_utf8_parquet(), "Got {path}, which is not a Parquet file"),
    "bytes in parquet": ("a.parquet", parquet(pyarrow.table({"text": [b"a"]})), "Got a bytes as text in row 0 of"),
    "unknown format": (
        "a.txt",
        SECRET,
        "Got the file {path} of unknown format, but expected .json, .jsonl, .csv, .parquet",
    ),
    "retain row": ("a.jsonl", json_lines([GOOD, ROWS["retain"][4]]), "row 1 of the forget set is row 4 of the retain"),
    "proxy row": ("a.jsonl", json_lines([GOOD, ROWS["proxy"][2]]), "row 1 of the forget set is row 2 of the proxy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_before_a_model_is_loaded(no_weights, tmp_path, capsys, name):
    file, content, says = REFUSED[name]
    path = write(tmp_path / file, content)
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path, forget=path)]
    assert_refused(words, tmp_path, capsys, says.format(path=path))


# name -> what stands at the path "rows.jsonl" (or where the source says), and what the line must say
def make_folder(path):
    path.mkdir()


def make_cut_dataset(path):
    datasets.Dataset.from_list(ROWS["forget"]).save_to_disk(path)
    arrow = next(path.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:50])


def make_dataset_without_state(path):
    datasets.Dataset.from_list(ROWS["forget"]).save_to_disk(path)
    (path / "state.json").write_text("{}")


def make_splits(path):
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS["forget"])).save_to_disk(path)


def make_broken_link(path):
    path.symlink_to(path.with_name("nowhere"))


def make_nothing(path):
    pass


PLACES = {
    "folder for a file": (make_folder, "rows.jsonl", "Got the folder {path}, which is not a saved datasets.Dataset"),
    "cut data set": (make_cut_dataset, "rows", "Got the folder {path}, which is not a saved datasets.Dataset"),
    "data set without a state": (make_dataset_without_state, "rows", "Got the folder {path}, which is not a saved"),
    "splits": (make_splits, "rows", "Got a DatasetDict in {path} with the splits train, but expected a single Dataset"),
    "broken link": (make_broken_link, "rows.jsonl", "Got no readable file at {path} (No such file or directory)"),
    "nothing": (make_nothing, "rows.csv", "Got no readable file at {path}"),
    "file as a folder": (make_nothing, "good_retain.jsonl/a.csv", "Got no readable file at {path} (Not a directory)"),
    "name too long": (make_nothing, "a" * 300 + ".jsonl", "Got no readable file at {path} (File name too long)"),
    "no format": (make_nothing, "rows", "Got no readable file at {path}"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_without_rows_is_refused(no_weights, tmp_path, capsys, name):
    make, place, says = PLACES[name]
    path = tmp_path / place
    make(path)
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path, forget=path)]
    assert_refused(words, tmp_path, capsys, says.format(path=path))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nobody/nothing", "Got no data for nobody/nothing (config None, split train): "),
        ("nobody/nothing:some:test", "Got no data for nobody/nothing (config some, split test): "),
        ("tofu:forget99", "Got tofu:forget99, for which {folder} has no file, but expected one of: no .json file"),
        (json.dumps(GOOD), "Got no readable file at"),
    ],
)
def test_a_name_without_rows_is_refused(no_weights, tmp_path, capsys, source, says):
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path, forget=source)]
    assert_refused([*words, "--data_dir", str(tmp_path / "x")], tmp_path, capsys, says.format(folder=tmp_path / "x"))


@pytest.mark.parametrize("name", ["retain", "proxy", "eval"])
def test_the_other_sources_are_read_alike(no_weights, tmp_path, capsys, name):
    path = write(tmp_path / "other.jsonl", one(answer=7))
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path, **{name: path})]
    assert_refused(
        words, tmp_path, capsys, f"Got a int as answer in row 1 of {path}, but expected text. Fill in or remove"
    )


@pytest.mark.parametrize("command", ["evaluate", "audit", "proxy", "inspect"])
def test_the_other_commands_read_rows_alike(no_weights, tmp_path, capsys, command):
    path, retain = write(tmp_path / "a.jsonl", one(answer=7)), write(tmp_path / "r.jsonl", json_lines(ROWS["retain"]))
    words = [command, "--model_name_or_path", str(no_weights), "--forget", str(path)]
    words += [] if command == "inspect" else ["--retain", str(retain), "--use_cpu", "--disable_tqdm"]
    words += {
        "evaluate": ["--suite", "custom", "--output", str(tmp_path / "o.json")],
        "audit": ["--output", str(tmp_path / "o.json")],
        "proxy": ["--output", str(tmp_path / "o.jsonl")],
        "inspect": [],
    }[command]
    assert_refused(
        words, tmp_path, capsys, f"Got a int as answer in row 1 of {path}, but expected text. Fill in or remove"
    )


@pytest.mark.parametrize("command", ["evaluate", "audit"])
@pytest.mark.parametrize("name", ["retain", "holdout"])
def test_a_forget_row_in_another_set_is_refused_by_what_measures(no_weights, tmp_path, capsys, command, name):
    twin = write(tmp_path / "twin.jsonl", json_lines([GOOD, ROWS["forget"][5]]))
    words = [command, "--model_name_or_path", str(no_weights), *source_flags(tmp_path, proxy=None, **{name: twin})]
    words += ["--output", str(tmp_path / "o.json"), "--use_cpu", *(["--suite", "custom"] * (command == "evaluate"))]
    says = (
        f"Got a row in both sets: row 5 of the forget set is row 1 of the {name} set, but expected no row (prompt and"
    )
    assert_refused(words, tmp_path, capsys, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            None,
            "Got no refusals from {path} (FileNotFoundError), but expected a UTF-8 text file with one refusal per line",
        ),
        ("Zoë".encode("latin-1"), "Got no refusals from {path} (UnicodeDecodeError)"),
        ("\ufeff\n \n", "Got no refusal in {path}, but expected one per line. Check --idk_answers."),
    ],
)
def test_refusals_that_cannot_be_used_are_refused(no_weights, tmp_path, capsys, content, says):
    path = tmp_path / "idk.txt" if content is None else write(tmp_path / "idk.txt", content)
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path)]
    words += ["--objective", "dpo", "--no_proxy_constraint", "--idk_answers", str(path)]
    assert_refused(words, tmp_path, capsys, says.format(path=path))
