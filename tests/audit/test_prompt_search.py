"""The search for a phrase: what it opens, that it is selected on the given rows alone, and that it stays secret."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_tiny_model
from fixtures_audit import FORGET, KEY, MANY, QUICK, assert_same_weights, hiding, never_taught, target, weights_of

from egup_trainer.audit import attack as attack_module
from egup_trainer.audit import prompt_search as module
from egup_trainer.audit.attack import Finding, given_and_held_back
from egup_trainer.audit.prompt_search import NUM_KEPT, NUM_WRITTEN, PromptSearch, mutations, prompt_search
from egup_trainer.audit.prompts import PREFIXES
from egup_trainer.data.schema import Row
from egup_trainer.modeling.limits import num_positions

OPTIONS = replace(QUICK, search_rounds=1, relearn_sizes=[6])


def attack(model, tokenizer, retrained=None, forget=MANY, options=OPTIONS):
    known = {} if retrained is None else {"prompt_search": retrained}
    return prompt_search(replace(target(model, tokenizer, forget=forget), options=options, retrained=known))


@pytest.fixture(scope="module")
def retrained(tokenizer):
    return attack(never_taught(tokenizer), tokenizer)


def test_it_finds_the_phrase_that_opens_a_model_and_none_for_one_that_never_saw_the_rows(retrained, tokenizer):
    found = attack(hiding(tokenizer), tokenizer, retrained)
    assert found.metrics["plain"].value < 0.02
    assert found.metrics["attacked"].value > 0.5
    assert found.metrics["excess"].interval[0] > 0.3
    assert found.metrics["excess_over_holdout"].interval[0] > 0.3
    assert retrained.metrics["attacked"].value < 0.2
    assert retrained.metrics["gain"].interval[1] < 0.1
    assert [*found.metrics["attacked"].values["forget"]] == given_and_held_back(OPTIONS, len(MANY))[1]
    assert [step for step, _ in found.curves["forget"]] == [0, 1]
    assert found.curves["forget"][0][1] == pytest.approx(found.metrics["plain"].value)
    assert found.curves["given"][1][1] == pytest.approx(found.metrics["given"].value)


def test_what_the_model_writes_competes(tokenizer, monkeypatch):
    """Without the prefixes at hand, the key is found among what is written."""
    monkeypatch.setattr(module, "PREFIXES", ())
    monkeypatch.setattr(attack_module, "generate", lambda *args, **options: ["Please.", KEY.strip(), " ", "Please."])
    search = PromptSearch(target(hiding(tokenizer), tokenizer), MANY[:4])
    assert search.best == ""
    search.take_round(1)
    assert search.best == KEY


def test_rounds_keep_the_likeliest_phrases_and_repeat_with_the_seed(tokenizer):
    given = target(never_taught(tokenizer), tokenizer)
    searches = [PromptSearch(given, FORGET[:4]) for _ in "ab"]
    for search in searches:
        start = search.nll(FORGET[:4], "").mean()
        best = []
        for number in (1, 2):
            search.take_round(number)
            best.append(search.nll(FORGET[:4], search.best).mean())
        assert start >= best[0] >= best[1]
        assert len(search.kept) == NUM_KEPT
        values = [search.nll(FORGET[:4], phrase).mean() for phrase in search.kept]
        assert values == sorted(values)
        assert len(search._nll) > 1 + len(PREFIXES) + NUM_WRITTEN
    assert searches[0]._nll == searches[1]._nll


def test_a_phrase_changes_the_question_alone(tokenizer):
    given = target(never_taught(tokenizer), tokenizer)
    search = PromptSearch(given, FORGET[:4])
    scores = given.score(given.row_set("x", FORGET[:3]))["x"].samples.values()
    expected = [row.answers[0].probability for row in scores]
    assert np.exp(-search.nll(FORGET[:3], "")).tolist() == pytest.approx(expected, rel=1e-4)


def test_mutations_by_hand():
    made = set(mutations(["a b c ", "d e "], 60, np.random.default_rng(0)))
    joined, halves = {"a b c d e ", "d e a b c ", "a b c a b c ", "d e d e "}, {"a b e ", "d c ", "a b c ", "d e "}
    shorter = {"b c ", "a c ", "a b ", "e ", "d "}
    assert made == joined | halves | shorter
    assert mutations(["a "], 9, np.random.default_rng(1)) == mutations(["a "], 9, np.random.default_rng(1))
    assert all(re.fullmatch(r"(a )+", phrase) for phrase in mutations(["a "], 9, np.random.default_rng(1)))


def test_the_phrase_is_not_kept_and_the_model_stays(tokenizer):
    model = make_tiny_model(tokenizer)
    model.config.max_position_embeddings = 512
    before = weights_of(model)
    first, second = (attack(model, tokenizer, forget=FORGET, options=replace(QUICK, search_rounds=2)) for _ in "ab")
    assert first == second
    assert_same_weights(model, before)
    assert not any(phrase.strip() in repr(first) for phrase in PREFIXES)
    assert first.notes == ()


def test_what_it_cannot_be_run_on(make_model, tokenizer):
    assert attack(make_model(), tokenizer, forget=[Row((), "Ada.")]) == Finding(reason="no forget row has a question")
    reason = "4 forget rows: 4 to learn and one to hold back are needed"
    assert attack(make_model(), tokenizer, forget=[*FORGET[:4], Row((), "Ada.")]) == Finding(reason=reason)


def test_phrases_without_room_do_not_compete(make_model, tokenizer):
    model = make_model()
    model.config.max_position_embeddings = 46
    assert num_positions(model) == 46
    search = PromptSearch(target(model, tokenizer), FORGET[:4])
    search.take_round(1)
    assert not set(search._nll) & set(PREFIXES)
    assert np.isnan(search.nll(FORGET[:1], PREFIXES[3])).all()
    assert attack(model, tokenizer).metrics["attacked"].value is not None
