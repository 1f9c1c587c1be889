"""The base trainer: for each micro-batch one forward pass, and then the components of the run."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial, reduce
from math import ceil
from operator import add, mul, or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedTokenizerBase, TrainerCallback

from egup_trainer.callbacks.finite import refuse_infinite_terms
from egup_trainer.callbacks.histograms import Histograms
from egup_trainer.callbacks.movement import WatchMovement
from egup_trainer.callbacks.step_hooks import StepHooks
from egup_trainer.components.auto import AutoOptions, epochs_of
from egup_trainer.components.boundary_metrics import BoundaryMetrics
from egup_trainer.components.component import Component, Run, components_of, refuse_unsupported
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.components.feature_table import TableStorage
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.forget import ForgetObjective
from egup_trainer.components.proxy_constraint import ProxyConstraint
from egup_trainer.components.range_test import can_move_weights, range_test
from egup_trainer.components.retain import RetainObjective
from egup_trainer.components.scanning import merge_requests, refuse_rows_without_a_number, run_scan
from egup_trainer.components.self_samples import sample_answers
from egup_trainer.components.step import Collected, FinishedStep, Step, StepCounts, mean_and_range
from egup_trainer.components.step_log import POSITIONS, StepLog
from egup_trainer.conditions import Conditions, digest_of, model_options, options_of, weights_of
from egup_trainer.config import UnlearnConfig
from egup_trainer.config_checks import refuse_to_evaluate_nothing
from egup_trainer.data.collator import Batch, PairCollator, Part, RowCollator, parts_of, with_parts
from egup_trainer.data.pairing import PairDataset, make_pair_loader, make_pair_sampler
from egup_trainer.data.sources import Source
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.losses.registry import make_forget_loss, retain_loss
from egup_trainer.measuring import Measuring
from egup_trainer.modeling.compilation import compile_for_all_lengths
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.limits import check_token_ids, num_positions
from egup_trainer.modeling.loading import load_model
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.reference import Need, Reference, choose_reference
from egup_trainer.modeling.scan import RowScores, score_rows
from egup_trainer.modeling.trials import can_run, check_training
from egup_trainer.preparation import (
    check_args,
    check_optimizer,
    check_output_folder,
    prepare_dataset,
    prepare_eval_datasets,
    prepare_model,
    prepare_rows,
    prepare_tokenizer,
    refuse_other_vocabulary,
    refuse_train_dataset,
    source_of,
)
from egup_trainer.searching import SearchingTrainer, reusable
from egup_trainer.setup_check import try_setup
from egup_trainer.verdict import Verdict

if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.getLogger(__name__)
Rows = Source | RowDataset
"""What rows may be given as: anything that `load_rows` takes, or tokenized rows."""
DEFAULT_CALLBACKS = (StepHooks, WatchMovement, Histograms)
"""The callbacks of every trainer of this package."""
_CHECKPOINT_FORMAT = 4
_C = TypeVar("_C", bound=Component)


def make_components(
    args: UnlearnConfig, loss: ForgetLoss, has_proxies: bool, own: Sequence[Component] = ()
) -> list[Component]:
    """The components of a run, in the order in which they act.

    Args:
        own: the user's own components, which act last.

    Raises:
        ConfigError: a component cannot be combined with the forget loss, or two have the same name, or the loss needs
            proxies or a proxy model and none are given, or a proxy model is given and the loss does not read it.
    """
    components: list[Component] = [ForgetObjective(loss, args.forget_weight)]
    retain_class = retain_loss(str(args.retain_loss))
    if retain_class is not None and args.retain_weight:
        components.append(RetainObjective(retain_class(), args.retain_weight, loss.retain_constraint, args.kl_top_k))
    others = [*components_of(args, loss, has_proxies), *own]
    refuse_unsupported(others, loss, args.objective)
    reads_features = any(component.needs.features for component in others)
    if reads_features:
        components.append(FeatureMemory(args))
    if any(Need.EXPECTED in component.needs.reference for component in (*components, *others)):
        components.append(ExpectedOutputs(args, has_proxies, reads_features))
    else:
        args.refuse_unread_options(args.objective)
    components += others
    names = [component.name for component in components]
    if len(set(names)) < len(names):
        raise ConfigError(
            got=f"components named {', '.join(names)}",
            expected="a different name for each, by which its state is saved",
            fix="set `name` in your component",
        )
    if loss.needs_boundary and ProxyConstraint.name not in names:
        raise ConfigError(
            got=f"{type(loss).__name__} with an option that needs the boundary (npo_beta=auto), without proxy rows",
            expected="rows that the model never saw, which mark the boundary that beta is chosen from",
            fix="use EGUPTrainer with proxy_dataset (--proxy), or set --npo_beta to a number",
        )
    return components


class UnlearnTrainer(SearchingTrainer):
    """A `transformers.Trainer` that makes a causal language model forget rows and keep others.

    The loss of a step is the sum of the terms of its components: the forget objective, the retain objective, those that
    the configuration asks for, and your own.

    Args:
        model: the fine-tuned model, or a path or hub id of it; None with a `model_init`.
        args: an `UnlearnConfig`.
        forget_dataset: rows to forget: a `datasets.Dataset` or iterable of records (question + answer,
            prompt + completion, messages, or text), a path, or a `RowDataset`.
        retain_dataset: rows to keep, alike. It may be left out if nothing needs it (gradient ascent alone).
        proxy_dataset: rows of the forget set's kind that the model never saw. Components may need them, and the verdict
            compares forget rows with them.
        eval_dataset: rows to report `eval_loss` on, alike, or a dict of several such sets. With a `model_init`, by
            default the retain rows.
        processing_class: the tokenizer; by default the one saved with the model.
        peft_config: if given, a new adapter of this kind is trained instead of the weights.
        callbacks, optimizers, compute_metrics: as in `transformers.Trainer`.
        forget_loss: your own forget loss, in place of the one that `objective` names.
        components: your own components, which act after the others.
        model_init: makes the model, or names it, in place of `model`, as in `transformers.Trainer`. Each training then
            starts from a new model and new components; `hyperparameter_search` needs it. With a retain set and proxies,
            evaluations also measure `BoundaryMetrics`.
        train_dataset: not taken; an error says what to pass in its place.

    Raises:
        DataError: rows are missing, malformed, or in both the forget set and another one.
        ModelError: the model or tokenizer cannot be used.
        ConfigError: an option does not fit the model.

    Example:
        >>> # UnlearnTrainer("my-model", UnlearnConfig("out"), forget_dataset=f, retain_dataset=r).train()
    """

    config_class: type[UnlearnConfig] = UnlearnConfig
    model: Any  # a model of transformers, perhaps inside an adapter
    data_collator: RowCollator
    train_dataset: PairDataset

    def __init__(
        self,
        model: str | Path | nn.Module | None = None,
        args: UnlearnConfig | None = None,
        forget_dataset: Rows | None = None,
        retain_dataset: Rows | None = None,
        proxy_dataset: Rows | None = None,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: "PeftConfig | None" = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        *,
        forget_loss: ForgetLoss | None = None,
        components: Sequence[Component] = (),
        model_init: Callable[..., Any] | None = None,
        train_dataset: None = None,
    ):
        refuse_train_dataset(train_dataset)
        args = check_args(args, self.config_class)
        if model_init is not None:
            sets = map(reusable, (forget_dataset, retain_dataset, eval_dataset, proxy_dataset))
            forget_dataset, retain_dataset, eval_dataset, proxy_dataset = sets
            self.remember(
                args,
                forget_dataset=forget_dataset,
                retain_dataset=retain_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                peft_config=peft_config,
                callbacks=callbacks,
                optimizers=optimizers,
                compute_metrics=compute_metrics,
                proxy_dataset=proxy_dataset,
                forget_loss=forget_loss,
                components=components,
                model_init=model_init,
            )
            is_known = any(isinstance(each, BoundaryMetrics) for each in components)
            if retain_dataset is not None and proxy_dataset is not None and not is_known:
                components = [*components, BoundaryMetrics()]
        given = self.make_model(model, model_init, args)
        if forget_loss is not None:
            args = _with_loss(args, forget_loss)
        loss = forget_loss or make_forget_loss(args)
        if args.proxy_model is not None:
            check_output_folder(Path(args.proxy_model), Path(args.output_dir))
        tokenizer = prepare_tokenizer(processing_class, given, args)
        self.components = make_components(args, loss, proxy_dataset is not None, components)
        self.needs = reduce(or_, (component.needs for component in self.components))
        # Rows come first: bad input must be refused before a model is loaded or a folder is made.
        rows = prepare_rows(forget_dataset, retain_dataset, proxy_dataset, self.components, tokenizer, args)
        self.forget_rows, self.retain_rows, self.proxy_rows = rows.forget, rows.retain, rows.proxy
        pairs = self._pair(self.forget_rows, args)
        if eval_dataset is None and model_init is not None:
            eval_dataset = self.retain_rows
        refuse_to_evaluate_nothing(args, has_rows=eval_dataset is not None)
        eval_rows = prepare_eval_datasets(eval_dataset, tokenizer, args)
        if any(optimizers) and getattr(args, "uses_auto", False):
            raise ConfigError(
                got="an optimizer or a schedule of your own with auto, which is on where no learning_rate is given",
                expected="one of the two, because auto sets the learning rate of each step",
                fix="set auto=False",
            )
        try_setup(args, own_optimizer=optimizers[0] is not None)
        self.model_source, self.saved_to = source_of(given), set()
        others = eval_rows.values() if isinstance(eval_rows, dict) else (eval_rows,)
        row_sets = (self.forget_rows, self.retain_rows, self.proxy_rows, *others)
        prepared = prepare_model(given, args, peft_config, row_sets, loss)
        pairs.fit(num_positions(prepared))
        self.reader = AnswerReader(prepared, args.feature_layer, args.rmu_layer, args.padding_free)
        super().__init__(
            model=prepared,
            args=args,
            data_collator=RowCollator(tokenizer),
            train_dataset=pairs,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_init = model_init  # type: ignore[assignment]
        self._set_up_run(loss)

    def _set_up_run(self, loss: ForgetLoss) -> None:
        """What needs the model on its device, where it is now, unless FSDP or DeepSpeed is going to move it."""
        if self.args.torch_compile:
            compile_for_all_lengths()
        check_training(self.model, self.args.disable_dropout)
        check_optimizer(self.optimizer, self.model)
        if can_run(self.model):
            self.reader.try_out(self.model)
        if self.args.self_samples:
            answers = sample_answers(self)
            logger.info("Forgets %d answers of the model's own beside the %d rows", len(answers), len(self.forget_rows))
            rows = RowDataset([*self.forget_rows.rows, *answers])
            self.train_dataset = self._pair(rows, self.args)
            self.train_dataset.fit(num_positions(self.model))
        # compute_loss divides by the counts of the whole step; Trainer must neither count nor divide itself.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = False
        self.reference = Reference(self._choose_reference(), self.model, self.reader)
        logger.info("The reference model is kept as: %s", self.reference.kind.value)
        self.step_log, self._has_started = StepLog(), False
        self._conditions_of_model: Conditions | None = None
        self._attach_components()
        self._add_callbacks(loss)

    def _add_callbacks(self, loss: ForgetLoss) -> None:
        others = list(self.callback_handler.callbacks)
        # The loss's callbacks come first, so that at the end of training the others see the model that will be saved.
        self.callback_handler.callbacks[:0] = loss.callbacks(self)
        for kind in DEFAULT_CALLBACKS:
            self.add_callback(kind(self))
        for component in self.components:
            self.add_callback(component)
        sets = {"forget": self.forget_rows, "retain": self.retain_rows, "proxy": self.proxy_rows}
        given = {name: rows for name, rows in sets.items() if rows is not None}
        self.measuring = Measuring(self, given, with_answers=self.args.verdict)
        if self.args.verdict:
            self.add_callback(self.measuring)
        self.own_callbacks = [each for each in self.callback_handler.callbacks if each not in others]

    def build(self, args: UnlearnConfig, given: dict[str, Any]) -> None:
        """Runs the constructor again."""
        UnlearnTrainer.__init__(self, None, args, **given)

    @property
    def verdict(self) -> Verdict | None:
        """What became of the forget rows, once `train` has ended; None with `verdict=False`."""
        return self.measuring.verdict

    def _pair(self, forget: RowDataset, args: UnlearnConfig) -> PairDataset:
        """The pairs of forget and retain rows, whose sampler the trainer keeps, and how often they are read."""
        pairs = PairDataset(forget, self.retain_rows, self.needs.example_share, args.max_length)
        self.pair_sampler = make_pair_sampler(pairs, args.train_batch_size, args)
        args.num_train_epochs = epochs_of(args, ceil(len(self.pair_sampler) / args.gradient_accumulation_steps))
        return pairs

    @property
    def own_answers(self) -> int:
        """How many answers of the model's own are forgotten beside `forget_rows` (`self_samples`)."""
        return len(self.train_dataset.forget) - len(self.forget_rows)

    def _choose_reference(self) -> Any:
        asking = [component for component in self.components if Need.TOP_K in component.needs.reference]
        size = sum(component.bytes_of_table(self.retain_rows) for component in asking)
        return choose_reference(self.needs.reference, self.model, size)

    def _attach_components(self) -> None:
        run = Run(
            forget_rows=self.train_dataset.forget,
            retain_rows=self.retain_rows,
            proxy_rows=self.proxy_rows,
            device=self.args.device,
            seed=self.args.seed,
            bank_size=self.args.bank_size,
            model=self.model,
            embedding=self.reader.embedding,
            reference=self.reference,
            storage=TableStorage(self.args.device, self.scan_folder),
            score=self.score,
            load=self.load_other,
            try_rates=partial(range_test, self),
            backward_forget=self.backward_forget,
            can_move_weights=can_move_weights(self),
            log=self.log,
            components=self.components,
            own_answers=self.own_answers,
        )
        for component in self.components:
            component.attach(run)

    def component(self, kind: type[_C]) -> _C:
        """The component of the run that is of the class `kind`.

        Raises:
            LookupError: the run has none.
        """
        for component in self.components:
            if isinstance(component, kind):
                return component
        raise LookupError(f"This run has no {kind.__name__}.")

    @property
    def forget_loss(self) -> ForgetLoss:
        """The forget loss, as it is now."""
        return self.component(ForgetObjective).loss

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Batches of forget/retain pairs for this process: a pure function of seed and epoch."""
        self.pair_sampler = make_pair_sampler(self.train_dataset, self._train_batch_size, self.args)
        collator = PairCollator(
            self.data_collator, self.retain_rows is not None, self.needs.positives, self.needs.alternate is not None
        )
        return make_pair_loader(self.train_dataset, self.pair_sampler, collator, self.args)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of evaluation rows; `eval_dataset` may be anything that the constructor takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = prepare_dataset(eval_dataset, "evaluation set", self.processing_class, self.args)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Batches of rows to predict on; `test_dataset` may be anything that the constructor takes."""
        return super().get_test_dataloader(prepare_dataset(test_dataset, "test set", self.processing_class, self.args))

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The batches of one optimizer step, and where the values of the step are collected."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self.batches, self.collected = batches, Collected(StepCounts.of(batches, self.accelerator))
        return batches, self.collected

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of a component that has one, or else that of `lr_scheduler_type`."""
        rate = float(self.args.learning_rate or 0)
        schedules = [each for part in self.components if (each := part.schedule(num_training_steps, rate))]
        if self.lr_scheduler is None and schedules:
            trained: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = LambdaLR(trained, schedules[0])
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Before the first step

    def begin_training(self) -> None:
        """Runs the scan before the first step, but not if the run was resumed or `train` is called again."""
        if not self._has_started:
            requests = merge_requests(component.scan() for component in self.components)
            scan = run_scan(
                requests,
                model=self.model_wrapped,
                reader=self.reader,
                collator=self.data_collator,
                accelerator=self.accelerator,
                batch_size=self.args.per_device_eval_batch_size,
                folder=self.scan_folder,
                progress=not self.args.disable_tqdm,
            )
            sets = {id(self.proxy_rows): "proxy set", id(self.retain_rows): "retain set"}
            refuse_rows_without_a_number(requests, scan, lambda rows: sets.get(id(rows), "forget set"))
            for component in self.components:
                component.start(scan)
            self._has_started = True
        self.step_log = StepLog()

    @property
    def scan_folder(self) -> Path:
        """Where the results of the scan are kept."""
        return Path(self.args.scan_cache_dir or Path(self.args.output_dir) / "_scan")

    def score(
        self, dataset: RowDataset, ids: Tensor | None = None, model: nn.Module | None = None, **options: Any
    ) -> RowScores:
        """Scores rows `ids` of `dataset` (or all) under the model as it is now, or under another `model`.

        `options` are as in `score_rows`.
        """
        return score_rows(
            self.model_wrapped if model is None else model,
            self.reader if model is None else AnswerReader(model, padding_free=self.args.padding_free),
            dataset,
            self.data_collator,
            batch_size=self.args.per_device_eval_batch_size,
            accelerator=self.accelerator,
            ids=ids,
            **options,
        )

    def load_other(self, name: str) -> nn.Module:
        """Loads another model that reads the same rows, in the precision and on the device of this one.

        Args:
            name: its path or hub id.

        Raises:
            ModelError: the model cannot be loaded, or has another vocabulary.
        """
        trusted: Any = self.args.model_init_kwargs or {}
        model = load_model(name, dtype=self.model.dtype, trust_remote_code=trusted.get("trust_remote_code", False))
        refuse_other_vocabulary(name, model, self.model, self.processing_class)
        rows = self.train_dataset.forget.rows  # with the model's own answers
        try:
            check_token_ids(model, [row.input_ids for row in rows], f"the forget set, under {name},")
        except ModelError as error:
            fix = "use a proxy model with the same added tokens, or leave out --proxy_model"
            raise ModelError(got=error.got, expected="a proxy model that knows all of them", fix=fix) from error
        return model.to(self.args.device)

    # The step

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the terms of a micro-batch, each its share of the whole step; plain loss for evaluation rows.

        Args:
            model: the model as wrapped for training.
            inputs: a batch of `PairCollator`, or of evaluation rows.
            return_outputs: whether the outputs of the forward pass are returned, too.
            num_items_in_batch: the `Collected` of the step, from `get_batch_samples`.
        """
        if "forget_ids" not in inputs:
            return super().compute_loss(model, inputs, return_outputs)
        step = self._read(model, inputs, num_items_in_batch)
        terms = self.compute_terms(step)
        refuse_infinite_terms(terms, step.parts, inputs)
        for name, value in terms.items():
            step.add(f"loss_{name}", value)
        loss = torch.stack(list(terms.values())).sum()
        # Trainer divides by the micro-batches of the step and DDP by the processes; the counts cover both already.
        loss = loss * self.accelerator.num_processes * self.current_gradient_accumulation_steps
        return (loss, step.parts) if return_outputs else loss

    def compute_terms(self, step: Step) -> dict[str, Tensor]:
        """The named terms of all components for `step`, a micro-batch: its shares of the values of the whole step."""
        self.observe(step)
        terms: dict[str, Tensor] = {}
        for component in self.components:
            terms |= component.terms(step)
        return terms

    def backward_forget(self) -> None:
        """Leaves the gradients of the forget objective in the weights, for the batches of the step that begins.

        They are those of the whole step up to a factor, and on every process those of all.
        """
        collected = Collected(self.collected.counts)
        self.model_wrapped.train()
        for batch in self.batches:
            inputs = self._prepare_inputs(with_parts(batch, {Part.FORGET, Part.ALTERNATE}))
            with self.compute_loss_context_manager():
                step = self._read(self.model_wrapped, inputs, collected)
                self.observe(step)
                (loss,) = self.component(ForgetObjective).terms(step).values()
            self.accelerator.backward(loss)

    def observe(self, step: Step) -> None:
        """Lets all components read a micro-batch, and sets the weights of its forget rows."""
        for component in self.components:
            component.observe(step)
        weights = [each for component in self.components if (each := component.weights(step)) is not None]
        if weights:
            step.weights = reduce(mul, weights)
            step.observe("weight", step.weights, mean_and_range)

    def forward_parts(self, model: nn.Module, inputs: Batch) -> dict[Part, AnswerOutputs]:
        """One forward pass of `model` over the joined rows of `inputs`, then its parts, in the order of `Part`."""
        noise = [each for component in self.components if (each := component.embedding_noise(inputs)) is not None]
        outputs = self.reader(
            model,
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["labels"],
            with_features=self.needs.features,
            keep_logits=self.needs.logits,
            with_hidden=self.needs.hidden,
            embedding_noise=reduce(add, noise) if noise else None,
        )
        parts = parts_of(inputs)
        # The forget part stands for the whole batch when the tokens that the model read are counted.
        split = dict(zip(parts, outputs.split([rows.stop - rows.start for rows in parts.values()]), strict=True))
        return split | {Part.FORGET: replace(split[Part.FORGET], positions=outputs.positions)}

    def _read(self, model: nn.Module, inputs: Batch, collected: Collected) -> Step:
        def read_reference(part: Part, needs: frozenset[Need]) -> AnswerOutputs:
            rows = parts_of(inputs)[part]
            ids, mask, labels = (inputs[name][rows] for name in ("input_ids", "attention_mask", "labels"))
            with self.accelerator.autocast():  # Accelerate wraps only the model itself, not a frozen copy
                return self.reference.read(model, ids, mask, labels, needs=needs)

        step = Step(inputs, self.forward_parts(model, inputs), collected, read_reference)
        step.keep("forget_ids", step.forget_ids)
        step.keep("retain_ids", step.retain_ids)
        step.add(POSITIONS, step.forget.num_tokens.new_tensor(step.forget.positions))
        if step.retain is not None:
            step.add("retain_nll", step.counts.per_retain_token(step.retain.sum_nll))
        return step

    def end_step(self) -> None:
        """Updates the state of all components, once the optimizer has stepped."""
        finished = FinishedStep(self.collected, self.accelerator, self.state.epoch or 0.0)
        for component in self.components:
            component.commit(finished)
        self.step_log.add(self.collected, finished)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as `Trainer` does; training logs also have the value of each term, and what components measured."""
        if "loss" in logs and self.is_in_train:
            logs = {**logs, **self.step_log.flush(self.accelerator)}
        is_due = self.control.should_log and "loss" not in logs
        super().log(logs, start_time)
        self.control.should_log = is_due  # what a component logs at the end of a step does not replace the step's log

    # Checkpoints

    def find_conditions(self) -> Conditions:
        """The conditions of the run that is about to begin; the weights are those before the trainer's first run."""
        if self._conditions_of_model is None:
            model = self.accelerator.unwrap_model(self.model)
            self._conditions_of_model = Conditions(model_options(model), weights_of(model))
        sets: dict[str, Any] = {
            "forget": self.train_dataset.forget,
            "retain": self.retain_rows,
            "proxy": self.proxy_rows,
        }
        if self.args.load_best_model_at_end:
            given = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
            sets |= {f"evaluation {name}".strip(): rows for name, rows in given.items()}
        rows = {f"{name} rows": digest_of(data) for name, data in sets.items() if isinstance(data, RowDataset)}
        facts: dict[str, Any] = {
            "trainer": self.config_class.__name__,
            "precision": str(self.accelerator.mixed_precision),
            "checkpoint format": _CHECKPOINT_FORMAT,
        }
        for component in self.components:
            facts |= {f"{component.name}: {name}": value for name, value in component.describe().items()}
        model = self._conditions_of_model
        return Conditions({**options_of(self.args), **facts, **model.options}, {**rows, **model.inputs})

    def training_state(self) -> dict[str, Tensor]:
        """The tensors of all components, by the component's name and their own."""
        return {
            f"{component.name}.{name}": tensor
            for component in self.components
            for name, tensor in component.state_dict().items()
        }

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restores the tensors of a checkpoint, each where its component keeps it."""
        for component in self.components:
            prefix, device = f"{component.name}.", "cpu" if component.stays_on_cpu else self.args.device
            own = {
                name.removeprefix(prefix): each.to(device) for name, each in state.items() if name.startswith(prefix)
            }
            component.load_state_dict(own)
        self._has_started = True


def _with_loss(args: UnlearnConfig, loss: ForgetLoss) -> UnlearnConfig:
    """A copy of a configuration for a run with the user's own forget loss."""
    args = copy(args)
    args.objective = type(loss).__name__
    args.adopt(loss)
    if isinstance(args, AutoOptions):
        args.refuse_auto_without_rise()
    loss.check_config(args)
    return args
