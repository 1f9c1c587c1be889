"""What a model is asked with, and what is read from what it writes."""

import pytest
from conftest import qa_rows
from fixtures_evaluation import chat_tokenizer

from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import DataError
from egup_trainer.proxies.prompt import Kind, draw_examples, examples_of, passages, prompt_tokens, read_row, tidy

QA, TEXT = Kind(None, True), Kind(None, False)
ADA, BO = (Row((Message("user", f"Who is {name}?"),), f"{name} bakes.") for name in ("Ada", "Bo"))


def text_of(prompt, tokenizer):
    return tokenizer.decode(prompt)


# Prompts


def test_a_plain_prompt_ends_where_a_question_has_to_come(tokenizer):
    assert text_of(prompt_tokens(examples_of([ADA, BO]), Renderer(tokenizer)), tokenizer) == (
        "Questions and answers of one kind, each about something else.\n\n"
        "Question: Who is Ada?\nAnswer: Ada bakes.\n\nQuestion: Who is Bo?\nAnswer: Bo bakes.\n\nQuestion:"
    )


def test_plain_texts_make_a_prompt_of_passages(tokenizer):
    rows = [Row((), "Ada bakes.\n\n\nShe sings."), Row((), "Bo  sleeps.")]
    assert text_of(prompt_tokens(examples_of(rows), Renderer(tokenizer)), tokenizer) == (
        "Passages of one kind, each about something else.\n\n"
        "Passage: Ada bakes.\nShe sings.\n\nPassage: Bo sleeps.\n\nPassage:"
    )


def test_a_chat_model_is_asked_through_its_template(tokenizer):
    chatty = chat_tokenizer(tokenizer)
    assert text_of(prompt_tokens(examples_of([ADA]), Renderer(chatty)), tokenizer) == (
        "<user> Question: Who is Ada?\nAnswer: Ada bakes.\n\n"
        "Write one more question with its answer of the same kind, language, style and length, about someone or "
        "something that you invent and that is not named above. Repeat no fact from above. Write nothing else than\n"
        "Question: ...\nAnswer: ...\n<assistant> "
    )
    assert text_of(prompt_tokens(examples_of([Row((), "Bo.")]), Renderer(chatty)), tokenizer).endswith(
        "Write nothing else than\nPassage: ...\n<assistant> "
    )


def test_examples_are_a_pure_function_of_seed_and_attempt():
    examples = examples_of(load_rows(qa_rows(0, 30)))
    drawn = draw_examples(examples, 4, 7, 2)
    assert drawn == draw_examples(examples, 4, 7, 2)
    assert len(set(drawn)) == 4
    others = [draw_examples(examples, 4, *key) for key in ((7, 3), (8, 2), (72, 0))]
    assert all(other != drawn for other in others)
    assert {draw_examples(examples, 1, 0, attempt)[0] for attempt in range(400)} == set(examples)
    assert sorted(map(str, draw_examples(examples[:3], 9, 0, 0))) == sorted(map(str, examples[:3]))


def test_rows_of_different_kinds_never_stand_in_one_prompt():
    system = Row((Message("system", "Be brief."), *ADA.prompt), "Bakes.")
    examples = examples_of([ADA, BO, system, Row((), "Ada bakes."), Row((), "Bo sleeps.")])
    kinds = [{example.kind for example in draw_examples(examples, 4, 0, attempt)} for attempt in range(50)]
    assert {len(each) for each in kinds} == {1}
    assert set.union(*kinds) == {QA, TEXT, Kind("Be brief.", True)}


def test_conversations_are_refused_without_their_text():
    row = Row((Message("user", "SECRET?"), Message("assistant", "SECRET."), Message("user", "And?")), "SECRET")
    with pytest.raises(DataError) as error:
        examples_of([ADA, row])
    assert str(error.value) == (
        "got 3 turns (user, assistant, user) before the answer in row 1 of the forget set; expected a question and its "
        "answer, or a plain text: conversations cannot be written in context; give proxies of your own "
        "(`egup unlearn --proxy FILE`)"
    )


# Reading


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (" Who?\nAnswer: Cleo.", "Who?", "Cleo."),
        (" Who?\n\nAnswer:\nCleo\nbakes.\n", "Who?", "Cleo\nbakes."),
        (" Who?\nAnswer: Cleo.\n\nQuestion: And?\nAnswer: Dov.", "Who?", "Cleo."),
        (" Who?\nAnswer: Cleo.\nQuestion: And", "Who?", "Cleo."),
        (" Who?\nAnswer: Cleo.\n \nThis was it.", "Who?", "Cleo."),
    ],
)
def test_a_text_that_goes_on_is_read(text, question, answer):
    assert read_row(text, QA, goes_on=True) == Row((Message("user", question),), answer)


@pytest.mark.parametrize(
    "text",
    [
        "Question: Who?\nAnswer: Cleo.",
        "Sure! Here it is:\n\n**Question:** Who?\n**Answer:** Cleo.",
        "<think>Question: no?\nAnswer: no.</think>\n\nQuestion: Who?\nAnswer: Cleo.",
        "## Question: Who?\n\n## Answer: Cleo.\n\n## Question: Next?\n## Answer: Dov.",
    ],
)
def test_an_answer_of_a_chat_model_is_read(text):
    assert read_row(text, QA, goes_on=False) == Row((Message("user", "Who?"),), "Cleo.")


@pytest.mark.parametrize(
    ("text", "kind", "goes_on"),
    [
        ("", QA, True),
        (" Who?", QA, True),
        (" Who?\nAnswer:", QA, True),
        ("\nAnswer: Cleo.", QA, True),
        ("Who?\nAnswer: Cleo.", QA, False),
        ("Answer: Cleo. Question: Who?", QA, False),
        ("<think>Question: Who?\nAnswer: Cleo.", QA, False),
        ("", TEXT, True),
        ("Cleo sleeps.", TEXT, False),
    ],
)
def test_what_is_not_in_the_format_is_none(text, kind, goes_on):
    assert read_row(text, kind, goes_on=goes_on) is None


def test_a_passage_ends_with_its_last_whole_sentence():
    assert read_row(" Cleo sleeps. She dreams. Then sh", TEXT, goes_on=True) == Row((), "Cleo sleeps. She dreams.")
    assert read_row(" Cleo sleeps.\n\nPassage: Dov.", TEXT, goes_on=True) == Row((), "Cleo sleeps.")
    assert read_row("Passage: Cleo sleeps", TEXT, goes_on=False) == Row((), "Cleo sleeps")


def test_a_row_is_of_its_examples_kind():
    row = read_row(" Who?\nAnswer: Cleo.", Kind("Be brief.", True), goes_on=True)
    assert row == Row((Message("system", "Be brief."), Message("user", "Who?")), "Cleo.")


# Texts


def test_long_texts_are_cut_behind_sentences():
    sentence = "Kaia counts the boats in the harbour. "
    pieces = passages(sentence * 50)
    assert " ".join(pieces) == (sentence * 50).strip()
    assert all(400 < len(piece) <= 800 and piece.endswith(".") for piece in pieces[:-1])
    assert passages("word " * 400)[0] == ("word " * 160).strip()
    assert [len(piece) for piece in passages("x" * 1700)] == [800, 800, 100]
    assert passages("東京です。" * 200)[0] == "東京です。" * 160
    assert passages(" \n ") == []


def test_tidy_keeps_lines_and_drops_what_is_empty():
    assert tidy("  a \t b\n \n\n c ") == "a b\nc"
