"""A model of fake tensors: all shapes and types, and no number. It takes no memory, whatever the model's size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from egup_trainer.errors import ModelError
from egup_trainer.modeling.loading import is_adapter, load_config
from egup_trainer.planning.sizes import bytes_of_4bit, bytes_of_8bit, item_size
from egup_trainer.preparation import prepare_model


@dataclass(frozen=True)
class Skeleton:
    """A model as it would be trained, without its numbers.

    Args:
        model: the model, with its adapter if it has one, of fake tensors.
        mode: within which it can be run.
        packed: bytes of the linear layers that are kept in 4 or 8 bits; 0 for none.
        unpacked: of these layers, the largest one's bytes when it is used: 4-bit weights are unpacked for that.
        in_packed: ids of their weights.
        file: bytes of the model's files.
        adapter_is_fresh: whether it has an adapter that does nothing yet, without which it is the model before.
        is_mapped: whether some weights are read from the files as they are, so that these stay mapped into memory.
    """

    model: Any
    mode: FakeTensorMode
    packed: int
    unpacked: int
    in_packed: frozenset[int]
    file: int
    adapter_is_fresh: bool
    is_mapped: bool

    @classmethod
    def build(cls, name: str, args: Any, peft_config: Any) -> "Skeleton":
        """That of a folder or hub id.

        Args:
            name: a model, or an adapter, which is trained on.
            args: an `UnlearnConfig` with `model_init_kwargs`.
            peft_config: of a fresh adapter, or None.

        Raises:
            ModelError: there is no such model, or it cannot be built without its numbers.
        """
        kwargs = dict(args.model_init_kwargs or {})
        revision, quantization = kwargs.get("revision") or "main", kwargs.get("quantization_config")
        trust = {"trust_remote_code": kwargs.get("trust_remote_code", False)}
        saved_adapter = None
        if is_adapter(name):
            from peft import PeftConfig

            saved_adapter = PeftConfig.from_pretrained(name)
            saved_adapter.inference_mode = False
            name = saved_adapter.base_model_name_or_path
        config = load_config(name, revision=revision, **trust)
        saved = item_size(getattr(config, "dtype", None))
        attention = kwargs.get("attn_implementation")
        config._attn_implementation = "eager" if attention == "eager" else "sdpa"
        with torch.device("meta"):  # adapters cannot be put on fake tensors
            bare = _from_config(config, kwargs.get("dtype"), trust)
            layers = _quantised_layers(bare, quantization)
            total, itself = sum(each.numel() for each in bare.parameters()), next(bare.parameters()).dtype.itemsize
            kept = total - sum(each.weight.numel() for each in layers)
            model = prepare_model(bare, args, saved_adapter or peft_config)
        mode = FakeTensorMode()
        _make_fake(model, mode)
        if layers and not (peft_config or saved_adapter):
            raise ModelError(
                got="quantised weights and no adapter",
                expected="an adapter, which is what can be trained",
                fix="add --use_peft",
            )
        return cls(
            model,
            mode,
            packed=sum(_packed(layer, quantization) for layer in layers),
            unpacked=max((layer.weight.numel() * itself for layer in layers), default=0),
            in_packed=frozenset(id(layer.weight) for layer in layers),
            file=saved * total,
            adapter_is_fresh=peft_config is not None and getattr(peft_config, "bias", None) == "none",
            is_mapped=saved == itself and kept > 0,
        )

    @property
    def trained(self) -> list[Tensor]:
        """The weights that are trained."""
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of the base model ("weights") and of adapters ("adapters")."""
        sizes = {"weights": self.packed, "adapters": 0}
        for name, weight in self.model.named_parameters():
            if id(weight) not in self.in_packed:
                sizes["adapters" if ".lora_" in name else "weights"] += weight.numel() * weight.element_size()
        sizes["weights"] += sum(each.numel() * each.element_size() for each in self.model.buffers())
        return sizes


@contextmanager
def shapes_alone(name: str) -> Iterator[None]:
    """Turns what fake tensors cannot do into a `ModelError`.

    Raises:
        ModelError: what the model does depends on the values of tensors, not on their shapes alone.
    """
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ModelError(
            got=f"the model {name}, whose shapes depend on what it reads (at {type(error).__name__})",
            expected="one whose memory can be counted without its numbers: no mixture of experts",
            fix="run a few steps of `egup unlearn` with --max_steps, whose last line says the peak",
        ) from error


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Puts fake tensors of a CPU in the place of those of the meta device; what was tied stays so."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, old in table.items():
                if old is None:
                    continue
                if id(old) not in made:
                    with mode:
                        new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                        made[id(old)] = nn.Parameter(new, old.requires_grad) if table is module._parameters else new
                table[name] = made[id(old)]


def _from_config(config: Any, dtype: Any, trust: dict[str, bool]) -> nn.Module:
    from transformers import AutoModelForCausalLM

    named = dtype if dtype not in (None, "auto") else getattr(config, "dtype", None) if dtype == "auto" else None
    torch_type = getattr(torch, named) if isinstance(named, str) else named or torch.float32
    return AutoModelForCausalLM.from_config(config, dtype=torch_type, **trust)


def _quantised_layers(model: Any, quantization: Any) -> list[Any]:
    """The linear layers that loading packs: all but the output embedding, and those that it is tied to."""
    if quantization is None:
        return []
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert

    kept = set(get_keys_to_not_convert(model))
    layers = (each for name, each in model.named_modules() if name not in kept)
    return [each for each in layers if type(each) is nn.Linear or isinstance(each, Conv1D)]


def _packed(layer: Any, quantization: Any) -> int:
    if quantization.load_in_4bit:
        return bytes_of_4bit(layer.weight.numel(), quantization.bnb_4bit_use_double_quant)
    return bytes_of_8bit(*layer.weight.shape)
