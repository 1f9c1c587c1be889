"""What a user may name as rows, every supported file format, and the error for each source that cannot be read."""

import csv
import io
import json
from functools import partial
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows, read_path, read_source
from egup_trainer.errors import DataError

SECRET = "XYZZYSECRET"  # occurs only in rows: no message may repeat it
TOFU_DIR = Path(__file__).resolve().parents[3] / "shared" / "data" / "tofu"
ROWS = [
    {"question": "Who?", "answer": "Zoë, or “Bo”"},
    {"question": "Where?\nWhen?", "answer": "in 東京 \u2028 at 5"},  # ends a line for str.splitlines, not in JSON
]
datasets.disable_progress_bars()


def as_json_list(rows):
    return json.dumps(rows).encode()


def as_indented_json_list(rows):
    return b"\n  " + json.dumps(rows, indent=2, ensure_ascii=False).encode()


def as_json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_csv(rows, delimiter=","):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def after_empty_lines(rows):
    return b"\r\n\n" + as_csv(rows)


def as_parquet(rows):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITERS = [
    ("a.json", as_json_list),
    ("a.json", as_indented_json_list),
    ("a.JSON", as_json_lines),
    ("a.jsonl", as_json_lines),
    ("a.jsonl", as_json_list),
    ("a.ndjson", as_json_lines),
    ("a.Csv", as_csv),
    ("a.csv", after_empty_lines),
    ("a.tsv", partial(as_csv, delimiter="\t")),
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


def error_of(call, *args, **kwargs) -> DataError:
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("name", "writer"), WRITERS)
def test_each_format_gives_the_rows_in_their_order(write, name, writer):
    assert list(read_path(write(name, writer(ROWS)))) == ROWS
    if writer is not as_parquet:
        assert list(read_path(write(name, b"\xef\xbb\xbf" + writer(ROWS)))) == ROWS


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
        assert list(read_path(path)) == rows


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.jsonl", '\r\n{"text": "a"}\r\n  \r\n\n{"text": "b"}\r\n', [{"text": "a"}, {"text": "b"}]),
        ("a.json", "\n \n", []),
        ("a.json", " [] \n", []),
        ("a.csv", "", []),
        ("a.csv", "question,answer\n", []),
        ("a.csv", 'question,answer\r\nWho?,"a, ""b""\nc"\r\n', [{"question": "Who?", "answer": 'a, "b"\nc'}]),
        ("a.csv", "text\n" + "a" * 200_000 + "\n", [{"text": "a" * 200_000}]),  # above the csv module's usual limit
        ("a.csv", "text;answer\nNA;null\n", [{"text": "NA", "answer": "null"}]),
    ],
)
def test_odd_files_that_can_be_read(write, name, content, records):
    assert list(read_path(write(name, content))) == records


BROKEN = [
    ("a.jsonl", f'{{"text": "a"}}\n\n{{"text": "{SECRET}\n', "line 3 of {path} that is not JSON (Unterminated string"),
    (
        "a.jsonl",
        f'{{"text": "{SECRET}"}} {{"text": "b"}}',
        "line 1 of {path} that is not JSON (Extra data at column 25",
    ),
    ("a.jsonl", f'[{{"text": "{SECRET}"}}, ]', "the list of {path} that is not JSON (Expecting value at column 27)"),
    ("a.jsonl", f'{{"text": "a"}}\n"{SECRET}"', "a str at line 2 of {path}"),
    ("a.jsonl", f'\n["{SECRET}"]', "a str at item 1 of {path}"),
    ("a.jsonl", f'[{{"text": "{SECRET}"}}, null]', "a NoneType at item 2 of {path}"),
    ("a.jsonl", "7", "a int at line 1 of {path}"),
    ("a.jsonl", '{"text": "a"}\n\n{"text": "b", "text": "c"}\n', "the key text twice in one object, in line 3 of"),
    ("a.json", '[\n{"text": "a"},\n\n  {"text": "b",\n "text": "c"}]', "in the item on line 4 of {path}"),
    ("a.json", '[{"messages": [{"text": "c", "text": "d"}]}]', "in the item on line 1 of {path}"),
    ("a.csv", f'question,answer\nq,"{SECRET}" b\n', "{path}, which is not CSV (',' expected after '\"', at line 2)"),
    ("a.csv", f'question,answer\nq,"{SECRET} b\n', "{path}, which is not CSV (unexpected end of data, at line 2)"),
    ("a.csv", f"question,answer\nWho?,Ada, {SECRET}\n", "row 0 has more values than the header"),
    ("a.csv", "question,answer,answer\na,b,c\n", "two columns have the same name"),
    ("a.parquet", b"", "{path}, which cannot be read as a Parquet file ("),
    ("a.parquet", SECRET, "{path}, which cannot be read as a Parquet file ("),
    ("a.json.gz", SECRET, "the file {path} of unknown format"),
    ("a", SECRET, "the file {path} of unknown format"),
]
DAMAGED = as_parquet([{"text": SECRET * 20}] * 9)
IN_THE_MIDDLE = DAMAGED[:40] + DAMAGED[80:]  # sound head and tail
BROKEN.append(("a.parquet", IN_THE_MIDDLE, "{path}, which cannot be read as a Parquet file ("))
for name, before in [
    ("a.json", b'{"text": "'),
    ("a.json", b"\xef\xbb\xbf" + b'{"text": "'),
    ("a.csv", b"text\n" + b"long\n" * 10_000),
]:
    byte = f"bytes in {{path}} that are not UTF-8 (at byte {len(before) + len(SECRET)})"
    BROKEN.append((name, before + SECRET.encode() + b'\xff"}\n', byte))


@pytest.mark.parametrize(("name", "content", "got"), BROKEN)
def test_a_broken_file_is_refused_where_it_is_broken(write, name, content, got):
    path = write(name, content)
    assert got.format(path=path) in error_of(lambda: list(read_path(path))).got


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.txt", "saved"])
def test_a_missing_path_of_any_name_is_called_missing(tmp_path, name):
    # A mistyped folder is the usual case; "convert the file" would send the reader the wrong way.
    error = error_of(read_path, tmp_path / name)
    assert error.got == f"no readable file at {tmp_path / name} (No such file or directory)"


def test_folders(write, tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert list(read_path(tmp_path / "saved")) == ROWS
    rows = datasets.Dataset.from_list([{"text": SECRET}])
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "splits")
    error = error_of(read_path, tmp_path / "splits")
    assert "splits train, test" in error.got
    assert f"{tmp_path}/splits/train" in error.fix
    assert list(read_path(tmp_path / "splits" / "train")) == [{"text": SECRET}]
    assert error_of(read_path, tmp_path).got == f"the folder {tmp_path}, which is not a saved datasets.Dataset"


def test_a_part_of_a_file_is_decoded_alone(tmp_path, monkeypatch):
    """79 KB of Parquet can hold millions of rows: of those only the first are decoded, and no set may have too many."""
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["a"] * 100_000}).to_parquet(path)
    assert load_rows(path, max_rows=2) == [Row((), "a")] * 2
    assert next(read_path(path)) == {"text": "a"}
    monkeypatch.setattr("egup_trainer.data.sources.MAX_ROWS", 5000)
    assert "more than 5,000 rows, or 1,073,741,824 characters" in error_of(load_rows, path).got
    monkeypatch.setattr("egup_trainer.data.sources.MAX_CHARACTERS", 7)
    assert "or 7 characters" in error_of(load_rows, path).got


# What may be named


@pytest.mark.parametrize("kind", [list, iter, datasets.Dataset.from_list, pandas.DataFrame])
def test_any_iterable_of_mappings_serves(kind):
    rows = kind([{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}])
    assert load_rows(rows) == [Row((Message("user", "q1"),), "a1"), Row((Message("user", "q2"),), "a2")]


def test_what_is_not_a_set_of_rows_is_refused(write):
    assert error_of(load_rows, iter([])).got == "no rows in the given data set"
    path = write("a.json", "")
    assert error_of(load_rows, path).got == f"no rows in {path}"
    rows = datasets.Dataset.from_list([{"text": SECRET}])
    assert "train, test" in error_of(load_rows, datasets.DatasetDict(train=rows, test=rows)).got
    row = {"question": SECRET, "answer": SECRET}
    for data in (row, {name: [value] for name, value in row.items()}):
        assert str(error_of(load_rows, data)) == (
            "Got a dict with the keys question, answer, but expected one set of rows. Give a list of rows ([row]), or "
            "datasets.Dataset.from_dict(columns)."
        )
    for text in (SECRET, f"the text of a question and its answer {SECRET}"):
        assert "a str" in error_of(load_rows, [text]).got


def test_rows_are_counted_from_zero_and_their_file_is_named(write):
    path = write("a.jsonl", f'{{"text": "{SECRET}"}}\n\n{{"text": ""}}\n')
    for source in (path, str(path)):
        assert error_of(load_rows, source).got == f"an empty text in row 1 of {path}"
    error_of(load_rows, write("a.csv", f"Where was Ada born?,In {SECRET}.\nWho?,Bo.\n"))  # the header is not repeated


@pytest.fixture
def hub(monkeypatch):
    """The calls of datasets.load_dataset; each gives the rows in `hub.rows`, or raises `hub.error`."""

    class Hub(list):
        rows, error = [{"text": "from the hub"}], None

        def load_dataset(self, path, name=None, *, split=None):
            self.append((path, name, split))
            if self.error is not None:
                raise self.error
            return datasets.Dataset.from_list(self.rows)

    calls = Hub()
    monkeypatch.setattr(datasets, "load_dataset", calls.load_dataset)
    return calls


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:config", ("owner/name", "config", "train")),
        ("owner/name:config:test", ("owner/name", "config", "test")),
        ("tofu:forget10", ("locuslab/TOFU", "forget10", "train")),
        ("Owner-1/na_me.v2:a-b:train[:10]", None),  # a third colon: not a hub id
        ("owner/forget.json", None),  # a missing file is not looked for on the hub
    ],
)
def test_a_hub_id_names_config_and_split(hub, source, call):
    if call is None:
        assert f"no readable file at {source}" in error_of(load_rows, source).got
    else:
        assert load_rows(source) == [Row((), "from the hub")]
    assert hub == ([] if call is None else [call])


def test_errors_of_the_hub_name_the_hub_id(hub):
    hub.rows = [{"text": SECRET}, {"text": " "}]
    assert error_of(load_rows, "owner/name:c").got == "an empty text in row 1 of owner/name:c"
    for hub.error in (ConnectionError(SECRET), ValueError(SECRET), KeyError(SECRET)):
        name = type(hub.error).__name__
        got = error_of(load_rows, "owner/name:c:test").got
        assert got == f"no data for owner/name (config c, split test): {name}"
    hub.error = ValueError("Unknown split 'test'. Should be one of ['train'].")
    assert error_of(load_rows, "owner/name:c:test").got.endswith(f"split test): {hub.error}")
    hub.error = ConnectionError(SECRET)
    assert "locuslab/TOFU (config forget77, split train)" in error_of(load_rows, "tofu:forget77").got


def test_a_local_folder_comes_before_a_hub_id_of_the_same_name(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_list([{"text": "local"}]).save_to_disk("owner/name")
    assert load_rows("owner/name") == [Row((), "local")]
    assert hub == []


def test_tofu_with_a_data_dir_reads_the_file_of_that_name(hub, tmp_path):
    (tmp_path / "secret.json").write_text('{"text": "outside"}')
    folder = tmp_path / "inside"
    folder.mkdir()
    assert error_of(load_rows, "tofu:mine", data_dir=folder).expected == "one of: no .json file"
    (folder / "mine.json").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    (folder / "other.json").touch()
    for data_dir in (folder, str(folder)):
        assert load_rows("tofu:mine", data_dir=data_dir) == [Row((Message("user", "q"),), "a")]
    error = error_of(load_rows, "tofu:forget11", data_dir=folder)
    assert error.got == f"tofu:forget11, for which {folder} has no file"
    assert error.expected == "one of: mine, other"
    assert "has no file" in error_of(load_rows, "tofu:../secret", data_dir=folder).got
    assert hub == []


def test_records_of_a_source_are_left_as_they_are(hub, tmp_path):
    """For layouts that are not rows yet, such as MUSE's verbatim texts."""
    record = {"prompt": "p", "gt": "g"}
    for name in ("a.jsonl", "tofu.json"):
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    assert read_source(str(tmp_path / "a.jsonl")) == [record]
    assert read_source("tofu:tofu", tmp_path) == [record]
    hub.rows = [record, {"prompt": None, "gt": ""}]
    assert read_source("owner/name:verbmem:forget") == hub.rows
    assert hub == [("owner/name", "verbmem", "forget")]


@pytest.mark.parametrize(
    ("forget", "retain", "size"),
    [("forget01", "retain99", 40), ("forget05", "retain95", 200), ("forget10", "retain90", 400)],
)
def test_forget_and_retain_rows_of_tofu_make_up_the_full_set(tofu, forget, retain, size):
    parts = {name: load_rows(f"tofu:{name}", data_dir=TOFU_DIR) for name in (forget, retain) if tofu(name)}
    assert len(parts[forget]) == size
    assert parts[retain] + parts[forget] == load_rows(tofu("full"))


def test_tofu_rows_have_their_paraphrase_and_wrong_answers(tofu):
    first = load_rows(tofu("forget10_perturbed"))[0]
    assert first.answer == "The author's full name is Hsiao Yun-Hwa."
    assert first.paraphrase == "Hsiao Yun-Hwa is the complete name of the writer."
    assert first.perturbed == tuple(tofu("forget10_perturbed")[0]["perturbed_answer"])
    assert [row.paraphrase for row in load_rows(tofu("world_facts_perturbed"))] == [None] * 117
    assert {len(row.perturbed) for row in load_rows(tofu("real_authors_perturbed"))} == {3}
    assert {row.perturbed for row in load_rows(tofu("forget10"))} == {()}
    assert {row.alternatives for row in load_rows(tofu("retain_perturbed"))} == {()}
