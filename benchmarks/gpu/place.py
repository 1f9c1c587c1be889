"""Where parts work: a folder with a small model that has learned the demo's people, and what a CPU made of it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from egup_trainer.demo.people import People, invent_people

if TYPE_CHECKING:  # they import PyTorch, which the process that starts the parts does not need
    from egup_trainer.demo.twins import ModelSize, Schedule

REFERENCE = "reference.json"
"""Name of the file with what a CPU made of the small model."""

SETS = ("forget", "retain", "proxy")
"""Names of the rows that a run takes."""


@dataclass(frozen=True)
class Place:
    """What every part is given.

    Args:
        folder: holds the model, its rows, and the CPU's numbers.
        dry: whether this is the small run on a CPU.
    """

    folder: Path
    dry: bool

    @property
    def device(self) -> str:
        """Where parts run."""
        return "cpu" if self.dry else "cuda"

    @property
    def model(self) -> Path:
        """The folder of the small model and its tokenizer."""
        return self.folder / "model"

    @property
    def has_model(self) -> bool:
        """Whether it is there, with its tokenizer, which is written last."""
        return (self.model / "tokenizer.json").is_file()

    @property
    def size(self) -> "ModelSize":
        """Of the small model: heads of 64 numbers, which all kinds of attention have, and 4-bit layers, too."""
        from egup_trainer.demo.twins import ModelSize

        return ModelSize(hidden=64, layers=2, heads=1) if self.dry else ModelSize(hidden=256, layers=4, heads=4)

    @property
    def learning(self) -> "Schedule":
        """How it learns its rows."""
        from egup_trainer.demo.twins import Schedule

        return Schedule(epochs=8 if self.dry else 30, learning_rate=5e-3 if self.dry else 2e-3)

    @cached_property
    def people(self) -> People:
        """The rows: those of the demo, or a few."""
        return invent_people(3, 5, 3, 3) if self.dry else invent_people()

    def source(self, name: str) -> Path:
        """The file of the rows of that name."""
        return self.folder / f"{name}.jsonl"
