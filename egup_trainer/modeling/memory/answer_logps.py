"""Log-probabilities of answer tokens without a second copy of the logits.

The plain way holds the logits, their float32 copy, its log-softmax and two gradients, each (tokens x vocabulary). Here
there is one such tensor, the output of the output embedding in its own type: float32 values are computed for a few
tokens at a time, and the gradient overwrites the logits, which nothing needs any more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 1 << 22
"""Number of logits that are held in float32 at a time: 16 MB."""

_RTOL, _ATOL = 0.02, 0.1
"""How far a logit may be from the expected one: more than bfloat16 rounds off, less than other transforms change."""

_LARGEST = 100.0
"""The largest logit, before a cap, that a transform is tried with: a cap of 30 hardly changes small ones."""

_MOST = 1e4
"""The largest output of the output embedding that it is tried with, which float16 can hold."""


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the output x of its output embedding: y = multiplier * x, then y = cap * tanh(y / cap).

    Args:
        multiplier: 1 in most models.
        cap: the soft cap, or None.

    Example:
        >>> LogitTransform(multiplier=0.5)(torch.tensor([3.0]))
        tensor([1.5000])
    """

    multiplier: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "LogitTransform":
        """The transform of a model, from its text configuration."""
        multiplier = 1.0
        for name, power in (("logit_scale", 1), ("lm_head_multiplier", 1), ("logits_scaling", -1)):
            multiplier *= float(getattr(config, name, None) or 1.0) ** power
        return cls(multiplier, getattr(config, "final_logit_softcapping", None))

    def __call__(self, raw: Tensor) -> Tensor:
        scaled = raw * self.multiplier if self.multiplier != 1 else raw
        return torch.tanh(scaled / self.cap) * self.cap if self.cap else scaled

    def derivative(self, logits: Tensor) -> Tensor | float:
        """dy / dx at y = `logits`."""
        return self.multiplier * (1 - (logits / self.cap) ** 2) if self.cap else self.multiplier


def answer_logps(raw: Tensor, targets: Tensor, transform: LogitTransform) -> Tensor:
    """log softmax(transform(raw))[target] of each token, in float32: (N, V), (N,) -> (N,), nats.

    The backward pass overwrites `raw` with the gradient: no other operation may need `raw` for its own gradient.

    Example:
        >>> answer_logps(torch.zeros(1, 4), torch.tensor([2]), LogitTransform())  # -log 4
        tensor([-1.3863])
    """
    return _AnswerLogps.apply(raw, targets, transform)[0]


class HeadReading:
    """Computes log-probabilities at the output embedding, and lets the model go on with the first token's logits.

    Args:
        targets: the answer tokens, shape (N,).
        transform: what the model will do to the logits.
        is_trial: whether the model goes on with numbers that become logits from -100 to 100 instead, to see whether
            what it makes of them is what the transform does. A reader tries a model once, in the mode that it is in.

    Attributes:
        is_done: whether they are computed; under torch.compile they are not, and all logits pass.
    """

    def __init__(self, targets: Tensor, transform: LogitTransform, is_trial: bool = False):
        self._targets, self._transform, self._is_trial = targets, transform, is_trial
        self._logps = self._first = targets.new_zeros(0)
        self.is_done = False

    def after(self, forward: Callable) -> Callable:
        """The forward of the output embedding, followed by the reading."""
        return lambda *args, **kwargs: self(forward(*args, **kwargs))

    def __call__(self, raw: Tensor) -> Tensor:
        """Takes the output of the embedding, (1, N, V), and returns that of the first token, (1, at most 1, V)."""
        if torch.compiler.is_compiling():
            return raw
        self._logps, first = _AnswerLogps.apply(raw.flatten(0, 1), self._targets.to(raw.device), self._transform)
        if self._is_trial:  # the difference keeps the graph, on which wrappers rely
            largest = min(_LARGEST / abs(self._transform.multiplier), _MOST)
            first = first - first.detach() + torch.linspace(-largest, largest, raw.shape[-1]).to(raw)
        self._first, self.is_done = first.detach().flatten(0, 1), True
        return first

    def logps(self, logits: Tensor) -> Tensor:
        """The log-probabilities, shape (N,), on the device of the logits.

        Their gradient reaches the model's logits (1, V) as zeros, which triggers what wrappers do at the output of a
        module, such as gathering its weights for the backward pass (FSDP2).
        """
        return _Through.apply(self._logps.to(logits.device), logits)

    def explains(self, logits: Tensor) -> bool:
        """Whether the logits that the model has made of what it went on with, shape (1, V), are the transform's."""
        expected = self._transform(self._first.float()).to(logits.device)
        return torch.allclose(logits.float(), expected, rtol=_RTOL, atol=_ATOL)


class _AnswerLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, targets: Tensor, transform: LogitTransform) -> tuple[Tensor, Tensor]:
        normalisers = torch.empty(len(raw), dtype=torch.float32, device=raw.device)
        chosen = torch.empty_like(normalisers)
        for part in _parts(raw):
            logits = transform(raw[part].float())
            normalisers[part] = logits.logsumexp(dim=-1)
            chosen[part] = logits.gather(1, targets[part, None]).squeeze(1)
        ctx.save_for_backward(raw, targets, normalisers)
        ctx.transform = transform
        return chosen - normalisers, raw[:1].unsqueeze(0).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        raw, targets, normalisers = ctx.saved_tensors
        for part in _parts(raw):
            logits = ctx.transform(raw[part].float())
            slope = ctx.transform.derivative(logits)
            gradient = (logits - normalisers[part, None]).exp_().neg_()  # of log softmax: one-hot - softmax
            gradient[torch.arange(len(gradient), device=gradient.device), targets[part]] += 1
            raw[part] = gradient.mul_(slope).mul_(upstream[part, None])
        return raw, None, None


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logps: Tensor, logits: Tensor) -> Tensor:
        ctx.like = logits.new_empty(0), logits.shape
        return logps.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        kind, shape = ctx.like
        return upstream, kind.new_zeros(shape)


def _parts(raw: Tensor) -> Iterator[slice]:
    """Slices of rows, a chunk each."""
    rows = max(_CHUNK // raw.shape[1], 1)
    return (slice(start, start + rows) for start in range(0, len(raw), rows))
