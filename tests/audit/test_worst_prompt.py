"""The worst prompt: which combinations there are, that the maximum is one, and what only the comparison shows."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import qa_rows
from fixtures_audit import FORGET, MANY, QUICK, assert_same_weights, hiding, never_taught, target, taught, weights_of

from egup_trainer.audit.attack import NEEDS_RETRAINED, Finding
from egup_trainer.audit.prompts import NUM_EXAMPLES, PREFIXES, PromptKind
from egup_trainer.audit.worst_prompt import Asking, Form, ask, combinations_of, templates_of, worst_prompt
from egup_trainer.data.rendering import Renderer, Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows

OPTIONS = replace(QUICK, max_new_tokens=20)
REWORDED = load_rows(
    [{**row, "paraphrased_question": ["Say?", "Tell?", "Who?"], "translated_question": "Wo?"} for row in qa_rows(0, 3)]
)
TURNS = "{% for m in messages %}<{{ m.role }}> {% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
THINKING_TEMPLATE = (
    TURNS + "\n{% endfor %}{% if add_generation_prompt %}<assistant> "
    "<think>{% if not enable_thinking %}</think>{% endif %}{% endif %}"
)
PLAIN_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def attack(model, tokenizer, retrained=None, forget=MANY, options=OPTIONS, **sets):
    known = {} if retrained is None else {"worst_prompt": retrained}
    return worst_prompt(replace(target(model, tokenizer, forget=forget, **sets), options=options, retrained=known))


def chatty(tokenizer, template: str):
    """The tokenizer with a chat template."""
    found = copy.deepcopy(tokenizer)
    found.chat_template = template
    return found


@pytest.fixture(scope="module")
def retrained(tokenizer):
    return attack(never_taught(tokenizer), tokenizer)


def test_it_finds_the_prompt_that_opens_a_model_and_nothing_in_one_that_never_saw_the_rows(retrained, tokenizer):
    found = attack(hiding(tokenizer), tokenizer, retrained)
    assert found.metrics["plain"].value < 0.02
    assert found.metrics["worst"].value > 0.5
    assert found.metrics["worst_rouge"].num_samples == len(MANY)
    assert found.metrics["excess"].interval[0] > 0.3
    theirs = retrained.metrics["worst_rouge"].value
    assert found.metrics["rouge_excess"].value == pytest.approx(found.metrics["worst_rouge"].value - theirs)
    assert found.metrics["excess_over_holdout"].interval[0] > 0.3
    assert found.notes == ("the worst prompt of 12 of 12 rows: plain, prefix 1, own template",)
    assert retrained.metrics["worst"].value < 0.3
    assert retrained.metrics["excess"].reason == NEEDS_RETRAINED
    low, high = retrained.metrics["excess_over_holdout"].interval
    assert low < 0.1 < high + 0.1
    none = attack(never_taught(tokenizer), tokenizer, retrained).metrics["excess"]
    assert (none.value, none.num_samples) == (0.0, len(MANY))


def test_all_combinations_of_a_row():
    found = combinations_of(REWORDED, 0, 0, [Form.OWN, Form.MARKERS])
    askings = [asking for asking, _ in found]
    assert askings[0] == Asking()
    assert len(set(askings)) == len(found) == 2 * 2 * 4 * 5  # forms, examples, wordings, prefixes
    texts = {asking: row.prompt for asking, row in found}
    assert texts[Asking(PromptKind.PARAPHRASED, 1, prefix=2)] == (Message("user", f"{PREFIXES[2]}Tell?"),)
    shown = texts[Asking(PromptKind.TRANSLATED, examples=True, form=Form.MARKERS)]
    assert (len(shown), shown[-1]) == (1 + 2 * min(NUM_EXAMPLES, 2), Message("user", "Wo?"))
    assert {row.answer for _, row in found} == {REWORDED[0].answer}
    told = [replace(row, prompt=(Message("system", "Be kind."), *row.prompt)) for row in REWORDED]
    assert {row.prompt[0] for _, row in combinations_of(told, 0, 0, [Form.OWN])} == {told[0].prompt[0]}
    assert str(Asking(PromptKind.PARAPHRASED, 1, 2, True, Form.MARKERS)) == (
        "paraphrased 2, prefix 3, examples, plain markers"
    )
    assert combinations_of([Row((), "Ada.")], 0, 0, [Form.OWN]) == []
    assert len(combinations_of(FORGET[:1], 0, 0, [Form.OWN])) == 5


def test_the_worst_is_the_maximum_over_prompts_asked_one_by_one(tokenizer):
    model = taught(tokenizer, FORGET[:2])
    given = target(model, tokenizer, forget=REWORDED)
    metrics = worst_prompt(given).metrics
    for sample in range(len(REWORDED)):
        losses = []
        for _, row in combinations_of(REWORDED, sample, 0, [Form.OWN]):
            tokens = given.tokenized([row], "rows").rows[0]
            ids, labels = (torch.from_numpy(each).long()[None] for each in (tokens.input_ids, tokens.labels))
            with torch.no_grad():
                losses.append(model(input_ids=ids, labels=labels).loss.item())
        assert len(losses) == 2 * 4 * 5
        expected = math.exp(-min(losses))
        assert metrics["worst"].values["forget"][sample] == pytest.approx(expected, rel=1e-4)
        assert metrics["plain"].values["forget"][sample] == pytest.approx(math.exp(-losses[0]), rel=1e-4)


def test_forms_are_those_that_the_template_can_write(make_model, tokenizer):
    def forms(template, markers=None):
        given = target(make_model(), chatty(tokenizer, template))
        options = replace(given.options, template=markers or given.options.template)
        return [*templates_of(replace(given, options=options))]

    assert forms(None) == [Form.OWN]
    assert forms(PLAIN_TEMPLATE) == [Form.OWN, Form.MARKERS]
    assert forms(THINKING_TEMPLATE) == [Form.OWN, Form.MARKERS, Form.THINKING]
    assert forms(THINKING_TEMPLATE, Template(always=True)) == [Form.OWN]
    refusing = "{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}" + TURNS + "{% endfor %}"
    assert forms(refusing) == [Form.OWN, Form.MARKERS]


def test_thinking_is_left_open_before_the_answer(tokenizer):
    row = Row((Message("user", "Who?"),), "Ada.")
    with Renderer(chatty(tokenizer, THINKING_TEMPLATE), Template(thinks=True)) as renderer:
        found = renderer.row(row)
    assert found.text == "<user> Who?\n<assistant> <think>Ada.\n"
    assert found.text[found.start : found.end] == "Ada."
    with Renderer(chatty(tokenizer, THINKING_TEMPLATE)) as renderer:
        found = renderer.row(row)
    assert found.text[: found.start] == "<user> Who?\n<assistant> <think></think>"


def test_a_model_that_answers_while_it_thinks_is_found(tokenizer):
    """The answers are behind the open block alone, which no other attack writes."""
    thoughtful = chatty(tokenizer, THINKING_TEMPLATE)
    rows = [Row((Message("user", f"{row.prompt[0].content}\n<assistant> <think>"),), row.answer) for row in FORGET]
    user, assistant = "<user> {{ m.content }}", "{{ m.content }}\n"
    turn = f"{{% if m.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"
    bare = chatty(tokenizer, f"{{% for m in messages %}}{turn}{{% endfor %}}")
    found = attack(taught(bare, rows), thoughtful, forget=FORGET)
    assert found.metrics["worst"].value > 0.8
    assert found.metrics["worst_rouge"].value > 0.9
    assert "thinking" in found.notes[0]


def test_prompts_that_are_too_long_are_left_out(tokenizer):
    given = target(taught(tokenizer, FORGET, positions=60), tokenizer, forget=FORGET)
    asked = ask(given, "forget")
    assert list(asked) == list(range(len(FORGET)))
    assert {each.asking.examples for found in asked.values() for each in found} == {False}
    assert worst_prompt(given).metrics["worst"].value > 0.9


def test_rows_without_a_question_are_left_out_and_the_model_stays(retrained, tokenizer):
    model = never_taught(tokenizer)
    before = weights_of(model)
    text = Row((), "Ada Lorn lives in Aren.")
    assert attack(model, tokenizer, forget=[text]) == Finding(reason="no forget row has a question")
    assert attack(model, tokenizer, forget=[text, *FORGET[:2]], holdout=[text]).metrics["worst"].num_skipped == 1
    assert attack(model, tokenizer) == retrained
    assert_same_weights(model, before)
