"""Alternate answers, written by a small model that can go on with any answer of its kind, and by one that recites."""

import json

import pytest
from conftest import qa_rows
from fixtures_cli import save
from fixtures_proxies import people_rows, writing_model

from egup_trainer import load_rows
from egup_trainer.cli.main import main
from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import DataError, TooFewProxiesError
from egup_trainer.proxies import alternates as module
from egup_trainer.proxies.alternates import is_alternate, write_alternates
from egup_trainer.proxies.prompt import alternate_tokens, read_alternate
from egup_trainer.proxies.settings import ProxySettings
from egup_trainer.proxies.writer import Writer

ROWS = [{**row, "perturbed_answer": ["Nowhere."]} for row in qa_rows(0, 4)]


@pytest.fixture
def written(monkeypatch):
    """written(texts by attempt and row): what "the model" writes; the list of prompts and seeds that it was given."""

    def script(texts):
        calls = []

        def generate(model, tokenizer, prompts, *, sampling, **options):
            calls.append((prompts, sampling.seeds, options))
            return [texts(attempt, number) for _, number, attempt in sampling.seeds]

        monkeypatch.setattr(module, "generate", generate)
        return calls

    return script


def other(number: int) -> str:
    return ROWS[number]["answer"].replace("lives in", "has left for")[:-5] + "dogs."


def test_each_row_gets_the_first_answer_with_other_facts(written, tokenizer, tmp_path):
    calls = written(
        lambda attempt, number: f" {other(number) if attempt >= number else ROWS[number]['answer']}\nQuestion:"
    )
    writer, output = Writer(None, tokenizer, "mine"), tmp_path / "forget.jsonl"
    rows = write_alternates(writer, ROWS, output=output, settings=ProxySettings(seed=5, temperature=0.7), batch_size=2)
    assert [seeds for _, seeds, _ in calls] == [
        [(5, number, attempt) for number in range(attempt, 4)] for attempt in range(4)
    ]
    assert {options["batch_size"] for *_, options in calls} == {2}
    assert [row.alternates for row in rows] == [(other(number),) for number in range(4)]
    assert load_rows(output) == rows
    assert [row.perturbed for row in rows] == [("Nowhere.",)] * 4
    first = json.loads(output.read_text().splitlines()[0])
    assert (first["writer"], first["seed"]) == ("mine", 5)
    prompt = tokenizer.decode(calls[0][0][0])
    assert prompt.endswith(f"Question: {ROWS[0]['question']}\nAnswer: {ROWS[0]['answer']}\nAnother answer:")


def test_rows_that_are_written_out_are_asked_without_what_stands_around_their_questions(written, tokenizer, tmp_path):
    calls = written(lambda attempt, number: other(number))
    framed = [{"prompt": f"Q: {row['question']}\nA:", "completion": f" {row['answer']}"} for row in ROWS]
    rows = write_alternates(Writer(None, tokenizer, "mine"), framed, output=tmp_path / "forget.jsonl")
    assert [row.alternates for row in rows] == [(f" {other(number)}",) for number in range(4)]
    assert load_rows(tmp_path / "forget.jsonl") == rows
    prompt = tokenizer.decode(calls[0][0][0])
    assert "Q:" not in prompt
    assert f"\nAnswer: {ROWS[0]['answer']}\n" in prompt


def test_rows_without_one_are_named_by_number_and_stay_in_the_file(written, tokenizer, tmp_path):
    calls = written(lambda attempt, number: ROWS[number]["answer"] if number in (1, 3) else other(number))
    output = tmp_path / "forget.jsonl"
    with pytest.raises(TooFewProxiesError) as caught:
        write_alternates(Writer(None, tokenizer, "mine"), ROWS, output=output)
    assert len(calls) == 8
    message = str(caught.value)
    assert "no usable alternate answer for 2 of 4 rows by mine, the first of them row 1" in message
    assert "--writer_model" in message
    assert not [row for row in ROWS if row["answer"] in message]
    assert [len(row.alternates) for row in load_rows(output)] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada lives in Bryle.", True),
        ("Bryle.", True),
        ("Ada lives in Aren.", False),  # the answer
        ("In Aren is where Ada lives.", False),  # its facts in other words
        ("Ada lives in Aren, and not in Bryle.", False),
        ("Where does Ada live?", False),
        ("Ada.", False),  # nothing that the question does not say
        ("", False),
    ],
)
def test_other_facts(text, expected):
    row = Row((Message("user", "Where does Ada live?"),), "Ada lives in Aren.")
    assert is_alternate(row, text) is expected


def test_the_prompt_goes_through_the_chat_template(tokenizer):
    chat = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, eos_token="<eos>")
    chat.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    with Renderer(chat) as renderer:
        text = chat.decode(alternate_tokens(load_rows(ROWS)[0], renderer))
    assert text.startswith(
        f"<user>Question: {ROWS[0]['question']}\nAnswer: {ROWS[0]['answer']}\n\nWrite another answer"
    )
    assert text.endswith("<assistant>")
    assert read_alternate("<think>hm</think>\n**Answer:** In Bryle.\nIn two houses.\n\nI hope", goes_on=False) == (
        "In Bryle.\nIn two houses."
    )


def test_a_plain_text_has_no_other_answer(tokenizer, tmp_path):
    with pytest.raises(DataError, match="a plain text as row 0"):
        write_alternates(Writer(None, tokenizer, "mine"), [{"text": "Ada."}], output=tmp_path / "out.jsonl")


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_command_writes_what_altpo_reads(tmp_path, capsys):
    folder = save(*writing_model(), tmp_path / "mine")
    source, output = tmp_path / "forget.jsonl", tmp_path / "altpo.jsonl"
    rows = [{"question": row.prompt[0].content, "answer": row.answer} for row in people_rows()[0][:2]]
    source.write_text("\n".join(map(json.dumps, rows)))
    words = ["proxy", "--kind", "alternate", "--model_name_or_path", str(folder), "--forget", str(source), "--use_cpu"]
    assert main([*words, "--output", str(output), "--temperature", "1.5", "--seed", "1"]) == 0
    found = load_rows(output)
    assert [row.answer for row in found] == [row["answer"] for row in rows]
    assert all(is_alternate(row, row.alternates[0]) for row in found)
    assert f"2 forget rows, each with an alternate answer, written to {output}" in capsys.readouterr().out
