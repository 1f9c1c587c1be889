"""A stand-alone model from an adapter: what a server loads that knows nothing of adapters."""

from pathlib import Path
from typing import Any

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
        ModelError: the base model cannot be loaded.

    Example:
        >>> # save_merged("unlearned", "unlearned/merged", dtype="bfloat16")
    """
    from peft import PeftConfig, PeftModel

    base = load_model(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path, **model_init_kwargs)
    if getattr(base, "is_quantized", False):
        base = base.dequantize()
    PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(output)
