"""A stand-alone model from an adapter, for servers that do not load adapters."""

from pathlib import Path
from typing import Any

from torch import nn

from egup_trainer.errors import ModelError, first_line
from egup_trainer.modeling.limits import refuse_infinite_weights
from egup_trainer.modeling.loading import load_model, put_adapters, recorded_quantization


def save_merged(adapter: str | Path, output: str | Path, **model_init_kwargs: Any) -> None:
    """Writes the base model and its adapter as one model of floating-point weights: W + (alpha / r) B A for LoRA.

    Quantized weights of the base model are dequantized to the values that the adapter was trained with, and are not
    quantized again: rounding the sum could undo what the adapter changed.

    Args:
        adapter: folder of the saved adapter, which names its base model.
        output: folder of the model, created if missing.
        model_init_kwargs: for `load_model`, as in training; weights are quantized as the record says without them.

    Raises:
        ModelError: the adapter or its base model cannot be loaded, or the adapter cannot be merged.
        NumberError: a merged weight is not a finite number.

    Example:
        >>> # save_merged("unlearned", "unlearned/merged", dtype="bfloat16")
    """
    model = load_model(str(adapter), **{**recorded_quantization(adapter), **model_init_kwargs})
    if getattr(model.get_base_model(), "is_quantized", False):
        model = put_adapters(str(adapter), model.unload().dequantize())
    alone = merged(model)
    refuse_infinite_weights(alone)  # a sum may be too large for its type
    alone.save_pretrained(output)


def merged(model: Any) -> Any:
    """The base model with its adapters merged into the weights, in place.

    If an adapter changes one of two tied embeddings, they are untied first, since the other one did not change.

    Raises:
        ModelError: the adapter is more than a change of the weights, such as virtual tokens.
    """
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise _cannot_be_merged("it has virtual tokens, which are not weights of the base model")
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    weights = [getattr(end, "base_layer", end).weight for end in ends if end is not None]
    if len(weights) == 2 and weights[0] is weights[1] and any(hasattr(end, "base_layer") for end in ends):
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = nn.Parameter(weights[1].detach().clone(), requires_grad=False)
        base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = False
    try:
        return model.merge_and_unload()
    except (
        NotImplementedError,
        AttributeError,
        ValueError,
    ) as error:  # what PEFT raises for kinds that it cannot merge
        raise _cannot_be_merged(first_line(error)) from error


def _cannot_be_merged(why: str) -> ModelError:
    return ModelError(
        got=f"an adapter that cannot be merged ({why})",
        expected="one that changes weights of the base model and nothing else, such as plain LoRA",
        fix="use it beside its base model, without merging",
    )
