"""Scores of invented rows, written as the probabilities they stand for."""

import numpy as np

from egup_trainer.evaluation.scores import SampleScores, SetScores, TextScores


def text(*probabilities: float, hits: str | None = None, z: list[float] | None = None) -> TextScores:
    """A text whose tokens have these probabilities; `hits` of "101" marks the most likely ones, by default none."""
    marks = hits or "0" * len(probabilities)
    with np.errstate(divide="ignore"):
        logps = np.log(np.array(probabilities, dtype=np.float64))
    return TextScores(logps, np.array([mark == "1" for mark in marks]), None if z is None else np.array(z))


def row(*probabilities: float, **fields) -> SampleScores:
    """A row whose answer has tokens of these probabilities."""
    return SampleScores((text(*probabilities),), **fields)


def set_of(*rows: SampleScores, name: str = "forget") -> SetScores:
    """A row set of these rows, with ids from 0."""
    return SetScores(name, dict(enumerate(rows)))


def shuffled(scores: SetScores, order: list[int]) -> SetScores:
    """The same rows in another order and under other ids."""
    rows = list(scores.samples.values())
    return SetScores(scores.name, {10 + place: rows[old] for place, old in enumerate(order)})
