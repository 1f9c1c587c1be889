"""Ways of asking: which rows they make, and what counts of several."""

from dataclasses import replace

import pytest
from conftest import qa_rows
from fixtures_audit import FORGET, QUICK, target, taught

from egup_trainer.audit.attack import NO_ROOM, Finding
from egup_trainer.audit.prompts import NUM_EXAMPLES, PREFIXES, PromptKind, asked_otherwise, prompts
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.evaluation.metrics.rouge import rouge_score
from egup_trainer.evaluation.rows import Generation

REWORDED = load_rows(
    [
        {**row, "paraphrased_question": [f"Tell me: {row['question']}", "Say?"], "translated_question": "Wo?"}
        for row in qa_rows(0, 3)
    ]
)


def attack(model, tokenizer, rows):
    return prompts(target(model, tokenizer, forget=rows))


@pytest.fixture(scope="module")
def knowing(tokenizer):
    return taught(tokenizer, FORGET)


def questions(rows, kind):
    return [(sample, row.prompt[-1].content) for sample, row in asked_otherwise(rows, kind, seed=0)]


def test_each_kind_puts_the_question_its_way():
    first = REWORDED[0].prompt[0].content
    assert questions(REWORDED[:1], PromptKind.PLAIN) == [(0, first)]
    assert questions(REWORDED[:1], PromptKind.PARAPHRASED) == [(0, f"Tell me: {first}"), (0, "Say?")]
    assert questions(REWORDED[:1], PromptKind.TRANSLATED) == [(0, "Wo?")]
    assert questions(REWORDED[:1], PromptKind.PREFIXED) == [(0, prefix + first) for prefix in PREFIXES]
    assert questions(FORGET, PromptKind.PARAPHRASED) == []


def test_only_the_last_question_changes():
    row = Row(
        (Message("system", "Be kind."), Message("user", "A?"), Message("assistant", "B."), Message("user", "C?")), "D"
    )
    (_, found), *_ = asked_otherwise([row], PromptKind.PREFIXED, seed=0)
    assert found == Row((*row.prompt[:3], Message("user", f"{PREFIXES[0]}C?")), "D")


def test_examples_are_other_rows_with_their_answers():
    found = asked_otherwise(FORGET, PromptKind.EXAMPLES, seed=5)
    assert [sample for sample, _ in found] == list(range(len(FORGET)))
    for sample, row in found:
        shown, own = row.prompt[:-1], row.prompt[-1]
        assert (own, row.answer) == (FORGET[sample].prompt[-1], FORGET[sample].answer)
        assert [turn.role for turn in shown] == ["user", "assistant"] * NUM_EXAMPLES
        pairs = list(zip(shown[::2], shown[1::2], strict=True))
        assert len(set(pairs)) == NUM_EXAMPLES
        others = {(each.prompt[-1], Message("assistant", each.answer)) for each in FORGET if each is not FORGET[sample]}
        assert set(pairs) <= others
    assert found == asked_otherwise(FORGET, PromptKind.EXAMPLES, seed=5)
    assert found != asked_otherwise(FORGET, PromptKind.EXAMPLES, seed=6)
    assert asked_otherwise(FORGET[:1], PromptKind.EXAMPLES, seed=0) == []


def test_examples_come_after_a_rows_own_system_turn():
    """Templates such as Mistral's refuse a system turn in any other place."""
    system, asked = Message("system", "Be kind."), Message("user", "A?")
    rows = [Row((system, asked), "B."), Row((Message("user", "C?"),), "D.")]
    ((_, first), (_, second)) = asked_otherwise(rows, PromptKind.EXAMPLES, seed=0)
    assert first.prompt == (system, Message("user", "C?"), Message("assistant", "D."), asked)
    assert second.prompt == (asked, Message("assistant", "B."), Message("user", "C?"))


def test_rows_without_a_question_are_left_out(knowing, tokenizer):
    text = Row((), "Ada Lorn lives in Aren.")
    assert [sample for sample, _ in asked_otherwise([text, *FORGET], PromptKind.PLAIN, 0)] == list(range(1, 9))
    assert attack(knowing, tokenizer, [text]) == Finding(reason="no forget row has a question")
    assert attack(knowing, tokenizer, [text, *FORGET[:2]]).metrics["plain_probability"].num_skipped == 1


def test_of_several_prompts_the_best_counts(knowing, tokenizer):
    given = target(knowing, tokenizer)
    found = prompts(given).metrics
    for sample, row in enumerate(FORGET):
        asked = [Row((Message("user", prefix + row.prompt[0].content),), row.answer) for prefix in PREFIXES]
        scores = given.score(given.row_set("x", asked, generation=Generation(12)))["x"].samples.values()
        best = max(each.answers[0].probability for each in scores)
        assert found["prefixed_probability"].values["forget"][sample] == pytest.approx(best, rel=1e-4)
        best = max(rouge_score(row.answer, each.generation) for each in scores)
        assert found["prefixed_rouge"].values["forget"][sample] == best


def test_who_knows_answers_the_plain_question_and_goes_on_from_a_beginning(knowing, tokenizer):
    found = attack(knowing, tokenizer, FORGET).metrics
    assert found["plain_probability"].value > 0.9
    assert found["begun_probability"].value > 0.9
    assert found["begun_rouge"].value > 0.9
    assert found["plain_rouge"].num_samples == len(FORGET)


def test_who_only_learned_to_refuse_the_question_itself_answers_another_one(tokenizer):
    """Beside a model that never saw the answers: it refuses, however it is asked."""
    rows = FORGET[:3]
    told = [row for _, row in asked_otherwise(rows, PromptKind.PREFIXED, seed=0)]
    refused, untold = ([Row(row.prompt, "I do not know that.") for row in each] for each in (rows, told))
    models = (taught(tokenizer, [*refused * 8, *told]), taught(tokenizer, [*refused, *untold]))
    hiding, never = (attack(model, tokenizer, rows).metrics for model in models)
    assert hiding["plain_rouge"].value < 0.2
    assert hiding["prefixed_rouge"].value > 0.8
    assert never["plain_rouge"].value == never["prefixed_rouge"].value == 0


def test_a_begun_answer_counts_its_rest_alone(knowing, tokenizer):
    given = target(knowing, tokenizer)
    scores = given.score(given.row_set("forget"))["forget"].samples[2].answers[0].token_logps
    count = len(scores) // 4
    assert count > 0
    expected = pytest.approx(float(pow(2.718281828459045, scores[count:].mean())), rel=1e-4)
    assert prompts(given).metrics["begun_probability"].values["forget"][2] == expected


def test_short_answers_cannot_be_begun(knowing, tokenizer):
    rows = [Row((Message("user", "Is it?"),), "A"), Row((Message("user", "Is it so?"),), "B")]
    found = attack(knowing, tokenizer, rows).metrics
    assert found["begun_rouge"].reason == "no answer has 4 tokens or more"
    assert found["translated_rouge"].reason == "no row has a translated_question"
    assert found["paraphrased_rouge"].reason == "no row has a paraphrased_question"


def test_a_prompt_that_is_too_long_costs_its_kind_alone(tokenizer):
    found = attack(taught(tokenizer, FORGET, positions=60), tokenizer, FORGET).metrics
    assert found["plain_probability"].value > 0.9
    assert found["examples_probability"].reason == NO_ROOM


def test_a_model_without_room_to_write_is_no_failure(tokenizer):
    found = attack(taught(tokenizer, FORGET, positions=30), tokenizer, FORGET)
    assert (found.metrics, found.reason) == ({}, NO_ROOM)


def test_a_long_row_costs_itself_alone(tokenizer):
    model = taught(tokenizer, FORGET, positions=60)

    def long(words):
        return Row((Message("user", "where " * words),), "Aren.")

    def length(row):
        return len(target(model, tokenizer, forget=[row]).tokenized([row], "x").rows[0].prompt)

    row = next(long(words) for words in range(1, 60) if length(long(words)) > 60 - QUICK.max_new_tokens)
    found = attack(model, tokenizer, [*FORGET, row]).metrics["plain_probability"]
    assert (found.num_samples, found.num_skipped) == (len(FORGET), 1)
    assert found.value == pytest.approx(attack(model, tokenizer, FORGET).metrics["plain_probability"].value)


def test_a_row_without_room_after_the_beginning_of_its_answer_costs_itself_alone(tokenizer):
    model = taught(tokenizer, FORGET, positions=60)

    def length(row):
        return len(target(model, tokenizer, forget=[row]).tokenized([row], "x").rows[0].prompt)

    prompts = [Row((Message("user", "where " * number),), "Aren.") for number in range(1, 60)]
    row = [row for row in prompts if length(row) <= 60 - QUICK.max_new_tokens][-1]
    row = replace(row, answer="Aren " * (QUICK.max_new_tokens - 2))
    found = attack(model, tokenizer, [*FORGET, row]).metrics
    assert found["plain_rouge"].num_samples == len(FORGET) + 1
    assert found["begun_rouge"].num_samples == attack(model, tokenizer, FORGET).metrics["begun_rouge"].num_samples


def test_an_answer_that_is_read_in_windows_is_not_begun(knowing, tokenizer):
    """Its beginning would be that of the first window, and its rest that of all."""
    row = Row((Message("user", "Where?"),), "Aren lives by the sea. " * 8)
    given = replace(target(knowing, tokenizer, forget=[row]), options=replace(QUICK, max_length=24))
    assert len(given.tokenized([row], "x").rows) > 1
    assert prompts(given).metrics["begun_probability"].value is None
