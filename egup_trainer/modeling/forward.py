"""One forward pass over a joined batch: log-probabilities at answer positions and features of one layer.

The vocabulary projection is the largest tensor of a step. It is computed at answer positions only: a hook selects these
hidden states right before the output embedding. The log-probabilities are computed there, too, and the model goes on
with the logits of one position. What a model does to its logits afterwards (soft-capping, scaling) is applied to all
positions and checked once at that one, with small and large numbers. For any other model, its own logits at all answer
positions are used.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.data.schema import IGNORE_INDEX
from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.limits import virtual_tokens
from egup_trainer.modeling.memory.answer_logps import HeadReading, LogitTransform
from egup_trainer.modeling.memory.packing import Packer, RowLayout
from egup_trainer.modeling.memory.tied_gradient import TiedGradient
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.trials import can_run, check_causal, is_fake, lists_in_use


def answer_positions(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where answers are predicted. Nothing else in the package shifts labels or drops `IGNORE_INDEX`.

    Args:
        labels: shape (B, T), int64.

    Returns:
        Flat positions into (B * T,) whose logits predict an answer token, the row of each, and the answer tokens
        themselves, each of shape (N,). The answer token of position p is at p + 1.
    """
    rows, columns = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    return rows * labels.shape[1] + columns, rows, labels[rows, columns + 1]


def count_answer_tokens(labels: Tensor) -> Tensor:
    """Number of answer tokens of each row: (B, T) -> (B,)."""
    return torch.bincount(answer_positions(labels)[1], minlength=len(labels))


class AnswerReader:
    """Runs a model and reads what losses need, in one pass.

    Args:
        model: the bare model (not wrapped by DDP or the like), with or without adapters. Its modules have hooks only
            during a call.
        feature_layer: the decoder layer that features are read from: a whole number is an index (0 first, -1 last), a
            fraction between 0 and 1 is a share of the depth.
        hidden_layer: the decoder layer that hidden states of single tokens are read from, in the same notation.
        padding_free: whether rows share lines to save padding; None does so if the model can read such lines.

    Raises:
        ModelError: the model has no output embedding or decoder layers, or is an encoder with a decoder.
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
        self._transform_is_known = is_fake(model)  # which has no logits to compare
        self._packer = Packer(model, padding_free)
        self._bare, self._is_tried = model, is_fake(model)
        self._num_virtual = {0, virtual_tokens(model)}

    def try_out(self, model: Callable[..., Any]) -> None:
        """Checks once whether the model can be scored token by token; the first call of the reader does so, too.

        Args:
            model: the model, which may be wrapped.

        Raises:
            ModelError: later tokens change the logits of earlier ones, or the model needs more than tokens.
        """
        if not self._is_tried:
            check_causal(model, self._bare)
            self._is_tried = True

    def of(self, model: nn.Module) -> "AnswerReader":
        """A reader with the same settings, for another model of the same shape."""
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
        with_states: bool = False,
        embedding_noise: Tensor | None = None,
    ) -> AnswerOutputs:
        """Runs `model`, which may be wrapped (DDP, FSDP, DeepSpeed), once.

        Args:
            model: called with the rows as `Packer` lays them out.
            input_ids, attention_mask, labels: shape (B, T), padded on the right.
            with_features: whether to read features.
            keep_logits: whether to return the logits at answer positions.
            with_hidden: whether to return the hidden states at answer tokens.
            with_states: whether to return the hidden states of the feature layer where answer tokens are predicted.
            embedding_noise: added to the embeddings of the last rows, shape (P, T, d) for the last P rows.
        """
        self.try_out(model)
        layout = self._packer(model, input_ids, attention_mask)
        width = layout.inputs["input_ids"].shape[1]  # type: ignore[union-attr]
        answers, rows, targets = answer_positions(labels)
        positions = layout.indices.flatten()[answers]  # in the lines that the model reads
        counts = torch.bincount(rows, minlength=len(labels)).float()
        features: list[Tensor] = []
        hidden: list[Tensor] = []

        def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            """Gives the output embedding the hidden states of `positions` alone: (B, T, d) -> (1, N, d)."""
            return (self._at([args[0]], positions, width).unsqueeze(0), *args[1:])

        with ExitStack() as hooks:
            hooks.enter_context(self.head.register_forward_pre_hook(select))
            if with_features or with_states:
                hooks.enter_context(self.layer.register_forward_hook(_capture(features)))
            if with_hidden:
                hooks.enter_context(self.hidden_layer.register_forward_hook(_capture(hidden)))
            if embedding_noise is not None:
                add_noise = _add_noise(embedding_noise, layout, attention_mask)
                hooks.enter_context(self.embedding.register_forward_hook(add_noise))
            logps, logits = self._logps(model, layout, targets, keep_logits)
        return AnswerOutputs(
            logps,
            rows,
            counts,
            _pool(self._at(features, positions + 1, width).float(), rows, counts) if with_features else None,
            logits,
            targets,
            self._at(hidden, positions + 1, width).float() if with_hidden else None,
            self._at(features, positions, width).float() if with_states else None,
            positions=layout.size,
        )

    def _logps(
        self, model: Callable[..., Any], layout: RowLayout, targets: Tensor, keep_logits: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (N,), and the logits (N, V) if they are to be kept."""
        # DeepSpeed ZeRO-3 gathers weights for the backward pass only where a module's output has a gradient.
        plain = any(hasattr(weight, "ds_id") for weight in self.head.parameters())
        reading = None
        if not (plain or keep_logits or self._transform is None):
            reading = HeadReading(targets, self._transform, is_trial=not self._transform_is_known)
        tied = TiedGradient()
        with ExitStack() as wrappers:
            for module in () if plain else (self.embedding, self.head):
                wrappers.enter_context(_wrapped_forward(module, tied.around))
            if reading:
                # Within the forward of the output embedding, where wrappers such as FSDP hold its weights.
                wrappers.enter_context(_wrapped_forward(self.head, reading.after))
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

    def _at(self, captured: list[Tensor], positions: Tensor, width: int) -> Tensor:
        """Hidden states (B, T, d) at flat positions (N,) of lines that are `width` tokens long: (N, d).

        An adapter may put virtual tokens before each line. The layer may be on another device than the rows.

        Raises:
            ModelError: the model holds anything else than one state per token.
        """
        states = captured[0] if captured else torch.empty(0)
        if torch.compiler.is_compiling() and self._num_virtual == {0} and states.dim() == 3:
            # A comparison of the lengths would make them constants of the graph, one graph for each length.
            return states.flatten(0, 1).index_select(0, positions)
        num_virtual = states.shape[1] - width if states.dim() == 3 else -1
        if num_virtual not in self._num_virtual:
            raise ModelError(
                got=f"hidden states of shape {tuple(states.shape)} for lines of {width} tokens",
                expected="one hidden state for each token of the text",
                fix="use another model, or another kind of adapter, such as LoRA",
            )
        moved = positions + (positions // width + 1) * num_virtual if num_virtual else positions
        return states.flatten(0, 1).index_select(0, moved.to(states.device)).to(positions.device)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The model's list of decoder layers.

    This is the list that is as long as the configuration says. If there are several (a vision tower) or none (the
    configuration counts an encoder's layers), it is the list with the most weights among those that read a text.

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
        option: the option that the number comes from, for the message.

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


def _capture(into: list[Tensor]) -> Callable:
    """A forward hook that keeps the output of a module."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        into.append(output[0] if isinstance(output, tuple | list) else output)

    return hook


@contextmanager
def _wrapped_forward(module: nn.Module, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """The module with its forward wrapped; an instance's own forward, as wrappers set it, comes back afterwards."""
    own = module.__dict__.get("forward")
    module.forward = wrap(module.forward)
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.forward = own


def _add_noise(noise: Tensor, layout: RowLayout, attention_mask: Tensor) -> Callable:
    """A forward hook that adds noise (P, T, d) to the embeddings of the last P rows."""
    real = attention_mask[-len(noise) :].bool()
    indices, values = layout.indices[-len(noise) :][real], noise[real]

    def hook(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        return embedded.flatten(0, 1).index_add(0, indices, values.to(embedded)).view_as(embedded)

    return hook


def _pool(states: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Mean over each row of states (N, d): (B, d)."""
    sums = states.new_zeros(len(counts), states.shape[-1]).index_add(0, rows, states)  # (B, d)
    return sums / counts.clamp_min(1).unsqueeze(1)
