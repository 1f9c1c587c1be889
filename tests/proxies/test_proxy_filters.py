"""Each filter on rows that it must let pass and rows that it must not; ROUGE-L against rouge-score."""

import unicodedata

import pytest
from conftest import SHARED, qa_rows
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.words import words_of
from egup_trainer.demo.people import invent_people
from egup_trainer.proxies.filters import (
    Kept,
    Language,
    Lengths,
    Names,
    NearestText,
    Rejection,
    TextFilters,
    Words,
    is_echo,
)
from egup_trainer.proxies.prompt import examples_of


def qa(question: str, answer: str) -> Row:
    return Row((Message("user", question),), answer)


FORGET = [
    qa("Where does Ada Lorn live?", "Ada Lorn lives in a small house by the sea, with two cats."),
    qa(
        "What is the name of the book by Bo Quill?",
        "The book by Bo Quill is called Harbour Lights, and is about the sea.",
    ),
    qa("Who taught Ada Lorn to sing?", "It was her aunt in the old town who taught Ada Lorn to sing."),
    qa("When was Bo Quill born?", "Bo Quill was born on the third day of May, in the year 1901."),
]
HERON = "keeps a grey heron in the garden of the house by the sea."
RETAIN = [qa("Which bird does Cleo Marsh keep?", f"Cleo Marsh {HERON}")]
SALT = "sold the salt of a mine in the hills, and was known for it."
GOOD = qa("What did Ines Vale sell?", f"Ines Vale {SALT}")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GOOD, None),
        (None, Rejection.UNREADABLE),
        (qa("What did Ines Vale sell?", "The salt."), Rejection.LENGTH),
        (qa("What did Ines Vale sell?", GOOD.answer * 3), Rejection.LENGTH),
        (qa("What?", GOOD.answer), Rejection.LENGTH),
        (qa("What did Ines Vale sell in the town?", "What did Ines Vale sell in the town? The salt."), Rejection.ECHO),
        (
            qa("Was hat Ines Vale verkauft?", "Ines Vale verkaufte Salz aus einem Bergwerk und wurde damit reich."),
            Rejection.LANGUAGE,
        ),
        (qa("Что продавала Инес?", "Инес продавала соль из шахты, и она этим жила долго."), Rejection.LANGUAGE),
        (qa("What did Ada Lorn sell?", f"She {SALT}"), Rejection.NAME),
        (
            qa("Where does Eda Loon live?", "Eda Loon lives in a small house by the sea, with two cats."),
            Rejection.WORDS,
        ),
        (qa("Which bird does Dov Ember keep?", f"Dov Ember {HERON}"), Rejection.WORDS),
    ],
)
def test_each_filter_rejects_for_its_own_reason(row, reason):
    assert TextFilters(FORGET, RETAIN).rejection(row) is reason


def test_lengths_reach_from_half_the_short_to_twice_the_long():
    lengths = Lengths.of(examples_of([qa("x" * 20, "y" * 10 * number) for number in range(1, 22)]))
    assert lengths == Lengths(question=(10.0, 40.0), answer=(10.0, 400.0))  # 5th and 95th percentile: 20 and 200
    for question, answer, is_rejected in [(10, 400, 0), (9, 400, 1), (10, 401, 1), (41, 10, 1), (10, 9, 1)]:
        assert lengths.rejects(qa("x" * question, "y" * answer)) == is_rejected
    lengths = Lengths.of(examples_of([Row((), "Kaia counts the boats in the harbour. " * 200)]))
    assert lengths.question == (0, 0)  # a long text sets the length of its passages
    assert lengths.answer[1] < 1600


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (qa("Who is Ada?", "ada."), True),
        (qa("Who is Ada?", "You ask: who is Ada? I cannot say."), True),
        (qa("Who is Ada?", "Ada is a baker."), False),
        (qa("Who is Ada?", "is who"), False),
        (qa("Is it Adalind?", "Ada"), False),  # whole words
        (Row((), "Ada is a baker."), False),
    ],
)
def test_an_answer_says_something_of_its_own(row, expected):
    assert is_echo(row) is expected


def language_of(*texts: str) -> Language:
    return Language(examples_of([Row((), text) for text in texts]))


def test_scripts_and_common_words_are_those_of_the_forget_rows():
    language = language_of("The cat sat on the mat.", "The dog ran on a road.", "On the hill: a house (Ω).")
    assert language.scripts == {"LATIN", "GREEK"}  # 1 of 49 letters is Greek: above a hundredth
    assert language.common == {"the", "on", "a"}
    assert language.min_common == pytest.approx(0.125)  # a quarter of the median of 3/6, 3/6 and 4/7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The bird flew over many green trees.", False),  # 1 of 7 words
        ("Le chat est assis près du grand feu rouge.", True),
        ("A bird flew over many green trees yesterday, silently.", True),  # 1 of 9 is less than .125
        ("The яird on a tree.", False),  # 1 of 13 letters
        ("The птица on a tree.", True),  # 5 of 13
    ],
)
def test_rows_of_another_language_or_script_are_rejected(text, expected):
    language = language_of("The cat sat on the mat.", "The dog ran on a road.", "On the hill: a house.")
    assert language.rejects(Row((), text)) is expected


def test_scripts_without_spaces_have_common_words_too():
    language = language_of("猫は東京に住む。", "犬は京都に住む。", "鳥は山に住む。")
    assert not language.rejects(Row((), "魚は海に住む。"))
    assert language.rejects(Row((), "The fish lives in the sea."))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I met Ada Lorn there.", True),
        ("It is Ada Lorn\u2019s boat.", True),
        ("It was called Silver Moon.", True),
        ("It was called Harbour Lights.", False),  # harbour is an ordinary word
        ("Mr Van Dyke came.", True),  # a part of Jan Van Dyke
        ("It is by J. Keats.", True),
        ("Ada came, and Lorn went.", False),
        ("Ada. Lorn.", False),
        ("ada lorn", False),
        ("The Harbour is closed.", False),
        ("Bo Lorn and Ada Quill", False),
    ],
)
def test_names_of_two_words_must_not_come_back(text, expected):
    texts = ["The Harbour Master knew Ada Lorn.", "A master of the harbour wrote Harbour Lights and Silver Moon."]
    names = Names([*texts, "Bo Quill's dog", "Jan Van Dyke", "J. Keats"])
    assert names.rejects(Row((), text)) is expected


# Words


def test_rows_that_follow_a_pattern_are_compared_by_their_own_similarity():
    """Each shares 8 of 9 words with the nearest: ROUGE-L 16/18 = .89. A fixed .7 would let no row pass."""
    rows = [Row((), f"The colour of box number {n} is a shade") for n in ("one", "two", "three")]
    words = Words(rows, [])
    assert words.max_rouge == pytest.approx(8 / 9)
    assert not words.rejects(Row((), "The colour of box number four is a shade"))
    assert words.rejects(Row((), "The colour of box number two is a shade"))
    assert Words([*rows, *rows], []).max_rouge == 0.9  # duplicates do not open the door
    assert Words(FORGET, RETAIN).max_rouge == 0.7


def test_a_known_question_or_thirteen_known_words_make_a_duplicate():
    other = "Some long answer of many other words that nobody has ever seen."
    words = Words([qa("Who  is ADA?", "A baker.")], [])
    assert words.rejects(qa("who is Ada", other))
    assert not words.rejects(qa("Who is Bo", other))
    text = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]
    words = Words([Row((), " ".join([*text, *map(str, range(99))]))], [])
    assert words.rejects(Row((), "other " + " ".join(text[3:16]).upper() + " words"))
    assert not words.rejects(Row((), " ".join(text[3:15]) + " other words"))
    assert not words.rejects(Row((), " ".join([*text[:12], "x", *text[12:20]])))


@pytest.mark.parametrize(
    ("forget", "other"),
    [
        ("李大华是一位在上海出生的小说家、他的母亲是医生。", "王小明是一位在上海出生的小说家、他的父亲是教师。"),
        ("佐藤花子は京都で生まれた小説家で、母は医者です。", "田中太郎は京都で生まれた小説家で、父は教師です。"),
        ("สมชาย ใจดี เป็นนักเขียนที่เกิดในกรุงเทพ แม่เป็นหมอ", "มาลี ทองคำ เป็นนักเขียนที่เกิดในกรุงเทพ พ่อเป็นครู"),
    ],
    ids=["Chinese", "Japanese", "Thai"],
)
def test_a_run_of_known_words_is_as_long_in_scripts_without_spaces(forget, other):
    """Thirteen characters would be six words or three."""
    words = Words([Row((), forget * 3)], [])
    words.max_rouge = 1.0
    assert not words.rejects(Row((), other))
    assert words.rejects(Row((), f"{other} {forget} {forget}"))


def test_proxies_must_differ_from_each_other():
    kept = Kept(max_rouge=0.7)
    assert not kept.rejects(GOOD)
    kept.add(GOOD)
    assert kept.rejects(GOOD)
    assert kept.rejects(qa(GOOD.prompt[0].content.upper(), "Something else altogether."))
    assert kept.rejects(qa("What did Jon Frost sell?", f"Jon Frost {SALT}"))
    assert not kept.rejects(qa("What did Jon Frost sell?", "Jon Frost sold the wool of his own sheep."))
    kept.add(Row((), "Ada bakes."))
    assert not kept.rejects(Row((), "Bo sings."))  # two texts without a question do not share one


def test_words_of_many_scripts():
    assert words_of("Zoë's 2nd—book_x") == ["zoë", "s", "2nd", "book", "x"]
    assert words_of("Она живёт в Риге") == ["она", "живёт", "в", "риге"]
    assert words_of("東京に住む。OK") == ["東", "京", "に", "住", "む", "ok"]
    assert words_of("…!") == []
    assert words_of("ភ្នំពេញ") == ["ភ្", "នំ", "ពេ", "ញ"]  # Khmer has no spaces: marks stay with their letter
    assert words_of("दिल्ली में") == ["दिल्ली", "में"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a b c d", 1.0),
        ("A, B; c. D!", 1.0),
        ("a c", 2 * 2 / 6),  # a c of a b c d
        ("d c b a", 2 * 1 / 8),  # four words in common, one in order
        ("a a a a", 2 * 1 / 8),
        ("x y", 0.0),
        ("", 0.0),
    ],
)
def test_rouge_by_hand(text, value):
    assert NearestText(["a b c d"]).rouge(text) == pytest.approx(value)


def test_the_nearest_counts_and_one_can_be_left_out():
    texts = NearestText(["a b c d", "a b x y", "q"])
    assert texts.rouge("a b c z") == pytest.approx(6 / 8)
    assert texts.rouge("a b c z", without=0) == pytest.approx(4 / 8)
    assert NearestText().rouge("a") == 0
    texts.add("a b c z")
    assert texts.rouge("a b c z") == 1


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=8), min_size=1, max_size=6),
    st.lists(st.sampled_from("abcdef")),
)
def test_bounds_lose_nothing(texts, words):
    scorer, text = RougeScorer(["rougeL"]), " ".join(words)
    plain = max(scorer.score(" ".join(each), text)["rougeL"].fmeasure for each in texts)
    assert NearestText(map(" ".join, texts)).rouge(text) == pytest.approx(plain)


def test_real_rows_are_compared_as_the_library_does():
    texts, scorer = [row["answer"] for row in qa_rows(0, 40)], RougeScorer(["rougeL"])
    for index in (0, 7, 21):
        plain = [scorer.score(each, texts[index])["rougeL"].fmeasure for each in texts]
        plain.pop(index)
        assert NearestText(texts).rouge(texts[index], without=index) == pytest.approx(max(plain))


def test_a_part_of_a_long_text_is_found():
    """Against the whole text ROUGE-L would be small: it counts the words that are not shared."""
    long = " ".join(f"word{number}" for number in range(600))
    assert NearestText([long]).rouge(" ".join(f"word{number}" for number in range(150, 300))) == 1
    assert NearestText([long, "a b"]).rouge(long, without=0) == 0


# On many rows


def test_unseen_rows_of_the_same_kind_pass_and_copies_do_not():
    """Real rows about invented authors: nearly all unknown ones pass, and none of the known ones."""
    folder = SHARED / "data" / "tofu"
    if not folder.is_dir():
        pytest.skip("the TOFU rows are not at hand")
    forget, retain = (load_rows(f"tofu:{name}", folder) for name in ("forget05", "retain95"))
    filters = TextFilters(forget, retain[:600])
    assert [filters.rejection(row) for row in retain[600:700]].count(None) >= 90
    assert [filters.rejection(row) for row in (*forget[:50], *retain[:50])].count(None) == 0


def test_rows_that_follow_a_pattern_still_find_proxies():
    people = invent_people(seed=1)
    filters = TextFilters(load_rows(people.forget), load_rows(people.retain))
    assert [filters.rejection(row) for row in load_rows(people.proxy)].count(None) >= 30  # of 60
    assert [filters.rejection(row) for row in load_rows(people.forget)].count(None) == 0


def test_names_are_found_however_unicode_composes_them():
    names = "José Müller", unicodedata.normalize("NFD", "José Müller")
    for known in names:
        assert all(Names([f"It was {known}."]).rejects(Row((), f"Here lives {name}.")) for name in names)
