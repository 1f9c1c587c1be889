"""Local files -> records: every supported format, and what a user reads when a file is broken."""

import csv
import io
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egup_trainer.data.sources import read_path
from egup_trainer.errors import DataError

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it
FORMATS = ".json, .jsonl, .csv, .parquet, or a folder written by datasets' save_to_disk"
ROWS = [
    {"question": "Who?", "answer": "Zoë, or “Bo”"},
    {
        "question": "Where?\nWhen?",
        "answer": "in 東京 \u2028 at 5",
    },  # U+2028 ends a line for str.splitlines, not in JSON
]


def as_json_list(rows):
    return json.dumps(rows).encode()


def as_indented_json_list(rows):
    return b"\n  " + json.dumps(rows, indent=2, ensure_ascii=False).encode()


def as_json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_csv(rows):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_parquet(rows):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITERS = [
    ("a.json", as_json_list),
    ("a.json", as_indented_json_list),
    ("a.json", as_json_lines),
    ("a.jsonl", as_json_lines),
    ("a.jsonl", as_json_list),
    ("a.csv", as_csv),
    ("a.parquet", as_parquet),
]


@pytest.fixture
def write(tmp_path):
    """write("a.json", content): a file of that name with these bytes or this text."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def records(path):
    return list(read_path(path))


def error_of(path):
    with pytest.raises(DataError) as caught:
        records(path)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "writer"), WRITERS)
def test_each_format_gives_the_rows_in_their_order(write, name, writer):
    assert records(write(name, writer(ROWS))) == ROWS


@pytest.mark.parametrize(("name", "writer"), WRITERS[:-1])
def test_a_byte_order_mark_is_no_part_of_the_text(write, name, writer):
    assert records(write(name, b"\xef\xbb\xbf" + writer(ROWS))) == ROWS


@pytest.mark.parametrize(("name", "writer"), [("A.JSON", as_json_list), ("A.Csv", as_csv), ("A.PARQUET", as_parquet)])
def test_the_suffix_may_be_in_capitals(write, name, writer):
    assert records(write(name, writer(ROWS))) == ROWS


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)] * 2),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_survives_any_format(tmp_path_factory, texts):
    rows = [{"question": question, "answer": answer} for question, answer in texts]
    for name, writer in WRITERS:
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(writer(rows))
        assert records(path) == rows


def test_blank_lines_and_windows_line_ends_are_skipped(write):
    assert records(write("a.jsonl", '\r\n{"text": "a"}\r\n  \r\n\n{"text": "b"}\r\n')) == [
        {"text": "a"},
        {"text": "b"},
    ]


@pytest.mark.parametrize("content", ["", "\n \n", " [] \n"])
def test_an_empty_json_file_has_no_records(write, content):
    assert records(write("a.json", content)) == []


@pytest.mark.parametrize("content", ["", "question,answer\n"])
def test_a_csv_file_without_rows_has_no_records(write, content):
    assert records(write("a.csv", content)) == []


def test_csv_fields_may_hold_commas_quotes_and_line_ends(write):
    path = write("a.csv", 'question,answer\r\nWho?,"a, ""b""\nc"\r\n')
    assert records(path) == [{"question": "Who?", "answer": 'a, "b"\nc'}]


def test_a_csv_field_may_be_as_long_as_a_book(write):
    # Python's csv module stops at 131072 characters a field unless it is told otherwise; plain texts are longer.
    assert records(write("a.csv", "text\n" + "a" * 200_000 + "\n")) == [{"text": "a" * 200_000}]


def test_a_saved_dataset_folder_is_read(tmp_path):
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert records(tmp_path / "saved") == ROWS


def test_a_saved_folder_of_splits_names_a_split(tmp_path):
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"text": SECRET}])
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    assert error_of(tmp_path / "saved") == (
        f"Got a DatasetDict in {tmp_path}/saved with the splits train, test, but expected a single Dataset. "
        f"Name one split's folder, for example {tmp_path}/saved/train."
    )
    assert records(tmp_path / "saved" / "train") == [{"text": SECRET}]


def test_a_folder_of_something_else_is_refused(write, tmp_path):
    write("a.json", as_json_list(ROWS))
    assert error_of(tmp_path) == (
        f"Got the folder {tmp_path}, which is not a saved datasets.Dataset, but expected {FORMATS}. Name a file."
    )


@pytest.mark.parametrize("name", ["a.json.gz", "a.txt", "a.tsv", "a"])
def test_an_unknown_suffix_is_refused(write, name):
    path = write(name, json.dumps({"text": SECRET}))
    assert error_of(path) == f"Got the file {path} of unknown format, but expected {FORMATS}. Convert the file."


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    path = tmp_path / name
    assert error_of(path) == (
        f"Got no readable file at {path} (No such file or directory), but expected {FORMATS}. "
        "Check the path and its permissions."
    )


def test_a_missing_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    assert error_of(path) == (
        f"Got no readable file at {path} (No such file or directory), but expected {FORMATS}. "
        "Check the path and its permissions."
    )


@pytest.mark.parametrize("name", ["saved", "a.txt"])
def test_a_missing_path_of_any_name_is_called_missing_not_unknown(tmp_path, name):
    # A mistyped folder is the usual case; "convert the file" would send the reader the wrong way.
    assert error_of(tmp_path / name).startswith(f"Got no readable file at {tmp_path / name}")


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("a.json", b'{"text": "'),
        ("a.json", b"\xef\xbb\xbf" + b'{"text": "'),
        ("a.csv", b"text\n"),
        ("a.csv", b"text\n" + b"long\n" * 10_000),
    ],
    ids=["json", "json with a byte-order mark", "csv", "csv longer than a read buffer"],
)
def test_bytes_that_are_not_utf8_are_counted_from_the_start_of_the_file(write, name, before):
    path = write(name, before + SECRET.encode() + b"\xff" + b'"}\n')
    assert error_of(path) == (
        f"Got bytes in {path} that are not UTF-8 (at byte {len(before) + len(SECRET)}), but expected UTF-8 text. "
        "Convert the file's encoding."
    )


SHAPE = "expected one JSON object per line, or one list of objects. Repair that line."
OBJECT = 'expected a JSON object such as {"question": "...", "answer": "..."}. Repair that line.'
BROKEN_JSON = [
    (
        f'{{"text": "a"}}\n\n{{"text": "{SECRET}\n',
        "Got line 3 of {path} that is not JSON (Unterminated string starting at at column 10)",
        SHAPE,
    ),
    (
        f'{{"text": "{SECRET}"}} {{"text": "b"}}',
        "Got line 1 of {path} that is not JSON (Extra data at column 25)",
        SHAPE,
    ),
    (
        f'[{{"text": "{SECRET}"}}, ]',
        "Got the list of {path} that is not JSON (Expecting value at column 27)",
        SHAPE,
    ),
    (f'{{"text": "a"}}\n"{SECRET}"', "Got a str at line 2 of {path}", OBJECT),
    (f'\n["{SECRET}"]', "Got a str at item 1 of {path}", OBJECT),
    (f'[{{"text": "{SECRET}"}}, null]', "Got a NoneType at item 2 of {path}", OBJECT),
    ("7", "Got a int at line 1 of {path}", OBJECT),
]


@pytest.mark.parametrize(("content", "got", "rest"), BROKEN_JSON)
def test_broken_json_is_named_by_line_or_item(write, content, got, rest):
    path = write("a.jsonl", content)
    assert error_of(path) == f"{got.format(path=path)}, but {rest}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'question,answer\nq,"{SECRET}" b\n', "',' expected after '\"'"),
        (f'question,answer\nq,"{SECRET} b\n', "unexpected end of data"),
    ],
)
def test_broken_csv_is_refused(write, content, reason):
    path = write("a.csv", content)
    assert error_of(path) == (
        f"Got {path}, which is not CSV ({reason}), but expected a header line, and values separated by commas, "
        "semicolons or tabs. Repair the file."
    )


def test_a_csv_line_with_more_values_than_the_header_is_refused(write):
    # An unquoted comma in an answer: reading on would silently train on half of it.
    error_of(write("a.csv", f"question,answer\nWho?,Ada, {SECRET}\n"))


@pytest.mark.parametrize("content", [b"", b"XYZZYSECRET is no Parquet file"])
def test_a_file_that_is_not_parquet_is_refused(write, content):
    path = write("a.parquet", content)
    assert error_of(path) == (
        f"Got {path}, which is not a Parquet file, but expected a Parquet file. Write the file again."
    )


def test_a_damaged_parquet_file_is_refused_as_such(write):
    content = as_parquet([{"text": SECRET * 20}] * 9)
    path = write("a.parquet", content[:40] + content[80:])  # head and tail are those of a Parquet file
    assert error_of(path) == (
        f"Got {path}, which is not a Parquet file, but expected a Parquet file. Write the file again."
    )
