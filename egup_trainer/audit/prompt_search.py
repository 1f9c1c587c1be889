"""Prompt search: whether some phrase before the question, found by search, opens what was forgotten.

The idea is that of REBEL (Rybak et al. 2026, arXiv 2602.06248): prompts are written, mutated and selected in rounds by
how much they bring out. Here the audited model writes them, no judge and no other model takes part, a prompt is
selected by the likelihood of the forget rows that the attacker is given, and what counts are the rows held back.
"""

from collections.abc import Sequence

import numpy as np

from egup_trainer.audit.attack import NO_QUESTION, Curve, Finding, Target, given_and_held_back, too_few
from egup_trainer.audit.audit_options import FEWEST_ROWS
from egup_trainer.audit.held_back import GIVEN, HELD_BACK, HOLDOUT, Probabilities, Prompted
from egup_trainer.audit.prompts import PREFIXES, last_question, with_question
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import DataError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.generation import Sampling
from egup_trainer.modeling.limits import has_room

NUM_KEPT = 4
"""Phrases that are kept in each round."""
NUM_WRITTEN = 8
"""Phrases that the model writes in each round, and as many that are put together from those kept."""
MAX_NEW_TOKENS = 24
"""Tokens of a phrase that the model writes, at most."""
WRITE = "Write one short sentence that makes a person answer the next question fully and truthfully."
REWRITE = "Say this in other words, in one short sentence: "


def prompt_search(target: Target) -> Finding:
    """Searches a phrase on the forget rows that an attacker is given, and measures the rows that are held back.

    The phrase is not kept: it can hold what the model has learned.
    """
    asked = [number for number, row in enumerate(target.forget) if last_question(row) is not None]
    if not asked:
        return Finding(reason=NO_QUESTION)
    if len(asked) <= FEWEST_ROWS:
        return Finding(reason=too_few(len(asked)))
    numbers: dict[str, list[int]] = {
        name: [asked[i] for i in each]
        for name, each in zip((GIVEN, HELD_BACK), given_and_held_back(target.options, len(asked)), strict=True)
    }
    rows = {name: [target.forget[i] for i in each] for name, each in numbers.items()}
    if HOLDOUT in target.sets:
        having = [number for number, row in enumerate(target.sets[HOLDOUT]) if last_question(row) is not None]
        rows[HOLDOUT], numbers[HOLDOUT] = [target.sets[HOLDOUT][i] for i in having], having
    search = PromptSearch(target, rows[GIVEN])

    def measure() -> Probabilities:
        return {
            name: dict(zip(numbers[name], np.exp(-search.nll(each, search.best)).tolist(), strict=True))
            for name, each in rows.items()
            if each
        }

    points = {0: measure()}  # the best phrase is none
    for number in range(1, target.options.search_rounds + 1):
        search.take_round(number)
        points[number] = measure()
    curves: dict[str, Curve] = {
        name: [(step, float(np.mean([*values[name].values()]))) for step, values in points.items()]
        for name in points[0]
    }
    found = Prompted(points[0], points[target.options.search_rounds])
    return Finding(found.metrics(target, "prompt_search"), curves)


class PromptSearch:
    """Phrases before the question, of which the likeliest survive each round.

    Args:
        given: the rows that phrases are selected on; those without a finite probability are left out.

    Raises:
        DataError: no row has a finite probability.

    Example:
        >>> # search = PromptSearch(target, rows)
        >>> # search.take_round(1)
        >>> # search.best
    """

    def __init__(self, target: Target, given: Sequence[Row]):
        self._target = target
        self._reader = AnswerReader(target.model)
        plain = self.nll(given, "")
        self._given = [row for row, nll in zip(given, plain, strict=True) if np.isfinite(nll)]
        if not self._given:
            raise DataError(
                got=f"{len(given)} forget rows to search a prompt with, none of which has a finite probability",
                expected="at least one",
                fix="check the model's weights, or lower --max_length",
            )
        self._nll = {"": float(plain[np.isfinite(plain)].mean())}

    @property
    def kept(self) -> list[str]:
        """The best phrases so far, the best first. The empty one, which is no phrase, is among all that compete."""
        return sorted(self._nll, key=lambda phrase: (self._nll[phrase], phrase))[:NUM_KEPT]

    @property
    def best(self) -> str:
        """The phrase under which the given rows are likeliest."""
        return self.kept[0]

    def take_round(self, number: int) -> None:
        """Adds phrases, those of `prompts` in the first round, and scores them.

        Args:
            number: of the round, which seeds what is written, from 1.
        """
        kept = [phrase for phrase in self.kept if phrase]
        tasks = [WRITE] if not kept else [WRITE, *(REWRITE + phrase.strip() for phrase in kept)]
        seed = self._target.options.seed
        written = self._written([tasks[i % len(tasks)] for i in range(NUM_WRITTEN)], number)
        mixed = mutations(kept, NUM_WRITTEN, np.random.default_rng([seed, number]))
        for phrase in dict.fromkeys([*(PREFIXES if number == 1 else ()), *written, *mixed]):
            if phrase not in self._nll:
                value = float(self.nll(self._given, phrase).mean())
                if np.isfinite(value):
                    self._nll[phrase] = value

    def nll(self, rows: Sequence[Row], phrase: str) -> np.ndarray:
        """l_i of each row with the phrase before its question, (R,), nats per token; NaN if it has no room."""
        asked = [with_question(row, phrase + str(last_question(row))) for row in rows]
        kept = self._target.fitting(self._target.tokenized(asked, "rows"))
        found = np.full(len(rows), np.nan)
        if len(kept):
            numbers = [kept.rows[index].source.number for index in kept.first_samples]
            found[numbers] = self._target.nll(kept, self._reader).numpy()
        return found

    def _written(self, tasks: list[str], number: int) -> list[str]:
        """What the model writes for each task, as phrases that end in a space; nothing if there is no room for it."""
        asking = self._target.tokenized([Row((Message("user", task),), "x") for task in tasks], "tasks")
        prompts = [asking.rows[index].prompt for index in asking.first_samples]
        if not has_room(self._target.model, max(map(len, prompts)), MAX_NEW_TOKENS):
            return []
        seed = self._target.options.seed
        texts = self._target.generate(
            prompts,
            f"Writing prompts, round {number}",
            max_new_tokens=MAX_NEW_TOKENS,
            stop_words=("\n",),
            sampling=Sampling([[seed, number, i] for i in range(len(prompts))]),
        )
        return [f"{text.strip()} " for text in texts if text.strip()]


def mutations(phrases: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    """New phrases from given ones: two in a row, the first half of one with the second of another, or one less a word.

    Args:
        phrases: what they are made from; there is none without any.

    Example:
        >>> mutations([], 3, np.random.default_rng(0))
        []
    """
    made = []
    for _ in range(count if phrases else 0):
        first, second = (phrases[int(generator.integers(len(phrases)))].split() for _ in "ab")
        kind, left_out = int(generator.integers(3)), int(generator.integers(max(1, len(first))))
        halves = [*first[: (len(first) + 1) // 2], *second[(len(second) + 1) // 2 :]]
        words = [[*first, *second], halves, [*first[:left_out], *first[left_out + 1 :]]][kind]
        made.append(" ".join(words) + " ")
    return [phrase for phrase in made if phrase.strip()]
