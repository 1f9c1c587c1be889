"""CLReg: the contrastive representation regularizer (arXiv 2601.22028)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egup_trainer.components.component import Component, ComponentOptions, Needs
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.step import Step
from egup_trainer.data.collator import Batch, Part
from egup_trainer.errors import ConfigError, check_range, choose
from egup_trainer.losses.base import ForgetLoss, Guidance
from egup_trainer.modeling.outputs import required
from egup_trainer.options import option


class ClregPositives(str, Enum):
    """Which features are the positives of a forget anchor."""

    FORGET = "forget"
    VIEWS = "views"
    PARAPHRASE = "paraphrase"


def contrastive_loss(
    anchors: Tensor, positives: Tensor, is_positive: Tensor, negatives: Tensor, temperature: float = 0.2
) -> Tensor:
    """Pushes forget features away from retain features and towards each other.

    Formula, for anchor i with positives P_i and negatives N:
    mean over p in P_i of -log(exp(cos(i, p) / tau) / (sum over q in P_i and N of exp(cos(i, q) / tau))).

    Args:
        anchors: forget features of this step with gradient, unit length, shape (B, k).
        positives: features that anchors are pulled towards, without gradient, unit length, shape (P, k).
        is_positive: which of them belong to which anchor, bool, shape (B, P).
        negatives: retain features without gradient, unit length, shape (M, k).
        temperature: tau, in cosine units.

    Returns:
        Values of shape (B,); 0 for an anchor without positives.

    Example:
        >>> one = torch.tensor([[1.0, 0.0]])
        >>> contrastive_loss(one, one, torch.tensor([[True]]), -one, temperature=1.0)  # log(1 + exp(-2))
        tensor([0.1269])
    """
    to_positives = anchors @ positives.detach().T / temperature  # (B, P)
    to_negatives = anchors @ negatives.detach().T / temperature  # (B, M)
    all_logits = torch.cat([to_positives.masked_fill(~is_positive, -torch.inf), to_negatives], dim=1)  # (B, P + M)
    losses = all_logits.logsumexp(dim=1, keepdim=True) - to_positives  # (B, P)
    counts = is_positive.sum(dim=1)  # (B,)
    return torch.where(is_positive, losses, 0).sum(dim=1) / counts.clamp_min(1)


def retain_anchor_loss(features: Tensor, initial: Tensor) -> Tensor:
    """Holds retain features where they were before unlearning: 1 - cos(phi_t(x_j), phi_0(x_j)).

    Args:
        features: retain features of this step with gradient, unit length, shape (B, k).
        initial: the same rows' features before unlearning, unit length, shape (B, k).

    Returns:
        Values of shape (B,), between 0 and 2.

    Example:
        >>> retain_anchor_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.])
    """
    return 1 - (features * initial.detach()).sum(dim=1)


def view_noise(ids: Tensor, lengths: Tensor, width: int, size: int, alpha: float, seed: int, step: int) -> Tensor:
    """Uniform noise of NEFTune's size (Jain et al. 2023, arXiv 2310.05914): U(-1, 1) * alpha / sqrt(n * d).

    The noise of each row is sampled with (seed, step, id), so it does not depend on how a step is divided.

    Args:
        ids: sample ids, shape (P,).
        lengths: number of tokens n of each row, shape (P,).
        width: padded length T.
        size: embedding size d.
        alpha: size of the noise.
        seed: seed of the run.
        step: optimizer steps taken so far.

    Returns:
        Shape (P, T, d), on the CPU; 0 at padding.

    Example:
        >>> view_noise(torch.tensor([3]), torch.tensor([1]), width=2, size=4, alpha=1.0, seed=0, step=0)[0, 1]
        tensor([0., 0., 0., 0.])
    """
    noise = torch.zeros(len(ids), width, size)
    for position, (index, length) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True)):
        sampled = np.random.default_rng([seed, step, index + 1]).uniform(-1, 1, (length, size))  # + 1: a filler has -1
        noise[position, :length] = torch.from_numpy(sampled) * (alpha / (length * size) ** 0.5)
    return noise


@dataclass
class CLRegOptions(ComponentOptions):
    """Options of `CLReg`."""

    help_title = "CLReg"

    clreg_weight: float = option(0.0, "Weight of the contrastive regulariser CLReg; 0 switches it off.")
    clreg_temperature: float = option(0.2, "CLReg: temperature (tau_c), in cosine units; above 0.")
    clreg_positives: ClregPositives = option(
        ClregPositives.FORGET,
        "CLReg: pull a forget sample towards the step's other forget samples, towards a view of itself with embedding "
        "noise, or towards its paraphrase.",
    )
    clreg_noise_alpha: float = option(5.0, "CLReg: size of the embedding noise of a view (NEFTune's alpha); above 0.")
    clreg_retain_anchor: float = option(
        0.1, "CLReg: weight, within the regulariser, of holding retain features in place; 0 or more."
    )

    def check_options(self) -> None:
        self.clreg_positives = choose(ClregPositives, self.clreg_positives, "clreg_positives")
        check_range(self, ("clreg_weight", "clreg_retain_anchor"), low=0)
        check_range(self, ("clreg_temperature", "clreg_noise_alpha"), low=0, low_is_allowed=False)
        config: Any = self  # the whole configuration, of which these options are a part
        rows = config.train_batch_size * config.gradient_accumulation_steps * config.world_size
        if self.clreg_weight and self.clreg_positives is ClregPositives.FORGET and rows < 2:
            raise ConfigError(
                got="clreg_positives=forget with one forget row per step",
                expected="two or more: a sample is drawn to the step's other forget samples",
                fix="raise the batch size or --gradient_accumulation_steps, or use --clreg_positives views",
            )

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        return CLReg(self) if self.clreg_weight else None


class CLReg(Component):
    """Adds `contrastive_loss` of the forget rows and `retain_anchor_loss` of the retain rows.

    The terms are clreg_weight * sum_i contrast_i / B_f over the B_f forget rows of a step, and clreg_weight *
    clreg_retain_anchor * the mean of the anchor loss over the step's retain rows that the scan has seen.
    """

    name = "clreg"
    acts_by = frozenset({Guidance.TERMS})
    flag = "clreg_weight"
    switch_off = "leave out --clreg_weight"

    def __init__(self, options: CLRegOptions):
        self._options = options
        kind = options.clreg_positives
        positives = None if kind is ClregPositives.FORGET else kind.value
        self.needs = Needs(features=True, positives=positives)
        self._global_step = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remembers the number of the step, which is part of the seed of the noise."""
        self._global_step = state.global_step

    def embedding_noise(self, inputs: Batch) -> Tensor | None:
        if Part.POSITIVE.value not in inputs or self._options.clreg_positives is not ClregPositives.VIEWS:
            return None
        ids = inputs[Part.POSITIVE.value]
        return view_noise(
            ids,
            inputs["attention_mask"][-len(ids) :].sum(dim=1),
            width=inputs["input_ids"].shape[1],
            size=self.run.embedding_size,
            alpha=self._options.clreg_noise_alpha,
            seed=self.run.seed,
            step=self._global_step,
        ).to(ids.device)

    def terms(self, step: Step) -> dict[str, Tensor]:
        options, cache = self._options, self.run.component(FeatureMemory).cache
        if Part.POSITIVE in step.parts:
            positives = cache.space(required(step.parts[Part.POSITIVE].features, "features"))
            is_positive = torch.eye(len(positives), dtype=torch.bool, device=positives.device)
        else:
            positives = cache.latest[step.counts.forget_ids]
            is_positive = step.forget_ids[:, None] != step.counts.forget_ids[None, :]
        contrast = contrastive_loss(
            step.features.forget, positives, is_positive, cache.bank, options.clreg_temperature
        )  # (B,)
        terms = {"clreg": options.clreg_weight * step.counts.per_forget_row(contrast * step.is_real)}
        if options.clreg_retain_anchor and step.features.retain is not None:
            initial, is_known = cache.retain_reference(step.retain_ids)
            total = cache.retain_reference(step.counts.retain_ids)[1].sum().clamp_min(1)
            held = (retain_anchor_loss(step.features.retain, initial) * is_known).sum() / total
            terms["clreg_anchor"] = options.clreg_weight * options.clreg_retain_anchor * held
        return terms
