"""The recipe "8 billion weights on 16 GB" of docs/recipes.md: a Llama 3 8B of random weights, made in four bits."""

import random
from typing import Any

import torch

from benchmarks.gpu.cases import Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import train
from benchmarks.speed.shapes import SHAPES
from egup_trainer.data.tokenization import from_token_columns

MOST_GB = 16.0
STEPS, ACCUMULATION, LENGTH = 3, 8, 512
"""Optimizer steps, pairs in each, and tokens of every row: the longest that the recipe allows."""


def eight_billion(place: Place, findings: Findings) -> None:
    """Three steps of the recipe. The peak is that of the whole run, with the making of the weights."""
    with findings.case("4-bit LoRA of 8 billion weights") as case:
        _require_bitsandbytes()
        model = four_bit_llama(place)
        case.measured["weights"] = sum(_count(weight) for weight in model.parameters())
        made = None if place.dry else torch.cuda.max_memory_allocated() / 1e9
        found = train(
            place,
            model,
            lora=True,
            rows=_rows(model.config.vocab_size, 16 if place.dry else LENGTH),
            updates=STEPS,
            bf16=not place.dry,
            gradient_checkpointing=True,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=1e-4,
        )
        case.equal("steps", len(found.losses), STEPS)
        case.equal("losses are finite", all(torch.tensor(found.losses).isfinite().tolist()), True)
        case.measured |= {"seconds_a_step": found.seconds, "peak_gb": found.peak_gb, "peak_gb_making": made}
        if made is not None and found.peak_gb is not None:
            case.below("GB at the peak", max(found.peak_gb, made), MOST_GB)
            case.measured["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
            case.measured["tokens_per_second"] = 2 * ACCUMULATION * LENGTH / found.seconds


def four_bit_llama(place: Place) -> Any:
    """A Llama whose layers are made one after another in bfloat16, and quantized before the next one is made.

    So at no time more than a layer is held in 16 bits, as when a checkpoint is loaded in four bits.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    small = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 1, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=320, **small) if place.dry else SHAPES["llama_8b"].config()
    layers, config.num_hidden_layers = config.num_hidden_layers, 0
    dtype = torch.float32 if place.dry else torch.bfloat16
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(place.device):
            model = LlamaForCausalLM(config)
            for index in range(layers):
                model.model.layers.append(_in_four_bits(LlamaDecoderLayer(config, index)))
    finally:
        torch.set_default_dtype(before)
    config.num_hidden_layers = layers
    model.is_loaded_in_4bit = True
    return model


def _in_four_bits(layer: torch.nn.Module) -> torch.nn.Module:
    """The layer with its linear maps in nested NF4."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(layer.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not torch.nn.Linear:
                continue
            weight, sizes = linear.weight.data, (linear.in_features, linear.out_features)
            packed = Linear4bit(*sizes, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
            packed.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
            setattr(parent, name, packed.to(weight.device))
    return layer


def _require_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise SkipCase("bitsandbytes is not installed")


def _count(weight: Any) -> int:
    """Numbers in a weight, of which two are in a byte if it is packed."""
    return weight.numel() * 2 if getattr(weight, "quant_state", None) is not None else weight.numel()


def _rows(vocabulary: int, length: int) -> dict[str, Any]:
    """Random tokens; the second half of each row is the answer."""
    draw, half = random.Random(0), length // 2
    sets = {}
    for name in ("forget", "retain", "proxy"):
        rows = [[draw.randrange(vocabulary) for _ in range(length)] for _ in range(STEPS * ACCUMULATION)]
        records = [{"input_ids": ids, "labels": [-100] * half + ids[half:]} for ids in rows]
        sets[f"{name}_dataset"] = from_token_columns(records, name)
    return sets
