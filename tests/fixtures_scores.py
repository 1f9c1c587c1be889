"""Scores of invented rows, written as the probabilities they stand for."""

import numpy as np

from egup_trainer.evaluation.scores import RowRole, SampleScores, SetScores, SetUse, TextScores

ROLES = {"forget": RowRole.FORGET, "holdout": RowRole.UNSEEN}


def text(*probabilities: float, greedy: str | None = None, z: list[float] | None = None) -> TextScores:
    """A text whose tokens have these probabilities; `greedy` of "101" marks the most likely ones, by default none."""
    marks = greedy or "0" * len(probabilities)
    with np.errstate(divide="ignore"):
        logps = np.log(np.array(probabilities, dtype=np.float64))
    return TextScores(logps, np.array([mark == "1" for mark in marks]), None if z is None else np.array(z))


def row(*probabilities: float, **fields) -> SampleScores:
    """A row whose answer has tokens of these probabilities."""
    return SampleScores((text(*probabilities),), **fields)


def set_of(*rows: SampleScores, name: str = "forget", role: RowRole | None = None, **use) -> SetScores:
    """A row set of these rows, with ids from 0 and the role that its name says."""
    role = role or ROLES.get(name, RowRole.RETAIN)
    return SetScores(name, dict(enumerate(rows)), use=SetUse(role, fluency=True, **use))


def shuffled(scores: SetScores, order: list[int]) -> SetScores:
    """The same rows in another order and under other ids."""
    rows = list(scores.samples.values())
    samples = {10 + index: rows[old] for index, old in enumerate(order)}
    return SetScores(scores.name, samples, use=scores.use)
