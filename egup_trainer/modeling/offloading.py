"""Models of which Accelerate keeps weights in memory or on the disk while they are not used (`device_map`).

Between two passes, such a weight is a tensor without values, on the device "meta".
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.errors import ModelError


def is_offloaded(model: nn.Module) -> bool:
    """Whether weights of the model are kept elsewhere while they are not used."""
    from accelerate.utils import has_offloaded_params

    return any(map(has_offloaded_params, model.modules()))


def iter_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor in the model's state dict; offloaded ones are loaded one at a time.

    Example:
        >>> [name for name, _ in iter_tensors(nn.Linear(1, 1))]
        ['weight', 'bias']
    """
    from accelerate.utils import align_module_device

    for name, tensor in model.state_dict().items():  # it also has the scales of quantized weights
        if isinstance(tensor, Tensor) and tensor.is_meta:
            path, _, own = name.rpartition(".")
            owner = model.get_submodule(path)
            with align_module_device(owner, torch.device("cpu")):
                yield name, getattr(owner, own).detach()
        elif isinstance(tensor, Tensor):
            yield name, tensor


@contextmanager
def without_device_map(model: nn.Module) -> Iterator[None]:
    """Hides the map of devices from PEFT, which would distribute the model again and offload its adapters, too."""
    maps = [(each, vars(each).pop("hf_device_map")) for each in model.modules() if "hf_device_map" in vars(each)]
    try:
        yield
    finally:
        for module, device_map in maps:
            module.hf_device_map = device_map


@contextmanager
def stand_ins(model: nn.Module) -> Iterator[None]:
    """Gives offloaded weights, for a while, values (NaN) on the devices on which they will be used.

    PEFT puts an adapter on the device of the weight that it belongs to, where it would lose its own values, too. A
    stand-in holds a single number in memory, and an adapter that starts from the values of the weights becomes NaN.
    """
    from accelerate.utils import has_offloaded_params

    offloaded: list[tuple[Any, str, nn.Parameter]] = []
    owner: Any
    for owner in filter(has_offloaded_params, model.modules()):
        device = owner._hf_hook.execution_device
        for name, weight in owner.named_parameters(recurse=False):
            if weight.is_meta and weight.is_floating_point():
                number = torch.full((), torch.nan, dtype=weight.dtype, device=device)
                owner._parameters[name] = nn.Parameter(number.expand(weight.shape), weight.requires_grad)
                offloaded.append((owner, name, weight))
    try:
        yield
    finally:
        for owner, name, weight in offloaded:
            weight.requires_grad_(owner._parameters[name].requires_grad)
            owner._parameters[name] = weight


def refuse_offloaded(weights: Iterable[Tensor], what: str) -> None:
    """Raises `ModelError` if one of the weights is offloaded, for something that needs its gradient or changes it.

    Args:
        weights: weights of a model that can run.
        what: what they are needed for.
    """
    if any(weight.is_meta for weight in weights):
        raise ModelError(
            got=f"a model with offloaded weights, for {what}",
            expected="weights that stay on a device: the gradients and changes of offloaded ones are lost",
            fix="load it without device_map or on devices that hold it; to unlearn, train an adapter (--use_peft)",
        )
