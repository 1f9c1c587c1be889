"""ROUGE-L to the nearest text, against values by hand and against the library asked for every pair."""

import pytest
from conftest import qa_rows
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from egup_trainer.data.words import words_of
from egup_trainer.proxies.similarity import NearestText, Stretches

WORDS = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]


def test_words_of_many_scripts():
    assert words_of("Zoë's 2nd—book_x") == ["zoë", "s", "2nd", "book", "x"]
    assert words_of("Она живёт в Риге") == ["она", "живёт", "в", "риге"]
    assert words_of("東京に住む。OK") == ["東", "京", "に", "住", "む", "ok"]
    assert words_of("…!") == []
    assert words_of("ភ្នំពេញ") == ["ភ្", "នំ", "ពេ", "ញ"]  # Khmer sets no spaces: marks stay with their letter
    assert words_of("दिल्ली में") == ["दिल्ली", "में"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a b c d", 1.0),
        ("A, B; c. D!", 1.0),
        ("a c", 2 * 2 / 6),  # a c of a b c d
        ("d c b a", 2 * 1 / 8),  # in common are four words, in order is one
        ("a a a a", 2 * 1 / 8),
        ("x y", 0.0),
        ("", 0.0),
    ],
)
def test_nearness_by_hand(text, value):
    assert NearestText(["a b c d"]).nearness(text) == pytest.approx(value)


def test_the_nearest_counts_and_one_can_be_left_out():
    texts = NearestText(["a b c d", "a b x y", "q"])
    assert texts.nearness("a b c z") == pytest.approx(6 / 8)
    assert texts.nearness("a b c z", without=0) == pytest.approx(4 / 8)
    assert NearestText().nearness("a") == 0
    texts.add("a b c z")
    assert texts.nearness("a b c z") == 1


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=8), min_size=1, max_size=6),
    st.lists(st.sampled_from("abcdef")),
)
def test_bounds_lose_nothing(texts, words):
    scorer, text = RougeScorer(["rougeL"]), " ".join(words)
    plain = max(scorer.score(" ".join(each), text)["rougeL"].fmeasure for each in texts)
    assert NearestText(map(" ".join, texts)).nearness(text) == pytest.approx(plain)


def test_invented_rows_are_compared_as_the_library_does():
    texts = [row["answer"] for row in qa_rows(0, 40)]
    scorer = RougeScorer(["rougeL"])
    for place in (0, 7, 21):
        plain = [scorer.score(each, texts[place])["rougeL"].fmeasure for each in texts]
        plain.pop(place)
        assert NearestText(texts).nearness(texts[place], without=place) == pytest.approx(max(plain))


def test_a_part_of_a_long_text_is_found():
    """Against the whole text ROUGE-L would be small: it counts the words that are not shared."""
    long = " ".join(f"word{number}" for number in range(600))
    copied = " ".join(f"word{number}" for number in range(150, 300))
    assert NearestText([long]).nearness(copied) == 1
    assert NearestText([long, "a b"]).nearness(long, without=0) == 0


def test_thirteen_words_in_a_row_are_a_copy_and_twelve_are_not():
    known = Stretches(["Before. " + " ".join(WORDS)])
    assert known.are_in("other " + " ".join(WORDS[3:16]).upper() + " words")
    assert not known.are_in(" ".join(WORDS[3:15]) + " other words")
    assert not known.are_in(" ".join([*WORDS[:12], "x", *WORDS[12:]]))
    assert not Stretches([]).are_in(" ".join(WORDS))
