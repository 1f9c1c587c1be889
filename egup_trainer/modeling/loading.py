"""Models, adapters and tokenizers from a path or hub id, with LoRA and 4-bit weights."""

import json
import re
from collections.abc import Callable, Collection
from copy import copy
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  what torch raises where it refuses to unpickle
from typing import Any

from egup_trainer.errors import ConfigError, ModelError, check_range, did_you_mean, first_line
from egup_trainer.extras import require_extra
from egup_trainer.files import refuse_unfinished
from egup_trainer.modeling.base_weights import weights_digest

# What libraries raise for files that are missing, broken or of another model (RuntimeError: sizes that do not match).
_FILE_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    UnpicklingError,
)
_MODEL = "causal language model"
_TOKENIZER = "tokenizer_config.json"
_IN_MODEL_REPOSITORIES = ("config.json", "adapter_config.json", _TOKENIZER)
_WHERE = (
    "revision",
    "subfolder",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "trust_remote_code",
    "code_revision",
)
"""Options of `from_pretrained` that say where a model's files are."""
_RECORD = "unlearning.json"
"""The record of a run beside its model; `egup_trainer.records.schema` has the same name."""
_HUB_SECONDS = 10
_PLAIN_NAME = re.compile(r"[\w.]+")


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False, revision: str = "main") -> Any:
    """The tokenizer of a model. If an adapter folder has none, it is that in the folder above, or of its base model.

    Raises:
        ModelError: there is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(name_or_path)
    if is_adapter(name_or_path) and not (folder / _TOKENIZER).is_file():
        has_one_above = (folder.parent / _TOKENIZER).is_file()
        base, base_revision = _base_of(adapter_folders(folder)[0])
        if has_one_above:
            name_or_path = str(folder.parent)
        elif base:
            name_or_path, revision = base, base_revision
    tokenizer = _load(
        AutoTokenizer.from_pretrained, "tokenizer", name_or_path, trust_remote_code=trust_remote_code, revision=revision
    )
    files, folder = ["tokenizer.json", *tokenizer.vocab_files_names.values()], Path(name_or_path)
    if folder.is_dir() and not any((folder / name).is_file() for name in files):  # transformers makes an empty one
        raise ModelError(
            got=f"no tokenizer in {name_or_path}",
            expected="a folder with the model's tokenizer (tokenizer.json)",
            fix="save the tokenizer of the model that it was made from there (tokenizer.save_pretrained)",
        )
    return tokenizer


def load_model(name_or_path: str, **model_init_kwargs: Any) -> Any:
    """A causal language model from safetensors files, in float32 unless `dtype` says otherwise.

    Args:
        name_or_path: folder or hub id of a model, or folder of one or more adapters (the base model is loaded, too).
        model_init_kwargs: for `from_pretrained` of the class that `auto_class` names.

    Raises:
        ModelError: there is no model, it is not a causal language model, weights are missing, or its 4-bit weights
            would be misread.
    """
    # If trust_remote_code is not set, transformers asks the user at the terminal.
    kwargs = {"dtype": "float32", "trust_remote_code": False, "use_safetensors": True, **model_init_kwargs}
    load = _load_with_base if is_adapter(name_or_path) else _load_whole
    model = load(name_or_path, **kwargs)
    check_4bit_layers(model)
    return model


def _load_whole(name_or_path: str, **kwargs: Any) -> Any:
    """A model without missing weights, which transformers would fill with random numbers."""
    from transformers import AutoConfig

    config = kwargs.get("config")
    if config is None:
        where = {name: kwargs[name] for name in _WHERE if name in kwargs}
        config = _load(AutoConfig.from_pretrained, _MODEL, name_or_path, **where)
    load = auto_class(config).from_pretrained
    model, found = _load(load, _MODEL, name_or_path, output_loading_info=True, **kwargs)
    _refuse_missing(found["missing_keys"], _MODEL, name_or_path, model)
    # transformers has put the adapter on the whole model. On the hub, it may be an adapter that names its base model.
    if getattr(model, "_hf_peft_config_loaded", False) and Path(name_or_path).is_dir():
        raise ModelError(
            got=f"{name_or_path}, which holds a whole model and an adapter",
            expected="one of them: an adapter that is merged already must not be applied once more",
            fix="move adapter_config.json and adapter_model.safetensors to another folder, and name the one you mean",
        )
    return model


def auto_class(config: Any) -> Any:
    """The class of transformers that makes a model: some that read images are not among the causal language models."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    reads_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return (
        AutoModelForImageTextToText
        if reads_images and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        else AutoModelForCausalLM
    )


def _load_with_base(path: str, **kwargs: Any) -> Any:
    """The adapters saved in a folder, on their base model, with the same adapters active as when they were saved."""
    return put_adapters(path, _load_base(str(adapter_folders(path)[0]), **kwargs))


def put_adapters(path: str, base: Any) -> Any:
    """A base model with the adapters saved in a folder, the same of them active as when they were saved."""
    first, *others = adapter_folders(path)
    model = _put_first_adapter(str(first), "default" if first == Path(path) else first.name, base)
    for folder in others:
        _load(partial(model.load_adapter, adapter_name=folder.name, is_trainable=True), "adapter", str(folder))
        _refuse_missing_adapter_weights(model, str(folder), folder.name)
    if others:
        model.base_model.set_adapter(_active_adapters(Path(path), list(model.peft_config)))
    return model


def _adapter_facts(path: Path) -> dict[str, Any]:
    """What the record of a run says about the adapters saved beside it; empty without a record."""
    for folder in (path, path.parent):  # the folder of one of several adapters is below the record
        try:
            return dict(json.loads((folder / _RECORD).read_text(encoding="utf-8"))["adapter"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def recorded_quantization(adapter: str | Path) -> dict[str, Any]:
    """The argument of `load_model` that quantizes the base model of an adapter as in the run that trained it.

    The result is empty if the weights were not quantized or the run was not recorded.
    """
    recorded = _adapter_facts(Path(adapter)).get("quantization")
    if recorded is None:
        return {}
    from transformers.quantizers.auto import AutoQuantizationConfig

    return {"quantization_config": AutoQuantizationConfig.from_dict(recorded)}


def _refuse_other_base(path: str, base: str) -> None:
    """Raises `ModelError` if the base model of an adapter has other weights than when the adapter was trained."""
    expected, found = _adapter_facts(Path(path)).get("base"), weights_digest(base)
    if None not in (expected, found) and found != expected:
        raise ModelError(
            got=f"other weights in {Path(base).resolve()} than those that the adapter {path} was trained on",
            expected="the adapter's base model",
            fix="put that model there, or name its folder as base_model_name_or_path in adapter_config.json",
        )


def _active_adapters(path: Path, names: list[str]) -> list[str]:
    """Which of several adapters were active when they were saved, from the record of their run.

    Raises:
        ModelError: there is no record of that.
    """
    active = _adapter_facts(path).get("active", [])
    if not active or not set(active) <= set(names):
        raise ModelError(
            got=f"{path} with the adapters {', '.join(names)} and no record of which of them are active",
            expected="one adapter, or the output folder of a run",
            fix=f"name the folder of one of them, such as {path / names[-1]}",
        )
    return active


def _load_base(path: str, **kwargs: Any) -> Any:
    """The base model of an adapter, with the embeddings of all its tokens."""
    from peft import PeftConfig

    if not (Path(path) / "adapter_model.safetensors").is_file():
        raise ModelError(
            got=f"{path} without adapter_model.safetensors", expected="a saved adapter", fix="save it again"
        )
    config = _load(PeftConfig.from_pretrained, "adapter", path)
    if not config.base_model_name_or_path:
        raise ModelError(
            got=f"{path}, an adapter that does not name its base model",
            expected="its folder or hub id in adapter_config.json",
            fix="set base_model_name_or_path there",
        )
    _refuse_other_base(path, config.base_model_name_or_path)
    base = _load_whole(config.base_model_name_or_path, **{**kwargs, "revision": config.revision or "main"})
    _resize_embeddings(base, path)
    return base


def _put_first_adapter(path: str, name: str, base: Any) -> Any:
    """An adapter without missing weights, on its base model."""
    from peft import PeftConfig, PeftModel

    from egup_trainer.modeling.offloading import stand_ins, without_device_map

    has_virtual_tokens = PeftConfig.from_pretrained(path).is_prompt_learning  # PEFT refuses to load them as trainable
    with without_device_map(base), stand_ins(base):
        load = partial(PeftModel.from_pretrained, base, adapter_name=name, is_trainable=not has_virtual_tokens)
        model = _load(load, "adapter", path)
    _refuse_missing_adapter_weights(model, path, name)
    return model


def _refuse_missing_adapter_weights(model: Any, path: str, name: str) -> None:
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    expected = get_peft_model_state_dict(model, adapter_name=name).keys()
    _refuse_missing(expected - load_peft_weights(path, device="cpu"), "adapter", path, model)


def _resize_embeddings(base: Any, path: str) -> None:
    """Gives the base model as many embeddings as it had when an adapter was trained on it.

    These are as many as were saved with the adapter. If it has none, the tokenizer beside it may have more tokens.
    """
    from egup_trainer.modeling.offloading import refuse_offloaded

    usual = base.get_input_embeddings().weight.shape[0]
    count = _saved_embeddings(base, path)
    if count is None and (Path(path) / _TOKENIZER).is_file():
        count = max(len(load_tokenizer(path)), usual)
    if count is not None and count != usual:
        refuse_offloaded(base.parameters(), "another number of embeddings")
        base.resize_token_embeddings(count)


def _saved_embeddings(base: Any, path: str) -> int | None:
    """How many embeddings an adapter's file holds; None if it holds none, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    parts = [part for part in (base.get_input_embeddings(), base.get_output_embeddings()) if part is not None]
    names = tuple(f".{name}" for name, module in base.named_modules() if any(module is part for part in parts))
    width = base.get_input_embeddings().weight.shape[-1]
    try:
        with safe_open(Path(path) / "adapter_model.safetensors", framework="pt") as file:
            saved = {key.removesuffix(".weight").removesuffix(".base_layer"): key for key in file.keys()}  # noqa: SIM118
            shapes = [file.get_slice(key).get_shape() for name, key in saved.items() if name.endswith(names)]
            return next((shape[0] for shape in shapes if shape[1:] == [width]), None)
    except (OSError, SafetensorError):  # PEFT says so when it reads the file
        return None


def _refuse_missing(names: Collection[str], what: str, name_or_path: str, model: Any) -> None:
    if names:
        raise ModelError(
            got=f"{name_or_path}, which lacks {len(names)} weights of {type(model).__name__}, such as {min(names)}",
            expected=f"all weights of {_with_article(what)}",
            fix="save the model again, or name another one",
        )


def load_judging_model(name_or_path: str, classifies: bool) -> Any:
    """A model that reads texts, in float32: one that embeds them, or one that classifies them.

    Raises:
        ModelError: there is no such model, or weights are missing.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    load = (AutoModelForSequenceClassification if classifies else AutoModel).from_pretrained
    kwargs = {"dtype": "float32", "trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    model, found = _load(load, "judging model", name_or_path, **kwargs)
    used = {name for name in found["missing_keys"] if classifies or "pooler" not in name}  # embeddings need no pooler
    _refuse_missing(used, "judging model", name_or_path, model)
    return model.eval()


def load_config(name_or_path: str, *, trust_remote_code: bool = False, revision: str = "main") -> Any:
    """The configuration of a model, from which it can be built without its weights.

    Raises:
        ModelError: there is no configuration, or it cannot be read.
    """
    from transformers import AutoConfig

    return _load(
        AutoConfig.from_pretrained,
        "configuration",
        name_or_path,
        trust_remote_code=trust_remote_code,
        revision=revision,
    )


def refuse_missing_model(name_or_path: str, revision: str = "main") -> None:
    """Raises an error for a model that cannot be loaded, as far as this is known without reading its files.

    Raises:
        ModelError: it is neither a folder nor on the hub.
        StateError: the run that writes the folder has not finished.
    """
    _refuse_missing_folder(name_or_path, "model", revision)
    refuse_unfinished(name_or_path)


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder holds one or more saved adapters."""
    return bool(adapter_folders(name_or_path))


def adapter_folders(name_or_path: str | Path) -> list[Path]:
    """The folders of the adapters saved there: PEFT gives each adapter that is not named "default" its own folder.

    Empty for a whole model and for a hub id.
    """
    folder = Path(name_or_path)
    if not folder.is_dir() or _is_whole(folder):
        return []
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR  # it imports PEFT, which only adapters need

    below = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    own = [path for path in below if not path.name.startswith((PREFIX_CHECKPOINT_DIR, "_"))]
    return [path for path in (folder, *own) if (path / "adapter_config.json").is_file()]


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds a whole model. Some tools write the base model's configuration beside an adapter."""
    has_adapter_alone = (folder / "adapter_model.safetensors").is_file() and not any(folder.glob("model*.safetensors"))
    return (folder / "config.json").is_file() and not has_adapter_alone


def base_folder(adapter: Path) -> list[Path]:
    """The folder of a saved adapter's base model; empty if it is not a folder or there is no such adapter."""
    name, _ = _base_of(adapter)
    return [Path(name)] if name is not None and Path(name).is_dir() else []


def _base_of(adapter: Path) -> tuple[str | None, str]:
    """Path or hub id of a saved adapter's base model, None if it has or names none, and the revision."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        name = config["base_model_name_or_path"]
        return (name if isinstance(name, str) else None), config.get("revision") or "main"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, "main"


def model_init_kwargs(model_config: Any, use_cpu: bool = False) -> dict[str, Any]:
    """Arguments of `load_model` from TRL's `ModelConfig` (dtype, attention, 4-bit, ...)."""
    kwargs = {
        "revision": model_config.model_revision,
        "dtype": model_config.dtype,
        "attn_implementation": model_config.attn_implementation,
    }
    if not (model_config.load_in_4bit or model_config.load_in_8bit):
        return kwargs
    import torch
    from accelerate import PartialState
    from trl import get_quantization_config  # the module that has it imports pandas, datasets and PEFT

    require_extra("quantization", "--load_in_4bit or --load_in_8bit")
    # Quantized weights cannot be moved later: each process loads them on its own GPU.
    device_map = {"": PartialState().local_process_index} if torch.cuda.is_available() and not use_cpu else None
    return kwargs | {"quantization_config": get_quantization_config(model_config), "device_map": device_map}


def lora_config(model_config: Any) -> Any:
    """The configuration of a new adapter from TRL's `ModelConfig`, or None without `use_peft`."""
    if not model_config.use_peft:
        return None
    from trl import get_peft_config

    return get_peft_config(model_config)


def check_4bit_layers(model: Any) -> None:
    """Raises `ModelError` if the weights of a 4-bit layer would be misread, see `misread_4bit_layer`."""
    found = misread_4bit_layer(model)
    if found is not None:
        name, inputs = found
        raise ModelError(
            got=f"4-bit weights of {name} with {inputs} inputs, which bitsandbytes misreads on this CPU",
            expected="layers whose number of inputs is a multiple of 64, the number of weights that share a scale",
            fix="load the model without 4 bits (leave out --load_in_4bit), or on a GPU",
        )


def misread_4bit_layer(model: Any) -> tuple[str, int] | None:
    """Name and number of inputs of the first 4-bit layer on the CPU whose weights are misread; None if all are right.

    bitsandbytes quantizes a weight matrix as one line, in blocks of 64 that continue over the ends of rows. On a CPU
    with AVX-512 it reads rows of 16 m weights as if each began with a new block (0.50.2), which is wrong unless 64
    divides their length, and gives no error. This is tried out, since other machines and versions are right.
    """
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        if state is not None and weight.device.type == "cpu":
            inputs = state.shape[-1]
            if not _gives_weights_back(inputs, state.blocksize, state.quant_type):
                return name, inputs
    return None


@cache
def _gives_weights_back(inputs: int, block: int, kind: str) -> bool:
    """Whether rows of that many weights are read as they were quantized, tried on the CPU.

    Blocks of equal numbers, with another number in each block, lose nothing in four bits: the number is the scale.
    """
    import torch
    from bitsandbytes import functional

    weights = torch.arange(1.0, inputs + 1).repeat_interleave(block).view(block, inputs)
    codes, state = functional.quantize_4bit(weights, blocksize=block, quant_type=kind)
    return torch.allclose(functional.dequantize_4bit(codes, state), weights)


def keep_gradients_of_4bit_layers(model: Any) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights for inference on the CPU.

    On processors with AVX512-BF16 it repacks them in place at the first forward pass in evaluation mode, such as a
    scan. The kernel for repacked weights has no backward pass, and training gets wrong gradients without an error.

    Raises:
        ModelError: the weights are repacked already.
    """
    for module in model.modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ModelError(
                got="a 4-bit model that has run in evaluation mode on the CPU, which repacked its weights",
                expected="weights that gradients can pass through",
                fix="load the model again",
            )
        module.support_avx512bf16_for_cpu = False


def check_peft_config(peft_config: Any) -> None:
    """Raises `ConfigError` for a description of an adapter that is none, or is not one for a causal language model."""
    from peft import LoraConfig, PeftConfig

    if not isinstance(peft_config, PeftConfig):
        raise ConfigError(
            got=f"a {type(peft_config).__name__} as peft_config",
            expected="a PeftConfig",
            fix="make one: peft.LoraConfig(r=8, target_modules='all-linear')",
        )
    task = getattr(peft_config.task_type, "value", peft_config.task_type)
    if task not in (None, "CAUSAL_LM"):
        raise ConfigError(got=f"lora_task_type={task}", expected="CAUSAL_LM", fix="leave out --lora_task_type")
    if isinstance(peft_config, LoraConfig):
        check_range(peft_config, ("lora_alpha",), low=0, low_is_allowed=False)
        if not 0 <= peft_config.lora_dropout < 1:
            got = f"lora_dropout={peft_config.lora_dropout}"
            raise ConfigError(got=got, expected="a number from 0 to below 1", fix="set --lora_dropout")


def add_adapter(model: Any, peft_config: Any, revision: str | None = None) -> Any:
    """`model` with a fresh adapter; the base weights are frozen.

    Args:
        peft_config: kind and sizes of the adapter; not changed.
        revision: of the model on the hub, which the saved adapter will name.

    Raises:
        ModelError: the model has adapters already, or the configuration does not fit the model.
    """
    from peft import PeftModel, get_peft_model

    from egup_trainer.modeling.offloading import stand_ins  # it imports torch

    if isinstance(model, PeftModel):
        raise ModelError(
            got="a model with adapters and a peft_config",
            expected="one of the two",
            fix="merge the adapter first, or leave out peft_config (--use_peft) to continue training it",
        )
    peft_config = copy(peft_config)
    target = getattr(peft_config, "target_modules", None)
    if isinstance(target, str) and target != "all-linear" and _PLAIN_NAME.fullmatch(target):
        # PEFT takes a string as a pattern of the full name, and TRL turns a list of one name into a string.
        peft_config.target_modules = [target]
    linear = _linear_names(model)  # now, since PEFT may fail with half of the model changed
    _refuse_missing_modules(model, peft_config)
    try:
        with stand_ins(model):
            adapted = get_peft_model(model, peft_config, revision=revision)
    except (*_FILE_ERRORS, re.error) as error:
        raise _misfit(model, linear, error) from error
    if any(weight.requires_grad and not weight.is_meta and weight.isnan().any() for weight in adapted.parameters()):
        raise ModelError(
            got="an adapter that starts from the values of weights that are offloaded, or that are not numbers",
            expected="one that starts from other numbers, such as plain LoRA, or finite weights on a device",
            fix="choose another kind of adapter, or load the model without device_map",
        )
    return adapted


def _refuse_missing_modules(model: Any, peft_config: Any) -> None:
    """Raises `ModelError` if one of several parts to adapt or to save is missing: PEFT is content with any of them."""
    modules, weights = ([name for name, _ in each] for each in (model.named_modules(), model.named_parameters()))
    for option, names in (("target_modules", modules), ("target_parameters", weights), ("modules_to_save", modules)):
        wanted = getattr(peft_config, option, None)  # not every kind of adapter has each of them
        start = "" if option == "modules_to_save" else "."  # PEFT compares whole names of targets alone
        for each in sorted(wanted) if isinstance(wanted, list | set | tuple) else ():
            if not any(f".{name}".endswith(f"{start}{each}") for name in names):
                linear = " ".join(sorted(_linear_names(model)))
                raise ModelError(
                    got=f"a peft_config with {each} in {option}, which {type(model).__name__} does not have",
                    expected=f"names of its parts; its linear layers are {linear}",
                    fix=f"set {'--lora_target_modules' if option == 'target_modules' else option}",
                )


def _linear_names(model: Any) -> set[str]:
    kinds = ("Linear", "Conv1D")
    return {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if type(part).__name__.startswith(kinds)}


def _misfit(model: Any, linear: set[str], error: Exception) -> ModelError:
    """The error for an adapter that PEFT cannot add to the model, whose linear layers have the names `linear`."""
    said = first_line(error)
    what = f"a peft_config that does not fit {type(model).__name__} ({said})"
    if "dropout" in said:
        return ModelError(got=what, expected="an adapter without dropout", fix="set --lora_dropout 0")
    if not re.search("target.?module", said, re.IGNORECASE) and not isinstance(error, re.error):
        return ModelError(got=what, expected="options that the model and this kind of adapter allow", fix="change them")
    # Modules that the model has and PEFT refuses are in its message; "all-linear" would include them.
    refused = set(re.findall(r"'(\w+)'", said)) if "incompatible" in said else set()
    every = "" if refused else "all-linear, or "
    expected = f"target modules that the model has: {every}some of {' '.join(sorted(linear - refused))}"
    return ModelError(got=what, expected=expected, fix="set --lora_target_modules")


def _load(from_pretrained: Callable[..., Any], what: str, name_or_path: str, **kwargs: Any) -> Any:
    _refuse_missing_folder(name_or_path, what, kwargs.get("revision"))
    refuse_unfinished(name_or_path)
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    folder = Path(name_or_path)
    try:
        return from_pretrained(name_or_path, **kwargs)
    except OutOfMemoryError:
        raise
    except (*_FILE_ERRORS, StrictDataclassError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                got=f"{name_or_path}, whose {what} needs Python code from that folder",
                expected="a class of transformers itself: code that comes with a model is not run by default",
                fix="read the code; then allow it by --model_init_kwargs '{\"trust_remote_code\": true}' "
                "(`egup unlearn`, `plan`, `retrain`, `evaluate` and `audit`), or load model and tokenizer in Python "
                "and pass them on",
            ) from error
        if what == _MODEL and any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
            raise ModelError(
                got=f"{name_or_path}, whose weights are in .bin files",
                expected="safetensors files: a .bin file can run code when it is read",
                fix="if you trust it, convert it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER)",
            ) from error
        raise ModelError(
            got=f"{name_or_path}, from which no {what} could be loaded ({first_line(error)})",
            expected=f"a local folder or hub id of {_with_article(what)}",
            fix="check the name, the files and the network",
        ) from error


def _refuse_missing_folder(name: str, what: str, revision: str | None) -> None:
    """Raises `ModelError` for what is neither a folder nor on the hub, which transformers would ask again and again."""
    path = Path(name)
    is_path = name.startswith((".", "/"))
    if path.is_dir() or (not is_path and _is_on_hub(name, revision)):
        return
    folders = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    raise ModelError(
        got=f"no folder at {name}" + ("" if is_path else ", and no model of that name on the hub, or no way to it"),
        expected=f"a saved {what}",
        fix=did_you_mean(path.name, folders, "check the path" if is_path else "check the name and the network"),
    )


def _is_on_hub(name: str, revision: str | None) -> bool:
    """Whether a model lies in the cache of the hub's client, or can be reached there."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        cached = (try_to_load_from_cache(name, file, revision=revision) for file in _IN_MODEL_REPOSITORIES)
        return any(isinstance(file, str) for file in cached) or bool(HfApi().model_info(name, timeout=_HUB_SECONDS))
    except Exception:  # the client has no common base for "no such name", "not there" and "no network"
        return False


def _with_article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
