"""Configurations of the trainers: `TrainingArguments` and the options of unlearning.

Options of a loss or a component are inherited from the file that has its code.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from egup_trainer.base_config import RowTrainingConfig
from egup_trainer.components.auto import DEFAULT_LEARNING_RATE, AutoOptions
from egup_trainer.components.clreg import CLRegOptions
from egup_trainer.components.component import components_of, refuse_unsupported
from egup_trainer.components.expected_outputs import ExpectedOutputOptions
from egup_trainer.components.features import FeatureOptions
from egup_trainer.components.inter_sample import InterSampleOptions
from egup_trainer.components.intra_sample import IntraSampleOptions
from egup_trainer.components.proxy_constraint import ProxyOptions
from egup_trainer.components.retain import RetainOptions
from egup_trainer.components.sharp_forgetting import SharpForgettingOptions
from egup_trainer.components.stop_at_boundary import StopOptions
from egup_trainer.config_checks import (
    check_regex,
    check_sampling,
    refuse_to_publish_features,
    refuse_unsupported_arguments,
)
from egup_trainer.errors import ConfigError, check_range
from egup_trainer.losses.base import Alternate, ForgetLoss
from egup_trainer.losses.registry import ObjectiveOptions, make_forget_loss, retain_loss
from egup_trainer.options import is_unset, option, stand_in


@dataclass(repr=False)  # the generated text would show hub_token
class UnlearnConfig(ExpectedOutputOptions, FeatureOptions, RetainOptions, ObjectiveOptions, RowTrainingConfig):
    """Options of `UnlearnTrainer`: all of `transformers.TrainingArguments`, and a forget and a retain objective.

    The loss of an optimizer step with B_f forget rows and N_r retain answer tokens, over all micro-batches and
    processes, is gamma * sum_i base_i / B_f + alpha * sum_j retain_j / N_r.

    Raises:
        ConfigError: a value is out of range, unknown, or excludes another one.

    Example:
        >>> UnlearnConfig(output_dir="out", objective="npo", npo_beta=0.1).objective
        'npo'
    """

    help_title = "Method"

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [  # type: ignore[misc]
        *RowTrainingConfig._VALID_DICT_FIELDS,
        "objective_kwargs",
    ]

    # Defaults of TrainingArguments that do not suit unlearning.
    learning_rate: float | None = option(  # type: ignore[assignment]
        None, f"Initial learning rate. By default what auto chooses, or else {DEFAULT_LEARNING_RATE:g}."
    )
    num_train_epochs: float | None = option(  # type: ignore[assignment]
        None, "Passes over the forget set. By default 5, or with auto as many as make 200 steps, if these are more."
    )

    objective: str = option(
        "npo",
        "Forget objective: grad_ascent, grad_diff, npo, simnpo, wga, satimp, ceu, undial, dpo, altpo, rmu, pdu, "
        "proxy_kl, task_vector, finetune (retain rows alone), or a registered loss of your own.",
    )
    retain_loss: str | None = option(
        None,
        "Retain objective: nll, kl (divergence from the model before unlearning), features (hidden states held where "
        "they were) or none. By default the objective's own: none for grad_ascent and task_vector, features for rmu, "
        "nll for the others.",
    )
    objective_kwargs: dict | str | None = option(
        None,
        "Arguments of the forget loss as JSON, by their names in its class. They replace the objective's own flags.",
    )
    trainable_params_regex: str | None = option(
        None,
        "Regular expression of the whole names of the weights that are trained, such as "
        r"'model\.layers\.[567]\..*'. By default all (rmu: three output projections; '.*' is for all). Not with an "
        "adapter.",
    )
    forget_weight: float = option(1.0, "Weight of the forget objective (gamma); 0 or more.")
    retain_weight: float | None = option(
        None,
        "Weight of the retain objective (alpha); 0 or more. By default the objective's own: 3 for proxy_kl, else 1.",
    )
    drop_overlap: bool = option(
        False, "Drop retain rows and proxies that are also in the forget set. Without this, they raise an error."
    )
    self_samples: int = option(
        0,
        "Answers of the model's own to each forget question, sampled before the first step, that are forgotten beside "
        "the given ones; 0 or more. Duplicates are left out.",
    )
    padding_free: bool | None = option(
        None,
        "Pack several rows into one sequence to reduce padding. By default: where the model can tell rows apart by "
        "their position ids, which is tried once.",
    )
    scan_cache_dir: str | None = option(
        None,
        "Folder to keep the scan's results in, to be reused by runs on the same model and rows. By default they lie in "
        "OUTPUT_DIR/_scan until the run ends.",
    )
    verdict: bool = option(
        True,
        "Say what became of the forget rows: measure forget, retain and proxy rows before and after, and have the "
        "model answer some of their questions.",
    )
    card_author: str | None = option(None, "Person or organization that unlearned the model, for the model card.")

    def __post_init__(self) -> None:
        self._is_default = {name: is_unset(getattr(self, name)) for name in ("learning_rate", "num_train_epochs")}
        self.learning_rate = stand_in(DEFAULT_LEARNING_RATE) if self.learning_rate is None else self.learning_rate
        self.num_train_epochs = stand_in(5.0) if self.num_train_epochs is None else self.num_train_epochs
        super().__post_init__()

    def check_options(self) -> None:
        """Raises `ConfigError` if an option that every run has cannot work, alone or with another option."""
        check_range(self, ("forget_weight",), low=0)
        check_range(self, ("self_samples",), low=0, whole=True)
        check_regex(self.trainable_params_regex)
        refuse_to_publish_features(self)
        refuse_unsupported_arguments(self)
        check_sampling(self)
        loss = make_forget_loss(self)
        self._is_default |= {name: is_unset(getattr(self, name)) for name in ("retain_loss", "retain_weight")}
        self.adopt(loss)
        check_range(self, ("retain_weight",), low=0)
        retain_loss(str(self.retain_loss))
        loss.check_config(self)
        if self.idk_answers is not None and loss.alternate is not Alternate.REFUSAL:
            raise ConfigError(
                got=f"idk_answers with objective={self.objective}",
                expected="an objective that prefers refusals, such as dpo",
                fix="leave out --idk_answers",
            )

    @property
    def unset(self) -> list[str]:
        """Names of the options that the user left open, and that stand for a value that was chosen for them."""
        return [name for name, is_default in self._is_default.items() if is_default]

    def adopt(self, loss: ForgetLoss) -> None:
        """Sets the options that the user left unset to the defaults of the forget loss."""
        self._raises_nll = loss.raises_nll
        if self._is_default["retain_loss"]:
            self.retain_loss = stand_in(loss.default_retain_loss)
        if self._is_default["retain_weight"]:
            self.retain_weight = stand_in(loss.default_retain_weight)


@dataclass(repr=False)
class EGUPConfig(
    SharpForgettingOptions,
    AutoOptions,
    CLRegOptions,
    ProxyOptions,
    StopOptions,
    IntraSampleOptions,
    InterSampleOptions,
    UnlearnConfig,
):  # a run's components act in the order of these groups, the last one first
    """Options of `EGUPTrainer`: those of `UnlearnConfig`, EGUP's three parts, each with its switch, and CLReg.

    By default the model is trained towards the outputs expected of one that never saw the rows (`proxy_kl`), at a
    learning rate that it chooses itself (`auto`). The proxy constraint is on for objectives that have no boundary of
    their own. Both entanglements and CLReg are off; docs/results.md shows what they add.

    Example:
        >>> EGUPConfig(output_dir="out", objective="npo", proxy_form="penalty").proxy_form.value
        'penalty'
    """

    help_title = "Method"

    objective: str = option("proxy_kl", UnlearnConfig.__dataclass_fields__["objective"].metadata["help"])

    def check_options(self) -> None:
        """Raises `ConfigError` if a component cannot be combined with the objective."""
        self._is_default["proxy_lambda"] = is_unset(self.proxy_lambda)
        loss = make_forget_loss(self)
        self.adopt(loss)
        refuse_unsupported(components_of(self, loss), loss, self.objective)

    def to_dict(self) -> dict[str, Any]:
        """All options as plain values; None for learning rate and number of passes where the run chooses them."""
        chosen = [name for name in ("learning_rate", "num_train_epochs") if self.uses_auto and self._is_default[name]]
        return {**super().to_dict(), **dict.fromkeys(chosen)}

    def adopt(self, loss: ForgetLoss) -> None:
        """Sets the options that the user left unset to the defaults of the forget loss."""
        super().adopt(loss)
        if self._is_default.get("proxy_lambda"):
            self.proxy_lambda = stand_in(loss.default_proxy_lambda)
