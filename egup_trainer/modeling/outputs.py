"""What one forward pass yields: the only thing of a model that losses and guidance ever see."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from egup_trainer.errors import ConfigError

_Value = TypeVar("_Value")


def required(value: _Value | None, name: str) -> _Value:
    """`value`, which is None unless it was asked for.

    Args:
        value: a field of `AnswerOutputs`, or of another object whose fields are filled on request.
        name: the name of the field, for the message.

    Raises:
        ConfigError: it was not asked for.

    Example:
        >>> required(None, "logits")
        Traceback (most recent call last):
        egup_trainer.errors.ConfigError: got no `logits`; expected a loss that declares what it reads; declare it, ...
    """
    if value is None:
        raise ConfigError(
            got=f"no `{name}`",
            expected="a loss that declares what it reads",
            fix="declare it, as docs/extending.md shows",
        )
    return value


@dataclass(frozen=True)
class AnswerOutputs:
    """Numbers at the answer positions of B rows with N answer tokens in all; float32, with gradient in training.

    Args:
        token_logps: log-probability of each answer token, shape (N,), nats, row after row.
        token_rows: the row that each token belongs to, shape (N,), int64.
        num_tokens: answer tokens n_i of each row, shape (B,), float32.
        features: mean of the hidden states at a row's answer tokens, shape (B, d), or None if not asked for.
        logits: logits at the answer positions, shape (N, V), or None if not asked for.
        token_ids: the answer tokens themselves, shape (N,), int64, or None if not asked for.
        hidden: hidden states of one layer at the answer tokens, shape (N, d), or None if not asked for.
        alternate: the same of the rows' alternate answers, B rows, or None if not asked for.
        positions: tokens that the model read for these rows, padding among them; 0 for a part of a joined batch.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-1.0, -3.0]), torch.tensor([0, 0]), torch.tensor([2.0]))
        >>> out.sum_nll, out.mean_nll
        (tensor([4.]), tensor([2.]))
    """

    token_logps: Tensor
    token_rows: Tensor
    num_tokens: Tensor
    features: Tensor | None = None
    logits: Tensor | None = None
    token_ids: Tensor | None = None
    hidden: Tensor | None = None
    alternate: "AnswerOutputs | None" = None
    positions: int = 0

    def sum_per_row(self, token_values: Tensor) -> Tensor:
        """Sum of `token_values` over each row's tokens: (N,) -> (B,)."""
        return token_values.new_zeros(self.num_tokens.shape).index_add(0, self.token_rows, token_values)

    @property
    def sum_nll(self) -> Tensor:
        """L_i, negative log-likelihood of the whole answer, shape (B,), nats."""
        return self.sum_per_row(-self.token_logps)

    @property
    def mean_nll(self) -> Tensor:
        """l_i = L_i / n_i, shape (B,), nats per token; 0 for a row without answer tokens."""
        return self.sum_nll / self.num_tokens.clamp_min(1)

    def split(self, sizes: list[int]) -> list["AnswerOutputs"]:
        """Parts of consecutive rows, of the given numbers of rows, of a joined batch (which has no `alternate` yet)."""
        token_sizes = [int(part.sum()) for part in self.num_tokens.split(sizes)]
        starts = [sum(sizes[:index]) for index in range(len(sizes))]

        def cut(values: Tensor | None, lengths: list[int]) -> Sequence[Tensor | None]:
            return values.split(lengths) if values is not None else [None] * len(sizes)

        return [
            AnswerOutputs(logps, rows - start, *others)
            for logps, rows, start, *others in zip(
                self.token_logps.split(token_sizes),
                self.token_rows.split(token_sizes),
                starts,
                self.num_tokens.split(sizes),
                cut(self.features, sizes),
                cut(self.logits, token_sizes),
                cut(self.token_ids, token_sizes),
                cut(self.hidden, token_sizes),
                strict=True,
            )
        ]
