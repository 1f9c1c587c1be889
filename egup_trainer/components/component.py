"""The base class of components, which act on the steps of a run. Read this file first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from egup_trainer.components.feature_table import TableStorage
from egup_trainer.components.range_test import Trial
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import FinishedStep, Step
from egup_trainer.data.collator import Batch
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ConfigError
from egup_trainer.losses.base import Alternate, ForgetLoss, Guidance
from egup_trainer.modeling.probability import sample_ids
from egup_trainer.modeling.reference import Need, Reference
from egup_trainer.modeling.scan import RowScores
from egup_trainer.options import OptionGroup

_C = TypeVar("_C")


@dataclass(frozen=True)
class Needs:
    """What a component needs, so that the trainer provides it and nothing else.

    Args:
        features: one pooled hidden state per row, of the layer `feature_layer`.
        logits: the logits at the answer positions.
        hidden: the hidden states at the answer tokens, of the layer `rmu_layer`.
        retain_rows: a retain set.
        proxy_rows: rows that the model never saw.
        reference: what must be known of the model before unlearning.
        alternate: which alternate answers of the forget rows join each batch.
        positives: which second views of the forget rows join each batch, "views" or "paraphrase".
        example_share: share of the pairs whose forget row is read after the retain row.

    Example:
        >>> (Needs(features=True) | Needs(logits=True)) == Needs(features=True, logits=True)
        True
    """

    features: bool = False
    logits: bool = False
    hidden: bool = False
    retain_rows: bool = False
    proxy_rows: bool = False
    reference: frozenset[Need] = frozenset()
    alternate: Alternate | None = None
    positives: str | None = None
    example_share: float = 0.0

    def __or__(self, other: "Needs") -> "Needs":
        values = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Needs(**{name: a | b if name == "reference" else a or b for name, (a, b) in values.items()})


@dataclass(frozen=True)
class Run:
    """The run that components are a part of.

    Args:
        forget_rows, retain_rows, proxy_rows: the tokenized sets; None if a set was not given.
        device: where the step's tensors are.
        seed: the seed of the run.
        bank_size: how many retain rows the scan reads.
        model: the model, without what wraps it for training.
        embedding: the token embeddings of the model.
        reference: the model before unlearning.
        storage: where large per-sample tables are kept.
        score: scores the rows of a set under the model as it is now, or under another one.
        load: loads another model, by its path or hub id, in the precision and on the device of this one.
        try_rates: makes a range test: `range_test` of the run's trainer.
        backward_forget: leaves the gradients of the forget objective of the step that begins in the weights.
        can_move_weights: whether the trainer's weights and gradients can be read and moved in place.
        log: logs values by name.
        components: all components of the run, in the order in which they act.
        own_answers: how many of the forget rows, the last ones, are answers of the model's own (`self_samples`).
    """

    forget_rows: RowDataset
    retain_rows: RowDataset | None
    proxy_rows: RowDataset | None
    device: torch.device
    seed: int
    bank_size: int
    model: Any
    embedding: nn.Module
    reference: Reference
    storage: TableStorage
    score: Callable[..., RowScores]
    load: Callable[[str], Any]
    try_rates: Callable[..., list[Trial]]
    backward_forget: Callable[[], None]
    can_move_weights: bool
    log: Callable[[dict[str, float]], None]
    components: Sequence["Component"] = ()
    own_answers: int = 0

    def component(self, kind: type[_C]) -> _C:
        """The component of a class, on which another one is built."""
        return next(each for each in self.components if isinstance(each, kind))

    @property
    def hidden_size(self) -> int:
        """Size of the model's hidden states."""
        return self.model.config.get_text_config().hidden_size

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens that the model knows."""
        return self.model.config.get_text_config().vocab_size

    @property
    def embedding_size(self) -> int:
        """Size of the model's token embeddings."""
        bare: Any = getattr(self.embedding, "base_layer", self.embedding)  # below an adapter
        return bare.embedding_dim

    @property
    def needed_retain_rows(self) -> RowDataset:
        """The retain set, for a component whose needs name it."""
        assert self.retain_rows is not None  # the trainer refuses a run without the rows that it needs
        return self.retain_rows

    @property
    def needed_proxy_rows(self) -> RowDataset:
        """The proxy set, for a component whose needs name it."""
        assert self.proxy_rows is not None  # as above
        return self.proxy_rows

    def retain_sample(self) -> Tensor:
        """Ids of the retain rows that the scan reads: as many as the bank holds, sampled with the run's seed, (n,)."""
        return sample_ids(0 if self.retain_rows is None else len(self.retain_rows), self.seed, self.bank_size)


class Component(TrainerCallback):
    """A part of the method that acts on steps: by a factor on each forget row's loss, terms of the loss, or a state.

    For each micro-batch the trainer makes one forward pass that serves the `needs` of all components. It then calls
    `observe`, `weights` and `terms` of each of them, multiplies the weights and sums the terms. Once the optimizer has
    stepped it calls `commit`. During a step a component reads its state as it was at the start of the step, so that
    the result does not depend on how the step is divided. A component is also a `transformers.TrainerCallback`.

    Attributes:
        name: its key in checkpoints, records and the model card.
        needs: what it needs.
        acts_by: the ways in which it acts on the loss, in addition to the forget loss.
        flag, switch_off: the option that switches it on, and how a user switches it off, for messages.
        stays_on_cpu: whether its state is kept in main memory, even if the model is on a GPU.
        run: the run that it is a part of, once the trainer is built.

    Example:
        >>> class Shorter(Component):
        ...     name = "shorter"
        ...     def weights(self, step):  # more effort for short answers
        ...         return 1 / step.forget.num_tokens.clamp_min(1)
        >>> # EGUPTrainer(model, args, forget, retain, components=[Shorter()])
    """

    name: str
    needs: Needs = Needs()
    acts_by: frozenset[Guidance] = frozenset()
    flag: str = ""
    switch_off: str = ""
    stays_on_cpu: bool = False
    run: Run

    def describe(self) -> dict[str, Any]:
        """Options that no field of the configuration holds, as plain values: they are conditions of a resumed run."""
        return {}

    def check_rows(self, forget: RowDataset, retain: RowDataset | None, proxies: RowDataset | None) -> None:
        """Raises `DataError` if the component cannot work with the rows, before the model is loaded.

        Args:
            forget, retain, proxies: the tokenized sets.
        """

    def attach(self, run: Run) -> None:
        """Tells the component its `run`, once, when the trainer is built."""
        self.run = run

    def scan(self) -> dict[str, ScanRequest]:
        """The rows that must be scored before the first step, by name; requests of one name are read together."""
        return {}

    def start(self, scan: dict[str, RowScores]) -> None:
        """Sets the state from the results of `scan`, before the first step; a resumed run calls `load_state_dict`."""

    def bytes_of_table(self, retain_rows: RowDataset | None) -> float:
        """Bytes of the table of top-k log-probabilities that can replace the reference model for this component.

        It is infinite if no table of the answers of `retain_rows` can. The trainer asks only components that have
        `Need.TOP_K`.
        """
        return inf

    def schedule(self, num_steps: int, learning_rate: float) -> Callable[[int], float] | None:
        """What sets the learning rate in place of `lr_scheduler_type`, or None.

        Args:
            num_steps: the most steps that the run can have.
            learning_rate: of the optimizer; the function returns what it is multiplied by in step 0, 1, ...
        """
        return None

    def embedding_noise(self, inputs: Batch) -> Tensor | None:
        """Noise for the token embeddings of the last P rows of the batch `inputs`, shape (P, T, d), or None."""
        return None

    def observe(self, step: Step) -> None:
        """Reads a micro-batch, `step`, before any weights or terms are asked for; may add to it."""

    def weights(self, step: Step) -> Tensor | None:
        """Factor on the loss of each forget row of `step`, without gradient, shape (B,), or None for 1."""
        return None

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Named terms of the loss, shape () each: the shares that `step` has in the values of the whole step."""
        return {}

    def commit(self, step: FinishedStep) -> None:
        """Updates the state, once the optimizer has taken `step`, which is the same on every process."""

    def release(self) -> None:
        """Puts back what was changed for the time of a step, when training ends, by an error or an interrupt, too."""

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that a resumed run needs, by name, such as one of shape (N_f,); the same on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the `state` of a checkpoint."""

    def bytes_of_state(self) -> int:
        """The largest size of its state during the run, asked once it has started; `egup plan` counts it."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())


class ComponentOptions(OptionGroup):
    """Options of a component, and how it is made. A configuration that inherits from them has the component."""

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        """The component, or None if it is switched off."""
        raise NotImplementedError


def ends_epoch(state: Any) -> bool:
    """Whether the step that just ended was the last of its epoch or of the run.

    What changes the rest of a run is done in `on_step_end` then, not in `on_epoch_end`, which comes after the step's
    checkpoint has been written: a run that resumed from it would go on without the change. A run that is interrupted
    within an epoch changes nothing then, so that it can be resumed as if it had not been.

    Args:
        state: the `TrainerState`.
    """
    return bool(state.epoch == int(state.epoch) or state.global_step >= state.max_steps)


def why_ended(state: Any) -> str:
    """When training ended, and whether forget rows looked like rows never seen by then, a sentence.

    Args:
        state: the `TrainerState`. Components that look for the boundary log `at_boundary` at the end of epochs, 1
            if forget rows cannot be distinguished from rows never seen while retain rows hold, with the numbers that
            decide it.

    Example:
        >>> from transformers import TrainerState
        >>> rows = [{"epoch": 1.0, "at_boundary": 0.0}, {"epoch": 2.0, "at_boundary": 1.0}]
        >>> why_ended(TrainerState(epoch=4.0, num_train_epochs=9, log_history=rows))
        'Training ended at epoch 4 of 9; forget rows first looked like rows never seen at epoch 2.'
    """
    said = f"Training ended at epoch {state.epoch:.3g} of {state.num_train_epochs}"
    measured = [row for row in state.log_history if "at_boundary" in row]
    if not measured:
        return f"{said}."
    reached = next((row for row in measured if row["at_boundary"]), None)
    if reached is not None:
        return f"{said}; forget rows first looked like rows never seen at epoch {reached['epoch']:.3g}."
    last = measured[-1]
    return (
        f"{said}; forget rows never looked like rows never seen while retain rows held (at epoch {last['epoch']:.3g}, "
        f"p = {last['boundary_p']:.2g}, and the loss of retain rows {last['retain_rise']:+.2g} nats per token)."
    )


def components_of(config: Any, loss: ForgetLoss, has_proxies: bool = True) -> list[Component]:
    """The components that a configuration asks for, in the order of its base classes, the last base first."""
    groups = [
        group
        for group in reversed(type(config).__mro__)
        if issubclass(group, ComponentOptions) and "make_component" in vars(group) and group is not ComponentOptions
    ]
    made = [group.make_component(config, loss, has_proxies) for group in groups]
    return [component for component in made if component is not None]


def refuse_unsupported(components: Sequence[Component], loss: ForgetLoss, objective: str) -> None:
    """Raises `ConfigError` if a component cannot be combined with the forget loss, and says how to switch it off."""
    refused = [each for each in components if not each.acts_by <= loss.supports]
    if refused:
        raise ConfigError(
            got=f"objective={objective} with {', '.join(each.flag or each.name for each in refused)}",
            expected=f"the objective alone: {loss.unsupported_reason}",
            fix=", ".join(each.switch_off or f"leave out the component {each.name}" for each in refused),
        )
