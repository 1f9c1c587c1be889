"""Which attempts make proxies: their texts first, then what the model before unlearning says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.guidance.features import FeatureSpace
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows
from egup_trainer.proxies.filters import Kept, Rejection, TextFilters
from egup_trainer.proxies.settings import ProxySettings

_LEAST_COSINE, _MOST_COSINE = 0.9, 0.98
_MOST_SCORED = 1024
_NORMAL_DEVIATION = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt.

    Args:
        attempt: its number.
        rejection: why it makes no proxy, or None.
        row: the proxy, or None: texts that are rejected may be forget rows, and are kept nowhere.
        nll: l of the proxy under the model before unlearning, nats per token, or None.
    """

    attempt: int
    rejection: Rejection | None
    row: Row | None = None
    nll: float | None = None


@dataclass(frozen=True)
class Scorer:
    """l and pooled features of rows under a model.

    Args:
        model: the model before unlearning.
        tokenizer: its tokenizer.
        template: how rows are written for it.
        settings: layer and length.
        batch_size: rows in a forward pass.
    """

    model: Any
    tokenizer: Any
    template: Template
    settings: ProxySettings
    batch_size: int

    def __call__(self, rows: Sequence[Row], name: str, progress: bool = False) -> tuple[Tensor, Tensor]:
        """l of each row, shape (N,), nats per token, and the mean hidden state over its answer tokens, shape (N, d)."""
        dataset = tokenize(
            [Row(row.prompt, row.answer) for row in rows],
            self.tokenizer,
            name=name,
            max_length=self.settings.max_length,
            template=self.template,
        )
        scores = score_rows(
            self.model,
            AnswerReader(self.model, self.settings.feature_layer),
            dataset,
            RowCollator(self.tokenizer),
            batch_size=self.batch_size,
            with_features=True,
            description=f"Scoring {name}" if progress else None,
        )
        owners = torch.tensor([sample.source.number for sample in dataset.rows])  # a long text makes several samples
        counts = torch.zeros(len(rows)).index_add(0, owners, scores.num_tokens).clamp_min(1)
        nll = torch.zeros(len(rows)).index_add(0, owners, scores.sum_nll) / counts
        weighted = scores.features * scores.num_tokens.unsqueeze(1)
        features = torch.zeros(len(rows), weighted.shape[1]).index_add(0, owners, weighted) / counts.unsqueeze(1)
        return nll, features


class Judge:
    """Judges attempts in their order: a later one must differ from the proxies before it.

    Args:
        forget: the forget rows.
        retain: the retain rows; none without.
        scorer: scores rows.
        progress: whether to show progress bars.
    """

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row], scorer: Scorer, progress: bool):
        self.scorer = scorer
        self.filters = TextFilters(forget, retain)
        self.kept = Kept(self.filters.words.most_like)
        seed = scorer.settings.seed
        nll, forget_features = scorer(_sample(forget, seed), "forget rows", progress)
        self.forget_nll = float(nll.mean())
        known = forget_features
        if retain:
            _, retain_features = scorer(_sample(retain, seed), "retain rows", progress)
            known = torch.cat([forget_features, retain_features])
        self.space = FeatureSpace.fit(retain_features if retain else forget_features)
        self.known = self.space(known)
        self.most_cosine = near_duplicate_cosine(self.known[: len(forget_features)])

    def __call__(self, first_attempt: int, rows: Sequence[Row | None]) -> list[Verdict]:
        """Verdicts on consecutive attempts.

        Args:
            first_attempt: number of the first.
            rows: what was read from each, or None.
        """
        rejections = [self.filters.rejection(row) for row in rows]
        left = [place for place, rejection in enumerate(rejections) if rejection is None]
        found: dict[int, tuple[float, bool]] = {}
        if left:
            nll, features = self.scorer([rows[place] for place in left], "proxies")  # type: ignore[misc]
            too_near = (self.space(features) @ self.known.T).amax(dim=1) > self.most_cosine
            found = dict(zip(left, zip(nll.tolist(), too_near.tolist())))
        return [
            self._verdict(first_attempt + place, row, rejections[place], *found.get(place, (None, False)))
            for place, row in enumerate(rows)
        ]

    def _verdict(
        self, attempt: int, row: Row | None, rejection: Rejection | None, nll: float | None, is_too_near: bool
    ) -> Verdict:
        if rejection is None and is_too_near:
            rejection = Rejection.FEATURES
        if rejection is None and self.kept.rejects(row):  # type: ignore[arg-type]
            rejection = Rejection.REPEAT
        if rejection is not None:
            return Verdict(attempt, rejection)
        self.kept.add(row)  # type: ignore[arg-type]
        return Verdict(attempt, None, row, nll)


def near_duplicate_cosine(features: Tensor) -> float:
    """Cosine above which a row is a near-duplicate, from how near forget rows are to each other.

    The median of the cosine to the nearest other row, and three robust deviations more (1.4826 times the median
    absolute deviation); between 0.9 and 0.98. Duplicates among up to half of the rows do not move it far.

    Args:
        features: phi of the forget rows, shape (N, k), unit length.

    Example:
        >>> near_duplicate_cosine(torch.eye(3))
        0.9
    """
    if len(features) < 2:
        return _LEAST_COSINE
    cosines = features @ features.T
    nearest = cosines.fill_diagonal_(-1).amax(dim=1)
    middle = nearest.median()
    deviation = _NORMAL_DEVIATION * (nearest - middle).abs().median()
    return min(max(float(middle + 3 * deviation), _LEAST_COSINE), _MOST_COSINE)


def _sample(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows, or 1024 of them, drawn by the seed."""
    if len(rows) <= _MOST_SCORED:
        return list(rows)
    places = np.random.default_rng(seed).choice(len(rows), _MOST_SCORED, replace=False)
    return [rows[place] for place in sorted(places.tolist())]
