"""Trials of a model on two short rows, which replace lists of model names.

A trial takes at most two passes over two rows of eight tokens, and changes neither the model nor the state of random
number generators. A model is not tried if its weights are elsewhere (DeepSpeed ZeRO-3, `egup plan`) or if it cannot run
on their device.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egup_trainer.errors import ModelError, first_line
from egup_trainer.modeling.batches import device_of, evaluation_mode
from egup_trainer.modeling.limits import without_adapters
from egup_trainer.modeling.offloading import is_offloaded, refuse_offloaded

_LENGTH = 8
_SHARED = 4
"""Number of tokens that rows have in common, before those that differ."""


def is_fake(model: nn.Module) -> bool:
    """Whether the weights are fake tensors, which have shapes and no values (`egup plan`)."""
    from torch._subclasses.fake_tensor import FakeTensor

    return any(isinstance(weight, FakeTensor) for weight in model.parameters())


def can_run(model: Any) -> bool:
    """Whether the bare model can be run: its weights are here, on a device that its attention runs on."""
    weights = list(model.parameters())
    if is_fake(model) or any(hasattr(weight, "ds_id") for weight in weights):
        return False
    if any(weight.is_meta for weight in weights) and not is_offloaded(model):
        return False
    attention = getattr(model.config.get_text_config(), "_attn_implementation", None) or ""
    needs_gpu = "flash" in attention or "flex" in attention
    return bool(weights) and not (needs_gpu and weights[0].device.type == "cpu")


def differs(first: Tensor, second: Tensor, model: nn.Module) -> Tensor:
    """At which positions logits (..., V) differ by more than rounding errors: (...), bool.

    Rounding errors are taken to be 1e-5 of the largest logit in float32, and 0.02 of it with fewer bits.
    """
    is_rough = torch.backends.cuda.matmul.allow_tf32 and first.device.type == "cuda"
    exact = all(weight.dtype == torch.float32 for weight in model.parameters()) and not is_rough
    tolerance = (1e-5 if exact else 0.02) * first.abs().max()
    return (first - second).abs().amax(dim=-1) > tolerance


@torch.no_grad()
def check_causal(model: Callable[..., Any], bare: Any) -> None:
    """Raises `ModelError` if later tokens change the logits of earlier ones, so that a token sees itself.

    Rounding may change some positions of a mixture of experts; only a model that changes all of them is refused.

    Args:
        model: what is called, which may be wrapped. Every process calls it equally often.
    """
    ids = _rows(bare, device_of(bare, None))
    other = ids.clone()
    other[:, _SHARED:] = (ids[:, _SHARED:] + 3) % bare.config.get_text_config().vocab_size
    with evaluation_mode(bare):
        logits, changed = (_logits(model, bare, each)[:, :_SHARED] for each in (ids, other))
    if differs(logits, changed, bare).all():
        raise ModelError(
            got=f"the model {_name(bare)}, in which later tokens change the logits of earlier ones",
            expected="a causal language model: a token must not be seen when it is scored",
            fix="use a decoder, such as Llama or GPT-2",
        )


def check_training(model: Any, without_dropout: bool) -> None:
    """Raises `ModelError` if the logits depend on no trainable weight, or if dropout is left that must be off.

    Args:
        model: the bare model, as it will be trained.
        without_dropout: whether two passes in training mode must agree.
    """
    if not can_run(model):
        if not any(weight.requires_grad for weight in model.parameters()):
            _refuse_frozen(model)
        return
    refuse_offloaded((weight for weight in model.parameters() if weight.requires_grad), "training them")
    ids = _rows(model, device_of(model, None))
    with _training_mode(model), _same_random_numbers():
        with torch.enable_grad():
            first = _logits(model, model, ids)
        if not first.requires_grad:
            _refuse_frozen(model)
        if not without_dropout:
            return
        with torch.no_grad():
            second = _logits(model, model, ids)
    if differs(first.detach(), second, model).any():
        raise ModelError(
            got=f"the model {_name(model)}, for which two passes in training mode differ",
            expected="no noise: disable_dropout sets everything to 0 whose name has drop or jitter in it",
            fix="add --no_disable_dropout to train with it",
        )


def lists_in_use(model: Any) -> list[nn.ModuleList]:
    """The lists of modules that all take part in reading a text, which a vision tower does not."""
    called: set[nn.Module] = set()
    handles = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in model.modules()]
    try:
        with evaluation_mode(model), torch.no_grad():
            _logits(model, model, _rows(model, device_of(model, None)))
    finally:
        for handle in handles:
            handle.remove()
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList))
    return [each for each in lists if len(each) and called.issuperset(each)]


def _rows(model: Any, device: torch.device) -> Tensor:
    return torch.arange(2 * _LENGTH, device=device).view(2, _LENGTH) % model.config.get_text_config().vocab_size


def _logits(model: Callable[..., Any], bare: Any, ids: Tensor) -> Tensor:
    """The logits of the rows' own tokens, without virtual ones: (B, T, V), float32."""
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise ModelError(
            got=f"the model {_name(bare)}, which cannot read rows of tokens ({first_line(error)})",
            expected="a causal language model that needs only the tokens of a text",
            fix="use another model; if it has an adapter, choose another kind or other --lora_target_modules",
        ) from error
    return logits[:, -ids.shape[1] :].float()


def _name(model: Any) -> str:
    return type(without_adapters(model)).__name__


def _refuse_frozen(model: Any) -> None:
    is_adapted = hasattr(model, "peft_config")
    where = " in its active adapter" if is_adapted else ""
    raise ModelError(
        got=f"the model {_name(model)} without trainable weights{where}",
        expected="weights that require gradients, on which the logits depend",
        fix="load the adapter with PeftModel.from_pretrained(..., is_trainable=True)"
        if is_adapted
        else "call model.requires_grad_(True), or give a peft_config (--use_peft)",
    )


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Restores the random number generators afterwards."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
