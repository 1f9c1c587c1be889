"""The drop-in trainer: one forward pass over forget and retain rows, a forget objective and a retain objective."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from egup_trainer.data.collator import Part, RowCollator, parts_of
from egup_trainer.data.pairing import PairDataset
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.registry import forget_loss, retain_loss
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.scan import RowScores, score_rows
from egup_trainer.modeling.trials import can_run, check_training
from egup_trainer.trainer.before import ModelBefore
from egup_trainer.trainer.boundary import refuse_loss_without_boundary
from egup_trainer.trainer.callbacks import OF_EACH_RUN
from egup_trainer.trainer.checkpoints import WholeCheckpoints
from egup_trainer.trainer.config import UnlearnConfig
from egup_trainer.trainer.finite import refuse_infinite_terms
from egup_trainer.trainer.loaders import RowLoaders, make_pair_sampler
from egup_trainer.trainer.negation import TaskVectorNegation
from egup_trainer.trainer.preparation import (
    check_args,
    prepare_eval_datasets,
    prepare_forget_set,
    prepare_model,
    prepare_retain_set,
    prepare_tokenizer,
    source_of,
)
from egup_trainer.trainer.primal_dual import DualAscent
from egup_trainer.trainer.publishing import ModelCards
from egup_trainer.trainer.refusals import refuse_to_evaluate_nothing
from egup_trainer.trainer.scanning import ScanRequest, run_scan
from egup_trainer.trainer.state import StateInCheckpoints
from egup_trainer.trainer.step import POSITIONS, StepCounts, StepLog
from egup_trainer.trainer.tryout import try_setup


class UnlearnTrainer(ModelCards, WholeCheckpoints, StateInCheckpoints, RowLoaders, Trainer):
    """A `transformers.Trainer` that makes a causal language model forget rows and keep others.

    Args:
        model: the fine-tuned model, or a path or hub id of it.
        args: an `UnlearnConfig`.
        forget_dataset: rows to forget: a `datasets.Dataset` or iterable of records (question + answer,
            prompt + completion, messages, or text), a path, or a `RowDataset`.
        retain_dataset: rows to keep, alike. May be left out if nothing needs it (gradient ascent alone).
        eval_dataset: rows to report `eval_loss` on, alike, or a dict of several such sets.
        processing_class: the tokenizer; by default the one saved with the model.
        peft_config: if given, a fresh adapter of this kind is trained instead of the weights.
        callbacks, optimizers, compute_metrics: as in `transformers.Trainer`.

    Raises:
        DataError: rows are missing, malformed, or in both the forget and the retain set.
        ModelError: the model or tokenizer cannot be used.
        ConfigError: an option does not fit the model.

    Example:
        >>> # UnlearnTrainer("my-model", UnlearnConfig("out"), forget_dataset=f, retain_dataset=r).train()
    """

    config_class: type[UnlearnConfig] = UnlearnConfig

    def __init__(
        self,
        model: Any,
        args: UnlearnConfig | None = None,
        forget_dataset: Any = None,
        retain_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Any = None,
    ):
        args = check_args(args, self.config_class)
        tokenizer = prepare_tokenizer(processing_class, model, args)
        # Rows come first: bad input must end before a model is loaded or a folder made.
        self.forget_rows = prepare_forget_set(forget_dataset, tokenizer, args)
        needed = self._needs_retain_rows(args)
        self.retain_rows = prepare_retain_set(retain_dataset, self.forget_rows, needed, tokenizer, args)
        pairs = PairDataset(self.forget_rows, self.retain_rows)
        self.pair_sampler = make_pair_sampler(pairs, args.train_batch_size, args)
        refuse_to_evaluate_nothing(args, has_rows=eval_dataset is not None)
        eval_rows = prepare_eval_datasets(eval_dataset, tokenizer, args)
        try_setup(args, own_optimizer=optimizers[0] is not None)
        self.model_source, self.saved_to = source_of(model), set()
        model = prepare_model(model, args, peft_config, (self.forget_rows, self.retain_rows))
        self.reader = self._make_reader(model, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=RowCollator(tokenizer),
            train_dataset=pairs,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # The model is now where it is going to be trained, unless an engine is still to take it there.
        check_training(self.model, args.disable_dropout)
        if can_run(self.model):
            self.reader.try_out(self.model)
        # compute_loss divides by the counts of the whole step; Trainer must neither count nor divide itself.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = False
        self.forget_loss = forget_loss(args.objective).from_config(args)
        if not self._has_boundary(args):
            refuse_loss_without_boundary(self.forget_loss)
        retain_class = retain_loss(cast(str, args.retain_loss))
        self.retain_loss = retain_class() if retain_class and args.retain_weight else None
        self.before = ModelBefore(
            self.forget_loss, self.retain_loss, self.model, self.reader, self.retain_rows, args.kl_top_k
        )
        self._knows_the_model_before = False
        self.step_log = StepLog()
        self.dual = DualAscent(self) if self.forget_loss.constrains_retain else None
        self.negation = TaskVectorNegation(self) if self.forget_loss.is_negated else None
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        if self.negation is not None:  # first: what others see at the end of training is the model as it will be saved
            self.callback_handler.callbacks.insert(0, self.negation)
        if self.dual is not None:
            self.add_callback(self.dual)
        for kind in OF_EACH_RUN:
            self.add_callback(kind(self))

    def _has_boundary(self, args: Any) -> bool:
        return False

    # Data

    def _needs_retain_rows(self, args: Any) -> bool:
        return args.retain_loss != "none" and args.retain_weight > 0

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The batches of one optimizer step, and its `StepCounts`."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self.step_counts = StepCounts.of(batches, self.accelerator)
        return batches, self.step_counts

    # Before the first step

    def _make_reader(self, model: nn.Module, args: Any) -> AnswerReader:
        return AnswerReader(model, hidden_layer=args.rmu_layer, padding_free=args.padding_free)

    def scan_requests(self) -> dict[str, ScanRequest]:
        """Rows to score under the model before unlearning; empty if nothing has to be known of it."""
        return self.before.scan_requests(self.forget_rows)

    def use_scan(self, scores: dict[str, RowScores]) -> None:
        """Takes over the results of the scan."""
        self.before.use_scan(scores, self.args.device)

    def begin_training(self) -> None:
        """Scans the model before its first step: once, also if training is started again, and not after a resume."""
        if not self._knows_the_model_before:
            self.use_scan(self._scan(self.scan_requests()))
            self._knows_the_model_before = True
        self.step_log = StepLog()

    def _scan(self, requests: dict[str, ScanRequest]) -> dict[str, RowScores]:
        return run_scan(
            requests,
            model=self.model_wrapped,
            reader=self.reader,
            collator=self.data_collator,
            accelerator=self.accelerator,
            batch_size=self.args.per_device_eval_batch_size,
            folder=self.scan_folder,
            progress=not self.args.disable_tqdm,
            projection=self._projection(),
        )

    def _projection(self) -> Tensor | None:
        """What features are projected by, shape (d, k), or None to keep them whole."""
        return None

    @property
    def scan_folder(self) -> Path:
        """Where the scan's results are kept."""
        return Path(self.args.scan_cache_dir or Path(self.args.output_dir) / "_scan")

    def score(self, dataset: RowDataset, ids: Tensor | None = None, **options: Any) -> RowScores:
        """Scores rows `ids` of `dataset` (or all) under the model as it is now; `options` as in `score_rows`."""
        return score_rows(
            self.model_wrapped,
            self.reader,
            dataset,
            self.data_collator,
            batch_size=self.args.per_device_eval_batch_size,
            accelerator=self.accelerator,
            ids=ids,
            **options,
        )

    # The step

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the named terms of a micro-batch, each its share of the whole step; plain loss for evaluation rows."""
        if "forget_ids" not in inputs:
            return super().compute_loss(model, inputs, return_outputs)
        parts = self.forward_parts(model, inputs)
        terms = self.compute_terms(model, parts, inputs, num_items_in_batch)
        refuse_infinite_terms(terms, parts, inputs)
        self.step_log.add({f"loss_{name}": value for name, value in terms.items()})
        loss = torch.stack(list(terms.values())).sum()
        # Trainer divides by the micro-batches of the step and DDP by the processes; the counts cover both already.
        loss = loss * self.accelerator.num_processes * self.current_gradient_accumulation_steps
        return (loss, parts) if return_outputs else loss

    def forward_parts(self, model: nn.Module, inputs: dict[str, Tensor]) -> dict[Part, AnswerOutputs]:
        """One forward pass of `model` over the joined rows of `inputs`, then its parts, in the order of `Part`."""
        outputs = self.reader(
            model,
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["labels"],
            with_features=self._wants_features(),
            keep_logits=self.before.reads_logits,
            with_hidden=self.before.reads_hidden,
            embedding_noise=self._embedding_noise(inputs),
        )
        self.step_log.add({POSITIONS: outputs.num_tokens.new_tensor(outputs.positions)})
        parts = parts_of(inputs)
        sizes = [rows.stop - rows.start for rows in parts.values()]
        return dict(zip(parts, outputs.split(sizes), strict=True))

    def _wants_features(self) -> bool:
        return False

    def _embedding_noise(self, inputs: dict[str, Tensor]) -> Tensor | None:
        return None

    def compute_terms(
        self,
        model: nn.Module,
        parts: dict[Part, AnswerOutputs],
        inputs: dict[str, Tensor],
        counts: StepCounts,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The named terms of the loss, shares of this micro-batch in the step's values.

        `parts` is what `forward_parts` made of `model` and `inputs`; `counts` are of the whole step; `weights` are
        factors on the forget rows, shape (B,), 1 by default.
        """
        forget, real = parts[Part.FORGET], (inputs["forget_ids"] >= 0).float()
        alternate, retain = parts.get(Part.ALTERNATE), parts.get(Part.RETAIN)
        values = self.forget_loss(replace(forget, alternate=alternate), self._known(model, inputs, Part.FORGET))
        weights = real if weights is None else weights * real
        terms = {"forget": self.args.forget_weight * counts.per_forget_row(weights * values)}
        self.step_log.add({"forget_nll": counts.per_forget_row(forget.mean_nll * real)})
        if alternate is not None:
            self.step_log.add({"alternate_nll": counts.per_forget_row(alternate.mean_nll * real)})
        if retain is not None:
            self.step_log.add({"retain_nll": counts.per_retain_token(retain.sum_nll)})
        if self.retain_loss is not None:
            known = self._known(model, inputs, Part.RETAIN)
            values = counts.per_retain_token(self.retain_loss(parts[Part.RETAIN], known))
            terms["retain"] = self.args.retain_weight * (self.dual.weigh(values) if self.dual else values)
        return terms

    def _known(self, model: nn.Module, inputs: dict[str, Tensor], part: Part) -> ReferenceOutputs:
        with self.accelerator.autocast():  # a frozen copy is not wrapped as the model is
            return self.before.outputs(model, inputs, part)

    def end_step(self) -> None:
        """Moves the run's memory on, once the optimizer has stepped."""
        self.step_log.end_step(self.step_counts)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as `Trainer` does; training logs carry each term and measure under its own name."""
        if "loss" in logs and self.is_in_train:
            logs = {**logs, **self.step_log.flush(self.accelerator)}
        super().log(logs, start_time)

    # Checkpoints

    def state_keepers(self) -> list[Any]:
        """All that has a `state_dict` to be kept with the run."""
        return [keeper for keeper in (self.before, self.dual) if keeper is not None]

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Takes over the tensors of a checkpoint, which knows the model before unlearning."""
        super().load_training_state(state)
        self._knows_the_model_before = True
