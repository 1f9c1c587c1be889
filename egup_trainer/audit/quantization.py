"""Quantisation: whether fewer bits per weight bring forgotten rows back.

Unlearning that changes weights only a little is undone by rounding: Zhang et al. 2025, arXiv
2410.16454, found 21% of the knowledge left in full precision, and 83% in four bits.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import nn

from egup_trainer.audit.attack import Finding, Target, is_quantised, merged_copy
from egup_trainer.errors import EgupError
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metrics.memorization import extraction_strength
from egup_trainer.evaluation.metrics.probability import probability
from egup_trainer.evaluation.scores import SetScores
from egup_trainer.extras import MissingExtraError, require_extra
from egup_trainer.files import one_line_write_errors
from egup_trainer.modeling.batches import device_of
from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers, misread_4bit_layer


class Bits(str, Enum):
    """How weights are stored, by bitsandbytes, which leaves the embeddings as they are."""

    GIVEN = "given"
    EIGHT = "8bit"
    """LLM.int8(): weights and inputs of linear layers rounded to 8 bits, except outliers."""
    FOUR = "4bit"
    """NF4 in blocks of 64 weights, computed in float32."""


_NUMBERS: dict[str, Callable[[SetScores], Metric]] = {
    "probability": probability,
    "extraction_strength": extraction_strength,
}
_CANNOT = (ImportError, OSError, RuntimeError, ValueError)  # what libraries raise if they cannot quantise


def quantization(target: Target) -> Finding:
    """Probability and extraction strength of forget and retain rows with the weights as given, in 8 and in 4 bits."""
    if is_quantised(target.model):
        return Finding(reason="the model's weights are quantised already")
    metrics: dict[str, Metric] = {}
    for bits in Bits:
        found: dict[str, Metric] | str = _metrics(target, target.model) if bits is Bits.GIVEN else _tried(target, bits)
        metrics |= {
            f"{bits.value}_{name}": unavailable(found) if isinstance(found, str) else found[name]
            for name in (f"{set_name}_{number}" for set_name in ("forget", "retain") for number in _NUMBERS)
        }
    return Finding(metrics)


def quantised_copy(model: nn.Module, bits: Bits) -> Any:
    """A copy of the model with the linear layers in 8 or 4 bits, as loading it by transformers makes it.

    The copy is saved to a temporary folder, because weights are quantised when they are loaded. Adapters are merged
    first.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        RuntimeError: there is no layer to quantise, or 4-bit layers would be wrong on this machine.
    """
    require_extra("quantization", "a model in 8 or 4 bits")
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_8bit=bits is Bits.EIGHT,
        load_in_4bit=bits is Bits.FOUR,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    twin, device = merged_copy(model), device_of(model, None)
    with tempfile.TemporaryDirectory() as folder:
        with one_line_write_errors(f"a copy of the model in {folder}"):
            twin.save_pretrained(folder)
        quantised = type(twin).from_pretrained(
            folder,
            dtype=torch.float32,
            quantization_config=config,
            # Quantised weights cannot be moved later; the library takes no map to a CPU.
            device_map=None if device.type == "cpu" else {"": device},
        )
    layers = [module for module in quantised.modules() if isinstance(module, Linear4bit | Linear8bitLt)]
    if not layers:
        raise RuntimeError("no layer of the model can be quantised")
    misread = misread_4bit_layer(quantised)
    if misread is not None:
        name, inputs = misread
        raise RuntimeError(f"on this CPU, four bits need layers whose inputs are multiples of 64; {name} has {inputs}")
    keep_gradients_of_4bit_layers(quantised)  # the kernel for repacked weights computes in bfloat16
    return quantised.eval()


def _tried(target: Target, bits: Bits) -> dict[str, Metric] | str:
    """The metrics of a quantised copy, or why there are none."""
    try:
        return _metrics(target, quantised_copy(target.model, bits))
    except MissingExtraError as error:
        return f"not run: {error}"
    except EgupError:
        raise
    except _CANNOT as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        return f"not run: {type(error).__name__}: {first_line}"


def _metrics(target: Target, model: nn.Module) -> dict[str, Metric]:
    scores = target.score(target.row_set("forget"), target.row_set("retain"), model=model)
    return {
        f"{set_name}_{name}": replace(number(scores[set_name]), higher_is_better=None if set_name == "forget" else True)
        for set_name in scores
        for name, number in _NUMBERS.items()
    }
