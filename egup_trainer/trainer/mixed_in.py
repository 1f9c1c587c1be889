"""What the parts of the trainers are mixed into, for the type checker; when the package runs, they add no base."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Trainer

    from egup_trainer.data.collator import RowCollator
    from egup_trainer.data.pairing import PairDataset
    from egup_trainer.data.tokenization import RowDataset
    from egup_trainer.losses.base import ForgetLoss
    from egup_trainer.trainer.config import UnlearnConfig

    class MixedIn(Trainer):
        """A `transformers.Trainer` with what `UnlearnTrainer` adds for its parts."""

        args: UnlearnConfig
        data_collator: RowCollator
        forget_loss: ForgetLoss
        forget_rows: RowDataset
        model: Any  # a model of transformers, perhaps inside an adapter
        conditions: Any  # `egup_trainer.trainer.state.Conditions`
        config_class: type[UnlearnConfig]
        secrets: Any  # a list of texts
        retain_rows: RowDataset | Any  # None if no part reads retain rows
        train_dataset: PairDataset

        def take_conditions(self) -> None:
            """Notes the conditions under which the run is made."""

        def write_card(self, folder: Path) -> None:
            """Writes the model's card into a folder."""

        def state_keepers(self) -> list[Any]:
            """All that has a `state_dict` to be kept with the run."""

else:
    MixedIn = object
