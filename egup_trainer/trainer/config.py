"""Configurations of the trainers: `TrainingArguments` and what unlearning adds. Help texts are written once, here."""

import copy
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainingArguments

from egup_trainer.data.rendering import Template, check_date, today
from egup_trainer.data.schema import OnLongRow
from egup_trainer.errors import ConfigError, check_layer, check_range, choose, read_number_or_auto
from egup_trainer.guidance.entanglement import DriftReference
from egup_trainer.guidance.proxy_constraint import ProxyForm, ProxyMatch, ProxyReference
from egup_trainer.losses.clreg import ClregPositives
from egup_trainer.losses.registry import forget_loss, retain_loss
from egup_trainer.records.redaction import without_credentials
from egup_trainer.trainer.refusals import (
    check_mappings,
    check_numbers_of_training,
    check_sampling,
    default_to_non_reentrant_checkpointing,
    refuse_reentrant_checkpointing,
    refuse_to_publish_features,
    refuse_what_the_objective_cannot_carry,
    refuse_what_the_objective_cannot_use,
    refuse_what_would_do_nothing,
)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(repr=False)  # the generated text would show hub_token
class UnlearnConfig(TrainingArguments):
    """Options of `UnlearnTrainer`: all of `transformers.TrainingArguments`, and a forget and a retain objective.

    The loss of an optimizer step with B_f forget rows and N_r retain answer tokens, over all micro-batches and
    processes, is gamma * sum_i base_i / B_f + alpha * sum_j retain_j / N_r.

    Raises:
        ConfigError: a value is out of range, unknown, or excludes another one.

    Example:
        >>> UnlearnConfig(output_dir="out", objective="npo", npo_beta=0.1).objective
        'npo'
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]  # type: ignore[misc]

    if TYPE_CHECKING:
        output_dir: str  # where none is given, TrainingArguments names one

    # Defaults of TrainingArguments that do not suit unlearning.
    learning_rate: float = _option(1e-5, "Initial learning rate.")
    num_train_epochs: float = _option(5.0, "Passes over the forget set.")
    logging_steps: float = _option(10, "Log every X update steps; below 1, a share of all steps.")
    bf16: bool | None = _option(  # type: ignore[assignment]
        None, "Autocast to bfloat16, with float32 weights. By default: on a GPU that can, unless fp16 is set."
    )
    remove_unused_columns: bool = _option(False, "Kept off: rows are tokenized by the trainer.")

    objective: str = _option(
        "npo",
        "Forget objective: grad_ascent, grad_diff, npo, simnpo, wga, satimp, ceu, undial, dpo, altpo, rmu, pdu, "
        "task_vector, finetune (retain rows alone), or a registered loss of your own.",
    )
    retain_loss: str | None = _option(
        None,
        "Retain objective: nll, kl (divergence from the model before unlearning), features (hidden states held where "
        "they were) or none. By default the objective's own: none for grad_ascent and task_vector, features for rmu, "
        "nll for the others.",
    )
    kl_top_k: int = _option(
        64,
        "retain_loss=kl: of the model before unlearning, keep this many most likely tokens at each answer token of the "
        "retain rows, instead of a copy of it, where they take less memory; 0 keeps the copy.",
    )
    forget_weight: float = _option(1.0, "Weight of the forget objective (gamma); 0 or more.")
    retain_weight: float = _option(1.0, "Weight of the retain objective (alpha); 0 or more.")
    npo_beta: float | str | None = _option(
        0.1,
        "NPO: inverse temperature beta, per nat of a whole answer; above 0, or auto: so that the pull has halved when "
        "rows reach the boundary that proxies mark.",
    )
    simnpo_beta: float = _option(4.5, "SimNPO: inverse temperature beta, per nat of a token; above 0.")
    simnpo_delta: float = _option(0.0, "SimNPO: margin delta by which an answer must be unlikely; 0 or more.")
    wga_beta: float = _option(1.0, "WGA: power of a token's probability that weighs it (beta); 0 or more.")
    satimp_beta1: float = _option(5.0, "SatImp: power of a token's probability (beta1); 0 or more.")
    satimp_beta2: float = _option(1.0, "SatImp: power of 1 minus a token's probability (beta2); 0 or more.")
    undial_strength: float = _option(10.0, "UNDIAL: by how much the answer's logit is lowered, nats; above 0.")
    dpo_beta: float = _option(0.1, "DPO and AltPO: inverse temperature beta, per nat of a whole answer; above 0.")
    idk_answers: str | None = _option(
        None, "DPO: text file of refusals to draw rows to, one a line; by default those of this package."
    )
    rmu_steering: float = _option(2.0, "RMU: length of the target that hidden states are drawn to (c); above 0.")
    rmu_layer: float = _option(
        0.22,
        "RMU and retain_loss=features: layer whose hidden states count, a share of the depth between 0 and 1, or an "
        "index (-1 last).",
    )
    pdu_retain_eps: float = _option(
        0.3,
        "PDU: bound on the retain loss, nats per answer token; somewhat above what it is before unlearning; 0 or more.",
    )
    pdu_dual_start: float = _option(50.0, "PDU: multiplier of the retain loss at the start (mu); 0 or more.")
    pdu_dual_rate: float = _option(1.0, "PDU: step size of the multiplier's dual ascent; above 0.")
    pdu_warmup_epochs: float = _option(0.0, "PDU: epochs in which the multiplier stays as it is; 0 or more.")
    task_vector_scale: float = _option(1.0, "Task vector: how far to go back, in what was learned; above 0.")
    max_length: int = _option(
        1024, "Most tokens in a sample, 8 or more. Longer plain texts are split; of other rows see on_long_row."
    )
    on_long_row: OnLongRow = _option(
        OnLongRow.WINDOW,
        "What becomes of a row with a prompt that is longer than max_length: window (several samples, which together "
        "score each answer token once), cut (what does not fit is left out) or error.",
    )
    drop_overlap: bool = _option(
        False, "Leave out retain rows and proxies that are forget rows, too, instead of refusing them."
    )
    user_marker: str = _option("Question: ", "Text before a user turn, for tokenizers without a chat template.")
    assistant_marker: str = _option("\nAnswer: ", "Text before the answer, for tokenizers without a chat template.")
    template_date: str | None = _option(
        None,
        "Date as YYYY-MM-DD that a chat template writes where it asks for today's. By default that of the checkpoint "
        "to resume from, or of the run that made the model, or else today.",
    )
    padding_free: bool | None = _option(
        None,
        "Rows share the lines that the model reads, so that little is padded. By default: where the model can tell "
        "rows apart by their position ids, which is tried once.",
    )
    disable_dropout: bool = _option(
        True, "Switch dropout off, LoRA's among it, so that the model is compared with itself."
    )
    scan_cache_dir: str | None = _option(
        None,
        "Folder to keep the scan's results in, to be reused by runs on the same model and rows. By default they lie in "
        "OUTPUT_DIR/_scan until the run ends.",
    )
    model_init_kwargs: dict | str | None = _option(
        None, "Arguments of from_pretrained as JSON, when the model is given as a path."
    )
    overwrite_output_dir: bool = _option(
        False,
        "Replace the finished model that OUTPUT_DIR holds, and its record, once the run has ended. Without it such a "
        "folder is refused.",
    )
    card_author: str | None = _option(None, "Who unlearned, for the model card.")

    def __post_init__(self) -> None:
        check_numbers_of_training(self)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and _gpu_has_bf16()
        default_to_non_reentrant_checkpointing(self)
        super().__post_init__()
        check_mappings(self)
        self._validate()

    def _validate(self) -> None:
        check_layer(self, "rmu_layer")
        check_range(self, ("forget_weight", "retain_weight", "simnpo_delta"), low=0)
        check_range(self, ("wga_beta", "satimp_beta1", "satimp_beta2"), low=0)
        check_range(self, ("pdu_retain_eps", "pdu_dual_start", "pdu_warmup_epochs"), low=0)
        check_range(
            self, ("dpo_beta", "rmu_steering", "pdu_dual_rate", "task_vector_scale"), low=0, low_is_allowed=False
        )
        self.npo_beta = read_number_or_auto("npo_beta", self.npo_beta)
        check_range(self, ("simnpo_beta", "undial_strength"), low=0, low_is_allowed=False)
        check_range(self, ("max_length",), low=8, whole=True)
        check_range(self, ("kl_top_k",), low=0, whole=True)
        check_date(self.template_date)
        self.on_long_row = choose(OnLongRow, self.on_long_row, "on_long_row")
        refuse_reentrant_checkpointing(self)
        refuse_to_publish_features(self)
        refuse_what_would_do_nothing(self)
        check_sampling(self)
        loss = forget_loss(self.objective)
        self.retain_loss = loss.default_retain_loss if self.retain_loss is None else self.retain_loss
        retain_loss(self.retain_loss)
        refuse_what_the_objective_cannot_use(self, loss)
        if self.n_gpu > 1:
            raise ConfigError(
                got=f"{self.n_gpu} GPUs in one process",
                expected="one process a GPU",
                fix="start with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU",
            )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, as into training_args.bin beside the model: all options but access tokens."""
        return without_credentials(vars(self), hidden=None)

    def __copy__(self) -> "UnlearnConfig":
        """A copy that keeps its tokens: copies are made by way of what is pickled otherwise."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "UnlearnConfig":
        """A deep copy, alike."""
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
        return Template(self.user_marker, self.assistant_marker, date=self.template_date or today())


@dataclass(repr=False)
class EGUPConfig(UnlearnConfig):
    """Options of `EGUPTrainer`: those of `UnlearnConfig`, EGUP's three parts, each with its switch, and CLReg.

    The proxy constraint is on by default. Both entanglements and CLReg are off: what they add is in docs/results.md.

    Example:
        >>> EGUPConfig(output_dir="out", clreg_weight=0.1, proxy_form="penalty").proxy_form.value
        'penalty'
    """

    inter_entanglement: bool = _option(False, "EGUP: more effort for forget samples close to retained knowledge.")
    inter_neighbors: int = _option(8, "Nearest retain samples that entanglement is taken over (k); 1 or more.")
    inter_temperature: float = _option(3.0, "Temperature of the inter-sample weights (tau), in deviations; above 0.")
    inter_clip_min: float = _option(0.2, "Least inter-sample weight, from 0 to 1.")
    inter_clip_max: float = _option(5.0, "Largest inter-sample weight, 1 or more.")
    bank_size: int = _option(1024, "Most recent retain features to compare with (M); 1 or more.")

    intra_entanglement: bool = _option(False, "EGUP: less effort for forget samples whose features have moved.")
    intra_temperature: float = _option(0.5, "Temperature of the drift weights (tau_drift), in 1 - cosine; above 0.")
    drift_reference: DriftReference = _option(
        DriftReference.INITIAL, "Drift is measured from the features before unlearning, or at the previous visit."
    )
    cache_dim: int | None = _option(
        None, "Project cached features to so many dimensions; by default they are kept whole."
    )
    feature_layer: float = _option(
        0.5, "Layer that features are read from: a share of the depth between 0 and 1, or an index (-1 last)."
    )

    proxy_constraint: bool = _option(True, "EGUP: bound forgetting by what the model says of rows it never saw.")
    proxy_form: ProxyForm = _option(ProxyForm.EFFORT, "How the boundary acts: on a sample's effort, or as a penalty.")
    proxy_match: ProxyMatch = _option(
        ProxyMatch.NEAREST, "A sample's boundary is the mean over the proxies nearest to it, or over all of them."
    )
    proxy_neighbors: int = _option(4, "Proxies that count for proxy_match=nearest; 1 or more.")
    proxy_reference: ProxyReference = _option(
        ProxyReference.INITIAL,
        "The boundary is what the model said of proxies before unlearning, or what it says at the start of each epoch.",
    )
    proxy_lambda: float | None = _option(
        None,
        "Strength of the proxy constraint (lambda); 0 or more. By default 2, and 1 with npo_beta=auto, whose pull has "
        "halved at the boundary already.",
    )
    proxy_dual_rate: float = _option(
        0.0,
        "Learn lambda by dual ascent: each step moves it by this rate times the mean boundary gap, down to 0 at least; "
        "0 keeps proxy_lambda as it is.",
    )
    proxy_temperature: float = _option(0.2, "Width of the boundary (T), nats per token; above 0.")

    stop_at_boundary: bool = _option(
        False,
        "Stop at the end of an epoch once forget rows cannot be told from the proxies, while retain rows hold.",
    )
    stop_retain_rise: float = _option(
        0.1, "stop_at_boundary: most that the retain rows' loss may have risen, nats per token; 0 or more."
    )

    clreg_weight: float = _option(0.0, "Weight of the contrastive regulariser CLReg; 0 switches it off.")
    clreg_temperature: float = _option(0.2, "CLReg: temperature (tau_c), in cosine units; above 0.")
    clreg_positives: ClregPositives = _option(
        ClregPositives.FORGET,
        "CLReg: draw a forget sample to the step's other forget samples, to a view of itself with embedding noise, "
        "or to its paraphrase.",
    )
    clreg_noise_alpha: float = _option(5.0, "CLReg: size of the embedding noise of a view (NEFTune's alpha); above 0.")
    clreg_retain_anchor: float = _option(
        0.1, "CLReg: weight, within the regulariser, of holding retain features in place; 0 or more."
    )

    def _validate(self) -> None:
        super()._validate()
        for name, choices in (
            ("drift_reference", DriftReference),
            ("proxy_form", ProxyForm),
            ("proxy_match", ProxyMatch),
            ("proxy_reference", ProxyReference),
            ("clreg_positives", ClregPositives),
        ):
            setattr(self, name, choose(choices, getattr(self, name), name))
        check_layer(self, "feature_layer")
        check_range(self, ("inter_neighbors", "bank_size", "proxy_neighbors"), low=1, whole=True)
        check_range(self, ("cache_dim",), low=2, whole=True)
        if self.proxy_lambda is None:
            self.proxy_lambda = forget_loss(self.objective).from_config(self).default_proxy_lambda
        check_range(
            self, ("proxy_lambda", "proxy_dual_rate", "clreg_weight", "clreg_retain_anchor", "stop_retain_rise"), low=0
        )
        check_range(self, ("inter_clip_min",), low=0, high=1)
        check_range(self, ("inter_clip_max",), low=1)
        refuse_what_the_objective_cannot_carry(self, forget_loss(self.objective))
        temperatures = ("inter_temperature", "intra_temperature", "proxy_temperature", "clreg_temperature")
        self._check_positives()
        if not self.proxy_constraint:
            self._refuse_without_constraint("proxy_dual_rate", 0, "the rate moves the constraint's strength")
            self._refuse_without_constraint(
                "proxy_reference", ProxyReference.INITIAL, "the boundary that moves is the constraint's"
            )
        check_range(self, (*temperatures, "clreg_noise_alpha"), low=0, low_is_allowed=False)

    def _refuse_without_constraint(self, name: str, default: Any, why: str) -> None:
        value = getattr(self, name)
        if value != default:
            shown = value.value if isinstance(value, Enum) else value
            raise ConfigError(
                got=f"{name}={shown} without the proxy constraint",
                expected=f"both, or none: {why}",
                fix=f"leave out --{name}",
            )

    def _check_positives(self) -> None:
        rows = self.train_batch_size * self.gradient_accumulation_steps * self.world_size
        if self.clreg_weight and self.clreg_positives is ClregPositives.FORGET and rows < 2:
            raise ConfigError(
                got="clreg_positives=forget with one forget row a step",
                expected="two or more: a sample is drawn to the step's other forget samples",
                fix="raise the batch size or --gradient_accumulation_steps, or use --clreg_positives views",
            )


def _gpu_has_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
