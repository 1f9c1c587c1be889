"""One no-grad pass over rows: negative log-likelihoods and features of each, on any number of processes."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import StateError
from egup_trainer.files import one_line_write_errors, write_file_with
from egup_trainer.modeling.batches import autocast_of, iter_batches, merge_processes
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import required
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
    """Numbers of N rows, in the order asked for; on the CPU.

    Args:
        sum_nll: L_i, shape (N,), nats.
        num_tokens: n_i, shape (N,).
        features: mean hidden state over answer tokens, shape (N, d), or projected, (N, k); float32; or empty, (N, 0).
        top_k_logps: the most likely tokens at all answer tokens, row after row, or None if not asked for.
    """

    sum_nll: Tensor
    num_tokens: Tensor
    features: Tensor
    top_k_logps: TopKLogProbs | None = None

    @property
    def mean_nll(self) -> Tensor:
        """l_i = L_i / n_i, shape (N,), nats per token."""
        return self.sum_nll / self.num_tokens.clamp_min(1)

    @property
    def probability(self) -> float:
        """Mean over rows of exp(-l_i)."""
        return self.mean_nll.neg().exp().mean().item()

    def probability_of(self, owners: Tensor) -> float:
        """Mean over rows of exp(-l_i); `owners` has the number of the row that each sample is made of, shape (N,)."""
        _, places = owners.unique(return_inverse=True)
        zeros = torch.zeros(int(places.max()) + 1)
        nll, tokens = (zeros.index_add(0, places, each.float()) for each in (self.sum_nll, self.num_tokens))
        return (nll / tokens.clamp_min(1)).neg().exp().mean().item()


@torch.no_grad()
def score_rows(
    model: nn.Module,
    reader: AnswerReader,
    dataset: RowDataset,
    collator: RowCollator,
    *,
    batch_size: int,
    accelerator: Any = None,
    ids: Tensor | None = None,
    with_features: bool = False,
    projection: Tensor | None = None,
    top_k: int = 0,
    description: str | None = None,
) -> RowScores:
    """Scores rows in evaluation mode; every process ends with all results.

    Args:
        model: the model, as wrapped for training if it is.
        reader: reads the answers of the bare model inside.
        dataset: the rows.
        collator: pads them.
        batch_size: rows in a forward pass.
        accelerator: the `Accelerator` of a run on several processes, or None for one process.
        ids: which rows, shape (N,); all by default.
        with_features: whether to read features.
        projection: what features are multiplied by as they are read, shape (d, k), so that only (N, k) are ever held.
        top_k: how many of the most likely tokens to keep at each answer token.
        description: title of the progress bar, or None for no bar.
    """
    wanted = torch.arange(len(dataset)) if ids is None else ids
    places = TokenOffsets.of(dataset, wanted.tolist()) if top_k else None
    results: dict[str, Tensor] = {}
    for rows, batch in iter_batches(
        model, dataset, wanted, collator, batch_size=batch_size, accelerator=accelerator, description=description
    ):
        with autocast_of(accelerator):
            outputs = reader(model, **batch, with_features=with_features, keep_logits=bool(top_k))
        values = {"sum_nll": outputs.sum_nll, "num_tokens": outputs.num_tokens, "features": outputs.features}
        if outputs.features is not None and projection is not None:
            values["features"] = outputs.features @ projection.to(outputs.features.device)
        for name, value in values.items():
            if value is not None:
                whole = results.setdefault(name, value.new_zeros(len(wanted), *value.shape[1:]))
                whole[rows] = value[: len(rows)]
        if places is not None:
            _keep_tokens(TopKLogProbs.of(required(outputs.logits, "logits"), top_k), rows, places, results)
        del outputs, values  # before the next forward pass
    merged = merge_processes(results, accelerator)
    if batch_size > 1:
        options: dict[str, Any] = {"with_features": with_features, "projection": projection, "top_k": top_k}
        alone = partial(score_rows, model, reader, dataset, collator, batch_size=1, accelerator=accelerator, **options)
        _score_lost_rows_alone(merged, places, wanted, alone)
    tokens = TopKLogProbs(**{name: merged.pop(name) for name in ("ids", "logps")}) if top_k else None
    return RowScores(**{"features": torch.zeros(len(wanted), 0), **merged}, top_k_logps=tokens)


def _score_lost_rows_alone(
    merged: dict[str, Tensor], places: TokenOffsets | None, wanted: Tensor, score: Callable[..., RowScores]
) -> None:
    """Scores the rows without finite numbers again, each alone, and puts the results into the whole tables.

    One row whose numbers are not finite takes others along: in a line that they share, and through padding, a weight of
    0 times NaN is NaN.
    """
    lost = ~merged["sum_nll"].isfinite()
    if "features" in merged:
        lost |= ~merged["features"].isfinite().all(dim=1)
    if not lost.any():
        return
    ids = lost.nonzero().flatten()
    again = score(ids=wanted[ids])
    merged["sum_nll"][ids] = again.sum_nll
    if "features" in merged:
        merged["features"][ids] = again.features
    if places is not None:
        for name, value in vars(again.top_k_logps).items():
            merged[name][places.of_rows(ids)] = value


def _keep_tokens(found: TopKLogProbs, rows: Tensor, places: TokenOffsets, results: dict[str, Tensor]) -> None:
    """Puts what a batch found, whose rows are those of that order, into the whole tables."""
    where = places.of_rows(rows)
    for name, value in vars(found).items():
        whole = results.setdefault(name, value.new_zeros(places.total, *value.shape[1:]))
        whole[where] = value[: len(where)]


def scan_fingerprint(model: nn.Module, datasets: list[tuple[RowDataset, Tensor]], settings: dict[str, Any]) -> str:
    """Digest of all that a scan depends on: weights, model configuration, rows and settings.

    Weights are summed up as integers of their bits with position-dependent factors, so the order of summation, and
    with it the device, does not matter. Not for a model whose weights are spread over processes.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for name, tensor in model.state_dict().items():  # with it come the scales of quantised weights
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {bit_sum(tensor.detach())}".encode())
    digest.update(describe_model(model).encode())
    for dataset, ids in datasets:
        digest.update(f"{len(ids)} rows".encode())
        for index in ids.tolist():
            digest.update(dataset.rows[index].key())
    return digest.hexdigest()


def save_scan(path: Path, tensors: dict[str, Tensor], fingerprint: str) -> None:
    """Writes the tensors of a scan, readable by the user alone; the file appears whole or not at all."""
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

    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("fingerprint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StateError(
            got=f"the scan {path}, which cannot be read", expected="a whole file", fix="delete it, and it is made anew"
        ) from error
    if found != fingerprint:
        raise StateError(
            got=f"the scan {path} of other weights, rows or settings",
            expected=f"fingerprint {fingerprint[:12]}",
            fix="delete it, and it is made anew",
        )
    return tensors


def describe_model(model: Any) -> str:
    """What decides a model's outputs besides its weights, as JSON; the same in every process."""
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    parts: dict[str, Any] = {"adapters": adapters}
    parts["active"] = list(getattr(model, "active_adapters", [])) if parts["adapters"] else []
    parts["config"] = model.config.to_dict() if hasattr(model, "config") else {}
    for described in (*parts["adapters"].values(), parts["config"]):
        for name in _NAMES_AND_VERSIONS:
            described.pop(name, None)
    return json.dumps(
        parts, sort_keys=True, default=lambda value: sorted(map(str, value)) if isinstance(value, set) else str(value)
    )


def bit_sum(tensor: Tensor) -> int:
    """A tensor's bits as one whole number: equal for equal tensors, on any device."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    total = 0
    for chunk in tensor.contiguous().flatten().view(integers).split(_CHUNK):
        factors = torch.arange(1, 2 * len(chunk), 2, device=chunk.device)  # odd: no bit of a value is lost
        total = (total * 31 + int((chunk.long() * factors).sum())) % (1 << 64)
    return total
