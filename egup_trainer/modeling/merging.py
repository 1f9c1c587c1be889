"""A stand-alone model from an adapter: what a server loads that knows nothing of adapters."""

from pathlib import Path
from typing import Any

from torch import nn

from egup_trainer.modeling.limits import refuse_infinite_weights
from egup_trainer.modeling.loading import load_model


def save_merged(adapter: str | Path, output: str | Path, **model_init_kwargs: Any) -> None:
    """Writes base model and adapter as one model of floating-point weights: W + (alpha / r) B A for LoRA.

    Quantised weights of the base model are written as the numbers that they stand for, which the adapter was trained
    beside, and not quantised again: rounding the sum could undo what the adapter changed.

    Args:
        adapter: folder of the saved adapter, which names its base model.
        output: folder of the model, made if it is not there.
        model_init_kwargs: for `load_model`, as in training.

    Raises:
        ModelError: the adapter or its base model cannot be loaded.
        NumberError: a merged weight is not a finite number.

    Example:
        >>> # save_merged("unlearned", "unlearned/merged", dtype="bfloat16")
    """
    model = load_model(str(adapter), **model_init_kwargs)
    if getattr(model.get_base_model(), "is_quantized", False):
        model = _of_floats(adapter, model)
    alone = merged(model)
    refuse_infinite_weights(alone)  # a sum may be too large for the numbers that it is written in
    alone.save_pretrained(output)


def _of_floats(adapter: str | Path, model: Any) -> Any:
    """The adapter on its base model, whose weights are dequantised."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model.unload().dequantize(), str(adapter))


def merged(model: Any) -> Any:
    """The base model with the adapters merged into its weights, in place.

    Where an adapter changes one of two tied embeddings, they are parted first: it was trained as the change of one.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    weights = [getattr(end, "base_layer", end).weight for end in ends if end is not None]
    if len(weights) == 2 and weights[0] is weights[1] and any(hasattr(end, "base_layer") for end in ends):
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = nn.Parameter(weights[1].detach().clone(), requires_grad=False)
        base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = False
    return model.merge_and_unload()
