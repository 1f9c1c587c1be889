"""What a run remembers of its samples from step to step: features of each forget sample, and the retain bank."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from egup_trainer.components.feature_space import FeatureSpace
from egup_trainer.components.feature_table import FeatureTable, TableStorage
from egup_trainer.errors import StateError

_TABLES = ("initial", "latest", "retain_initial")
_ROWS = 1 << 14
"""Samples whose cosines to the whole bank are held at a time."""


@dataclass
class EmbeddingCache:
    """Per-sample representations across optimizer steps.

    It does not change during a step; `commit` updates it at the end of the step. Every process holds the whole cache
    and commits the same gathered values.

    Args:
        initial: phi_0 of each forget sample, (N_f, k).
        latest: phi at the sample's last visit, (N_f, k).
        entanglement: last e of each forget sample, shape (N_f,).
        drift: last d of each forget sample, shape (N_f,).
        bank: the most recent retain features, shape (at most M, k), oldest overwritten first.
        bank_next: index in the bank that is written next, shape ().
        retain_initial: phi_0 of the retain rows that the scan saw, (R, k).
        retain_slot: index of each retain row in `retain_initial`, -1 if the scan did not see it, shape (N_r,).
        center: the feature space's centre, shape (k,).
        projection: the feature space's projection, shape (d, k), or (0, k) for none.
    """

    initial: FeatureTable
    latest: FeatureTable
    entanglement: Tensor
    drift: Tensor
    bank: Tensor
    bank_next: Tensor
    retain_initial: FeatureTable
    retain_slot: Tensor
    center: Tensor
    projection: Tensor
    bank_size: int = 1024

    @classmethod
    def build(
        cls,
        forget_features: Tensor,
        retain_features: Tensor,
        retain_ids: Tensor,
        num_retain: int,
        *,
        space: FeatureSpace,
        neighbors: int | None,
        bank_size: int,
        storage: TableStorage | None = None,
    ) -> "EmbeddingCache":
        """The cache before the first step.

        Args:
            forget_features: projected hidden states of all forget rows, shape (N_f, k).
            retain_features: the same of the scanned retain rows, shape (R, k).
            retain_ids: ids of these, shape (R,).
            neighbors: k of the inter-sample entanglement, or None for that with the centroid.
            storage: where phi of the samples is kept; by default on the device of the features.
        """
        forget, bank = space.normalize(forget_features), space.normalize(retain_features)
        slot = torch.full((num_retain,), -1, dtype=torch.long, device=bank.device)
        slot[retain_ids] = torch.arange(len(retain_ids), device=bank.device)
        return cls(
            initial=FeatureTable.of(forget, storage),
            latest=FeatureTable.of(forget, storage),
            entanglement=torch.cat(
                [space.entanglement(part, bank[-bank_size:], neighbors) for part in forget_features.split(_ROWS)]
            ),
            drift=forget.new_zeros(len(forget)),
            bank=bank[-bank_size:].clone(),
            bank_next=torch.tensor(min(len(bank), bank_size) % bank_size, device=bank.device),
            retain_initial=FeatureTable.of(bank, storage),
            retain_slot=slot,
            center=space.center,
            projection=space.center.new_zeros(0, len(space.center)) if space.projection is None else space.projection,
            bank_size=bank_size,
        )

    @property
    def space(self) -> FeatureSpace:
        """The space of all features here."""
        return FeatureSpace(self.center, self.projection if len(self.projection) else None)

    def retain_reference(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """phi_0 of retain rows (B, k), and which of them the scan saw, bool (B,). Fillers (-1) count as not seen."""
        slots = torch.where(ids >= 0, self.retain_slot[ids.clamp_min(0)], -1)
        return self.retain_initial[slots.clamp_min(0)], slots >= 0

    def commit(
        self,
        forget_ids: Tensor,
        features: Tensor,
        entanglement: Tensor,
        drift: Tensor,
        retain_ids: Tensor,
        retain: Tensor,
    ) -> None:
        """Stores the values of one optimizer step over all processes; fillers (-1) are left out.

        Retain features enter the bank in the order of their ids, so that the bank does not depend on how the step was
        divided.

        Args:
            forget_ids: ids of the forget rows, shape (B,).
            features: phi of the forget rows, shape (B, k).
            entanglement, drift: e and d of the forget rows, shape (B,).
            retain_ids: ids of the retain rows, shape (C,).
            retain: phi of the retain rows, shape (C, k).
        """
        real = forget_ids >= 0
        ids = forget_ids[real]
        self.latest[ids] = features[real]
        self.entanglement[ids] = entanglement[real]
        self.drift[ids] = drift[real]
        order = retain_ids.argsort(stable=True)
        self._push(retain[order][retain_ids[order] >= 0])

    def _push(self, features: Tensor) -> None:
        for part in features.split(self.bank_size):
            room = self.bank_size - len(self.bank)
            self.bank = torch.cat([self.bank, part[:room]])
            rest = part[room:]
            places = (self.bank_next + room + torch.arange(len(rest), device=rest.device)) % self.bank_size
            self.bank[places] = rest
            self.bank_next = (self.bank_next + len(part)) % self.bank_size

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint: those above, in their shapes, and `bank_size`, shape ()."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value.codes if name in _TABLES else value for name, value in values.items()}
        return {**tensors, "bank_size": torch.tensor(self.bank_size)}

    @classmethod
    def from_state_dict(
        cls, tensors: dict[str, Tensor], bank_size: int, storage: TableStorage | None = None
    ) -> "EmbeddingCache":
        """The cache of a checkpoint.

        Raises:
            StateError: the bank was of another size.
        """
        saved = int(tensors["bank_size"])
        if saved != bank_size:
            raise StateError(
                got=f"bank_size={bank_size} for a checkpoint made with bank_size={saved}",
                expected="the same size when a run is resumed",
                fix=f"set --bank_size {saved}",
            )
        storage = storage or TableStorage(tensors["bank"].device)
        tables = {name: FeatureTable.from_checkpoint(tensors[name], storage) for name in _TABLES}
        values: dict[str, Any] = {**tensors, **tables, "bank_size": bank_size}
        return cls(**values)
