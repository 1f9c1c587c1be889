"""Wrong answers from other rows: which rows give them, and with whose names."""

import unicodedata

import pytest

from egup_trainer.data.exchange import with_exchanged_answers
from egup_trainer.data.names import capitalised_runs, names_in
from egup_trainer.data.schema import Message, Row

PEOPLE = {"Ada Lovelace": "London", "Mary Somerville": "Jedburgh", "Emmy Noether": "Erlangen", "Xin Wu": "Wuhan"}


def ask(question, answer, **more):
    return Row((Message("user", question),), answer, **more)


def rows_about(names):
    """A row on the birthplace and one on the mail address of each person."""
    return [
        row
        for name in names
        for row in (
            ask(f"Where was {name} born?", f"{name} was born in {PEOPLE[name]}."),
            ask(f"What is the email of {name}?", f"{name.split()[-1].lower()}@{PEOPLE[name].lower()}.org"),
        )
    ]


def wrong(rows, count=3, **others):
    return [row.perturbed for row in with_exchanged_answers({"forget": rows, **others}, count)["forget"]]


def test_answers_to_questions_of_the_same_kind_are_taken_though_others_share_the_name():
    birthplace, email = wrong(rows_about(["Ada Lovelace"]), retain=rows_about(["Mary Somerville", "Emmy Noether"]))
    assert birthplace[:2] == ("Ada Lovelace was born in Jedburgh.", "Ada Lovelace was born in Erlangen.")
    assert set(email[:2]) == {"somerville@jedburgh.org", "noether@erlangen.org"}


def test_rows_of_one_kind_take_the_answers_of_the_rows_after_them():
    found = wrong(rows_about(list(PEOPLE)), count=1)
    assert found[::2] == [
        ("Ada Lovelace was born in Jedburgh.",),
        ("Mary Somerville was born in Erlangen.",),
        ("Emmy Noether was born in Wuhan.",),
        ("Xin Wu was born in London.",),
    ]


def test_a_name_is_replaced_as_a_whole_and_by_its_parts():
    ours = ask("Was Ada Lovelace married?", "Yes, Ada Lovelace was, and happily so.")
    theirs = ask("Was Xin Lee Wu married?", "No: Wu's Xin Lee Wu never, says Xin. Wuhan!")
    assert wrong([ours], retain=[theirs]) == [("No: Lovelace's Ada Lovelace never, says Ada. Wuhan!",)]


def test_names_stay_where_it_is_not_clear_whose_they_are():
    ours = ask("Who met Ada Lovelace?", "Bo Quill met her.")
    theirs = ask("Who met Emmy Noether in Old Erlangen, and Mary Somerville?", "Jon Pine met her.")
    assert wrong([ours], retain=[theirs]) == [("Jon Pine met her.",)]


def test_an_answer_that_would_be_right_is_not_taken():
    ours = ask("Where was Ada Lovelace born?", "In London.", alternatives=("She was born in London",))
    others = [
        ask("Where was Bo Quill born?", "in London!"),
        ask("Where was Jon Pine born?", "She was born in LONDON."),
        ask("Where was Eve Moss born?", "In Rome."),
        ask("Where was Kim Reed born?", "In Rome!"),
        ask("where was ADA LOVELACE born", "In England."),
    ]
    assert wrong([ours], retain=others) == [("In Rome.",)]


def test_of_equally_like_questions_the_answer_of_like_length_is_taken():
    rows = [
        ask("Where was Ada Lovelace born?", "In London."),
        ask("Where was Bo Quill born?", "In a house by the river, long ago."),
        ask("Where was Jon Pine born?", "In Rome."),
    ]
    assert wrong(rows[:1], count=1, retain=rows[1:]) == [("In Rome.",)]


@pytest.mark.parametrize(
    "rows", [[], [Row((), "A text."), Row((), "Another.")], [ask("Who?", "Ada.")], [ask("?", "!")]]
)
def test_rows_without_a_question_or_without_others_stay_as_they_are(rows):
    assert with_exchanged_answers({"forget": rows}) == {"forget": rows}


def test_rows_that_no_model_saw_take_answers_and_change_none():
    forget, retain, unseen = ([name] for name in list(PEOPLE)[:3])
    sets = {name: rows_about(names) for name, names in {"holdout": unseen, "forget": forget, "retain": retain}.items()}
    alone = with_exchanged_answers({name: sets[name] for name in ("forget", "retain")})
    beside = with_exchanged_answers(sets)
    assert list(beside) == ["holdout", "forget", "retain"]
    assert {name: beside[name] for name in alone} == alone
    assert beside["holdout"][0].perturbed[:2] == (
        "Emmy Noether was born in London.",
        "Emmy Noether was born in Jedburgh.",
    )


def test_rows_with_wrong_answers_of_their_own_keep_all_sets_as_they_are():
    sets = {"forget": rows_about(PEOPLE), "retain": [ask("Who?", "Ada.", perturbed=("Bo.",))]}
    assert with_exchanged_answers(sets) == sets


def test_more_rows_than_can_give_answers(monkeypatch):
    monkeypatch.setattr("egup_trainer.data.exchange.MOST_GIVERS", 2)
    monkeypatch.setattr("egup_trainer.data.exchange._AT_ONCE", 2)
    rows = [ask(f"Where is number {index}?", f"In room 1{index}.") for index in range(6)]
    # Rows 0 and 3 give answers; a row does not take its own.
    assert wrong(rows, count=1) == [(f"In room {number}.",) for number in (13, 13, 13, 10, 10, 10)]


def test_what_looks_like_names():
    assert names_in(["It was Ada Lovelace, Mary Somerville and Babbage."]) == ["Ada Lovelace", "Mary Somerville"]
    assert names_in(["no names", "One. Two", ""]) == []
    assert capitalised_runs("Ada Lovelace\N{RIGHT SINGLE QUOTATION MARK}s and Mary's") == [
        ["Ada", "Lovelace"],
        ["Mary"],
    ]


@pytest.mark.parametrize("marks", ["\u201c\u201d", "\u00ab\u00bb", "\u201e\u201c", '""', "\u300c\u300d", "()"])
def test_names_in_quotation_marks_are_whole(marks):
    first, last = marks
    assert capitalised_runs(f"who wrote {first}Silver Tide{last} and {first}The Hill{last}, Ada") == [
        ["Silver", "Tide"],
        ["The", "Hill"],
        ["Ada"],
    ]
    titles = [f"{first}{title}{last}" for title in ("Silver Tide", "Golden Road")]
    rows = [ask(f"Who wrote {title}?", f"{title} has {pages} pages.") for pages, title in enumerate(titles, start=7)]
    assert wrong(rows, count=1)[0] == (f"{titles[0]} has 8 pages.",)


def test_names_are_the_same_however_unicode_composes_them():
    composed = "José Müller lives here."
    assert names_in([unicodedata.normalize("NFD", composed)]) == names_in([composed]) == ["José Müller"]
