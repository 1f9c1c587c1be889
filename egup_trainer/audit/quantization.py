"""Quantization: whether fewer bits per weight bring forgotten rows back.

Unlearning that changes weights only a little is undone by rounding: Zhang et al. 2025, arXiv
2410.16454, found 21% of the knowledge left in full precision, and 83% in four bits.
"""

import tempfile
from enum import Enum
from typing import Any

import torch
from torch import nn

from egup_trainer.audit.attack import RECALL, Finding, Target, is_quantized, merged_copy, recall_metrics, sample_rows
from egup_trainer.errors import EgupError
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.extras import require_extra
from egup_trainer.files import one_line_write_errors
from egup_trainer.modeling.batches import device_of
from egup_trainer.modeling.gptq import gptq_copy
from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers, misread_4bit_layer


class Bits(str, Enum):
    """How weights are rounded; embeddings and output layer stay as they are."""

    GIVEN = "given"
    EIGHT = "8bit"
    """LLM.int8() of bitsandbytes: weights and inputs of linear layers rounded to 8 bits, except outliers."""
    FOUR = "4bit"
    """NF4 of bitsandbytes in blocks of 64 weights, computed in float32."""
    NEAREST = "nearest"
    """4 bits, each weight rounded to the nearest of 16 evenly spaced points for every 128 inputs of a row."""
    GPTQ = "gptq"
    """The same grids by our GPTQ, with retain rows as calibration rows."""


CALIBRATION_ROWS = 128
"""Maximum number of retain rows that GPTQ is calibrated on, as many as in its paper."""
_CANNOT = (ImportError, OSError, RuntimeError, ValueError)  # what libraries raise if they cannot quantize


def quantization(target: Target) -> Finding:
    """Probability and extraction strength of forget and retain rows with the weights as given and in fewer bits."""
    if is_quantized(target.model):
        return Finding(reason="the model's weights are quantized already")
    metrics: dict[str, Metric] = {}
    for bits in Bits:
        found: dict[str, Metric] | str = (
            recall_metrics(target, target.model) if bits is Bits.GIVEN else _tried(target, bits)
        )
        metrics |= {
            f"{bits.value}_{name}": unavailable(found) if isinstance(found, str) else found[name] for name in RECALL
        }
    return Finding(metrics)


def quantized_copy(model: nn.Module, bits: Bits) -> Any:
    """A copy of the model with the linear layers in 8 or 4 bits, as loading it by transformers makes it.

    The copy is saved to a temporary folder, because weights are quantized when they are loaded. Adapters are merged
    first.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        RuntimeError: there is no layer to quantize, or 4-bit layers would be wrong on this machine.
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
        quantized = type(twin).from_pretrained(
            folder,
            dtype=torch.float32,
            quantization_config=config,
            # Quantized weights cannot be moved later; the library takes no map to a CPU.
            device_map=None if device.type == "cpu" else {"": device},
        )
    layers = [module for module in quantized.modules() if isinstance(module, Linear4bit | Linear8bitLt)]
    if not layers:
        raise RuntimeError("no layer of the model can be quantized")
    misread = misread_4bit_layer(quantized)
    if misread is not None:
        name, inputs = misread
        raise RuntimeError(f"on this CPU, four bits need layers whose inputs are multiples of 64; {name} has {inputs}")
    keep_gradients_of_4bit_layers(quantized)  # the kernel for repacked weights computes in bfloat16
    return quantized.eval()


def _rounded_copy(target: Target, bits: Bits) -> Any:
    """A copy of the model that is rounded by GPTQ on retain rows, or on none: then weights go to the nearest point."""
    retain = target.sets["retain"]
    count = CALIBRATION_ROWS if bits is Bits.GPTQ else 0
    chosen = sample_rows(count, len(retain), target.options.seed)
    rows = target.tokenized([retain[i] for i in chosen], "retain set", chosen).rows if chosen else []
    return gptq_copy(merged_copy(target.model), [torch.from_numpy(row.input_ids) for row in rows])


def _tried(target: Target, bits: Bits) -> dict[str, Metric] | str:
    """The metrics of a quantized copy, or why there are none."""
    try:
        is_ours = bits in (Bits.NEAREST, Bits.GPTQ)
        return recall_metrics(target, _rounded_copy(target, bits) if is_ours else quantized_copy(target.model, bits))
    except EgupError as error:
        return f"not run: {error}"
    except _CANNOT as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        return f"not run: {type(error).__name__}: {first_line}"
