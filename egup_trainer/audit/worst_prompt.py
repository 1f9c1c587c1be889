"""Worst prompt: the most that any of many combined prompts brings out of a row, as one number.

The kinds of `prompts` are tried together: each wording of the question, with each prefix and without, with examples
and without, in each form that the tokenizer can write. A maximum over many prompts rises by itself, so the number is
read against that of the retrained model or of holdout rows, which are asked in the same way.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import product
from typing import Any

import numpy as np

from egup_trainer.audit.attack import NO_QUESTION, Finding, Target, sample_rows
from egup_trainer.audit.held_back import HOLDOUT, over_holdout
from egup_trainer.audit.prompts import (
    PREFIXES,
    PromptKind,
    example_turns,
    last_question,
    rouge_recall,
    with_examples,
    with_question,
)
from egup_trainer.data.rendering import Renderer, Template
from egup_trainer.data.schema import Row
from egup_trainer.evaluation.metric import finite, mean_metric
from egup_trainer.evaluation.metrics.rouge import NO_WORDS
from egup_trainer.modeling.forward import AnswerReader

NUM_ROWS = 64
"""Rows of each set that are asked, sampled by the seed."""
NUM_WORDINGS = 2
"""Paraphrases, and translations, of each question at most."""
NUM_WRITTEN = 2
"""Prompts of each row, the likeliest ones, after which an answer is generated."""


class Form(str, Enum):
    """How a prompt is written for the model."""

    OWN = "own template"
    MARKERS = "plain markers"
    """Markers such as "Question:" in place of the chat template."""
    THINKING = "thinking"
    """The chat template's prompt for generation, with thinking switched on."""


@dataclass(frozen=True)
class Asking:
    """A combination: one way of asking for a row's answer.

    Args:
        wording: plain, paraphrased or translated.
        number: which paraphrase or translation.
        prefix: index into `PREFIXES`, or None for none.
        examples: whether other rows with their answers come first.
        form: how the prompt is written.
    """

    wording: PromptKind = PromptKind.PLAIN
    number: int = 0
    prefix: int | None = None
    examples: bool = False
    form: Form = Form.OWN

    def __str__(self) -> str:
        wording = self.wording.value + (f" {self.number + 1}" if self.number else "")
        prefix = None if self.prefix is None else f"prefix {self.prefix + 1}"
        return ", ".join(filter(None, [wording, prefix, "examples" if self.examples else None, self.form.value]))


@dataclass(frozen=True)
class Answered:
    """What a model makes of a row that is asked in one way.

    Args:
        probability: exp(-l_i) of the answer.
        prompt: the prompt's token ids.
    """

    asking: Asking
    probability: float
    prompt: np.ndarray


def worst_prompt(target: Target) -> Finding:
    """The probability of the answer under the worst of all combined prompts, and what is generated after the worst."""
    asked = ask(target, "forget")
    if not asked:
        return Finding(reason=NO_QUESTION)
    worst = {row: max(answered, key=lambda each: each.probability) for row, answered in asked.items()}
    plain = {row: answered[0].probability for row, answered in asked.items() if answered[0].asking == Asking()}
    values = {
        "plain": plain,
        "worst": {row: each.probability for row, each in worst.items()},
        "worst_rouge": _generated(target, asked),
    }
    metrics = {
        name: mean_metric("forget", found, num_rows=len(target.forget), without=without)
        for (name, found), without in zip(values.items(), ("no plain prompt fits the model", "", NO_WORDS), strict=True)
    }
    excess = {
        "excess": target.excess("worst_prompt", "worst", metrics["worst"]),
        "rouge_excess": target.excess("worst_prompt", "worst_rouge", metrics["worst_rouge"]),
        "excess_over_holdout": over_holdout(
            _worst_that_all_have(asked), _worst_that_all_have(ask(target, HOLDOUT)) if HOLDOUT in target.sets else None
        ),
    }
    asking, count = Counter(str(each.asking) for each in worst.values()).most_common(1)[0]
    return Finding(metrics | excess, notes=(f"the worst prompt of {count} of {len(worst)} rows: {asking}",))


def combinations_of(rows: Sequence[Row], sample: int, seed: int, forms: Sequence[Form]) -> list[tuple[Asking, Row]]:
    """All ways of asking for a row's answer, the plain one first; none if the row has no question.

    Args:
        rows: the row's set, from which examples are taken.

    Example:
        >>> from egup_trainer.data.schema import Message
        >>> row = Row((Message("user", "Who?"),), "Ada.")
        >>> len(combinations_of([row], 0, seed=0, forms=[Form.OWN]))  # without a prefix, and with each of four
        5
    """
    row = rows[sample]
    question = last_question(row)
    if question is None:
        return []
    wordings = [
        (PromptKind.PLAIN, 0, question),
        *((PromptKind.PARAPHRASED, i, text) for i, text in enumerate(row.paraphrased_questions[:NUM_WORDINGS])),
        *((PromptKind.TRANSLATED, i, text) for i, text in enumerate(row.translated_questions[:NUM_WORDINGS])),
    ]
    shown = example_turns(list(rows), sample, seed)
    found = []
    forms = forms if row.has_turns else forms[:1]  # what is written out has one form
    ways = product(forms, (False, True) if shown else (False,), wordings, (None, *range(len(PREFIXES))))
    for form, examples, (wording, number, text), prefix in ways:
        asked = with_question(row, text if prefix is None else PREFIXES[prefix] + text)
        turns = with_examples(shown, asked.prompt) if examples else asked.prompt
        found.append((Asking(wording, number, prefix, examples, form), Row(turns, row.answer)))
    return found


def templates_of(target: Target) -> dict[Form, Template]:
    """The forms in which the tokenizer can write prompts that differ from each other."""
    from jinja2 import TemplateError

    template = target.options.template
    found = {Form.OWN: template}
    if target.tokenizer.chat_template and not template.always:
        found[Form.MARKERS] = replace(template, always=True)
        thinking = replace(template, thinks=True)
        sample = next((Row(row.prompt, row.answer) for row in target.forget if row.has_turns), None)
        try:
            texts = {_before_answer(target.tokenizer, each, sample) for each in (template, thinking) if sample}
        except TemplateError:  # such as one that has no prompt for generation
            texts = set()
        if len(texts) == 2:
            found[Form.THINKING] = thinking
    return found


def ask(target: Target, name: str) -> dict[int, list[Answered]]:
    """What the model makes of up to `NUM_ROWS` rows of a set, by row; ways that are too long for the model are left
    out."""
    rows, options = target.sets[name], target.options
    having = [sample for sample, row in enumerate(rows) if last_question(row) is not None]
    templates = templates_of(target)
    chosen = [having[i] for i in sample_rows(NUM_ROWS, len(having), options.seed)]
    ways = [(sample, *way) for sample in chosen for way in combinations_of(rows, sample, options.seed, [*templates])]
    found: dict[int, list[Answered]] = {}
    reader = AnswerReader(target.model)
    for form, template in templates.items():
        asked = [(sample, asking, row) for sample, asking, row in ways if asking.form is form]
        if not asked:
            continue
        numbers = [sample for sample, _, _ in asked]
        dataset = target.tokenized([row for _, _, row in asked], f"{name} set", numbers, template)
        kept = target.fitting(dataset)
        if not len(kept):
            continue
        nll = target.nll(kept, reader, f"Asking {name} rows ({form.value})")
        for index, value in zip(kept.first_samples, nll.neg().exp().tolist(), strict=True):
            row = kept.rows[index]
            sample, asking, _ = asked[row.source.number]
            found.setdefault(sample, []).append(Answered(asking, value, row.prompt))
    return {
        sample: finite_ones
        for sample, answered in sorted(found.items())
        if (finite_ones := [each for each in answered if np.isfinite(each.probability)])
    }


def _before_answer(tokenizer: Any, template: Template, row: Row) -> str:
    with Renderer(tokenizer, template) as renderer:
        rendered = renderer.row(row)
        return rendered.text[: rendered.start]


def _worst_that_all_have(asked: dict[int, list[Answered]]) -> dict[int, float]:
    """The highest probability of each row among the plain wordings: other wordings are given for some rows alone."""
    plain = {row: [each for each in found if each.asking.wording is PromptKind.PLAIN] for row, found in asked.items()}
    return finite({row: max(each.probability for each in found) for row, found in plain.items() if found})


def _generated(target: Target, asked: dict[int, list[Answered]]) -> dict[int, float]:
    """The best ROUGE-L recall of each row among what is generated after its worst prompts."""
    prompts = [
        (row, each.prompt)
        for row, answered in asked.items()
        for each in sorted(answered, key=lambda each: -each.probability)[:NUM_WRITTEN]
        if target.has_room(len(each.prompt))
    ]
    written = target.generate([prompt for _, prompt in prompts], "Generating after the worst prompts")
    found: dict[int, float] = {}
    for (row, _), text in zip(prompts, written, strict=True):
        score = rouge_recall(target.forget[row].answer, text)
        if score is not None:
            found[row] = max(score, found.get(row, score))
    return found
