"""What the losses of a run know of the model before unlearning: numbers from the scan, or the model itself."""

import logging
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from egup_trainer.data.collator import Part, parts_of
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs, RetainLoss
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import required
from egup_trainer.modeling.reference import NEEDS_OF_LOGITS, Need, Reference, ReferenceKind, choose_reference
from egup_trainer.modeling.scan import RowScores
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs, top_k_bytes
from egup_trainer.trainer.scanning import ScanRequest

logger = logging.getLogger(__name__)
_FORGET, _ALTERNATE, _RETAIN = "forget", "alternate", "all retain"
_NLL_BEFORE, _LIKELY_BEFORE = "_nll_before", "likely_before_"


class ModelBefore:
    """The model before unlearning, as far as a run's losses need it.

    Args:
        forget_loss, retain_loss: the losses; the second may be None.
        model: the bare model before its first step.
        reader: reads answers of `model`.
        retain_rows: the retain set, if there is one.
        top_k: how many of the most likely tokens of its answers may stand for the model; 0 for none.

    Attributes:
        reference: the model itself, if a loss needs it.
        nll: L^0 of the forget rows ("forget") and of their alternates ("alternate"), each (N_f,), once scanned.
        top_k_logps: the most likely tokens of the retain rows' answers, if they stand for the model, once scanned.
    """

    def __init__(
        self,
        forget_loss: ForgetLoss,
        retain_loss: RetainLoss | None,
        model: Any,
        reader: AnswerReader,
        retain_rows: RowDataset | Any = None,
        top_k: int = 0,
    ):
        retain_needs = retain_loss.needs if retain_loss else frozenset()
        needs = forget_loss.needs | retain_needs
        self._needs = {Part.FORGET: forget_loss.needs, Part.RETAIN: retain_needs}
        self._scanned = (_FORGET, _ALTERNATE) if forget_loss.alternate else (_FORGET,)
        self.reads_logits = forget_loss.reads_logits or bool(needs & NEEDS_OF_LOGITS)
        self.reads_hidden = forget_loss.reads_hidden or Need.HIDDEN in needs
        serves = top_k and Need.TOP_K in retain_needs and Need.TOP_K not in forget_loss.needs
        self._places: TokenOffsets | Any = TokenOffsets.of(retain_rows) if serves else None
        size = top_k_bytes(self._places.total, top_k) if self._places else inf
        self._retain_rows, self._top_k = retain_rows, top_k
        self.reference = Reference(choose_reference(needs, model, size), model, reader)
        logger.info("The model before unlearning is kept as: %s", self.reference.kind.value)
        self.nll: dict[str, Tensor] = {}
        self.top_k_logps: TopKLogProbs | None = None

    def scan_requests(self, rows: RowDataset) -> dict[str, ScanRequest]:
        """The forget rows, and their alternates, if a loss needs their numbers; all retain rows, for their tokens."""
        requests = {}
        if Need.NLL in self._needs[Part.FORGET]:
            requests[_FORGET] = ScanRequest(rows, torch.arange(len(rows)))
            if _ALTERNATE in self._scanned:
                alternates = RowDataset([row.alternate for row in rows.rows if row.alternate is not None])
                requests[_ALTERNATE] = ScanRequest(alternates, torch.arange(len(rows)))
        if self.reference.kind is ReferenceKind.TOP_K:
            all_rows = torch.arange(len(self._retain_rows))
            requests[_RETAIN] = ScanRequest(self._retain_rows, all_rows, top_k=self._top_k)
        return requests

    def use_scan(self, scores: dict[str, RowScores], device: torch.device) -> None:
        """Takes over the numbers of the scan."""
        if Need.NLL in self._needs[Part.FORGET]:
            self.nll = {name: scores[name].sum_nll.to(device) for name in self._scanned}
        if self.reference.kind is ReferenceKind.TOP_K:
            self._use_tokens(required(scores[_RETAIN].top_k_logps, "top_k_logps").to(device))

    def _use_tokens(self, top_k_logps: TopKLogProbs) -> None:
        self.top_k_logps, self._places = top_k_logps, self._places.to(top_k_logps.ids.device)

    def outputs(self, model: Any, inputs: dict[str, Tensor], part: Part) -> ReferenceOutputs:
        """What a part's loss may know of its rows in a joined batch.

        Args:
            model: the model as wrapped for training.
        """
        needs, ids = self._needs[part], inputs[part.value]
        nll = {name: values[ids.clamp_min(0)] for name, values in self.nll.items()} if Need.NLL in needs else {}
        known = ReferenceOutputs(nll.get(_FORGET), alternate_nll=nll.get(_ALTERNATE))
        if self.top_k_logps is not None and Need.TOP_K in needs:
            places = self._places.of_rows(ids[ids >= 0])  # a filler has no tokens
            return replace(known, top_k_logps=self.top_k_logps.at(places))
        if needs <= {Need.NLL}:
            return known
        rows = parts_of(inputs)[part]
        ids, mask, labels = (inputs[name][rows] for name in ("input_ids", "attention_mask", "labels"))
        read = self.reference.read(model, ids, mask, labels, needs=needs)
        return replace(known, logits=read.logits, hidden=read.hidden)

    def state_dict(self) -> dict[str, Tensor]:
        """The numbers by name, for a checkpoint."""
        numbers = {name + _NLL_BEFORE: values for name, values in self.nll.items()}
        tokens = vars(self.top_k_logps) if self.top_k_logps else {}
        return numbers | {_LIKELY_BEFORE + name: values for name, values in tokens.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over the numbers of a checkpoint."""
        names = {name: name + _NLL_BEFORE for name in self._scanned}
        self.nll = {name: state[key] for name, key in names.items() if key in state}
        tokens: dict[str, Any] = {name: state.get(_LIKELY_BEFORE + name) for name in ("ids", "logps")}
        if tokens["ids"] is not None:
            self._use_tokens(TopKLogProbs(**tokens))
