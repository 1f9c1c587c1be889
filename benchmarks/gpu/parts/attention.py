"""Each implementation of attention against the CPU's numbers."""

from typing import Any

from benchmarks.gpu.cases import Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, ROUNDED, compare, on_the_cpu, train

FLASH = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3"}
"""Implementations by their name in transformers, with the package that each needs."""


def attention(place: Place, findings: Findings) -> None:
    """The plain implementations in float32, and flash attention in bfloat16: by autocast, and with such weights."""
    expected = on_the_cpu(place)
    for name in ("eager", "sdpa"):
        with findings.case(name) as case:
            found = train(place, model_init_kwargs={"attn_implementation": name})
            compare(case, found, expected, EXACT)
            case.equal("implementation", found.attention, name)
    for name in FLASH:
        for dtype in ("float32", "bfloat16"):
            with findings.case(f"{name}, {dtype} weights") as case:
                require_flash(place, name)
                found = train(place, **flash_options(name, dtype))
                compare(case, found, expected, ROUNDED)
                case.equal("implementation", found.attention, name)


def require_flash(place: Place, name: str) -> None:
    """Skips the case unless that implementation is installed and there is a GPU for it.

    Kernels from the Hub are not tried: this benchmark downloads nothing.
    """
    if place.dry:
        raise SkipCase("flash attention needs a GPU")
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    available = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if not available[name]():
        raise SkipCase(f"{FLASH[name]} is not installed, and kernels are not fetched from the Hub")


def flash_options(name: str, dtype: str = "bfloat16") -> dict[str, Any]:
    """Options of a run with flash attention, which reads bfloat16."""
    return {"bf16": True, "model_init_kwargs": {"attn_implementation": name, "dtype": dtype}}
