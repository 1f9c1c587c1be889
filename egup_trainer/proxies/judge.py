"""Which attempts become proxies: first by their texts, then by what the initial model says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egup_trainer.components.feature_space import FeatureSpace
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.limits import check_token_ids
from egup_trainer.modeling.scan import score_rows
from egup_trainer.proxies.filters import Kept, Rejection, TextFilters
from egup_trainer.proxies.settings import ProxySettings

_MIN_COSINE, _MAX_COSINE = 0.9, 0.98
_MAX_SCORED = 1024
_NORMAL_DEVIATION = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True)
class Verdict:
    """The result of an attempt.

    Args:
        rejection: why it is not a proxy, or None.
        row: the proxy, or None: rejected texts may be forget rows, so they are stored nowhere.
        nll: l of the proxy under the initial model, nats per token, or None.
    """

    attempt: int
    rejection: Rejection | None
    row: Row | None = None
    nll: float | None = None


@dataclass(frozen=True)
class Scorer:
    """Computes l and pooled features of rows under a model."""

    model: Any
    tokenizer: Any
    template: Template
    settings: ProxySettings
    batch_size: int

    def __call__(self, rows: Sequence[Row], name: str, progress: bool = False) -> tuple[Tensor, Tensor]:
        """The l of each row (N,), in nats per token, and the mean hidden state over its answer tokens (N, d)."""
        dataset = tokenize(
            [Row(row.prompt, row.answer) for row in rows],
            self.tokenizer,
            name=name,
            max_length=self.settings.max_length,
            template=self.template,
        )
        check_token_ids(self.model, [row.input_ids for row in dataset.rows], name)
        scores = score_rows(
            self.model,
            AnswerReader(self.model, self.settings.feature_layer),
            dataset,
            RowCollator(self.tokenizer),
            batch_size=self.batch_size,
            with_features=True,
            description=f"Scoring {name}" if progress else None,
        )
        owners = torch.tensor(dataset.owners)  # a long text makes several samples
        counts = torch.zeros(len(rows)).index_add(0, owners, scores.num_tokens).clamp_min(1)
        nll = torch.zeros(len(rows)).index_add(0, owners, scores.sum_nll) / counts
        weighted = scores.features * scores.num_tokens.unsqueeze(1)
        features = torch.zeros(len(rows), weighted.shape[1]).index_add(0, owners, weighted) / counts.unsqueeze(1)
        return nll, features


class Judge:
    """Judges attempts in their order: each must differ from the proxies before it."""

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row], scorer: Scorer, progress: bool):
        self.scorer = scorer
        self.filters = TextFilters(forget, retain)
        self.kept = Kept(self.filters.words.max_rouge)
        seed = scorer.settings.seed
        nll, features = scorer(_sample(forget, seed), "forget rows", progress)
        self.forget_nll = float(nll.mean())
        self.space, self.known = FeatureSpace.fit(features), features
        if retain:
            _, retain_features = scorer(_sample(retain, seed), "retain rows", progress)
            self.space, self.known = FeatureSpace.fit(retain_features), torch.cat([features, retain_features])
        self.known = self.space(self.known)
        self.max_cosine = near_duplicate_cosine(self.known[: len(features)])

    def __call__(self, first_attempt: int, rows: Sequence[Row | None]) -> list[Verdict]:
        """Verdicts on consecutive attempts."""
        rejections = [self.filters.rejection(row) for row in rows]
        readable = [row for row, rejection in zip(rows, rejections) if row is not None and rejection is None]
        scored: list[tuple[float, bool]] = []
        if readable:
            losses, features = self.scorer(readable, "proxies")
            is_near = (self.space(features) @ self.known.T).amax(dim=1) > self.max_cosine
            scored = list(zip(losses.tolist(), is_near.tolist()))
        verdicts = []
        for attempt, (row, rejection) in enumerate(zip(rows, rejections), start=first_attempt):
            nll: float | None = None
            if row is not None and rejection is None:
                nll, is_too_near = scored.pop(0)
                if is_too_near:
                    rejection = Rejection.FEATURES
                elif self.kept.rejects(row):
                    rejection = Rejection.REPEAT
                else:
                    self.kept.add(row)
            verdicts.append(Verdict(attempt, rejection) if rejection else Verdict(attempt, None, row, nll))
        return verdicts


def near_duplicate_cosine(features: Tensor) -> float:
    """Cosine above which a row is a near-duplicate, judged by how near forget rows are to each other.

    The median of the cosine to the nearest other row plus three robust deviations (1.4826 times the median absolute
    deviation), between 0.9 and 0.98. Duplicates among up to half of the rows change it only a little.

    Args:
        features: phi of the forget rows, shape (N, k), unit length.

    Example:
        >>> near_duplicate_cosine(torch.eye(3))
        0.9
    """
    if len(features) < 2:
        return _MIN_COSINE
    cosines = features @ features.T
    nearest = cosines.fill_diagonal_(-1).amax(dim=1)
    middle = nearest.median()
    deviation = _NORMAL_DEVIATION * (nearest - middle).abs().median()
    return min(max(float(middle + 3 * deviation), _MIN_COSINE), _MAX_COSINE)


def _sample(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows, or 1024 of them, chosen at random by the seed."""
    if len(rows) <= _MAX_SCORED:
        return list(rows)
    indices = np.random.default_rng(seed).choice(len(rows), _MAX_SCORED, replace=False)
    return [rows[index] for index in sorted(indices.tolist())]
