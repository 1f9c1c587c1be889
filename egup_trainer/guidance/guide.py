"""EGUP's view of a step: what a batch's features and losses say, and the weights that follow."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from egup_trainer.guidance.embedding_cache import EmbeddingCache
from egup_trainer.guidance.entanglement import (
    drift,
    inter_sample_entanglement,
    inter_sample_weights,
    intra_sample_weights,
)
from egup_trainer.guidance.feature_table import Shelf
from egup_trainer.guidance.proxy_constraint import ProxyForm, proxy_effort
from egup_trainer.modeling.outputs import AnswerOutputs, required

_CACHE, _BOUNDARY, _STRENGTH = "cache.", "boundary", "strength"


@dataclass(frozen=True)
class Sight:
    """What a micro-batch showed. Absent values are None: features where no part of EGUP or CLReg reads them.

    Args:
        forget_ids, retain_ids: sample ids, shapes (B,) and (C,); -1 for fillers.
        weights: factor on each forget row's loss, without gradient, shape (B,).
        forget_features, retain_features: phi with gradient, shapes (B, k) and (C, k).
        entanglement: e_i, shape (B,).
        drift: d_i, shape (B,).
        boundary_gap: l_i - b_i without gradient, shape (B,), nats per token.
    """

    forget_ids: Tensor
    retain_ids: Tensor
    weights: Tensor
    forget_features: Tensor | Any = None
    retain_features: Tensor | Any = None
    entanglement: Tensor | Any = None
    drift: Tensor | Any = None
    boundary_gap: Tensor | Any = None

    def detached(self) -> "Sight":
        """The same values without the graph that made them."""
        values: dict[str, Any] = {name: None if value is None else value.detach() for name, value in vars(self).items()}
        return Sight(**values)


class Guide:
    """Weights forget samples by EGUP's three parts and keeps what they remember.

    Args:
        options: an `EGUPConfig`, or anything with its fields.
        pulls_back: whether the forget loss stands negative weights; if not, efforts stop at 0.
        cache: per-sample features, or None if no part reads features.
        boundary: b_i of each forget row, shape (N_f,), or None without the proxy constraint.
        strength: lambda, shape (); that of the options by default.
    """

    def __init__(
        self,
        options: Any,
        pulls_back: bool,
        cache: EmbeddingCache | None,
        boundary: Tensor | None,
        strength: Tensor | None = None,
    ):
        self.options, self.pulls_back = options, pulls_back
        self.cache: EmbeddingCache | Any = cache
        self.boundary: Tensor | Any = boundary
        self.strength = torch.tensor(float(options.proxy_lambda)) if strength is None else strength

    def look(
        self, forget: AnswerOutputs, forget_ids: Tensor, retain: AnswerOutputs | None, retain_ids: Tensor
    ) -> Sight:
        """Reads a micro-batch against the cache as it stood at the start of the optimizer step."""
        sight = Sight(forget_ids, retain_ids, weights=torch.ones_like(forget.num_tokens))
        if self.cache is not None:
            sight = self._look_at_features(self.cache, sight, forget, retain)
        if self.boundary is not None:
            gap = forget.mean_nll.detach() - self.boundary[forget_ids.clamp_min(0)]
            sight = replace(sight, boundary_gap=gap, weights=sight.weights * self._effort(gap))
        return sight

    def _look_at_features(
        self, cache: EmbeddingCache, sight: Sight, forget: AnswerOutputs, retain: AnswerOutputs | None
    ) -> Sight:
        options = self.options
        phi = cache.space(required(forget.features, "features"))  # (B, k)
        seen = phi.detach()
        start = cache.initial if options.drift_reference.value == "initial" else cache.latest
        entanglement = inter_sample_entanglement(seen, cache.bank, options.inter_neighbors)
        moved = drift(seen, start[sight.forget_ids.clamp_min(0)])
        weights = sight.weights
        if options.inter_entanglement:
            clip = (options.inter_clip_min, options.inter_clip_max)
            weights = weights * inter_sample_weights(entanglement, cache.entanglement, options.inter_temperature, clip)
        if options.intra_entanglement:
            weights = weights * intra_sample_weights(moved, cache.drift, options.intra_temperature)
        return replace(
            sight,
            weights=weights,
            forget_features=phi,
            retain_features=None if retain is None else cache.space(required(retain.features, "features")),
            entanglement=entanglement,
            drift=moved,
        )

    def _effort(self, gap: Tensor) -> Tensor:
        options = self.options
        if options.proxy_form is not ProxyForm.EFFORT:
            return torch.ones_like(gap)
        effort = proxy_effort(gap, torch.zeros_like(gap), self.strength.to(gap.device), options.proxy_temperature)
        return effort if self.pulls_back else effort.clamp_min(0)

    def learn_strength(self, gap: Tensor) -> None:
        """One step of dual ascent on the constraint mean(l_i - b_i) <= 0: lambda <- max(0, lambda + rate * mean gap).

        Args:
            gap: l_i - b_i of the step's forget rows, over all processes, shape (B,).
        """
        self.strength = (self.strength + self.options.proxy_dual_rate * gap.mean().to(self.strength)).clamp_min(0)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint: boundary (N_f,), lambda (), and those of the cache."""
        state = {} if self.boundary is None else {_BOUNDARY: self.boundary, _STRENGTH: self.strength}
        if self.cache is not None:
            state |= {_CACHE + name: tensor for name, tensor in self.cache.state_dict().items()}
        return state

    @classmethod
    def from_state_dict(
        cls, options: Any, pulls_back: bool, state: dict[str, Tensor], shelf: Shelf | None = None
    ) -> "Guide":
        """The guide of a checkpoint; `shelf` is where its cache keeps phi of the samples."""
        cached = {name.removeprefix(_CACHE): value for name, value in state.items() if name.startswith(_CACHE)}
        cache = EmbeddingCache.from_state_dict(cached, options.bank_size, shelf) if cached else None
        return cls(options, pulls_back, cache, state.get(_BOUNDARY), state.get(_STRENGTH))
