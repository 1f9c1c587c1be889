"""The loaders of a trainer on rows: pairs to train on, and rows to evaluate or predict on."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from egup_trainer.data.collator import PairCollator
from egup_trainer.data.pairing import Lengths, PairBatchSampler, PairDataset
from egup_trainer.errors import ConfigError
from egup_trainer.trainer.mixed_in import MixedIn
from egup_trainer.trainer.preparation import prepare_dataset


class RowLoaders(MixedIn):
    """Makes the loaders of a `transformers.Trainer` whose `train_dataset` is a `PairDataset`."""

    def get_train_dataloader(self) -> DataLoader:
        """Batches of forget/retain pairs for this process: a pure function of seed and epoch."""
        self.pair_sampler = make_pair_sampler(self.train_dataset, self._train_batch_size, self.args)
        has_retain, has_alternates = self.retain_rows is not None, self.forget_loss.alternate is not None
        collator = PairCollator(self.data_collator, has_retain, self._positives(), has_alternates)
        return make_pair_loader(self.train_dataset, self.pair_sampler, collator, self.args)

    def _positives(self) -> str | None:
        """What the second views of forget rows are, as in `PairCollator`."""
        return None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of evaluation rows; rows that are given here may be anything that the constructor takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = prepare_dataset(eval_dataset, "evaluation set", self.processing_class, self.args)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Batches of rows to predict on, given as anything that the constructor takes."""
        return super().get_test_dataloader(prepare_dataset(test_dataset, "test set", self.processing_class, self.args))


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
    """A plain loader. Not for `accelerator.prepare`, which would deal out one process's batches to all of them."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
