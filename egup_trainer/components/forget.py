"""The forget objective: a forget loss as a component."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from egup_trainer.components.component import Component, Needs
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import Step
from egup_trainer.data.collator import Part
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.reference import NEEDS_OF_THE_SCAN, Need
from egup_trainer.modeling.scan import RowScores

_NEEDED_RISE = "needed_rise"


class ForgetObjective(Component):
    """The term gamma * sum_i w_i * base_i / B_f over the B_f forget rows of a step.

    Args:
        loss: base_i of each row.
        weight: gamma.

    Attributes:
        nll: L^0 of the forget rows ("nll") and of their alternates ("alternate_nll"), each (N_f,), if the loss needs
            them, once the run has started.
    """

    name = "forget"

    def __init__(self, loss: ForgetLoss, weight: float = 1.0):
        self.loss, self.weight = loss, weight
        self.nll: dict[str, Tensor] = {}
        self._needed_rise: Tensor | None = None
        self.needs = Needs(
            logits=loss.reads_logits, hidden=loss.reads_hidden, reference=loss.needs, alternate=loss.alternate
        )

    def scan(self) -> dict[str, ScanRequest]:
        if Need.NLL not in self.loss.needs:
            return {}
        rows = self.run.forget_rows
        sets = {"forget": rows}
        if self.loss.alternate:
            sets["alternate"] = RowDataset([row.alternate for row in rows.rows if row.alternate is not None])
        return {name: ScanRequest(each, torch.arange(len(rows))) for name, each in sets.items()}

    def start(self, scan: dict[str, RowScores]) -> None:
        if Need.NLL in self.loss.needs:
            self.nll = {"nll": scan["forget"].sum_nll.to(self.run.device)}
            if self.loss.alternate:
                self.nll["alternate_nll"] = scan["alternate"].sum_nll.to(self.run.device)

    def fit_to_boundary(self, needed_rise: Tensor) -> None:
        """Tells the loss how many nats less likely the answers must become to reach their boundary, shape ()."""
        self._needed_rise = needed_rise
        self.loss = self.loss.for_boundary(needed_rise.item())

    def terms(self, step: Step) -> dict[str, Tensor]:
        alternate = step.parts.get(Part.ALTERNATE)
        values = self.loss(replace(step.forget, alternate=alternate), self._reference(step))  # (B,)
        weights = step.is_real if step.weights is None else step.weights * step.is_real
        step.add("forget_nll", step.counts.per_forget_row(step.forget.mean_nll * step.is_real))
        if alternate is not None:
            step.add("alternate_nll", step.counts.per_forget_row(alternate.mean_nll * step.is_real))
        return {"forget": self.weight * step.counts.per_forget_row(weights * values)}

    def _reference(self, step: Step) -> ReferenceOutputs:
        nll: dict[str, Any] = {name: values[step.forget_ids.clamp_min(0)] for name, values in self.nll.items()}
        known = ReferenceOutputs(nll.get("nll"), alternate_nll=nll.get("alternate_nll"))
        if Need.EXPECTED in self.loss.needs:
            known = replace(known, top_k_logps=self.run.component(ExpectedOutputs).of(step))
        if self.loss.needs <= NEEDS_OF_THE_SCAN:
            return known
        read = step.read_reference(Part.FORGET, self.loss.needs)
        return replace(known, logits=read.logits, hidden=read.hidden)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.nll, **({} if self._needed_rise is None else {_NEEDED_RISE: self._needed_rise})}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.nll = {name: values for name, values in state.items() if name != _NEEDED_RISE}
        if _NEEDED_RISE in state:
            self.fit_to_boundary(state[_NEEDED_RISE].cpu())
