"""Model and tokenizer from a path or hub id, with LoRA and 4-bit, from TRL's `ModelConfig`."""

from pathlib import Path
from typing import Any

from egup_trainer.errors import ModelError


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False, revision: str = "main") -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, "tokenizer", name_or_path, trust_remote_code=trust_remote_code, revision=revision)


def load_model(name_or_path: str, **model_init_kwargs: Any) -> Any:
    """A causal language model, in float32 unless `dtype` says otherwise.

    Args:
        name_or_path: folder or hub id of a model, or folder of an adapter (its base model is loaded with it).
        model_init_kwargs: for `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ModelError: there is none, or it is not a causal language model.
    """
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    kwargs = {"dtype": "float32", **model_init_kwargs}
    if is_adapter(name_or_path):
        return _load(AutoPeftModelForCausalLM, "adapter", name_or_path, is_trainable=True, **kwargs)
    return _load(AutoModelForCausalLM, "causal language model", name_or_path, **kwargs)


def load_config(name_or_path: str, revision: str = "main") -> Any:
    """The configuration of a model, by which it can be built without its weights.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoConfig

    return _load(AutoConfig, "configuration", name_or_path, revision=revision)


def is_adapter(name_or_path: str) -> bool:
    """Whether a saved adapter lies there."""
    return (Path(name_or_path) / "adapter_config.json").is_file()


def model_init_kwargs(model_config: Any, use_cpu: bool = False) -> dict[str, Any]:
    """Arguments of `load_model` from TRL's `ModelConfig` flags (dtype, attention, 4-bit, ...)."""
    import torch
    from accelerate import PartialState
    from trl import get_quantization_config

    quantization = get_quantization_config(model_config)
    kwargs = {
        "revision": model_config.model_revision,
        "dtype": model_config.dtype,
        "attn_implementation": model_config.attn_implementation,
    }
    if quantization is not None:
        # Quantised weights cannot be moved later: each process loads them on its own GPU.
        device_map = {"": PartialState().local_process_index} if torch.cuda.is_available() and not use_cpu else None
        kwargs |= {"quantization_config": quantization, "device_map": device_map}
    return kwargs


def keep_gradients_of_4bit_layers(model: Any) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights for inference on the CPU.

    On processors with AVX512-BF16 it does so in place at the first forward pass in evaluation mode, such as a scan; the
    kernel for repacked weights has no backward pass, and training after it gets wrong gradients without an error.

    Raises:
        ModelError: the weights are repacked already.
    """
    for module in model.modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ModelError(
                got="a 4-bit model that has run in evaluation mode on the CPU, where its weights are repacked",
                expected="weights that gradients can pass",
                fix="load the model afresh",
            )
        module.support_avx512bf16_for_cpu = False


def add_adapter(model: Any, peft_config: Any) -> Any:
    """`model` with a fresh adapter; the base weights are frozen.

    Raises:
        ModelError: the model has adapters already, or the configuration does not fit the model.
    """
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ModelError(
            got="a model with adapters and a peft_config",
            expected="one of the two",
            fix="merge the adapter first, or leave out peft_config (--use_peft) to train on with it",
        )
    try:
        return get_peft_model(model, peft_config)
    except ValueError as error:
        raise ModelError(
            got=f"a peft_config that does not fit {type(model).__name__} ({_first_line(error)})",
            expected="target modules that the model has",
            fix="set --lora_target_modules",
        ) from error


def _load(auto_class: Any, what: str, name_or_path: str, **kwargs: Any) -> Any:
    if name_or_path.startswith((".", "/")) and not Path(name_or_path).is_dir():
        raise ModelError(got=f"no folder at {name_or_path}", expected=f"a saved {what}", fix="check the path")
    from safetensors import SafetensorError

    try:
        return auto_class.from_pretrained(name_or_path, **kwargs)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(
            got=f"{name_or_path}, from which no {what} could be loaded ({_first_line(error)})",
            expected=f"a local folder or hub id of a {what}",
            fix="check the name, the files and the network",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
