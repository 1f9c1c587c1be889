"""Text generation: greedy or sampled, in batches padded on the left, on any number of processes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PretrainedConfig

from egup_trainer.data.tokenization import end_tokens
from egup_trainer.modeling.batches import autocast_of, device_of, evaluation_mode, iter_indices, merge_processes
from egup_trainer.modeling.limits import check_positions, check_token_ids
from egup_trainer.modeling.trials import differs

logger = logging.getLogger(__name__)
_SHORT, _LONG = 3, 8
"""Number of tokens of the two prompts that a model is tried with."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled, with one seed per prompt.

    The n-th token of a prompt is the one at which the cumulative probability exceeds the n-th random number of its
    seed. What is sampled for a prompt therefore does not depend on the other prompts of its batch.

    Args:
        seeds: the seed of each prompt, whole numbers of at least 0.
        temperature: divides the logits; above 0.
        top_p: tokens are sampled from the fewest whose probabilities sum to this; above 0, at most 1.
    """

    seeds: Sequence[Sequence[int]]
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Continuation:
    """The tokens that a model generated after a prompt.

    Args:
        tokens: token ids, shape (n,), without the one that ended them.
        end: the token that ended them, or None if there was room for no more.
    """

    tokens: list[int]
    end: int | None = None


def generate(
    model: nn.Module, tokenizer: Any, prompts: Sequence[np.ndarray], *, stop_words: tuple[str, ...] = (), **options: Any
) -> list[str]:
    """The text that the model generates after each prompt: cut at end of sequence, then at stop words, then stripped.

    Args:
        model, tokenizer, prompts, options: as in `continuations`.
        stop_words: a text ends before the first of these.
    """
    found = continuations(model, tokenizer, prompts, **options)
    return [_to_text(each.tokens, tokenizer, stop_words) for each in found]


@torch.no_grad()
def continuations(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    batch_size: int,
    accelerator: Accelerator | None = None,
    description: str | None = None,
    fix: str = "lower --max_new_tokens or shorten the prompts",
) -> list[Continuation]:
    """What the model generates after each prompt; the same on every process.

    It ends at the tokenizer's end of sequence and at the token with which its chat template closes an answer. The
    rest of the model's own `generation_config` is not applied, so that the same weights generate the same texts.

    Args:
        model: the bare model.
        prompts: token ids of each prompt, at least one.
        max_new_tokens: maximum number of tokens per prompt.
        sampling: how tokens are sampled, or None for greedy search.
        accelerator: the `Accelerator` of a run on several processes, or None for one process.
        fix: what to do if the model has too few positions, for the message.

    Raises:
        ModelError: the model has fewer positions than a prompt and its new tokens need, or lacks a token of a prompt.
    """
    if not prompts:
        return []
    needed = max(map(len, prompts)) + max_new_tokens
    check_positions(model, needed, "prompt and new tokens", fix)
    check_token_ids(model, prompts, "the prompts")
    device, ends = device_of(model, accelerator), end_tokens(tokenizer)
    padding = next((token for token in (*ends, tokenizer.pad_token_id) if token is not None), 0)
    _warn_of_other_ends(model, ends)
    config = _greedy(max_new_tokens, ends, padding)
    written = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=device)
    lengths = [len(prompt) for prompt in prompts]
    with evaluation_mode(model):
        batch_size, of_one_length = _batching(model, device, padding, accelerator, min(batch_size, len(prompts)))
    with evaluation_mode(model), _only_these_settings(model, config):
        batches = iter_indices(lengths, batch_size, accelerator, description, of_one_length=of_one_length)
        for indices, counts in batches:
            ids, mask = _pad_left([prompts[index] for index in indices.tolist()], padding)
            processors = []
            if sampling is not None:
                processors = [_Sampler(sampling, indices.tolist(), ids.shape[1], max_new_tokens)]
            out = _generate(model, config, ids.to(device), mask.to(device), processors, accelerator)
            if counts:
                new = out[:, ids.shape[1] :]
                # Shifted by one, so that 0 is "nothing written" and the sum over processes is the whole result.
                written[indices.to(device), : new.shape[1]] = new + 1
    rows = merge_processes({"written": written}, accelerator)["written"] - 1
    return [_until_its_end(row, ends) for row in rows]


class _Sampler:
    """A logits processor that leaves one sampled token per row, which a greedy search then takes.

    Args:
        indices: of the batch's prompts among those that `sampling` has seeds for.
    """

    def __init__(self, sampling: Sampling, indices: list[int], width: int, length: int):
        self.sampling, self.width = sampling, width
        rows = [np.random.default_rng(sampling.seeds[index]).random(length) for index in indices]
        self.numbers = np.stack(rows)  # (B, n)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.width
        numbers = torch.from_numpy(self.numbers[:, step : step + 1]).to(scores.device, torch.float32)  # (B, 1)
        probabilities = (scores.float() / self.sampling.temperature).softmax(dim=-1)  # (B, V)
        probabilities, tokens = probabilities.sort(dim=-1, descending=True)
        in_nucleus = probabilities.cumsum(dim=-1) - probabilities < self.sampling.top_p
        sums = (probabilities * in_nucleus).cumsum(dim=-1)
        passed = (sums <= numbers * sums[:, -1:]).sum(dim=-1, keepdim=True)  # (B, 1)
        last = in_nucleus.sum(dim=-1, keepdim=True) - 1  # a number that float32 rounds to 1 passes all sums
        chosen = tokens.gather(1, passed.minimum(last))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def _greedy(max_new_tokens: int, ends: list[int], padding: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends or None, pad_token_id=padding
    )


@contextmanager
def _only_these_settings(model: nn.Module, config: Any) -> Iterator[None]:
    """Replaces the settings that were saved with the model, such as sampling or suppressed tokens.

    If they were given to `generate` as an argument, it would fill in unset values from the model's settings. Router
    logits are left out, since the loss that a mixture of experts computes from them fails after the first new token.
    """
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    saved = [module.generation_config for module in owners]
    configs = [vars(module).get("config") for module in model.modules()]
    routed = [each for each in configs if isinstance(each, PretrainedConfig) and _gives_router_logits(each)]
    for module in owners:
        module.generation_config = config
    for each in routed:
        each.output_router_logits = False
    try:
        yield
    finally:
        for module, settings in zip(owners, saved, strict=True):
            module.generation_config = settings
        for each in routed:
            each.output_router_logits = True


def _gives_router_logits(config: PretrainedConfig) -> bool:
    return vars(config).get("output_router_logits") is True


def _warn_of_other_ends(model: Any, ends: list[int]) -> None:
    """Warns once of end tokens in the model's generation_config that are not applied."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    others = sorted(set(configured if isinstance(configured, list | tuple) else [configured]) - {None, *ends})
    if others:
        ours, theirs = (", ".join(map(str, each)) or "none" for each in (ends, others))
        _warn_once(
            f"Texts end at the end tokens of the tokenizer and its chat template ({ours}), not at the others in the "
            f"model's generation_config ({theirs})."
        )


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _batching(
    model: Any, device: torch.device, padding: int, accelerator: Accelerator | None, batch_size: int
) -> tuple[int, bool]:
    """How many prompts a batch may hold so that each is continued as it would be alone, and whether of one length only.

    This is tried with two short prompts and two new tokens. Recurrent models read padding as text, the virtual tokens
    of an adapter come before the padding, and some models (RWKV) mix the rows of any batch.
    """

    def is_as_alone(other: np.ndarray) -> bool:
        both = _first_logits(model, device, padding, accelerator, [other, short])
        return not differs(alone, both[:, -1:], model).any()

    if batch_size == 1:
        return 1, False
    long = np.arange(_LONG)
    short = long[-_SHORT:]
    alone = _first_logits(model, device, padding, accelerator, [short])
    if is_as_alone(long):
        return batch_size, False
    return (batch_size if is_as_alone(long[:_SHORT]) else 1), True


def _generate(
    model: Any, config: Any, ids: Tensor, mask: Tensor, processors: list[Any], accelerator: Accelerator | None
) -> Any:
    from transformers import LogitsProcessorList

    with autocast_of(accelerator):
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
            synced_gpus=accelerator is not None and accelerator.num_processes > 1,
        )


def _first_logits(
    model: Any, device: torch.device, padding: int, accelerator: Accelerator | None, prompts: list[np.ndarray]
) -> Tensor:
    """The logits of two new tokens after each prompt, (2, B, V), float32; both tokens are always the same one."""
    config = _greedy(2, [], padding)
    config.output_logits = config.return_dict_in_generate = True
    ids, mask = _pad_left(prompts, padding)
    with _only_these_settings(model, config):
        out = _generate(model, config, ids.to(device), mask.to(device), [_always_token_one], accelerator)
    return torch.stack(out.logits).float()


def _always_token_one(input_ids: Tensor, scores: Tensor) -> Tensor:
    return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([1], device=scores.device), 0.0)


def _pad_left(prompts: list[np.ndarray], padding: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row] = int(prompt[0])  # a token of the row itself: another one's embedding might be NaN, and 0 * NaN is NaN
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _until_its_end(tokens: Tensor, ends: list[int]) -> Continuation:
    stops = torch.isin(tokens, torch.tensor([-1, *ends]))  # -1: nothing written
    if not stops.any():
        return Continuation(tokens.tolist())
    length = int(stops.nonzero()[0])
    end = int(tokens[length])
    return Continuation(tokens[:length].tolist(), None if end == -1 else end)


def _to_text(tokens: list[int], tokenizer: Any, stop_words: tuple[str, ...]) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    cuts = [text.find(word) for word in stop_words if word in text]
    return text[: min(cuts, default=len(text))].strip()
