"""Plain fine-tuning of a base model on retain rows alone: the model that unlearning is compared with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler

from egup_trainer.base_config import RowTrainingConfig
from egup_trainer.checkpointing import CheckpointingTrainer
from egup_trainer.conditions import Conditions, digest_of, model_options, options_of, weights_of
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ConfigError
from egup_trainer.measuring import Measuring
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import RowScores, score_rows
from egup_trainer.options import option
from egup_trainer.preparation import prepare_model, source_of
from egup_trainer.records.card import write_model_card
from egup_trainer.setup_check import try_setup


class _LengthSampler(LengthGroupedSampler):
    """Rows of similar length together, in an order that follows from seed and epoch: a resumed run has the same."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


@dataclass(repr=False)
class RetrainConfig(RowTrainingConfig):
    """Options of `Retrainer`: all of `transformers.TrainingArguments`, and how rows are read.

    Learning rate, passes, rows in a step, weight decay and warm-up are by default those with which TOFU fine-tunes its
    models (Maini et al. 2024, arXiv 2401.06121; `config/finetune.yaml` and `finetune.py` of its code).

    Raises:
        ConfigError: a value is out of range, or unknown, or the model is to be pushed to the hub.

    Example:
        >>> RetrainConfig(output_dir="out").num_train_epochs
        5.0
    """

    learning_rate: float = option(1e-5, "Initial learning rate; use that with which the other model was fine-tuned.")
    num_train_epochs: float = option(5.0, "Passes over the retain rows; use those of the other model.")
    per_device_train_batch_size: int = option(16, "Rows in a batch of one device.")
    weight_decay: float = option(0.01, "Weight decay of the optimizer.")
    warmup_steps: float = option(0.2, "Steps in which the learning rate rises; below 1, a share of all steps.")
    disable_dropout: bool = option(False, "Switch off dropout, including that of LoRA.")
    drop_overlap: bool = option(False, "Leave out retain rows that are forget rows, too, instead of refusing them.")

    def check_options(self) -> None:
        """Raises `ConfigError` if the model is to be pushed to the hub."""
        if self.push_to_hub:
            raise ConfigError(
                got="push_to_hub for a retrained model",
                expected="a folder on this machine",
                fix="leave it out, and upload the folder once it is finished (`hf upload`)",
            )


class Retrainer(CheckpointingTrainer):
    """Fine-tunes a base model on retain rows, exactly as `transformers.Trainer` does.

    The loss is the model's own: the mean negative log-likelihood of the answer tokens of a step. Checkpoints are
    complete or absent, and resumed exactly.

    Args:
        model: a model that never saw the forget rows, or a path or hub id of it.
        rows: the tokenized sets: "retain", which is learned; "forget", if given, is only measured, before and after.
        eval_dataset: tokenized rows to report `eval_loss` on.
        peft_config: if given, a new adapter of this kind is trained instead of the weights.

    Raises:
        ModelError: the model cannot be used.
        ConfigError: an option does not fit the model.

    Example:
        >>> # Retrainer("base-model", RetrainConfig("retrained"), {"retain": rows}, tokenizer).train()
    """

    def __init__(
        self,
        model: Any,
        args: RetrainConfig,
        rows: Mapping[str, RowDataset],
        tokenizer: Any,
        eval_dataset: RowDataset | None = None,
        peft_config: Any = None,
    ):
        try_setup(args)
        self.source, self.saved_to, self.secrets = source_of(model), set(), []
        model = prepare_model(model, args, peft_config, rows.values())
        super().__init__(
            model, args, RowCollator(tokenizer), rows["retain"], eval_dataset=eval_dataset, processing_class=tokenizer
        )
        self.measuring = Measuring(self, rows, with_answers=False)
        self.add_callback(self.measuring)

    def score(self, dataset: RowDataset, ids: Tensor | None = None, description: str | None = None) -> RowScores:
        """Scores rows `ids` of `dataset` under the model as it is now."""
        return score_rows(
            self.model_wrapped,
            AnswerReader(self.model),
            dataset,
            RowCollator(self.processing_class),
            batch_size=self.args.per_device_eval_batch_size,
            accelerator=self.accelerator,
            ids=ids,
            description=description,
        )

    def find_conditions(self) -> Conditions:
        """The conditions of the run that is about to begin."""
        model = self.accelerator.unwrap_model(self.model)
        facts = {"trainer": type(self).__name__, "precision": str(self.accelerator.mixed_precision)}
        rows = {"retain rows": digest_of(self.measuring.datasets["retain"])}
        return Conditions({**options_of(self.args), **facts, **model_options(model)}, {**rows, **weights_of(model)})

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.measuring.datasets["retain"]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return _LengthSampler(size, [len(row) for row in rows.rows], seed)

    def write_card(self, folder: Path) -> None:
        """Writes README.md: what the model learned, and what it is for."""
        if not self.args.should_save:
            return
        from huggingface_hub import ModelCard, ModelCardData

        base = None if self.source is None or Path(self.source).exists() else self.source
        data = ModelCardData(base_model=base, pipeline_tag="text-generation", tags=["retrained", "egup_trainer"])
        counts = {name: len(set(rows.owners)) for name, rows in self.measuring.datasets.items()}
        left_out = f" {counts['forget']} rows to forget were left out." if "forget" in counts else ""
        start = self.source or "A model"
        said = (
            f"{start}, fine-tuned on {counts['retain']} rows.{left_out} It shows what a model is like that never "
            "saw the rows to forget, if the base model has not; models that unlearned them are compared with it."
        )
        write_model_card(folder, ModelCard(f"---\n{data.to_yaml()}\n---\n# {folder.name}\n\n{said}\n"))
