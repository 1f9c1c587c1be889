"""What is compared: each is a `transformers.Trainer` that takes the same rows at each step.

NPO is written as research code has it: a deep copy of the model as reference, forget and retain rows in passes of their
own, logits of all positions.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, logsigmoid
from transformers import Trainer, TrainingArguments

from benchmarks.speed.rows import SpeedRows
from egup_trainer.config import EGUPConfig
from egup_trainer.data.collator import PairCollator, RowCollator
from egup_trainer.data.pairing import PairDataset
from egup_trainer.egup import EGUPTrainer
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import add_adapter, keep_gradients_of_4bit_layers

BETA, CLREG = 0.1, 0.1
Options = dict[str, Any]
"""Options of `TrainingArguments` that all contenders share."""


class _Pairs(torch.utils.data.Dataset):
    """Pairs (i, i) of forget and retain rows, in order."""

    def __init__(self, rows: SpeedRows):
        self._pairs = PairDataset(rows.forget, rows.retain)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        return self._pairs[(index, index)]


def _trainer(kind: type[Trainer], model: Any, rows: SpeedRows, folder: Path, options: Options, **more: Any) -> Trainer:
    args = TrainingArguments(str(folder), remove_unused_columns=False, train_sampling_strategy="sequential", **options)
    return kind(model=model, args=args, train_dataset=_Pairs(rows), **more)


def fine_tuning(model: Any, rows: SpeedRows, folder: Path, options: Options, adapter: Any) -> Trainer:
    """Plain `transformers.Trainer`: the forget and the retain rows of a step as one batch."""
    collator = RowCollator(rows.tokenizer)
    joined = lambda pairs: collator([row for pair in pairs for row in pair])  # noqa: E731
    return _trainer(Trainer, _adapted(model, adapter), rows, folder, options, data_collator=joined)


class _UsualNPO(Trainer):
    """NPO with a copy of the model, and NLL or KL on retain rows."""

    with_kl = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        forget, retain = inputs
        rise = self._nll(model, forget)
        with torch.no_grad():
            rise = rise - self._nll(self.reference, forget)
        loss = -2 / BETA * logsigmoid(BETA * rise).mean()
        outputs = model(**retain)
        return loss + (self._divergence(outputs.logits, retain) if self.with_kl else outputs.loss)

    @staticmethod
    def _nll(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits, labels = model(**batch).logits[:, :-1].float(), batch["labels"][:, 1:]
        return cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1)

    def _divergence(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            before = self.reference(**batch).logits.float().log_softmax(-1)
        return kl_div(logits.float().log_softmax(-1), before, reduction="none", log_target=True).sum(-1).mean()


class _UsualNPOWithKL(_UsualNPO):
    with_kl = True


def _usual(kind: type[Trainer]) -> Callable:
    def make(model: Any, rows: SpeedRows, folder: Path, options: Options, adapter: Any) -> Trainer:
        collator = RowCollator(rows.tokenizer)
        apart = lambda pairs: [collator([pair[side] for pair in pairs]) for side in (0, 1)]  # noqa: E731
        return _trainer(kind, _adapted(model, adapter), rows, folder, options, data_collator=apart)

    return make


class _Floor(Trainer):
    """One pass over the joined rows, logits at answer positions, mean of their log-probabilities."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        if not hasattr(self, "reader"):
            self.reader = AnswerReader(self.model)
        read = self.reader(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], with_features=False)
        return -read.token_logps.mean()


def floor(model: Any, rows: SpeedRows, folder: Path, options: Options, adapter: Any) -> Trainer:
    """The least that a step over these rows takes."""
    collator = PairCollator(RowCollator(rows.tokenizer))
    return _trainer(_Floor, _adapted(model, adapter), rows, folder, options, data_collator=collator)


def egup(
    model: Any, rows: SpeedRows, folder: Path, options: Options, adapter: Any, padding_free: bool | None = None
) -> Trainer:
    """`EGUPTrainer` on NPO with both entanglements, the proxy constraint and CLReg."""
    return EGUPTrainer(
        model,
        EGUPConfig(
            str(folder),
            objective="npo",
            npo_beta=BETA,
            clreg_weight=CLREG,
            inter_entanglement=True,
            intra_entanglement=True,
            padding_free=padding_free,
            verdict=False,
            **options,
        ),
        forget_dataset=rows.forget,
        retain_dataset=rows.retain,
        proxy_dataset=rows.proxy,
        processing_class=rows.tokenizer,
        peft_config=adapter,
    )


def _adapted(model: Any, adapter: Any) -> Any:
    model = model if adapter is None else add_adapter(model, adapter)
    keep_gradients_of_4bit_layers(model)
    return model


CONTENDERS: dict[str, Callable[..., Trainer]] = {
    "floor": floor,
    "sft": fine_tuning,
    "npo": _usual(_UsualNPO),
    "npo_kl": _usual(_UsualNPOWithKL),
    "egup_padded": partial(egup, padding_free=False),
    "egup": egup,
}
"""By name; each is called with a fresh model, the rows, a folder, options of `TrainingArguments` and an adapter."""
