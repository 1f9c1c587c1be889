"""The options that all trainers of this package share, whatever they train a model for."""

import copy
from dataclasses import asdict, dataclass
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainingArguments

from egup_trainer.config_checks import (
    check_mappings,
    check_numbers_of_training,
    default_to_non_reentrant_checkpointing,
    refuse_reentrant_checkpointing,
)
from egup_trainer.data.rendering import Template, check_date
from egup_trainer.data.schema import OnLongRow
from egup_trainer.data.template_inputs import TemplateInputs, parse_template_kwargs
from egup_trainer.errors import ConfigError, check_range, choose, did_you_mean
from egup_trainer.options import OptionGroup, check_all_groups, option
from egup_trainer.records.redaction import without_credentials


@dataclass(repr=False)  # the generated text would show hub_token
class RowTrainingConfig(OptionGroup, TrainingArguments):
    """Options of a trainer that learns from rows: all of `transformers.TrainingArguments`, and how rows are read.

    Access tokens are neither shown nor pickled.

    Raises:
        ConfigError: a value is out of range, or unknown, or names no option.
    """

    help_title = "Method"

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [  # type: ignore[misc]
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
    ]

    if TYPE_CHECKING:
        output_dir: str  # where none is given, TrainingArguments names one

    logging_steps: float = option(10, "Log every X update steps; below 1, a share of all steps.")
    bf16: bool | None = option(  # type: ignore[assignment]
        None, "Autocast to bfloat16, with float32 weights. By default: on a GPU that supports it, unless fp16 is set."
    )
    remove_unused_columns: bool = option(False, "Kept off: rows are tokenized by the trainer.")
    max_length: int = option(
        1024, "Most tokens in a sample, 8 or more. Longer plain texts are split; of other rows see on_long_row."
    )
    on_long_row: OnLongRow = option(
        OnLongRow.WINDOW,
        "What to do with a row that has a prompt and is longer than max_length: window (several samples, which "
        "together score each answer token once), cut (what does not fit is left out) or error.",
    )
    user_marker: str | None = option(
        None, "Text before a user turn, instead of a chat template. By default the chat template, or else 'Question: '."
    )
    assistant_marker: str | None = option(
        None, "Text before the answer, instead of a chat template. By default the chat template, or else '\\nAnswer: '."
    )
    template_date: str | None = option(
        None,
        "Date as YYYY-MM-DD that a chat template writes where it asks for today's. By default that of the checkpoint "
        "to resume from, or of the run that made the model, or else today.",
    )
    system_prompt: str | None = option(
        None,
        "Text of a system turn before the turns of each row; a row that has one keeps its own. By default that of the "
        'run that made the model, or else none; "" for none.',
    )
    template_kwargs: dict | str | None = option(
        None,
        'Variables of the chat template as JSON, such as {"enable_thinking": false}. By default those of the run that '
        "made the model, or else none.",
    )
    disable_dropout: bool = option(
        True, "Switch off dropout, including that of LoRA, so that the model is compared with itself."
    )
    model_init_kwargs: dict | str | None = option(
        None, "Arguments of from_pretrained as JSON, when the model is given as a path."
    )
    overwrite_output_dir: bool = option(
        False,
        "Replace the finished model that OUTPUT_DIR holds, and its record, once the run has ended. Without it such a "
        "folder is refused.",
    )

    def __new__(cls, *args: Any, **options: Any) -> "RowTrainingConfig":
        """Refuses an option that does not exist, which Python's own error would only name."""
        known = signature(cls.__init__).parameters
        takes_all = any(each.kind is Parameter.VAR_KEYWORD for each in known.values())  # of a subclass
        for name in options:
            if name not in known and not takes_all:
                raise ConfigError(
                    got=f"the unknown option {name}",
                    expected=f"an option of {cls.__name__}",
                    fix=did_you_mean(name, list(known)[1:], "leave it out"),
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_numbers_of_training(self)
        self.template_kwargs = parse_template_kwargs(self.template_kwargs)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and _gpu_has_bf16()
        default_to_non_reentrant_checkpointing(self)
        super().__post_init__()
        check_mappings(self)
        check_all_groups(self)

    def check_options(self) -> None:
        """Raises `ConfigError` if an option that every trainer has cannot work."""
        check_range(self, ("max_length",), low=8, whole=True)
        check_date(self.template_date)
        self.on_long_row = choose(OnLongRow, self.on_long_row, "on_long_row")
        refuse_reentrant_checkpointing(self)
        if self.n_gpu > 1:
            raise ConfigError(
                got=f"{self.n_gpu} GPUs in one process",
                expected="one process per GPU",
                fix="start with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU",
            )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, for example into training_args.bin beside the model: all options except access tokens."""
        return without_credentials(vars(self), hidden=None)

    def __copy__(self) -> "RowTrainingConfig":
        """A copy with the access tokens. Python's own copy uses `__getstate__`, which leaves them out."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "RowTrainingConfig":
        """A deep copy with the access tokens."""
        copied = memo[id(self)] = object.__new__(type(self))
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def to_dict(self) -> dict[str, Any]:
        """The options by name, as logs and trackers show them: without access tokens."""
        return without_credentials(super().to_dict())

    def __str__(self) -> str:
        lines = (f"{name}={value},\n" for name, value in sorted(without_credentials(asdict(self)).items()))
        return f"{type(self).__name__}(\n{''.join(lines)})"

    __repr__ = __str__

    @property
    def template(self) -> Template:
        """How prompts are written."""
        markers = Template.marked(self.user_marker, self.assistant_marker, self.template_date)
        return TemplateInputs.of(self).apply(markers)


def _gpu_has_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
