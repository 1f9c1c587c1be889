"""The scan before training: which rows are scored, on which processes, and where the results are kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import NO_SOURCE
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import NumberError
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import RowScores, bit_sum, load_scan, save_scan, scan_fingerprint, score_rows
from egup_trainer.modeling.top_k_logps import TopKLogProbs


@dataclass(frozen=True)
class ScanRequest:
    """Rows that a run must score before its first step.

    Args:
        dataset: the set that the rows belong to.
        ids: which of its rows, shape (N,).
        with_features: whether features are read, too.
        projection: what features are multiplied by as they are read, shape (d, k), or None.
        top_k: how many of the top log-probabilities are kept at each answer token.
        answer_first: whether the answer token's own is kept, too, before the others.
        with_states: whether the hidden states where answer tokens are predicted are kept, too; with `top_k`.
    """

    dataset: RowDataset
    ids: Tensor
    with_features: bool = False
    projection: Tensor | None = None
    top_k: int = 0
    answer_first: bool = False
    with_states: bool = False

    def __or__(self, other: "ScanRequest") -> "ScanRequest":
        """One request that serves two for the same rows."""
        if self.dataset is not other.dataset or not torch.equal(self.ids, other.ids):
            raise ValueError("Two components ask for different rows under one name.")
        return replace(
            self,
            with_features=self.with_features or other.with_features,
            projection=self.projection if other.projection is None else other.projection,
            top_k=max(self.top_k, other.top_k),
            answer_first=self.answer_first or other.answer_first,
            with_states=self.with_states or other.with_states,
        )


def merge_requests(requests: Iterable[dict[str, ScanRequest]]) -> dict[str, ScanRequest]:
    """All requests by name; those of one name become one."""
    merged: dict[str, ScanRequest] = {}
    for each in requests:
        for name, request in each.items():
            merged[name] = merged[name] | request if name in merged else request
    return merged


def run_scan(
    requests: dict[str, ScanRequest],
    *,
    model: Any,
    reader: AnswerReader,
    collator: RowCollator,
    accelerator: Any,
    batch_size: int,
    folder: Path,
    progress: bool,
) -> dict[str, RowScores]:
    """Scores all requested rows under the model as it is, or reads the results of an earlier scan of the same.

    The results are kept in `folder` under a name made from the fingerprint of weights, rows and settings. If the
    weights are spread over processes (FSDP, ZeRO-3), there is no cheap fingerprint, and nothing is kept.

    Raises:
        StateError: a file of that name holds something else.
    """
    if not requests:
        return {}
    score = partial(score_rows, model, reader, collator=collator, batch_size=batch_size, accelerator=accelerator)

    def scan() -> dict[str, RowScores]:
        return {
            name: score(**vars(request), description=f"Scanning {name} rows" if progress else None)
            for name, request in requests.items()
        }

    bare = accelerator.unwrap_model(model)
    if is_spread_over_processes(bare):
        return scan()
    settings = {
        "layer": reader.layer_index,
        "read": [_described(*each) for each in sorted(requests.items())],
        "mixed_precision": str(accelerator.mixed_precision),
    }
    rows = [(request.dataset, request.ids) for _, request in sorted(requests.items())]
    fingerprint = scan_fingerprint(bare, rows, settings)
    path = folder / f"{fingerprint[:16]}.safetensors"
    if found_on_all_processes(path, accelerator):
        return _unpack(load_scan(path, fingerprint), requests)
    scores = scan()
    if accelerator.is_main_process:
        save_scan(path, _pack(scores), fingerprint)
    return scores


def refuse_rows_without_a_number(
    requests: dict[str, ScanRequest], scan: dict[str, RowScores], name_of: Callable[[RowDataset], str]
) -> None:
    """Raises `NumberError` if a row has no finite loss: nothing could be compared with it.

    Args:
        requests, scan: what was asked for, and what was found.
        name_of: what a set is called.
    """
    for name, request in requests.items():
        lost = request.ids[~scan[name].mean_nll.isfinite()].tolist()
        if lost:
            sources = [(request.dataset.rows[sample].source, sample) for sample in lost]
            rows = sorted({sample if source == NO_SOURCE else source.number for source, sample in sources})
            of_all = "look for weights that are not numbers" if len(lost) == len(request.ids) else "remove these rows"
            raise NumberError(
                got=f"a loss that is not finite before the first step, of {len(rows)} rows of the "
                f"{name_of(request.dataset)}, such as row {rows[0]}",
                expected="finite numbers",
                fix=f"load the model in bfloat16 or float32 (--dtype), or {of_all}",
            )


def is_spread_over_processes(model: Any) -> bool:
    """Whether a process holds only its share of the weights (FSDP, ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") or hasattr(parameter, "to_local") for parameter in model.parameters())


def _described(name: str, request: ScanRequest) -> tuple[Any, ...]:
    """What is read, for the fingerprint."""
    projection = None if request.projection is None else (*request.projection.shape, bit_sum(request.projection))
    return name, request.with_features, request.top_k, request.answer_first, request.with_states, projection


def found_on_all_processes(path: Path, accelerator: Any) -> bool:
    """Whether the file is found on each process: they must all run the model, or none."""
    count = accelerator.reduce(torch.tensor(int(path.is_file()), device=accelerator.device), "sum")
    return int(count) == accelerator.num_processes


def _pack(scores: dict[str, RowScores]) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for name, score in scores.items():
        fields = {**vars(score), **(vars(score.top_k_logps) if score.top_k_logps else {})}
        packed |= {f"{name}.{field}": value for field, value in fields.items() if isinstance(value, Tensor)}
    return packed


def _unpack(tensors: dict[str, Tensor], requests: dict[str, ScanRequest]) -> dict[str, RowScores]:
    scores = {}
    for name, request in requests.items():
        fields = {field: tensors[f"{name}.{field}"] for field in ("sum_nll", "num_tokens", "features")}
        top_k_logps = TopKLogProbs(tensors[f"{name}.ids"], tensors[f"{name}.logps"]) if request.top_k else None
        scores[name] = RowScores(**fields, top_k_logps=top_k_logps, states=tensors.get(f"{name}.states"))
    return scores
