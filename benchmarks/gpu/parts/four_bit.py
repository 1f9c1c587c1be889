"""LoRA on 4-bit weights, with AdamW and with the paged optimizers of bitsandbytes."""

from importlib.util import find_spec
from typing import Any

from benchmarks.gpu.cases import Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, ROUNDED, Outcome, compare, train

PAGED = {"paged_adamw_32bit": EXACT, "paged_adamw_8bit": ROUNDED}
"""Each is compared with AdamW of PyTorch; the one with 8 bits rounds its state."""


def four_bit(place: Place, findings: Findings) -> None:
    """The 4-bit weights of the CPU and of the GPU are the same numbers, and the optimizers the same algorithm."""
    found: dict[str, Outcome] = {}
    for name, on_cpu in (("on the CPU", True), ("adamw_torch", False)):
        with findings.case(name) as case:
            found[name] = _train(place, on_cpu, optim="adamw_torch")
            if not on_cpu:
                compare(case, found[name], _of(found, "on the CPU"), ROUNDED)
    for optim, tolerance in PAGED.items():
        with findings.case(optim) as case:
            if place.dry:
                raise SkipCase("paged optimizers need the managed memory of a GPU")
            compare(case, _train(place, False, optim=optim), _of(found, "adamw_torch"), tolerance)


def _of(found: dict[str, Outcome], name: str) -> Outcome:
    if name not in found:
        raise SkipCase(f"the case {name!r}, which it is compared with, has failed")
    return found[name]


def _train(place: Place, on_cpu: bool, **options: Any) -> Outcome:
    if find_spec("bitsandbytes") is None:
        raise SkipCase("bitsandbytes is not installed")
    import torch
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    where = {"": "cpu"} if on_cpu or place.dry else {"": 0}
    loading = {"quantization_config": quantization, "device_map": where}
    return train(place, on_cpu=on_cpu, lora=True, model_init_kwargs=loading, **options)
