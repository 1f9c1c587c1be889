"""One forward pass over a joined batch: log-probabilities at answer positions and features of one layer.

The vocabulary projection is the largest tensor of a step. It is computed at answer positions only, by a hook that
picks those hidden states right before the output embedding. Log-probabilities are read there, too, and the model goes
on with the logits of one position; what models do after it (soft-capping, scaling) is done to all, and compared at that
one position. A model that does something else is read the plain way.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.data.schema import IGNORE_INDEX
from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.hooks import capture, forward_through, hooked, is_gathered_by_hooks
from egup_trainer.modeling.limits import virtual_tokens
from egup_trainer.modeling.memory.answer_logps import HeadReading, LogitTransform
from egup_trainer.modeling.memory.packing import Packer, RowLayout
from egup_trainer.modeling.memory.tied_gradient import TiedGradient
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.trials import can_run, check_causal, lists_in_use


def answer_positions(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where answers are predicted: the one place of the package that shifts labels and drops `IGNORE_INDEX`.

    Args:
        labels: shape (B, T), int64.

    Returns:
        Flat positions into (B * T,) whose logits predict an answer token, the rows of these, and the answer tokens
        themselves, each of shape (N,). The answer token of position p stands at p + 1.
    """
    rows, places = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    return rows * labels.shape[1] + places, rows, labels[rows, places + 1]


def count_answer_tokens(labels: Tensor) -> Tensor:
    """Answer tokens of each row: (B, T) -> (B,)."""
    return torch.bincount(answer_positions(labels)[1], minlength=len(labels))


@dataclass(frozen=True)
class AnswerPositions:
    """Where the N answer tokens of B rows are predicted in the lines that the model reads.

    Args:
        positions: flat places into the lines, shape (N,).
        rows: the row of each token, shape (N,).
        targets: the tokens, shape (N,).
        counts: answer tokens of each row, shape (B,), float32.
    """

    positions: Tensor
    rows: Tensor
    targets: Tensor
    counts: Tensor

    @classmethod
    def of(cls, labels: Tensor, layout: RowLayout) -> "AnswerPositions":
        """Those of labels, shape (B, T)."""
        answers, rows, targets = answer_positions(labels)
        counts = torch.bincount(rows, minlength=len(labels)).float()
        return cls(layout.places.flatten()[answers], rows, targets, counts)


class AnswerReader:
    """Runs a model and reads what losses need, in one pass.

    Args:
        model: the bare model (not wrapped by DDP or the like), with or without adapters. Its modules are hooked
            for the length of a call only.
        feature_layer: the decoder layer that features are read from: a whole number is an index (0 first, -1 last), a
            fraction between 0 and 1 is a share of the depth.
        hidden_layer: the decoder layer that hidden states of single tokens are read from, alike.
        padding_free: whether rows share lines, so that little is padded; None for where the model can read them so.

    Raises:
        ModelError: no output embedding or no decoder layers can be found, or the model is an encoder and a decoder.
        ConfigError: a layer is out of range.

    Example:
        >>> # reader = AnswerReader(model)
        >>> # outputs = reader(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
        >>> # outputs.mean_nll.mean().backward()
    """

    def __init__(
        self,
        model: Any,
        feature_layer: float = 0.5,
        hidden_layer: float = 0.5,
        padding_free: bool | None = None,
    ):
        self.head = model.get_output_embeddings()
        self.embedding = model.get_input_embeddings()
        if self.head is None:
            raise ModelError(
                got=f"the model {type(model).__name__} without an output embedding",
                expected="a causal language model",
                fix="load it with AutoModelForCausalLM",
            )
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(
                got=f"the model {type(model).__name__}, an encoder with a decoder",
                expected="a causal language model, which reads question and answer as one text",
                fix="use a decoder, such as Llama or GPT-2",
            )
        layers = decoder_layers(model)
        self.layer_index = layer_index(feature_layer, len(layers))
        self.hidden_index = layer_index(hidden_layer, len(layers), "rmu_layer")
        self.layer, self.hidden_layer = layers[self.layer_index], layers[self.hidden_index]
        self._transform: LogitTransform | None = LogitTransform.of(model.config.get_text_config())
        self._transform_is_known = False
        self._packer = Packer(model, padding_free)
        self._bare, self._is_tried = model, False
        self._ahead = {0, virtual_tokens(model)}

    def try_out(self, model: Callable[..., Any]) -> None:
        """Tries once whether the model is one that can be scored token by token; its first call does so, too.

        Args:
            model: the model, which may be a wrapped one.

        Raises:
            ModelError: later tokens change what it says of earlier ones, or it cannot read tokens alone.
        """
        if not self._is_tried:
            check_causal(model, self._bare)
            self._is_tried = True

    def of(self, model: nn.Module) -> "AnswerReader":
        """A reader of another model of the same shape, with the same settings."""
        return AnswerReader(model, self.layer_index, self.hidden_index, self._packer.padding_free)

    def __call__(
        self,
        model: Callable[..., Any],
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        *,
        with_features: bool = True,
        keep_logits: bool = False,
        with_hidden: bool = False,
        embedding_noise: Tensor | None = None,
    ) -> AnswerOutputs:
        """Runs `model`, which may be a wrapped one (DDP, FSDP, DeepSpeed), once.

        Args:
            model: called with the rows as `Packer` lays them out.
            input_ids, attention_mask, labels: shape (B, T), padded on the right.
            with_features: whether to read features.
            keep_logits: whether to return the logits at answer positions.
            with_hidden: whether to return the hidden states at answer tokens.
            embedding_noise: added to the embeddings of the last rows, shape (P, T, d) for the last P rows.
        """
        self.try_out(model)
        layout = self._packer(model, input_ids, attention_mask)
        answers = AnswerPositions.of(labels, layout)
        noise = None if embedding_noise is None else _add_noise(embedding_noise, layout, attention_mask)
        return self.read(model, layout, answers, with_features, keep_logits, with_hidden, noise)

    def read(
        self,
        model: Callable[..., Any],
        layout: RowLayout,
        answers: "AnswerPositions",
        with_features: bool = True,
        keep_logits: bool = False,
        with_hidden: bool = False,
        embedding_hook: Callable | None = None,
    ) -> AnswerOutputs:
        """Reads rows that are laid out already; no shape here depends on a value.

        Args:
            model, with_features, keep_logits, with_hidden: as for a call.
            layout: how the model reads the rows.
            answers: where their answers stand.
            embedding_hook: what is done to the embeddings, as a forward hook.
        """
        positions, rows, targets, counts = answers.positions, answers.rows, answers.targets, answers.counts
        width = layout.inputs["input_ids"].shape[1]  # type: ignore[union-attr]
        select = self._select(positions, width)
        captured: list[Tensor] = []
        states: list[Tensor] = []
        with ExitStack() as hooks:
            hooks.enter_context(hooked(self.head.register_forward_pre_hook, select, with_kwargs=False))
            if with_features:
                hooks.enter_context(hooked(self.layer.register_forward_hook, capture(captured)))
            if with_hidden:
                hooks.enter_context(hooked(self.hidden_layer.register_forward_hook, capture(states)))
            if embedding_hook is not None:
                hooks.enter_context(hooked(self.embedding.register_forward_hook, embedding_hook))
            logps, logits = self._logps(model, layout, targets, keep_logits)
        features = _pool(self._at(captured, positions + 1, width).float(), rows, counts) if with_features else None
        hidden = self._at(states, positions + 1, width).float() if with_hidden else None
        return AnswerOutputs(logps, rows, counts, features, logits, targets, hidden, positions=layout.size)

    def _logps(
        self, model: Callable[..., Any], layout: RowLayout, targets: Tensor, keep_logits: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (N,), and the logits (N, V) if they are to be kept."""
        plain = is_gathered_by_hooks(self.head)
        reading = None if plain or keep_logits or self._transform is None else HeadReading(targets, self._transform)
        tied = TiedGradient()
        with ExitStack() as ways:
            for module in () if plain else (self.embedding, self.head):
                ways.enter_context(forward_through(module, tied.around))
            if reading:
                # Inside of the output embedding's forward, where wrappers hold its weights.
                ways.enter_context(forward_through(self.head, reading.after))
            logits = model(**layout.inputs, use_cache=False).logits
        logits = logits.reshape(-1, logits.shape[-1])  # (1, N, V) -> (N, V)
        if reading is None or not reading.is_done:
            logps = -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            return logps, logits.float() if keep_logits else None
        if not self._transform_is_known and len(logits):
            self._transform_is_known = True
            if not reading.explains(logits):
                self._transform = None
                return self._logps(model, layout, targets, keep_logits)
        return reading.logps(logits), None

    def _select(self, positions: Tensor, width: int) -> Callable:
        """What leaves the output embedding only the hidden states of `positions`."""

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self._at([args[0]], positions, width).unsqueeze(0), *args[1:])  # (B, T, d) -> (1, N, d)

        return hook

    def _at(self, captured: list[Tensor], positions: Tensor, width: int) -> Tensor:
        """Hidden states (B, T, d) at flat positions (N,) of lines that are `width` tokens long: (N, d).

        The model may hold virtual tokens of an adapter before each line.

        Raises:
            ModelError: it holds anything else than one state for each token.
        """
        shape = captured[0].shape if captured else torch.Size()
        ahead = shape[1] - width if len(shape) == 3 else -1
        if ahead not in self._ahead:
            raise ModelError(
                got=f"hidden states of shape {tuple(shape)} for lines of {width} tokens",
                expected="one hidden state for each token of the text",
                fix="use another model, or another kind of adapter, such as LoRA",
            )
        moved = positions + (positions // width + 1) * ahead if ahead else positions
        return captured[0].flatten(0, 1).index_select(0, moved)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The model's list of decoder layers.

    It is the one list that is as long as the configuration says. Where there are several (a vision tower), or none (the
    configuration counts an encoder's), it is the one with most weights of those that a text goes through.

    Raises:
        ModelError: there is no such list.
    """
    config = model.config.get_text_config() if hasattr(model, "config") else None
    depth = getattr(config, "num_hidden_layers", None)
    found = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == depth]
    if len(found) != 1 and can_run(model):
        found = lists_in_use(model)
    elif len(found) > 1:
        inside = set(model.get_decoder().modules())
        found = [each for each in found if each in inside] or found
    if found:
        return max(found, key=lambda layers: sum(weight.numel() for weight in layers.parameters()))
    raise ModelError(
        got=f"the model {type(model).__name__} without a list of {depth} decoder layers",
        expected="a decoder-only transformer",
        fix="use a causal language model of transformers",
    )


def layer_index(layer: float, depth: int, option: str = "feature_layer") -> int:
    """Index of the layer that a number names in a model of `depth` layers.

    Args:
        layer: an index, or a share of the depth.
        option: where the number comes from, for the message.

    Raises:
        ConfigError: there is no such layer.

    Example:
        >>> layer_index(0.5, 8), layer_index(-1, 8), layer_index(2, 8)
        (4, 7, 2)
    """
    if 0 < layer < 1:
        return int(layer * depth)
    if not -depth <= layer < depth or layer != int(layer):
        raise ConfigError(
            got=f"{option}={layer:g} for a model of {depth} layers",
            expected=f"a fraction between 0 and 1, or an index from {-depth} to {depth - 1}",
            fix=f"set --{option}",
        )
    return int(layer) % depth


def _add_noise(noise: Tensor, layout: RowLayout, attention_mask: Tensor) -> Callable:
    real = attention_mask[-len(noise) :].bool()
    places, values = layout.places[-len(noise) :][real], noise[real]

    def hook(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        return embedded.flatten(0, 1).index_add(0, places, values.to(embedded)).view_as(embedded)

    return hook


def _pool(states: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Mean over each row of states (N, d): (B, d)."""
    sums = states.new_zeros(len(counts), states.shape[-1]).index_add(0, rows, states)  # (B, d)
    return sums / counts.clamp_min(1).unsqueeze(1)
