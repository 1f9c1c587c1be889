"""One pass over rows without gradient: negative log-likelihood and features of each, on any number of processes."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import StateError
from egup_trainer.files import one_line_write_errors, write_file_with
from egup_trainer.modeling.batches import autocast_of, iter_batches, merge_processes
from egup_trainer.modeling.offloading import iter_tensors
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs

_CHUNK = 1 << 22
_NAMES_AND_VERSIONS = (
    "_name_or_path",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "transformers_version",
    "use_cache",
)


@dataclass(frozen=True)
class RowScores:
    """Numbers of N rows in the requested order, on the CPU.

    Args:
        sum_nll: L_i, shape (N,), nats.
        num_tokens: n_i, shape (N,).
        features: mean hidden state over answer tokens, shape (N, d), or projected, (N, k); float32; or empty, (N, 0).
        top_k_logps: top-k log-probabilities at all answer tokens, row after row, or None if not requested.
        states: hidden states where these tokens are predicted, shape (tokens, d), float32, or None if not requested.
    """

    sum_nll: Tensor
    num_tokens: Tensor
    features: Tensor
    top_k_logps: TopKLogProbs | None = None
    states: Tensor | None = None

    @property
    def mean_nll(self) -> Tensor:
        """l_i = L_i / n_i, shape (N,), nats per token."""
        return self.sum_nll / self.num_tokens.clamp_min(1)

    @property
    def probability(self) -> float:
        """Mean over rows of exp(-l_i)."""
        return self.mean_nll.neg().exp().mean().item()

    def nll_of(self, owners: Tensor) -> Tensor:
        """l of each row, where each sample is a part of the row that `owners` names, shape (N,): (rows,), nats."""
        _, indices = owners.unique(return_inverse=True)
        zeros = torch.zeros(int(indices.max()) + 1)
        nll, tokens = (zeros.index_add(0, indices, each.float()) for each in (self.sum_nll, self.num_tokens))
        return nll / tokens.clamp_min(1)


@torch.no_grad()
def score_rows(
    model: nn.Module,
    reader: Callable[..., AnswerOutputs],
    dataset: RowDataset,
    collator: RowCollator,
    *,
    batch_size: int,
    accelerator: Accelerator | None = None,
    ids: Tensor | None = None,
    with_features: bool = False,
    projection: Tensor | None = None,
    top_k: int = 0,
    answer_first: bool = False,
    with_states: bool = False,
    estimate: Callable[[AnswerOutputs], TopKLogProbs] | None = None,
    description: str | None = None,
) -> RowScores:
    """Scores rows in evaluation mode; every process returns all results.

    Args:
        model: the model, as wrapped for training if it is.
        reader: the reader of the bare model inside.
        accelerator: the `Accelerator` of a run on several processes, or None for one process.
        ids: which rows, shape (N,); all by default.
        with_features: whether to read features.
        projection: multiplied with features as they are read, shape (d, k), so that only (N, k) are ever held.
        top_k: how many of the most likely tokens to keep at each answer token.
        answer_first: whether the answer token itself is kept, too, before the others.
        with_states: whether to read the hidden states where answer tokens are predicted; with `top_k`.
        estimate: makes other top-k log-probabilities of a batch, from its states, in place of the model's own.
    """
    scan = _Scan(
        model=model,
        reader=reader,
        dataset=dataset,
        collator=collator,
        accelerator=accelerator,
        with_features=with_features,
        projection=projection,
        top_k=top_k,
        answer_first=answer_first,
        with_states=with_states,
        estimate=estimate,
    )
    wanted = torch.arange(len(dataset)) if ids is None else ids
    of_rows, of_tokens = scan.read(wanted, batch_size, description)
    lost = ~of_rows["sum_nll"].isfinite()
    if "features" in of_rows:
        lost |= ~of_rows["features"].isfinite().all(dim=1)
    if batch_size > 1 and lost.any():
        # One such row spoils others: in a line that they share, and through padding, where a weight of 0 times NaN is
        # NaN. Each is therefore scored again, alone.
        rows = lost.nonzero().flatten()
        again, again_of_tokens = scan.read(wanted[rows], batch_size=1)
        for name, values in again.items():
            of_rows[name][rows] = values
        for name, values in again_of_tokens.items():
            of_tokens[name][TokenOffsets.of(dataset, wanted.tolist()).of_rows(rows)] = values
    tokens = TopKLogProbs(of_tokens["ids"], of_tokens["logps"]) if of_tokens else None
    return RowScores(
        of_rows["sum_nll"],
        of_rows["num_tokens"],
        of_rows.get("features", torch.zeros(len(wanted), 0)),
        tokens,
        of_tokens.get("states"),
    )


@dataclass(frozen=True)
class _Scan:
    """How rows are read, and what is kept of them: the arguments of `score_rows`."""

    model: nn.Module
    reader: Callable[..., AnswerOutputs]
    dataset: RowDataset
    collator: RowCollator
    accelerator: Accelerator | None
    with_features: bool
    projection: Tensor | None
    top_k: int
    answer_first: bool
    with_states: bool
    estimate: Callable[[AnswerOutputs], TopKLogProbs] | None

    def read(
        self, ids: Tensor, batch_size: int, description: str | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Numbers of the rows `ids`, and of their answer tokens, row after row, by name; on every process."""
        of_rows: dict[str, Tensor] = {}
        of_tokens: dict[str, Tensor] = {}
        offsets = TokenOffsets.of(self.dataset, ids.tolist()) if self.top_k or self.estimate else None
        for rows, batch in iter_batches(
            self.model,
            self.dataset,
            ids,
            self.collator,
            batch_size=batch_size,
            accelerator=self.accelerator,
            description=description,
        ):
            with autocast_of(self.accelerator):
                outputs = self.reader(
                    self.model,
                    **batch,
                    with_features=self.with_features,
                    keep_logits=self.top_k > 0,
                    with_states=self.with_states or self.estimate is not None,
                )
            for name, values in self._numbers_of_rows(outputs).items():
                _place(values, rows, of_rows, name, len(ids))
            if offsets is not None:
                for name, values in self._numbers_of_tokens(outputs).items():
                    _place(values, offsets.of_rows(rows), of_tokens, name, offsets.total)
            del outputs  # before the next forward pass
        return merge_processes(of_rows, self.accelerator), merge_processes(of_tokens, self.accelerator)

    def _numbers_of_rows(self, outputs: AnswerOutputs) -> dict[str, Tensor]:
        found = {"sum_nll": outputs.sum_nll, "num_tokens": outputs.num_tokens}
        if outputs.features is not None:
            features = outputs.features
            found["features"] = features if self.projection is None else features @ self.projection.to(features.device)
        return found

    def _numbers_of_tokens(self, outputs: AnswerOutputs) -> dict[str, Tensor]:
        if self.estimate is not None:
            top_k_logps = self.estimate(outputs)
        else:
            first = required(outputs.token_ids, "token_ids") if self.answer_first else None
            top_k_logps = TopKLogProbs.of(required(outputs.logits, "logits"), self.top_k, first)
        found = {"ids": top_k_logps.ids, "logps": top_k_logps.logps}
        if self.with_states:
            found["states"] = required(outputs.states, "states")
        return found


def _place(values: Tensor, at: Tensor, tables: dict[str, Tensor], name: str, size: int) -> None:
    """Writes a batch's values into the places `at` of the table of that name, which is made of zeros with `size` rows.

    There are more values than places where a process repeats rows to stay in step with the others.
    """
    table = tables.setdefault(name, values.new_zeros(size, *values.shape[1:]))
    table[at] = values[: len(at)]


def scan_fingerprint(model: nn.Module, datasets: list[tuple[RowDataset, Tensor]], settings: dict[str, Any]) -> str:
    """Digest of everything that a scan depends on: weights, model configuration, rows and settings.

    The bits of weights are summed as integers with factors that depend on the position, so that the order of summation,
    and with it the device, does not matter. Not for a model whose weights are sharded over processes.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    add_weights(digest, model)
    digest.update(describe_model(model).encode())
    for dataset, ids in datasets:
        digest.update(f"{len(ids)} rows".encode())
        for index in ids.tolist():
            digest.update(dataset.rows[index].key())
    return digest.hexdigest()


def add_weights(digest: Any, model: nn.Module, left_out: Collection[str] = ()) -> None:
    """Adds a model's weights to a digest of `hashlib`: name, shape, type and values of each that is not left out."""
    for name, tensor in iter_tensors(model):
        if name not in left_out:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {bit_sum(tensor)}".encode())


def save_scan(path: Path, tensors: dict[str, Tensor], fingerprint: str) -> None:
    """Writes the tensors of a scan, readable by the owner only; the file appears complete or not at all."""
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with one_line_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file_with(path, lambda temporary: save_file(whole, temporary, {"fingerprint": fingerprint}))


def load_scan(path: Path, fingerprint: str) -> dict[str, Tensor]:
    """Reads a scan back.

    Raises:
        StateError: the file was made from other weights, rows or settings, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    fix = "delete it, and the next run makes a new one"
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("fingerprint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StateError(got=f"the scan {path}, which cannot be read", expected="a complete file", fix=fix) from error
    if found != fingerprint:
        got = f"the scan {path} of other weights, rows or settings"
        raise StateError(got=got, expected=f"fingerprint {fingerprint[:12]}", fix=fix)
    return tensors


def describe_model(model: Any) -> str:
    """What determines the outputs of a model besides its weights, as JSON; the same in every process."""
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    active = list(getattr(model, "active_adapters", [])) if adapters else []
    config = model.config.to_dict() if hasattr(model, "config") else {}
    for described in (*adapters.values(), config):
        for name in _NAMES_AND_VERSIONS:
            described.pop(name, None)
    return json.dumps(
        {"adapters": adapters, "active": active, "config": config},
        sort_keys=True,
        default=lambda value: sorted(map(str, value)) if isinstance(value, set) else str(value),
    )


def bit_sum(tensor: Tensor) -> int:
    """The bits of a tensor as one integer: equal for equal tensors, on any device."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    total = 0
    for chunk in tensor.contiguous().flatten().view(integers).split(_CHUNK):
        factors = torch.arange(1, 2 * len(chunk), 2, device=chunk.device)  # odd: no bit of a value is lost
        total = (total * 31 + int((chunk.long() * factors).sum())) % (1 << 64)
    return total
