"""What is written with a saved model: the record of the run, the ledger, and a model card made from the record."""

from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

from torch import nn

from egup_trainer.checkpointing import CheckpointingTrainer
from egup_trainer.modeling.limits import refuse_infinite_weights
from egup_trainer.records.card import CardFacts, model_card, write_model_card
from egup_trainer.records.facts import make_record, saved_step
from egup_trainer.records.io import read_ledger, read_secrets, write_ledger, write_record, write_secrets
from egup_trainer.records.schema import Request

_NOT_A_METRIC = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")


class PublishingTrainer(CheckpointingTrainer):
    """Writes the record and the ledger with each model that it saves, and the card of the model.

    `push_to_hub` calls `create_model_card`, so what is published has all three.
    """

    model_source: str | None = None
    """Folder or hub id of the model before unlearning."""

    @cached_property
    def secrets(self) -> list[str]:  # type: ignore[override]
        """The keys of the fingerprints of rows: the secret of this run, then those of earlier requests."""
        return [token_hex(32), *read_secrets(self.model_source)]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            refuse_infinite_weights(cast(nn.Module, self.model), state_dict)
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder, record = output_dir or self.args.output_dir, make_record(self)
            write_record(record, folder)
            write_ledger(folder, [*self._earlier_requests, Request.of(record)])
            if not self._is_saving:  # a checkpoint may be pushed to a hub with all its files
                write_secrets(folder, self.secrets)

    @cached_property
    def _earlier_requests(self) -> list[Request]:
        """The earlier unlearning requests in the ledger of the model. Read once: its folder may be overwritten."""
        return read_ledger(self.model_source)

    def write_card(self, folder: Path) -> None:
        """Writes README.md into the folder of a saved model, on the processes that save it."""
        if self.args.should_save:
            write_model_card(folder, model_card(make_record(self), metrics_of(self), self._title()))

    def _title(self) -> str:
        return Path(self.args.hub_model_id or Path(self.args.output_dir).resolve()).name

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes README.md into the output folder, on the first process.

        Its results are those of `evaluate()` on the model as it is saved, if there are any. The card names a
        license only if it is given: none is looked up.

        Args:
            model_name: title of the card; by default the last part of `hub_model_id` or of the output folder.
            language, license, tags, finetuned_from, tasks, dataset_tags, dataset, dataset_args: as in `CardFacts`.
        """
        if not self.is_world_process_zero():
            return
        facts = CardFacts(language, license, tags, finetuned_from, tasks, dataset_tags, dataset, dataset_args)
        name = model_name or self._title()
        write_model_card(self.args.output_dir, model_card(make_record(self), metrics_of(self), name, facts))


def metrics_of(trainer: Any) -> dict[str, float | None]:
    """The last logged evaluation of the model as it is saved: at its own step, or after training. May be empty.

    Values of earlier steps are excluded: they belong to other weights.
    """
    history, step = trainer.state.log_history, saved_step(trainer)
    end = next((index for index, row in enumerate(history) if "train_runtime" in row), len(history))
    rows = [row for index, row in enumerate(history) if index > end or row["step"] == step]
    return {
        name: value
        for row in rows
        for name, value in row.items()
        if name.startswith("eval_") and not name.endswith(_NOT_A_METRIC)
    }
