"""The retain objective: a retain loss as a component, with a fixed weight or as a constraint."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from egup_trainer.components.component import Component, Needs, Run
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import FinishedStep, Step
from egup_trainer.data.collator import Part
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import check_range
from egup_trainer.losses.base import ReferenceOutputs, RetainConstraint, RetainLoss
from egup_trainer.modeling.outputs import required
from egup_trainer.modeling.reference import NEEDS_OF_LOGITS, Need, ReferenceKind
from egup_trainer.modeling.scan import RowScores
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs, top_k_bytes
from egup_trainer.options import OptionGroup, option

_ALL_RETAIN, _MULTIPLIER = "all retain", "multiplier"


@dataclass
class RetainOptions(OptionGroup):
    """Options of the retain loss."""

    kl_top_k: int = option(
        64,
        "retain_loss=kl: keep this many top log-probabilities of the model before unlearning at each answer token of "
        "the retain rows, instead of a copy of the model, if they take less memory; 0 keeps the copy.",
    )

    def check_options(self) -> None:
        check_range(self, ("kl_top_k",), low=0, whole=True)


class RetainObjective(Component):
    """The term alpha * sum_j retain_j / N_r over the N_r retain answer tokens of a step.

    With a constraint, alpha is multiplied by mu, which dual ascent learns (Entesari et al. 2025, arXiv 2506.05314):
    after each step, mu <- max(0, mu + rate * (retain - bound)), with retain the mean retain loss of the whole step in
    nats per answer token. mu is logged as `retain_multiplier`.

    Args:
        loss: retain_j, summed over the tokens of each row.
        weight: alpha.
        constraint: makes the loss a constraint.
        top_k: how many top log-probabilities of the reference model may be stored to replace it; 0 for none.

    Attributes:
        multiplier: mu, shape (); None without a constraint.
        top_k_logps: the table that replaces the reference model, if there is one, once the run has started.
    """

    name = "retain"
    flag = "retain_loss"

    def __init__(
        self, loss: RetainLoss, weight: float = 1.0, constraint: RetainConstraint | None = None, top_k: int = 0
    ):
        self.loss, self.weight, self.constraint, self.top_k = loss, weight, constraint, top_k
        self.needs = Needs(
            retain_rows=True,
            logits=bool(loss.needs & NEEDS_OF_LOGITS),
            hidden=Need.HIDDEN in loss.needs,
            reference=loss.needs,
        )
        self.multiplier = None if constraint is None else torch.tensor(float(constraint.start))
        self.top_k_logps: TopKLogProbs | None = None

    def attach(self, run: Run) -> None:
        super().attach(run)
        if self.multiplier is not None:
            self.multiplier = self.multiplier.to(run.device)

    def bytes_of_table(self, retain_rows: RowDataset | None) -> float:
        if Need.TOP_K not in self.loss.needs or not self.top_k or retain_rows is None:
            return inf
        return top_k_bytes(TokenOffsets.of(retain_rows).total, self.top_k)

    @property
    def _reads_table(self) -> bool:
        return Need.TOP_K in self.loss.needs and self.run.reference.kind is ReferenceKind.TOP_K

    def scan(self) -> dict[str, ScanRequest]:
        if not self._reads_table:
            return {}
        rows = self.run.needed_retain_rows
        return {_ALL_RETAIN: ScanRequest(rows, torch.arange(len(rows)), top_k=self.top_k)}

    def start(self, scan: dict[str, RowScores]) -> None:
        if self._reads_table:
            self._use_table(required(scan[_ALL_RETAIN].top_k_logps, "top_k_logps").to(self.run.device))

    def _use_table(self, table: TopKLogProbs) -> None:
        self.top_k_logps = table
        self._tokens = TokenOffsets.of(self.run.needed_retain_rows).to(table.ids.device)

    def terms(self, step: Step) -> dict[str, Tensor]:
        value = step.counts.per_retain_token(self.loss(step.parts[Part.RETAIN], self._reference(step)))
        if self.multiplier is None:
            return {"retain": self.weight * value}
        step.add("retain_value", value, log=False)
        return {"retain": self.weight * (self.multiplier * value)}

    def _reference(self, step: Step) -> ReferenceOutputs:
        if not self.loss.needs:
            return ReferenceOutputs()
        if self.top_k_logps is not None:
            ids = step.retain_ids
            table = self.top_k_logps.at(self._tokens.of_rows(ids[ids >= 0]))  # fillers have no tokens
            return ReferenceOutputs(top_k_logps=table)
        read = step.read_reference(Part.RETAIN, self.loss.needs)
        return ReferenceOutputs(logits=read.logits, hidden=read.hidden)

    def commit(self, step: FinishedStep) -> None:
        if self.constraint is None or self.multiplier is None:
            return
        retain = step.sum("retain_value")
        if step.epoch > self.constraint.warmup_epochs:
            self.multiplier = (self.multiplier + self.constraint.rate * (retain - self.constraint.bound)).clamp_min(0)
        step.values["retain_multiplier"] = self.multiplier

    def state_dict(self) -> dict[str, Tensor]:
        state = {} if self.multiplier is None else {_MULTIPLIER: self.multiplier}
        return state | (vars(self.top_k_logps) if self.top_k_logps else {})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        tables = dict(state)
        if self.multiplier is not None:
            self.multiplier = tables.pop(_MULTIPLIER)
        if tables:
            self._use_table(TopKLogProbs(**tables))
