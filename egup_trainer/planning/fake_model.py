"""A model of fake tensors: shapes and types without values, so that it takes no memory, whatever its size."""

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
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.modeling.loading import auto_class, is_adapter, load_config
from egup_trainer.planning.sizes import bytes_of_packed
from egup_trainer.preparation import prepare_model


@dataclass(frozen=True)
class FakeModel:
    """A model as it would be trained, without its values.

    Its weights can be used together with real tensors, such as token ids, whose values are known.

    Args:
        model: the model, with its adapter if it has one.
        mode: of the fake tensors.
        packed: bytes of the linear layers that are kept in 4 or 8 bits; 0 if there are none.
        unpacked: bytes of the largest of these layers when it is used, since 4-bit weights are dequantized for that.
        in_packed: ids of their weights.
        file: bytes of the model's files.
        is_mapped: whether some weights are used as they are in the files, which then stay mapped into memory.
    """

    model: Any
    mode: FakeTensorMode
    packed: int
    unpacked: int
    in_packed: frozenset[int]
    file: int
    is_mapped: bool

    @classmethod
    def build(cls, name: str, args: Any, peft_config: Any, loss: ForgetLoss) -> "FakeModel":
        """Builds the model or adapter of that name, with the adapter of `peft_config` if given.

        Args:
            args: an `UnlearnConfig` with `model_init_kwargs`.
            loss: the forget loss, which may freeze weights.

        Raises:
            ModelError: there is no such model, or its memory cannot be counted without its values.
        """
        from peft import PeftConfig

        model_init_kwargs = args.model_init_kwargs or {}
        trust = {"trust_remote_code": model_init_kwargs.get("trust_remote_code", False)}
        saved_adapter = PeftConfig.from_pretrained(name) if is_adapter(name) else None
        if saved_adapter is not None:
            saved_adapter.inference_mode = False
            name = saved_adapter.base_model_name_or_path
        config = load_config(name, revision=model_init_kwargs.get("revision") or "main", **trust)
        saved = _dtype(getattr(config, "dtype", None))
        dtype = model_init_kwargs.get("dtype")
        config._attn_implementation = "eager" if model_init_kwargs.get("attn_implementation") == "eager" else "sdpa"
        quantization = model_init_kwargs.get("quantization_config")
        with torch.device("meta"):  # PEFT cannot add adapters to fake tensors
            dtype = saved if dtype == "auto" else _dtype(dtype)
            model = auto_class(config).from_config(config, dtype=dtype, **trust)
            total, layers = sum(weight.numel() for weight in model.parameters()), _quantized_layers(model, quantization)
            model = prepare_model(model, args, saved_adapter or peft_config, loss=loss)
        if layers and not (saved_adapter or peft_config):
            raise ModelError(
                got="quantized weights and no adapter",
                expected="an adapter, since quantized weights cannot be trained",
                fix="add --use_peft",
            )
        # The values of an adapter matter in one respect: a new LoRA adapter starts at zero and is not in the reference.
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        _make_fake(model, mode, adapter_value=float(saved_adapter is not None))
        model.to = lambda *args, **kwargs: model  # fake tensors cannot be moved
        return cls(
            model,
            mode,
            packed=sum(bytes_of_packed(layer.weight, quantization) for layer in layers),
            unpacked=max((layer.weight.numel() * dtype.itemsize for layer in layers), default=0),
            in_packed=frozenset(id(layer.weight) for layer in layers),
            file=saved.itemsize * total,
            is_mapped=saved == dtype and sum(layer.weight.numel() for layer in layers) < total,
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
                sizes["adapters" if ".lora_" in name else "weights"] += bytes_of(weight)
        sizes["weights"] += sum(map(bytes_of, self.model.buffers()))
        return sizes


@contextmanager
def only_shapes(model: nn.Module) -> Iterator[None]:
    """Turns the errors of fake tensors into a `ModelError`.

    Raises:
        ModelError: the model depends on the values of its hidden states.
    """
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ModelError(
            got=f"the model {type(model).__name__}, whose shapes depend on what it reads (at {type(error).__name__})",
            expected="a model whose memory can be counted without its values: no mixture of experts",
            fix="run a few steps of `egup unlearn` with --max_steps: the line below its table reports the peak",
        ) from error


def bytes_of(tensor: Tensor) -> int:
    """Size of the elements of a tensor."""
    return tensor.numel() * tensor.element_size()


def _make_fake(model: nn.Module, mode: FakeTensorMode, adapter_value: float) -> None:
    """Replaces tensors on the meta device by fake ones on the CPU; what was tied stays tied.

    LoRA weights become real instead: one value that is expanded to their shape.
    """
    made: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, old in table.items():
                if old is None:
                    continue
                if id(old) not in made and "lora_" in f"{prefix}.{name}":
                    made[id(old)] = torch.tensor(adapter_value, dtype=old.dtype).expand(old.shape)
                elif id(old) not in made:
                    with mode:
                        made[id(old)] = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                new = made[id(old)]
                if isinstance(old, nn.Parameter) and not isinstance(new, nn.Parameter):
                    new = made[id(old)] = nn.Parameter(new, old.requires_grad)
                table[name] = new


def _dtype(name: Any) -> torch.dtype:
    return (getattr(torch, name) if isinstance(name, str) else name) or torch.float32


def _quantized_layers(model: Any, quantization: Any) -> list[Any]:
    """The linear layers that loading quantizes: all but the output embedding, and what is tied to it."""
    if quantization is None:
        return []
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert

    kept = set(get_keys_to_not_convert(model))
    layers = (each for name, each in model.named_modules() if name not in kept)
    return [each for each in layers if type(each) is nn.Linear or isinstance(each, Conv1D)]
