"""Trainers that make their model themselves, so that each trial of a search for hyper-parameters begins as a new one.

The methods of `transformers.Trainer` that are overridden were checked against transformers 5.17 to 5.23.
"""

import gc
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, enable_full_determinism, set_seed

from egup_trainer.components.boundary_metrics import BoundaryMetrics, boundary_objective
from egup_trainer.components.component import Component
from egup_trainer.config import UnlearnConfig
from egup_trainer.errors import ConfigError
from egup_trainer.publishing import PublishingTrainer

_OF_THE_SEARCH = ("hp_search_backend", "hp_name", "saved_to")
"""What stays as it is when a trial begins, though the constructor sets it anew."""
_OF_THE_MODEL = ("model", "model_wrapped", "reader", "reference", "optimizer", "lr_scheduler")
"""What holds the model of the last trial, which must be gone before the next one is loaded."""


def reusable(rows: Any) -> Any:
    """Rows that can be read again: those of an iterator as a list, others as they are."""
    return list(rows) if isinstance(rows, Iterator) else rows


class SearchingTrainer(PublishingTrainer):
    """A trainer whose constructor is run again for each trial: with new options, model, components and rows.

    A trial therefore gives what a trainer of its own with these options would give. Of the last trial only callbacks
    stay that belong to `transformers` or to the user.
    """

    args: UnlearnConfig
    components: list[Component]
    own_callbacks: list[TrainerCallback]
    """The callbacks that the constructor adds: components and what else belongs to one run."""

    _given: dict[str, Any]
    _objective: str
    _searched: UnlearnConfig
    _current_trial: Any = None
    _is_new = True

    def build(self, args: UnlearnConfig, given: dict[str, Any]) -> None:
        """Runs the constructor again, with a configuration and the other arguments that it was `given`."""
        raise NotImplementedError

    def remember(self, args: UnlearnConfig, **given: Any) -> None:
        """Keeps what the constructor was given, besides the model, with the components as they are before a run.

        Raises:
            ConfigError: an optimizer was given, which belongs to one model.
        """
        if any(given["optimizers"]):
            raise ConfigError(
                got="optimizers with a model_init",
                expected="options from which each run makes an optimizer for its own model",
                fix="leave out optimizers, or override create_optimizer",
            )
        self._objective = args.objective
        self._given = {**given, "components": deepcopy(given["components"])}

    def make_model(self, model: Any, model_init: Callable[..., Any] | None, args: UnlearnConfig) -> Any:
        """The model that was given, or the one that `model_init` makes, with the seed of `args`.

        Raises:
            ConfigError: there is neither, or both, or `model_init` returns the model of the last trial.
        """
        if (model is None) == (model_init is None):
            raise ConfigError(
                got="no model and no model_init" if model is None else "a model and a model_init",
                expected="one of them",
                fix="pass the model, or for hyperparameter_search a function that makes it as model_init",
            )
        if model_init is None:
            return model
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
        self.model_init = model_init
        model = self.call_model_init(self._current_trial)
        if getattr(model, "_egup_trained", False):
            raise ConfigError(
                got="a model_init that returns a model of an earlier run",
                expected="a new model each time, since training changes it",
                fix="load or build the model in model_init",
            )
        if not isinstance(model, str | Path):
            model._egup_trained = True
        return model

    def hyperparameter_search(
        self,
        hp_space: Callable[..., Any] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Searches as `transformers.Trainer` does; each trial is a run of its own, from model to components.

        Args:
            hp_space: as in `transformers.Trainer`; any option of the configuration may be searched. A learning rate
                that is searched counts as given.
            compute_objective: as there; by default `boundary_objective`, to be minimised.
            args, kwargs: as there: `n_trials`, `direction`, `backend`, `hp_name` and options of the backend.

        Raises:
            ConfigError: the default objective has nothing to measure.
        """
        if compute_objective is None and not any(isinstance(each, BoundaryMetrics) for each in self.components):
            boundary_objective({})  # raises what it would raise after the first trial
        self._searched = copy(self.args)
        self._searched.objective = self._objective  # a loss of the user's own has put its name there
        return super().hyperparameter_search(hp_space, compute_objective or boundary_objective, *args, **kwargs)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains as `transformers.Trainer` does: with a `model_init`, each training starts from a new model."""
        if self.model_init is not None and (trial is not None or not self._is_new):
            self._begin_anew(trial)
        self._is_new = False
        # Trainer would replace the model, which has been prepared already.
        model_init, self.model_init = self.model_init, None  # type: ignore[assignment]
        try:
            return super().train(resume_from_checkpoint, trial, *args, **kwargs)
        finally:
            self.model_init = model_init
            for component in self.components:
                component.release()

    def _begin_anew(self, trial: Any) -> None:
        args = self.args if trial is None else self._options_of(trial)
        kept = {name: getattr(self, name) for name in _OF_THE_SEARCH}
        others = [each for each in self.callback_handler.callbacks if each not in self.own_callbacks]
        self.accelerator.free_memory()
        vars(self).update(dict.fromkeys(_OF_THE_MODEL), components=[], own_callbacks=[])
        handler = self.callback_handler
        handler.callbacks, handler.model, handler.optimizer, handler.lr_scheduler = others, None, None, None
        gc.collect()
        self._current_trial = trial
        try:
            self.build(args, self._given)
            made = self.callback_handler.callbacks
            first = next(place for place, each in enumerate(made) if each not in self.own_callbacks)
            last = [each for each in made[first:] if each in self.own_callbacks]
            others = [*made[:first], *others, *last]
        finally:
            self.callback_handler.callbacks = others
            vars(self).update(kept)

    def _options_of(self, trial: Any) -> UnlearnConfig:
        """The configuration of a trial, as if its values had been given to the constructor of the configuration."""
        held = self.args
        self.args = copy(self._searched)
        for name in self.args.unset:
            setattr(self.args, name, None)
        try:
            super()._hp_search_setup(trial)
            return replace(self.args)
        finally:
            self.args = held

    def _hp_search_setup(self, trial: Any) -> None:
        self._trial = trial  # its values are set by now
