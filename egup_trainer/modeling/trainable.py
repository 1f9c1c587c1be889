"""Which weights of a model are trained."""

import re

from torch import Tensor, nn

from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.forward import decoder_layers

_MLP_OUTPUTS = ("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2")
LAYERS_THAT_TRAIN = 3


def train_mlp_alone(model: nn.Module, layer: int) -> None:
    """Trains only the MLP output projections of a layer and of the two layers below it, as RMU does.

    Args:
        model: a bare model without adapters.
        layer: index of the highest layer. Layer 1 has one layer below it, layer 0 none.

    Raises:
        ModelError: a layer has no MLP output projection with a known name.
    """
    first = max(layer - LAYERS_THAT_TRAIN + 1, 0)
    chosen = [mlp_output(block) for block in decoder_layers(model)[first : layer + 1]]
    model.requires_grad_(False)
    for weight in chosen:
        weight.requires_grad_(True)


def train_matching(model: nn.Module, pattern: str) -> None:
    """Trains only the weights whose whole names match a regular expression.

    Args:
        model: a bare model without adapters.

    Raises:
        ConfigError: no name matches, or the model has an adapter, which says what is trained.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> train_matching(model, "b.*")
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['bias']
    """
    if getattr(model, "peft_config", None):
        raise ConfigError(
            got="trainable_params_regex with an adapter",
            expected="one of the two: of such a model, the adapter is trained",
            fix="leave out --trainable_params_regex, and set --lora_target_modules",
        )
    named = dict(model.named_parameters())
    chosen = [weight for name, weight in named.items() if re.fullmatch(pattern, name)]
    if not chosen:
        raise ConfigError(
            got=f"trainable_params_regex={pattern}, which no whole name of a weight matches",
            expected=f"a regular expression of names such as {next(iter(named))}",
            fix="set --trainable_params_regex",
        )
    model.requires_grad_(False)
    for weight in chosen:
        weight.requires_grad_(True)


def mlp_output(block: nn.Module) -> Tensor:
    """The weight of the projection from the MLP of a layer back into the residual stream.

    Raises:
        ModelError: the layer has none with a known name.
    """
    inside = [block.mlp] if hasattr(block, "mlp") else [block]
    for module in (*inside, block):
        for name in _MLP_OUTPUTS:
            projection = getattr(module, name, None)
            weight = getattr(projection, "weight", None)
            if isinstance(weight, Tensor):
                return weight
    raise ModelError(
        got=f"a layer {type(block).__name__} without an MLP output projection",
        expected=f"one named {', '.join(_MLP_OUTPUTS)}",
        fix="train an adapter instead (--use_peft)",
    )
