"""What a model is asked with, and what is read from what it writes."""

import copy

import pytest
from conftest import qa_rows
from fixtures_evaluation import chat_tokenizer

from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import DataError, UnaskableRowsError
from egup_trainer.proxies.prompt import (
    Kind,
    alternate_tokens,
    examples_of,
    passages,
    prompt_tokens,
    read_row,
    sample_examples,
    tidy,
)

QA, TEXT = Kind(None, True), Kind(None, False)
ADA, BO = (Row((Message("user", f"Who is {name}?"),), f"{name} bakes.") for name in ("Ada", "Bo"))


@pytest.mark.parametrize(
    ("rows", "in_chat", "start", "end"),
    [
        (
            [ADA, BO],
            False,
            "Questions and answers of one kind, each about something else.\n\nQuestion: Who is Ada?\nAnswer: Ada bakes."
            "\n\nQuestion: Who is Bo?\n",
            "Answer: Bo bakes.\n\nQuestion:",
        ),
        (
            [Row((), "Ada bakes.\n\n\nShe sings."), Row((), "Bo  sleeps.")],
            False,
            "Passages of one kind, each about something else.\n\nPassage: Ada bakes.\nShe sings.\n\n",
            "Passage: Bo sleeps.\n\nPassage:",
        ),
        (
            [ADA],
            True,
            "<user> Question: Who is Ada?\nAnswer: Ada bakes.\n\nWrite one more question with its answer of the same",
            "Question: ...\nAnswer: ...\n<assistant> ",
        ),
        ([Row((), "Bo.")], True, "<user> Passage: Bo.\n\nWrite one more passage", "Passage: ...\n<assistant> "),
    ],
    ids=["questions", "texts", "questions in chat", "texts in chat"],
)
def test_prompts(tokenizer, rows, in_chat, start, end):
    with Renderer(chat_tokenizer(tokenizer) if in_chat else tokenizer) as renderer:
        text = tokenizer.decode(prompt_tokens(examples_of(rows), renderer))
    assert text.startswith(start)
    assert text.endswith(end)


def test_examples_are_a_pure_function_of_seed_and_attempt():
    examples = examples_of(load_rows(qa_rows(0, 30)))
    chosen = sample_examples(examples, 4, 7, 2)
    assert chosen == sample_examples(examples, 4, 7, 2)
    assert len(set(chosen)) == 4
    assert all(sample_examples(examples, 4, *key) != chosen for key in ((7, 3), (8, 2), (72, 0)))
    assert {sample_examples(examples, 1, 0, attempt)[0] for attempt in range(400)} == set(examples)
    assert sorted(map(str, sample_examples(examples[:3], 9, 0, 0))) == sorted(map(str, examples[:3]))


def test_rows_of_different_kinds_are_never_in_one_prompt():
    system = Row((Message("system", "Be brief."), *ADA.prompt), "Bakes.")
    examples = examples_of([ADA, BO, system, Row((), "Ada bakes."), Row((), "Bo sleeps.")])
    kinds = [{example.kind for example in sample_examples(examples, 4, 0, attempt)} for attempt in range(50)]
    assert {len(each) for each in kinds} == {1}
    assert set.union(*kinds) == {QA, TEXT, Kind("Be brief.", True)}


def test_conversations_are_refused_without_their_text():
    row = Row((Message("user", "SECRET?"), Message("assistant", "SECRET."), Message("user", "And?")), "SECRET")
    with pytest.raises(DataError, match=r"3 turns \(user, assistant, user\) .* in row 1 of the forget set") as error:
        examples_of([ADA, row])
    assert "SECRET" not in str(error.value)


def test_rows_that_are_written_out_are_no_conversations():
    row = Row((Message(WRITTEN, "Q: Who?\nA:"),), " Bo.")
    with pytest.raises(UnaskableRowsError, match=r"a prompt that is written out before the answer in row 1"):
        examples_of([ADA, row])


CLEO = Row((Message("user", "Who?"),), "Cleo.")


@pytest.mark.parametrize(
    ("text", "kind", "goes_on", "row"),
    [
        (" Who?\nAnswer: Cleo.", QA, True, CLEO),
        (" Who?\n\nAnswer:\nCleo\nbakes.\n", QA, True, Row(CLEO.prompt, "Cleo\nbakes.")),
        (" Who?\nAnswer: Cleo.\n\nQuestion: And?\nAnswer: Dov.", QA, True, CLEO),
        (" Who?\nAnswer: Cleo.\nQuestion: And", QA, True, CLEO),
        (" Who?\nAnswer: Cleo.\n \nThis was it.", QA, True, CLEO),
        ("Question: Who?\nAnswer: Cleo.", QA, False, CLEO),
        ("Sure! Here it is:\n\n**Question:** Who?\n**Answer:** Cleo.", QA, False, CLEO),
        ("<think>Question: no?\nAnswer: no.</think>\n\nQuestion: Who?\nAnswer: Cleo.", QA, False, CLEO),
        ("Hm, Question: no?\nAnswer: no.</think>\n\nQuestion: Who?\nAnswer: Cleo.", QA, False, CLEO),  # as R1 does
        ("## Question: Who?\n\n## Answer: Cleo.\n\n## Question: Next?\n## Answer: Dov.", QA, False, CLEO),
        (" Cleo sleeps. She dreams. Then sh", TEXT, True, Row((), "Cleo sleeps. She dreams.")),
        (" Cleo sleeps.\n\nPassage: Dov.", TEXT, True, Row((), "Cleo sleeps.")),
        ("Passage: Cleo sleeps", TEXT, False, Row((), "Cleo sleeps")),
        (" Who?\nAnswer: Cleo.", Kind("Be.", True), True, Row((Message("system", "Be."), *CLEO.prompt), "Cleo.")),
        ("", QA, True, None),
        (" Who?", QA, True, None),
        (" Who?\nAnswer:", QA, True, None),
        ("\nAnswer: Cleo.", QA, True, None),
        ("Who?\nAnswer: Cleo.", QA, False, None),
        ("Answer: Cleo. Question: Who?", QA, False, None),
        ("<think>Question: Who?\nAnswer: Cleo.", QA, False, None),
        ("", TEXT, True, None),
        ("Cleo sleeps.", TEXT, False, None),
    ],
)
def test_what_is_read_from_a_text(text, kind, goes_on, row):
    assert read_row(text, kind, goes_on=goes_on) == row


def test_long_texts_are_cut_behind_sentences():
    sentence = "Kaia counts the boats in the harbour. "
    pieces = passages(sentence * 50)
    assert " ".join(pieces) == (sentence * 50).strip()
    assert all(400 < len(piece) <= 800 and piece.endswith(".") for piece in pieces[:-1])
    assert passages("word " * 400)[0] == ("word " * 160).strip()
    assert [len(piece) for piece in passages("x" * 1700)] == [800, 800, 100]
    assert passages("東京です。" * 200)[0] == "東京です。" * 160
    assert passages(" \n ") == []
    assert tidy("  a \t b\n \n\n c ") == "a b\nc"


def test_a_thought_that_the_template_begins_is_ended(tokenizer):
    """The templates of some models begin one whatever `enable_thinking` says."""
    chatty = copy.deepcopy(tokenizer)
    for opening, added in (("<think>\n", "<think>\n\n</think>\n\n"), ("", "")):
        chatty.chat_template = (
            "{% for m in messages %}{{ m.content }}{% endfor %}<assistant>{{ " + repr(opening) + " }}"
        )
        with Renderer(chatty) as renderer:
            row = Row((Message("user", "Who?"),), "Ada.")
            for ids in (prompt_tokens(examples_of([row]), renderer), alternate_tokens(row, renderer)):
                assert chatty.decode(ids).endswith("<assistant>" + added)
