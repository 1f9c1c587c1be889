"""Every layout, from every kind of file, reads the same optional columns; what is read under another name is said."""

import csv
import json

import datasets
import numpy as np
import pandas
import pytest
import torch

from egup_trainer.data.layouts import parse_columns
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows, read_path
from egup_trainer.errors import DataError, EgupError

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
LAYOUTS = {
    "question": {"question": "q", "answer": "a"},
    "prompt": {"prompt": "q", "completion": "a"},
    "chat": {"messages": TURNS},
    "prompt as a list": {"prompt": TURNS[:1], "completion": TURNS[1:]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "Alpaca": {"instruction": "q", "input": "", "output": "a"},
    "text": {"text": "a"},
}
OPTIONAL = {
    "paraphrased_answer": "p",
    "perturbed_answer": ["w1", "w2"],
    "alternate_answer": ["o"],
    "paraphrased_question": ["q1", "q2"],
    "translated_question": ["t"],
}
READ = {
    "paraphrase": "p",
    "perturbed": ("w1", "w2"),
    "alternates": ("o",),
    "paraphrased_questions": ("q1", "q2"),
    "translated_questions": ("t",),
}


def as_cells(record):
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in record.items()}


def in_jsonl(records, folder):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def in_csv(records, folder):
    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(map(as_cells, records))
    return folder / "a.csv"


def in_parquet(records, folder):
    datasets.Dataset.from_list(records).to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def in_folder(records, folder):
    datasets.Dataset.from_list(records).with_format("torch").save_to_disk(folder / "rows")
    return folder / "rows"


def in_pandas_csv(records, folder):
    """Pandas writes lists as Python does."""
    pandas.DataFrame(records).to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def from_pandas(records, _):
    return [{n: np.array(v) if isinstance(v, list) else v for n, v in record.items()} for record in records]


def as_numpy(records, _):
    return datasets.Dataset.from_list(records).with_format("numpy")


def as_torch(records, _):
    return datasets.Dataset.from_list(records).with_format("torch")


def as_pandas(records, _):
    return datasets.Dataset.from_list(records).with_format("pandas")


KINDS = [in_jsonl, in_csv, in_parquet, in_folder, in_pandas_csv, from_pandas, as_numpy, as_torch, as_pandas]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_every_column_from_every_kind_of_file(tmp_path, layout, write):
    prompt = () if layout == "text" else (Message("user", "q"),)
    rows = load_rows(write([{**LAYOUTS[layout], **OPTIONAL}] * 2, tmp_path))
    assert rows == [Row(prompt, "a", **READ)] * 2


@pytest.mark.parametrize("blank", ["", " ", None, float("nan"), np.nan, pandas.NA, pandas.NaT])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_blank_cell_is_no_answer(layout, blank):
    plain = load_rows([LAYOUTS[layout]])
    assert load_rows([{**LAYOUTS[layout], **dict.fromkeys(OPTIONAL, blank)}]) == plain
    assert load_rows([{**LAYOUTS[layout], "alternate_answer": blank, "alternate": "o"}])[0].alternates == ("o",)


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ('["w1", "w2"]', ("w1", "w2")),
        ("['w1', \"it's\"]", ("w1", "it's")),
        ("[]", ()),
        ("w1, w2", ("w1, w2",)),
        ("[sic] w", ("[sic] w",)),
        ("NA", ("NA",)),
        ("null", ("null",)),
        ("1.0", ("1.0",)),
    ],
)
def test_a_list_in_a_cell_is_read_and_other_text_stays_as_it_is(cell, answers):
    assert load_rows([{"question": "q", "answer": "a", "perturbed_answer": cell}])[0].perturbed == answers


@pytest.mark.parametrize("cell", ["['w1' 'w2']", '["w1", "w2]', '["w1",]x]', '[null, "w"]'])
def test_a_list_in_a_cell_that_cannot_be_read_is_refused(cell):
    with pytest.raises(DataError, match=r"^Got a .* ?perturbed_answer in row 0 of"):
        load_rows([{"question": "q", "answer": "a", "perturbed_answer": cell}])


def test_alpaca_reads_input_system_and_history():
    record = {"instruction": "i", "input": "x", "output": "a", "system": "s", "history": [["q1", "a1"]]}
    turns = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "i\nx")]
    assert load_rows([record]) == [Row(tuple(Message(*turn) for turn in turns), "a")]


def test_what_is_read_under_another_name_is_said_in_one_line(caplog, tmp_path):
    path = in_jsonl(
        [{" Question ": "q", "ANSWER": "a", "Perturbed Answer": "w", "perturbed_answers": "w"}] * 3, tmp_path
    )
    assert load_rows(path) == [Row((Message("user", "q"),), "a", None, ("w",))] * 3
    assert caplog.messages == [
        f"{path}: Question is read as question; ANSWER is read as answer; Perturbed Answer is read as perturbed_answer."
    ]
    caplog.clear()
    load_rows([{**LAYOUTS["question"], "paraphrased_answers": "p"}])
    load_rows([LAYOUTS["ShareGPT"]])
    load_rows([LAYOUTS["Alpaca"]])
    load_rows([{**LAYOUTS["question"], **OPTIONAL, "id": 3}])
    assert caplog.messages == [
        "the given data set: paraphrased_answers is not read (did you mean paraphrased_answer? then --columns "
        "paraphrased_answer=paraphrased_answers).",
        "the given data set: conversations (from, value) are read as messages (ShareGPT).",
        "the given data set: instruction and input are read as the question, output as the answer (Alpaca).",
    ]


def test_columns_can_be_named(caplog):
    rows = [{"Q": "q", "a": "a", "answer": "other", "w": "w"}, {"Q": "q", "a": "a"}]
    columns = parse_columns("question=q, answer=a,perturbed_answer=w")
    prompt = (Message("user", "q"),)
    assert load_rows(rows, columns=columns) == [Row(prompt, "a", None, ("w",)), Row(prompt, "a")]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("question", "Got --columns question, but expected pairs of two different names"),
        ("question=", "Got --columns question=, but expected pairs"),
        ("", "Got --columns , but expected pairs"),
        ("question=a,question=b", "Got --columns question=a,question=b, but expected pairs"),
        ("questoin=a", "Got --columns with the name questoin on the left, but expected one of messages, question, "),
        (
            "question=z,answer=a",
            "Got --columns question=z, and no column z in the given data set, but expected one of its",
        ),
        ("question=q,answer=a,alternate=z", "Got --columns alternate=z, and no column z in the given data set"),
    ],
)
def test_columns_that_are_not_there_are_refused(text, says):
    with pytest.raises(EgupError) as caught:
        load_rows([{"q": "q", "a": "a"}], columns=parse_columns(text))
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"text": "a"}\n\n{"text": "b", "text": "c"}\n', "line 3"),
        ('[\n{"text": "a"},\n\n  {"text": "b",\n "text": "c"}]', "the item on line 4"),
        ('[{"messages": [{"role": "user", "text": "c", "text": "d"}]}]', "the item on line 1"),
    ],
)
def test_a_key_that_an_object_has_twice_is_named(tmp_path, text, where):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"^Got the key text twice in one object, in {where} of {tmp_path}/a.json, "):
        load_rows(tmp_path / "a.json")


def test_a_part_of_a_file_is_decoded_alone(tmp_path, monkeypatch):
    """79 KB of Parquet can hold millions of rows: of those only the first are decoded, and no set may have too many."""
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["a"] * 100_000}).to_parquet(path)
    assert load_rows(path, max_rows=2) == [Row((), "a")] * 2
    records = read_path(path)
    assert next(records) == {"text": "a"}
    monkeypatch.setattr("egup_trainer.data.sources.MAX_ROWS", 5000)
    with pytest.raises(DataError, match=r"^Got more than 5,000 rows, or 1,073,741,824 characters of them, in "):
        load_rows(path)
    monkeypatch.setattr("egup_trainer.data.sources.MAX_CHARACTERS", 7)
    with pytest.raises(DataError, match=r"or 7 characters of them, in .*\. Give a part of the rows"):
        load_rows(path)


def test_tensors_are_no_text():
    with pytest.raises(DataError, match=r"^Got a list as answer in row 0"):
        load_rows([{"question": "q", "answer": torch.zeros(0)}])
