"""A pass over rows on any number of processes: which process runs which batch, and how results are merged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset

_TOKENS_PER_ROW = 256


def iter_batches(
    model: nn.Module,
    dataset: RowDataset,
    ids: Tensor,
    collator: RowCollator,
    *,
    batch_size: int,
    accelerator: Accelerator | None = None,
    description: str | None = None,
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Batches for this process, on its device, with the model in evaluation mode.

    Args:
        model: the model that the caller runs on each batch.
        ids: which rows, shape (N,).
        accelerator: the `Accelerator` of a run on several processes, or None for one process.

    Yields:
        Indices into `ids` of the batch's rows, shape (B,), and the batch. Every process gets equally many batches: the
        last one may be a repetition, whose indices are empty.
    """
    lengths = [len(dataset.rows[index]) for index in ids.tolist()]
    device = device_of(model, accelerator)
    with evaluation_mode(model):
        for indices, counts in iter_indices(lengths, batch_size, accelerator, description):
            batch = collator([dataset[index] for index in ids[indices].tolist()])
            kept = indices if counts else indices[:0]
            yield kept.to(device), {name: value.to(device) for name, value in batch.items()}


def iter_indices(
    lengths: Sequence[int],
    batch_size: int,
    accelerator: Accelerator | None,
    description: str | None,
    unit: str = "row",
    of_one_length: bool = False,
) -> Iterator[tuple[Tensor, bool]]:
    """Batches of this process as indices into `lengths`, longest rows first, so that batches hold little padding.

    A batch has `batch_size` rows of up to 256 tokens, and fewer longer rows, which bounds the memory. With
    `of_one_length`, the rows of a batch are equally long, so that nothing is padded.

    Yields:
        Indices, shape (B,), and whether they count: processes without a batch of their own repeat the last one, so that
        all processes call the model equally often.
    """
    from tqdm.auto import tqdm

    batches = _batches(lengths, batch_size, of_one_length)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    hidden = description is None or rank > 0
    with tqdm(total=len(lengths), desc=description, unit=unit, disable=hidden, leave=False) as bar:
        for start in range(0, len(batches), world):
            yield batches[min(start + rank, len(batches) - 1)], start + rank < len(batches)
            bar.update(sum(map(len, batches[start : start + world])))


def _batches(lengths: Sequence[int], batch_size: int, of_one_length: bool) -> list[Tensor]:
    order = torch.tensor(lengths).argsort(descending=True, stable=True)
    batches, start = [], 0
    while start < len(order):
        longest = lengths[int(order[start])]
        fitting = batch_size * _TOKENS_PER_ROW // max(longest, _TOKENS_PER_ROW)
        if of_one_length:
            fitting = min(fitting, lengths.count(longest))
        batches.append(order[start : start + max(fitting, 1)])
        start += len(batches[-1])
    return batches


def merge_processes(results: dict[str, Tensor], accelerator: Accelerator | None) -> dict[str, Tensor]:
    """All results on the CPU: one process ran a row, and the others have zeros for it, so that the sum has them all."""
    return {name: (accelerator.reduce(whole, "sum") if accelerator else whole).cpu() for name, whole in results.items()}


def is_first(accelerator: Accelerator | None) -> bool:
    """Whether this is the process that logs and writes."""
    return accelerator is None or accelerator.is_main_process


def device_of(model: nn.Module, accelerator: Accelerator | None) -> torch.device:
    """The device that batches go to."""
    here = (weight.device for weight in model.parameters() if not weight.is_meta)  # others are offloaded
    return accelerator.device if accelerator else next(here, torch.device("cpu"))


def autocast_of(accelerator: Accelerator | None) -> Any:
    """The autocast of the run, or a context that does nothing."""
    return accelerator.autocast() if accelerator else nullcontext()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts the model in evaluation mode and restores its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
