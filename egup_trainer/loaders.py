"""The sampler and the loader of forget/retain pairs."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from egup_trainer.data.collator import PairCollator
from egup_trainer.data.pairing import Lengths, PairBatchSampler, PairDataset
from egup_trainer.errors import ConfigError


def make_pair_sampler(dataset: PairDataset, batch_size: int, args: Any) -> PairBatchSampler:
    """This process's share of the pairs of each epoch.

    Raises:
        ConfigError: an epoch has no batch.
    """
    step_pairs = batch_size * args.world_size * args.gradient_accumulation_steps
    by_length = args.train_sampling_strategy == "group_by_length"
    sampler = PairBatchSampler(
        len(dataset.forget),
        0 if dataset.retain is None else len(dataset.retain),
        batch_size=batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        rank=args.process_index,
        world_size=args.world_size,
        drop_last=args.dataloader_drop_last,
        lengths=Lengths.of(dataset, step_pairs) if by_length else None,
    )
    if not len(sampler):
        raise ConfigError(
            got=f"{len(dataset)} forget rows and dataloader_drop_last",
            expected=f"at least {batch_size * args.world_size} rows, one batch on every process",
            fix="leave out --dataloader_drop_last or lower --per_device_train_batch_size",
        )
    return sampler


def make_pair_loader(dataset: PairDataset, sampler: PairBatchSampler, collator: PairCollator, args: Any) -> DataLoader:
    """A plain loader, which `accelerator.prepare` must not see: it would split one process's batches among all."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
