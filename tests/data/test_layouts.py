"""Every layout of a row, from every kind of file; columns under other names; the error for each row of no use."""

import csv
import json

import datasets
import numpy as np
import pandas
import pytest
import torch

from egup_trainer.data.layouts import parse_columns, to_row
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import DataError, EgupError

SECRET = "XYZZYSECRET"  # occurs only in rows: no message may repeat it
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
Q = (Message("user", "q"),)
CALL = {"function": {"name": "look_up", "arguments": {"town": SECRET}}}
LAYOUTS = {
    "question": {"question": "q", "answer": "a"},
    "prompt": {"prompt": "q", "completion": "a"},
    "chat": {"messages": [USER, ASSISTANT]},
    "prompt as a list": {"prompt": [USER], "completion": [ASSISTANT]},
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


def in_jsonl(records, folder):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def in_csv(records, folder):
    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        for record in records:
            writer.writerow({name: v if isinstance(v, str) else json.dumps(v) for name, v in record.items()})
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


def in_format(name):
    return lambda records, _: datasets.Dataset.from_list(records).with_format(name)


KINDS = [in_jsonl, in_csv, in_parquet, in_folder, in_pandas_csv, from_pandas, *map(in_format, ("torch", "pandas"))]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_every_column_from_every_kind_of_file(tmp_path, layout, write):
    prompt = {"text": (), "prompt": (Message(WRITTEN, "q"),)}.get(layout, Q)
    rows = load_rows(write([{**LAYOUTS[layout], **OPTIONAL}] * 2, tmp_path))
    assert rows == [Row(prompt, "a", **READ)] * 2


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"question": " q\n", "answer": " a "}, Row((Message("user", " q\n"),), " a ")),  # text is left as it is
        ({"question": "q", "answer": "a", "text": "t", "id": 3}, Row(Q, "a")),
        ({"question": "q", "answer": "a", "perturbed_answer": "w"}, Row(Q, "a", None, ("w",))),
        ({"question": "q", "answer": "a", "perturbed_answer": []}, Row(Q, "a")),
        ({"question": "q", "answer": ["a", "b", "c"]}, Row(Q, "a", alternatives=("b", "c"))),
        ({"question": "q", "answer": ["a"]}, Row(Q, "a")),
        (
            {"prompt": "q", "completion": ["a", "b"], "perturbed_answer": ["w"]},
            Row((Message(WRITTEN, "q"),), "a", None, ("w",), ("b",)),
        ),
        ({"question": "q", "text": "t"}, Row((), "t")),
        # Datasets write the keys that other turns have as null.
        ({"messages": [USER, ASSISTANT | {"tool_calls": None, "reasoning_content": ""}], "tools": []}, Row(Q, "a")),
        (
            {"messages": [USER | {"content": [{"type": "text", "text": t} for t in "q "]}, ASSISTANT]},
            Row((Message("user", "q "),), "a"),
        ),
        ({"messages": [USER, ASSISTANT], "text": "t"}, Row(Q, "a")),
        (
            {"messages": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "q2"}, ASSISTANT | {"content": "a2"}]},
            Row((Message("system", "s"), *Q, Message("assistant", "a"), Message("user", "q2")), "a2"),
        ),
        ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, Row((Message("system", "s"), *Q), "a")),
        (
            {"instruction": "i", "input": "x", "output": "a", "system": "s", "history": [["q", "a"]]},
            Row((Message("system", "s"), *Q, Message("assistant", "a"), Message("user", "i\nx")), "a"),
        ),
    ],
)
def test_each_layout_becomes_the_same_typed_row(record, row):
    assert to_row(record, "f", 0) == row


BAD_ROWS = [  # and more in tests/bad_input/test_data_files.py
    ({"question": SECRET, "answer": None}, "a NoneType as answer"),
    ({"question": SECRET, "answer": 12}, "a int as answer"),
    ({"question": SECRET, "answer": [SECRET, 3]}, "a int as answer"),
    ({"question": SECRET, "answer": []}, "a list as answer"),
    ({"question": SECRET, "answer": [SECRET, " "]}, "an empty answer"),
    ({"question": SECRET, "answer": torch.zeros(0)}, "a list as answer"),
    ({"question": SECRET, "answer": SECRET, "perturbed_answer": [SECRET, ""]}, "an empty perturbed_answer"),
    ({"question": SECRET, "answer": SECRET, "perturbed_answer": 0.5}, "a float as perturbed_answer"),
    ({"question": SECRET, "answer": SECRET, "perturbed_answer": [[SECRET]]}, "a list as perturbed_answer"),
    ({"question": SECRET, "answer": SECRET, "alternate_answer": [3]}, "a int as alternate_answer"),
    ({"question": None, "answer": SECRET}, "a NoneType as question"),
    ({"prompt": SECRET, "completion": 0.5}, "a float as completion"),
    ({"prompt": [USER], "completion": SECRET}, "a list as prompt"),
    ({"text": None}, "a NoneType as text"),
    ({"question": SECRET, "answer": SECRET, "paraphrased_answer": ["p"]}, "a list as paraphrased_answer"),
    ({"question": SECRET, "Answer": SECRET, 3: SECRET}, "the columns 3, Answer, question"),
    ({}, "the columns none"),
    ({"messages": [{"role": "tool", "content": SECRET}, ASSISTANT]}, "a message of role tool"),
    ({"messages": [{"by": "human", "value": SECRET}]}, "a message of role None"),
    ({"messages": [USER, ASSISTANT | {"content": None}]}, "a NoneType as content"),
    ({"messages": [USER, ASSISTANT | {"content": "  "}]}, "an empty content"),
    ({"prompt": [USER], "completion": [{"role": "user", "content": SECRET}]}, "a last message of role user"),
    ({"instruction": SECRET, "output": SECRET, "history": [[SECRET]]}, "a history"),
]


@pytest.mark.parametrize(("record", "got"), BAD_ROWS)
def test_a_bad_row_is_named_by_number_and_never_quoted(record, got):
    with pytest.raises(DataError) as caught:
        to_row(record, "f", 7)
    assert caught.value.got.startswith(got)
    assert "row 7 of f" in caught.value.got
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "got"),
    [
        ({"messages": [USER, ASSISTANT], "tools": [CALL]}, "tools in row 7 of f"),
        ({"messages": [USER, ASSISTANT | {"content": None, "tool_calls": [CALL]}]}, "tool_calls in row 7 of f"),
        ({"messages": [USER, ASSISTANT | {"reasoning_content": SECRET}]}, "reasoning_content in row 7 of f"),
        ({"messages": [USER, ASSISTANT | {"thinking": SECRET}, USER, ASSISTANT]}, "thinking in row 7 of f"),
        ({"prompt": [USER], "completion": [ASSISTANT | {"tool_calls": [CALL]}]}, "tool_calls in row 7 of f"),
        ({"conversations": LAYOUTS["ShareGPT"]["conversations"], "tools": SECRET}, "tools in row 7 of f"),
        ({"messages": [USER, ASSISTANT], "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs in row 7 of f"),
    ],
)
def test_what_no_row_can_hold_of_a_chat_is_refused(record, got):
    with pytest.raises(DataError) as caught:
        to_row(record, "f", 7)
    assert str(caught.value) == (
        f"Got {got}, but expected turns that hold only text. Write that row out as the model reads it, as prompt and "
        "completion (docs/data.md shows how)."
    )


@pytest.mark.parametrize(
    ("part", "types"),
    [
        ({"type": "image_url", "image_url": SECRET}, "image_url, text"),
        (SECRET, "str, text"),
        ({"type": "text", "text": None}, "text"),
    ],
)
def test_parts_of_a_content_that_are_not_text_are_refused(part, types):
    with pytest.raises(DataError) as caught:
        to_row({"messages": [USER | {"content": [{"type": "text", "text": SECRET}, part]}, ASSISTANT]}, "f", 7)
    assert str(caught.value) == (
        f"Got a content of parts of the type {types} in row 7 of f, but expected text, or parts of the type text: "
        '[{"type": "text", "text": "..."}]. Remove that row, or its other parts.'
    )


@pytest.mark.parametrize("blank", ["", " ", None, float("nan"), np.nan, pandas.NA, pandas.NaT])
@pytest.mark.parametrize("layout", ["question", "chat", "text"])
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
        ("['w1' 'w2']", None),
        ('["w1", "w2]', None),
        ('["w1",]x]', None),
        ('[null, "w"]', None),
    ],
)
def test_a_list_in_a_cell_is_read_or_refused_and_other_text_stays_as_it_is(cell, answers):
    record = {"question": "q", "answer": "a", "perturbed_answer": cell}
    if answers is None:
        with pytest.raises(DataError, match="perturbed_answer in row 0 of"):
            load_rows([record])
    else:
        assert load_rows([record])[0].perturbed == answers


# Names of columns


def test_what_is_read_under_another_name_is_reported_in_one_line(caplog, tmp_path):
    record = {" Question ": "q", "ANSWER": "a", "Perturbed Answer": "w", "perturbed_answers": "w"}
    path = in_jsonl([record] * 3, tmp_path)
    assert load_rows(path) == [Row(Q, "a", None, ("w",))] * 3
    assert caplog.messages == [
        f"{path}: Question is read as question; ANSWER is read as answer; Perturbed Answer is read as perturbed_answer."
    ]
    caplog.clear()
    load_rows([{**LAYOUTS["question"], "paraphrased_answers": "p"}])
    load_rows([LAYOUTS["ShareGPT"]])
    load_rows([LAYOUTS["Alpaca"]])
    load_rows([{**LAYOUTS["question"], **OPTIONAL, "id": 3}])
    assert len(caplog.messages) == 3
    for message, says in zip(
        caplog.messages, ["--columns paraphrased_answer=paraphrased_answers", "(ShareGPT)", "(Alpaca)"], strict=True
    ):
        assert says in message


def test_columns_can_be_named(caplog):
    rows = [{"Q": "q", "a": "a", "answer": "other", "w": "w"}, {"Q": "q", "a": "a"}]
    columns = parse_columns("question=q, answer=a,perturbed_answer=w")
    assert load_rows(rows, columns=columns) == [Row(Q, "a", None, ("w",)), Row(Q, "a")]
    assert len(caplog.messages) == 1


def test_a_file_whose_columns_have_the_names_that_are_read_needs_no_others(caplog):
    """One file has the user's names and another, such as proxies that the model wrote, the usual ones."""
    rows = load_rows([{"question": "q", "answer": "a"}], columns=parse_columns("question=prompt text,answer=reply"))
    assert rows == [Row(Q, "a")]
    assert caplog.messages == [
        "the given data set: question is read as it is, without a column prompt text; answer is read as it is, without "
        "a column reply."
    ]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("question", "--columns question"),
        ("question=", "--columns question="),
        ("", "--columns "),
        ("question=a,question=b", "--columns question=a,question=b"),
        ("questoin=a", "--columns with the name questoin on the left"),
        ("question=z,answer=a", "--columns question=z, and no column z in the given data set"),
        ("question=q,answer=a,alternate=z", "--columns alternate=z, and no column z in the given data set"),
    ],
)
def test_columns_that_are_not_there_are_refused(text, got):
    with pytest.raises(EgupError) as caught:
        load_rows([{"q": "q", "a": "a"}], columns=parse_columns(text))
    assert caught.value.got == got


def test_other_answers_after_a_prompt_that_is_written_out_begin_as_the_answer_does():
    """They would otherwise be glued to the prompt, and made of other tokens."""
    others = {"paraphrased_answer": "p", "perturbed_answer": ["w", "\nv"], "alternate_answer": "o"}
    row = to_row({"prompt": "Q: Who?\nA:", "completion": " a", **others}, "rows", 0)
    assert (row.paraphrase, row.perturbed, row.alternates) == (" p", (" w", "\nv"), (" o",))
    for record in ({"prompt": "Q:", "completion": "a"}, {"question": "q", "answer": " a"}):
        row = to_row({**record, **others}, "rows", 0)
        assert (row.paraphrase, row.perturbed, row.alternates) == ("p", ("w", "\nv"), ("o",))


@pytest.mark.parametrize("name", LAYOUTS)
def test_columns_without_a_value_are_no_layout(name):
    """As in sets of several layouts that were joined."""
    empty = {column: None for layout in LAYOUTS.values() for column in layout if column not in LAYOUTS[name]}
    assert to_row({**empty, **LAYOUTS[name]}, "rows", 0) == to_row(LAYOUTS[name], "rows", 0)


def test_a_row_without_a_whole_layout_says_which_value_is_missing():
    with pytest.raises(DataError, match="as messages in row 0 of rows"):
        to_row({"messages": None, "question": "q"}, "rows", 0)


def test_rows_that_the_package_has_written_are_read_by_its_own_names(tmp_path):
    """A run whose rows have other names reads its written proxies with the same columns."""
    file = tmp_path / "proxies.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": "a", "writer": "m", "seed": 0}) + "\n")
    for columns in ({"messages": "chat"}, {"question": "frage", "perturbed_answer": "wrong"}):
        assert load_rows(str(file), columns=columns) == [Row(Q, "a")]
    file.write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    with pytest.raises(DataError, match="no column chat in"):
        load_rows(str(file), columns={"messages": "chat"})


def test_a_column_named_writer_alone_is_the_users(tmp_path):
    file = tmp_path / "books.jsonl"
    file.write_text(json.dumps({"writer": "Someone", "q": "q", "Answer": "a"}) + "\n")
    assert load_rows(str(file), columns={"question": "q"}) == [Row(Q, "a")]


def test_a_row_whose_answer_alone_is_missing_is_no_plain_text():
    """Its prompt would be scored."""
    for columns in (("prompt", "completion"), ("question", "answer"), ("instruction", "output")):
        record = dict(zip(columns, ("q", None), strict=True))
        with pytest.raises(DataError, match=f"NoneType as {columns[1]} in row 0 of rows"):
            to_row({**record, "text": "whole"}, "rows", 0)


def test_an_answer_alone_is_no_chat():
    """It would be read as a plain text, without the chat template and its end."""
    with pytest.raises(DataError, match="an answer without a turn before it in row 0 of rows"):
        to_row({"messages": [ASSISTANT]}, "rows", 0)


@pytest.mark.parametrize("empty", ["[]", " [ ]", [], None, ""])
def test_empty_tools_are_no_tools(empty):
    assert to_row({"messages": [USER, ASSISTANT], "tools": empty}, "rows", 0) == Row(Q, "a")
    with pytest.raises(DataError, match="tools"):
        to_row({"messages": [USER, ASSISTANT], "tools": "[{}]"}, "rows", 0)


@pytest.mark.parametrize("blank", ["", " ", float("nan"), pandas.NA])
def test_columns_of_other_layouts_that_are_blank_are_no_layout(blank):
    """As a CSV file and `pandas.concat` leave them."""
    assert to_row({"question": blank, "answer": blank, "text": "t"}, "rows", 0) == Row((), "t")
    assert to_row({"messages": blank, "question": "q", "answer": "a"}, "rows", 0) == Row(Q, "a")
    with pytest.raises(DataError, match=r"(a \w+ as|an empty) answer in row 0"):
        to_row({"question": "q", "answer": blank, "text": "t"}, "rows", 0)


def test_an_empty_system_turn_is_kept():
    """It keeps a chat template from writing a system prompt of its own, as that of Qwen 2.5 does."""
    system = {"role": "system", "content": ""}
    assert to_row({"messages": [system, USER, ASSISTANT]}, "f", 7).prompt[0] == Message("system", "")
    turns = [{"from": "system", "value": ""}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert to_row({"conversations": turns}, "f", 7) == Row((Message("system", ""), *Q), "a")
