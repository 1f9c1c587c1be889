"""The values that EGUP computes for single rows during a run, to be looked at or plotted."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from egup_trainer.components.proxy_constraint import ProxyConstraint
from egup_trainer.components.step import Collected, Step, StepCounts
from egup_trainer.data.collator import Part
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.probability import MOST_ROWS, sample_ids
from egup_trainer.modeling.scan import RowScores


@dataclass(frozen=True)
class RowView:
    """N forget rows and M retain rows under the model of one moment; on the CPU.

    A value that the run does not have is None: `boundary` without the proxy constraint, features and what is computed
    from them if no component needs features, and `retain_nll` without retain rows.

    Args:
        step: optimizer steps taken.
        forget_ids, retain_ids: sample ids, shapes (N,) and (M,).
        forget_nll, retain_nll: l_i, shapes (N,) and (M,), nats per token.
        weights: w_i, the product of the weights of all components, shape (N,); negative past the boundary.
        boundary: b_i, shape (N,), nats per token.
        entanglement: e_i, mean cosine to the nearest retain features, shape (N,).
        drift: d_i, 1 - cosine to the features before unlearning, shape (N,).
        forget_features, retain_features: phi, unit vectors, shapes (N, k) and (M, k).
    """

    step: int
    forget_ids: Tensor
    retain_ids: Tensor
    forget_nll: Tensor
    weights: Tensor
    retain_nll: Tensor | None = None
    boundary: Tensor | None = None
    entanglement: Tensor | None = None
    drift: Tensor | None = None
    forget_features: Tensor | None = None
    retain_features: Tensor | None = None

    @property
    def boundary_gap(self) -> Tensor | None:
        """l_i - b_i, shape (N,), nats per token: above 0 past the boundary; None without the proxy constraint."""
        return None if self.boundary is None else self.forget_nll - self.boundary


class RowViews(TrainerCallback):
    """Takes a `RowView` before the first step and at the end of each epoch: a pass over the rows without gradient.

    It does not change the run. All values are those of the whole set at one moment, as the next step would have
    them; a step itself sees a row's features at its own visit. After a resume the first view is that of the checkpoint.

    Args:
        trainer: the `EGUPTrainer` whose rows are looked at; add the callback when the trainer is made.
        most_rows: from a larger set, this many rows are sampled with the run's seed.

    Attributes:
        views: in the order of steps.

    Example:
        >>> # watch = RowViews(trainer)
        >>> # trainer.add_callback(watch)
        >>> # trainer.train()
        >>> # watch.views[-1].boundary_gap
    """

    def __init__(self, trainer: Any, most_rows: int = MOST_ROWS):
        self.trainer, self.most_rows = trainer, most_rows
        self.views: list[RowView] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.views.append(self._view(state.global_step))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.views.append(self._view(state.global_step))

    def _view(self, step: int) -> RowView:
        trainer = self.trainer
        device, retain_rows = trainer.args.device, trainer.retain_rows
        ids = {"forget_ids": self._sampled(trainer.forget_rows), "retain_ids": self._sampled(retain_rows)}
        parts: dict[Part, Any] = {Part.FORGET: self._score(trainer.forget_rows, ids["forget_ids"])}
        if len(ids["retain_ids"]):
            parts[Part.RETAIN] = self._score(retain_rows, ids["retain_ids"])
        inputs = {name: each.to(device) for name, each in ids.items()}
        counts = StepCounts(*inputs.values(), *(torch.tensor(0, device=device) for _ in range(2)))
        seen = Step(inputs, parts, Collected(counts), trainer.reference.read)
        trainer.observe(seen)
        shown: dict[str, Any] = {
            "forget_nll": seen.forget.mean_nll,
            "weights": torch.ones_like(seen.forget.num_tokens) if seen.weights is None else seen.weights,
            "retain_nll": None if seen.retain is None else seen.retain.mean_nll,
        }
        for component in trainer.components:
            if isinstance(component, ProxyConstraint) and component.is_on:
                shown["boundary"] = component.boundary[inputs["forget_ids"]]
        if seen.features is not None:
            shown |= {name: getattr(seen.features, name) for name in ("entanglement", "drift")}
            shown |= {f"{name}_features": getattr(seen.features, name) for name in ("forget", "retain")}
        on_cpu: dict[str, Any] = {
            name: None if value is None else value.detach().cpu() for name, value in shown.items()
        }
        return RowView(step, *ids.values(), **on_cpu)

    def _score(self, rows: RowDataset, ids: Tensor) -> RowScores:
        device = self.trainer.args.device
        scores = self.trainer.score(rows, ids, with_features=self.trainer.needs.features)
        return RowScores(scores.sum_nll.to(device), scores.num_tokens.to(device), scores.features.to(device))

    def _sampled(self, rows: RowDataset | None) -> Tensor:
        return sample_ids(0 if rows is None else len(rows), self.trainer.args.seed, self.most_rows)
