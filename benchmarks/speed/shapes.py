"""Models to measure with, by shape alone: weights are random, their number and the vocabulary are what costs."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

LORA_TARGETS = "all-linear"


class Tuning(str, Enum):
    """What is trained."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"


@dataclass(frozen=True)
class Shape:
    """A model's shape.

    Args:
        config: makes its configuration.
        on_gpu_alone: whether a CPU is too slow for it.
    """

    config: Callable[[], Any]
    on_gpu_alone: bool = False


def _llama(vocabulary: int, hidden: int, layers: int, heads: int, intermediate: int, **options: Any) -> Callable:
    def config() -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=2048,
            **options,
        )

    return config


def _gemma() -> Any:
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=262_144,
        hidden_size=640,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_size=2048,
        max_position_embeddings=2048,
    )


def _gpt2() -> Any:
    from transformers import GPT2Config

    return GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


SHAPES = {
    "llama_32k": Shape(_llama(32_000, hidden=512, layers=8, heads=8, intermediate=1408)),
    "gemma_262k": Shape(_gemma),
    "gpt2_50k": Shape(_gpt2),
    "llama_1b": Shape(
        _llama(128_256, 2048, 16, 32, 8192, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True), True
    ),
    "llama_8b": Shape(_llama(128_256, 4096, 32, 32, 14_336, num_key_value_heads=8), True),
}
"""By name: a small Llama, Gemma 3 270M's shape, GPT-2, and those of Llama 3.2 1B and Llama 3.1 8B."""


def make_model(name: str, tuning: Tuning, seed: int = 0) -> Any:
    """A fresh model with random weights: float32 on a CPU, bfloat16 where LoRA trains beside it on a GPU."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu and tuning is not Tuning.FULL else torch.float32
    device = "cuda" if on_gpu else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(SHAPES[name].config(), dtype=dtype)
    if tuning is Tuning.QLORA:
        _quantize(model)
    return model


def adapter_of(tuning: Tuning) -> Any:
    """The adapter that is trained, or None."""
    from peft import LoraConfig

    if tuning is Tuning.FULL:
        return None
    return LoraConfig(r=16, lora_alpha=32, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")


def _quantize(model: Any) -> None:
    """Replaces the linear layers but the output embedding by their 4-bit form, as loading in 4 bits does."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not torch.nn.Linear or layer is model.get_output_embeddings():
                continue
            packed = Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=layer.weight.dtype,
                quant_type="nf4",
            )
            packed.weight = Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            setattr(parent, name, packed.to(layer.weight.device))
    model.is_loaded_in_4bit = True
