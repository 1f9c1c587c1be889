"""What a user may name as rows, the layouts of a row, and the message for each row that cannot be used."""

import json
from pathlib import Path

import datasets
import pytest

from egup_trainer.data.layouts import to_row
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows, read_source
from egup_trainer.errors import DataError

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it
LAYOUTS = "the columns question + answer, prompt + completion, messages, conversations, instruction + output, or text"
RENAME = "Rename the columns, or say which is which, for example --columns question=NAME,answer=NAME"
TOFU_DIR = Path(__file__).resolve().parents[3] / "shared" / "data" / "tofu"
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}


def error_of(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    assert SECRET not in str(caught.value)
    return str(caught.value)


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
    ("record", "row"),
    [
        ({"question": "q", "answer": "a"}, Row((Message("user", "q"),), "a")),
        ({"prompt": "q", "completion": "a"}, Row((Message("user", "q"),), "a")),
        ({"question": " q\n", "answer": " a "}, Row((Message("user", " q\n"),), " a ")),  # text is left as it is
        ({"question": "q", "answer": "a", "paraphrased_answer": "p"}, Row((Message("user", "q"),), "a", "p")),
        ({"question": "q", "answer": "a", "paraphrased_answer": None}, Row((Message("user", "q"),), "a")),
        ({"question": "q", "answer": "a", "text": "t", "id": 3}, Row((Message("user", "q"),), "a")),
        (
            {"question": "q", "answer": "a", "paraphrased_answer": "p", "perturbed_answer": ["w1", " w2"]},
            Row((Message("user", "q"),), "a", "p", ("w1", " w2")),
        ),
        ({"question": "q", "answer": "a", "perturbed_answer": "w"}, Row((Message("user", "q"),), "a", None, ("w",))),
        ({"question": "q", "answer": "a", "perturbed_answer": None}, Row((Message("user", "q"),), "a")),
        ({"question": "q", "answer": "a", "perturbed_answer": []}, Row((Message("user", "q"),), "a")),
        ({"question": "q", "answer": ["a", "b", "c"]}, Row((Message("user", "q"),), "a", None, (), ("b", "c"))),
        ({"question": "q", "answer": ["a"]}, Row((Message("user", "q"),), "a")),
        (
            {"prompt": "q", "completion": ["a", "b"], "perturbed_answer": ["w"]},
            Row((Message("user", "q"),), "a", None, ("w",), ("b",)),
        ),
        ({"text": "t", "perturbed_answer": ["w"]}, Row((), "t", None, ("w",))),
        ({"question": "q", "text": "t"}, Row((), "t")),
        ({"text": "t"}, Row((), "t")),
        ({"messages": [USER, ASSISTANT]}, Row((Message("user", "q"),), "a")),
        ({"messages": [USER, ASSISTANT], "text": "t"}, Row((Message("user", "q"),), "a")),
        (
            {"messages": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "q2"}, ASSISTANT | {"content": "a2"}]},
            Row(
                (Message("system", "s"), Message("user", "q"), Message("assistant", "a"), Message("user", "q2")),
                "a2",
            ),
        ),
        (
            {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
            Row((Message("system", "s"), Message("user", "q")), "a"),
        ),
    ],
)
def test_each_layout_becomes_the_same_typed_row(record, row):
    assert to_row(record, "f", 0) == row


FILL_IN = "expected text. Fill in or remove that row."
A_ROLE = "expected a role among system, user, assistant. Repair that row."
A_LIST = 'expected a non-empty list of {"role": ..., "content": ...}. Repair that row.'
BAD_ROWS = [
    ({"question": SECRET, "answer": None}, f"Got a NoneType as answer in row 7 of f, but {FILL_IN}"),
    ({"question": SECRET, "answer": 12}, f"Got a int as answer in row 7 of f, but {FILL_IN}"),
    ({"question": SECRET, "answer": [SECRET, 3]}, f"Got a int as answer in row 7 of f, but {FILL_IN}"),
    ({"question": SECRET, "answer": []}, f"Got a list as answer in row 7 of f, but {FILL_IN}"),
    ({"question": SECRET, "answer": [None, SECRET]}, f"Got a NoneType as answer in row 7 of f, but {FILL_IN}"),
    ({"question": SECRET, "answer": [SECRET, " "]}, f"Got an empty answer in row 7 of f, but {FILL_IN}"),
    (
        {"question": SECRET, "answer": SECRET, "perturbed_answer": [SECRET, ""]},
        f"Got an empty perturbed_answer in row 7 of f, but {FILL_IN}",
    ),
    (
        {"question": SECRET, "answer": SECRET, "perturbed_answer": 0.5},
        f"Got a float as perturbed_answer in row 7 of f, but {FILL_IN}",
    ),
    (
        {"question": SECRET, "answer": SECRET, "perturbed_answer": [[SECRET]]},
        f"Got a list as perturbed_answer in row 7 of f, but {FILL_IN}",
    ),
    ({"question": SECRET, "answer": ""}, f"Got an empty answer in row 7 of f, but {FILL_IN}"),
    ({"question": SECRET, "answer": " \n\t"}, f"Got an empty answer in row 7 of f, but {FILL_IN}"),
    ({"question": None, "answer": SECRET}, f"Got a NoneType as question in row 7 of f, but {FILL_IN}"),
    ({"question": " ", "answer": SECRET}, f"Got an empty question in row 7 of f, but {FILL_IN}"),
    ({"prompt": SECRET, "completion": 0.5}, f"Got a float as completion in row 7 of f, but {FILL_IN}"),
    ({"prompt": [USER], "completion": SECRET}, f"Got a list as prompt in row 7 of f, but {FILL_IN}"),
    ({"text": None}, f"Got a NoneType as text in row 7 of f, but {FILL_IN}"),
    (
        {"question": SECRET, "answer": SECRET, "paraphrased_answer": ["p"]},
        f"Got a list as paraphrased_answer in row 7 of f, but {FILL_IN}",
    ),
    ({"question": SECRET}, f"Got the columns question in row 7 of f, but expected {LAYOUTS}. {RENAME}."),
    (
        {"question": SECRET, "Answer": SECRET, 3: SECRET},
        f"Got the columns 3, Answer, question in row 7 of f, but expected {LAYOUTS}. {RENAME}.",
    ),
    ({}, f"Got the columns none in row 7 of f, but expected {LAYOUTS}. {RENAME}."),
    ({"messages": []}, f"Got a list as messages in row 7 of f, but {A_LIST}"),
    ({"messages": SECRET}, f"Got a str as messages in row 7 of f, but {A_LIST}"),
    ({"messages": None}, f"Got a NoneType as messages in row 7 of f, but {A_LIST}"),
    (
        {"messages": [{"role": "tool", "content": SECRET}, ASSISTANT]},
        f"Got a message of role tool in row 7 of f, but {A_ROLE}",
    ),
    ({"messages": [{"by": "human", "value": SECRET}]}, f"Got a message of role None in row 7 of f, but {A_ROLE}"),
    ({"messages": [USER, ASSISTANT | {"content": None}]}, f"Got a NoneType as content in row 7 of f, but {FILL_IN}"),
    ({"messages": [USER, ASSISTANT | {"content": "  "}]}, f"Got an empty content in row 7 of f, but {FILL_IN}"),
    ({"messages": [USER, {"role": "assistant"}]}, f"Got a NoneType as content in row 7 of f, but {FILL_IN}"),
    (
        {"messages": [ASSISTANT, {"role": "user", "content": SECRET}]},
        "Got a last message of role user in row 7 of f, but expected role assistant: the last message is the answer "
        "that "
        "is scored. Repair that row.",
    ),
    (
        {"prompt": [USER], "completion": [{"role": "user", "content": SECRET}]},
        "Got a last message of role user in row 7 of f, but expected role assistant: the last message is the answer "
        "that "
        "is scored. Repair that row.",
    ),
]


@pytest.mark.parametrize(("record", "message"), BAD_ROWS)
def test_a_bad_row_is_named_by_number_and_never_quoted(record, message):
    assert error_of(to_row, record, "f", 7) == message


def test_a_long_role_is_not_repeated():
    # Role and content swapped: the role is the row's text.
    error_of(to_row, {"messages": [{"role": f"I was born in {SECRET}.", "content": "user"}]}, "f", 7)


def test_a_csv_file_without_a_header_is_refused_without_quoting_its_first_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"Where was Ada born?,In {SECRET}.\nWho?,Bo.\n")
    error_of(load_rows, path)


def test_rows_of_a_file_are_counted_from_zero_and_the_file_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "{SECRET}"}}\n\n{{"text": ""}}\n')
    assert error_of(load_rows, path) == f"Got an empty text in row 1 of {path}, but {FILL_IN}"
    assert error_of(load_rows, str(path)) == f"Got an empty text in row 1 of {path}, but {FILL_IN}"


@pytest.mark.parametrize("rows", [[], (), iter([])])
def test_no_rows_are_refused(rows):
    assert error_of(load_rows, rows) == (
        "Got no rows in the given data set, but expected at least one row. Check the source."
    )


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.touch()
    assert error_of(load_rows, path) == f"Got no rows in {path}, but expected at least one row. Check the source."


@pytest.mark.parametrize("kind", [list, iter, datasets.Dataset.from_list])
def test_any_iterable_of_mappings_serves(kind):
    rows = kind([{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}])
    assert load_rows(rows) == [Row((Message("user", "q1"),), "a1"), Row((Message("user", "q2"),), "a2")]


def test_a_dict_of_splits_is_refused_by_the_name_of_its_splits():
    # What datasets.load_dataset gives when no split is named.
    rows = datasets.Dataset.from_list([{"text": SECRET}])
    message = error_of(load_rows, datasets.DatasetDict(train=rows, test=rows))
    assert "train, test" in message


@pytest.mark.parametrize("text", [SECRET, f"the text of a question and its answer {SECRET}"])
def test_plain_strings_are_not_rows(text):
    assert "a str" in error_of(load_rows, [text])


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:config", ("owner/name", "config", "train")),
        ("owner/name:config:test", ("owner/name", "config", "test")),
        ("Owner-1/na_me.v2:a-b:train[:10]", None),  # a third colon: no hub id
        ("tofu:forget10", ("locuslab/TOFU", "forget10", "train")),
    ],
)
def test_a_hub_id_names_config_and_split(hub, source, call):
    if call is None:
        error_of(load_rows, source)
        assert hub == []
    else:
        assert load_rows(source) == [Row((), "from the hub")]
        assert hub == [call]


def test_records_of_a_source_are_left_as_they_are(hub, tmp_path):
    """For layouts that are no rows yet, such as MUSE's verbatim texts."""
    record = {"prompt": "p", "gt": "g"}
    for name in ("a.jsonl", "tofu.json"):
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    assert read_source(str(tmp_path / "a.jsonl")) == [record]
    assert read_source("tofu:tofu", tmp_path) == [record]
    hub.rows = [record, {"prompt": None, "gt": ""}]
    assert read_source("owner/name:verbmem:forget") == hub.rows
    assert hub == [("owner/name", "verbmem", "forget")]
    (tmp_path / "none.jsonl").touch()
    assert read_source(str(tmp_path / "none.jsonl")) == []
    assert error_of(read_source, str(tmp_path / "no.jsonl")).startswith("Got no readable file at ")


def test_rows_of_the_hub_are_named_by_the_hub_id(hub):
    hub.rows = [{"text": SECRET}, {"text": " "}]
    assert error_of(load_rows, "owner/name:c") == f"Got an empty text in row 1 of owner/name:c, but {FILL_IN}"


@pytest.mark.parametrize("error", [ConnectionError(SECRET), ValueError(SECRET), KeyError(SECRET)])
def test_a_hub_that_fails_is_named_with_the_kind_of_error(hub, error):
    hub.error = error
    assert error_of(load_rows, "owner/name:c:test") == (
        f"Got no data for owner/name (config c, split test): {type(error).__name__}, but "
        "expected a local path, or a hub id as owner/name[:config[:split]] that can be reached. "
        "Check the name and the network, or give a local file."
    )


def test_an_unknown_tofu_name_without_data_dir_is_asked_of_the_hub(hub):
    hub.error = ValueError("BuilderConfig not found")
    assert error_of(load_rows, "tofu:forget77") == (
        "Got no data for locuslab/TOFU (config forget77, split train): ValueError, but "
        "expected a local path, or a hub id as owner/name[:config[:split]] that can be reached. "
        "Check the name and the network, or give a local file."
    )


def test_a_file_that_is_missing_is_not_looked_for_on_the_hub(hub):
    assert error_of(load_rows, "owner/forget.json").startswith("Got no readable file at owner/forget.json (No such")
    assert hub == []


def test_a_local_folder_goes_before_a_hub_id_of_the_same_name(hub, tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_list([{"text": "local"}]).save_to_disk("owner/name")
    assert load_rows("owner/name") == [Row((), "local")]
    assert hub == []


def test_tofu_with_a_data_dir_reads_the_file_of_that_name(hub, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    assert load_rows("tofu:mine", data_dir=tmp_path) == [Row((Message("user", "q"),), "a")]
    assert load_rows("tofu:mine", data_dir=str(tmp_path)) == [Row((Message("user", "q"),), "a")]
    assert hub == []


def test_an_unknown_tofu_name_lists_the_files_at_hand(tmp_path):
    for name in ("retain90.json", "forget10.json", "notes.txt"):
        (tmp_path / name).touch()
    assert error_of(load_rows, "tofu:forget11", data_dir=tmp_path) == (
        f"Got tofu:forget11, for which {tmp_path} has no file, but expected one of: forget10, retain90. Check "
        "--data_dir."
    )


def test_a_data_dir_without_tofu_files_says_so(tmp_path):
    assert error_of(load_rows, "tofu:forget10", data_dir=tmp_path / "absent") == (
        f"Got tofu:forget10, for which {tmp_path}/absent has no file, but expected one of: no .json file. Check "
        "--data_dir."
    )


def test_a_tofu_name_cannot_leave_the_data_dir(tmp_path):
    (tmp_path / "secret.json").write_text('{"text": "outside"}')
    (tmp_path / "inside").mkdir()
    assert "has no file" in error_of(load_rows, "tofu:../secret", data_dir=tmp_path / "inside")


@pytest.mark.parametrize(
    ("forget", "retain", "size"),
    [("forget01", "retain99", 40), ("forget05", "retain95", 200), ("forget10", "retain90", 400)],
)
def test_forget_and_retain_rows_of_tofu_make_up_the_full_set(tofu, forget, retain, size):
    parts = {name: load_rows(f"tofu:{name}", data_dir=TOFU_DIR) for name in (forget, retain) if tofu(name)}
    assert len(parts[forget]) == size
    assert parts[retain] + parts[forget] == load_rows(tofu("full"))


def test_tofu_rows_carry_their_paraphrase(tofu):
    first = load_rows(tofu("forget10_perturbed"))[0]
    assert first.answer == "The author's full name is Hsiao Yun-Hwa."
    assert first.paraphrase == "Hsiao Yun-Hwa is the complete name of the writer."
    assert [row.paraphrase for row in load_rows(tofu("world_facts_perturbed"))] == [None] * 117


def test_tofu_rows_carry_their_wrong_answers(tofu):
    first = load_rows(tofu("forget10_perturbed"))[0]
    assert len(first.perturbed) == 5
    assert first.perturbed == tuple(tofu("forget10_perturbed")[0]["perturbed_answer"])
    assert {len(row.perturbed) for row in load_rows(tofu("real_authors_perturbed"))} == {3}
    assert {row.perturbed for row in load_rows(tofu("forget10"))} == {()}
    assert {row.alternatives for row in load_rows(tofu("retain_perturbed"))} == {()}
