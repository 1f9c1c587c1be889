"""The outputs of one forward pass, which are all that losses and guidance see of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from egup_trainer.errors import ConfigError

_Value = TypeVar("_Value")


def required(value: _Value | None, name: str) -> _Value:
    """`value`, which is None unless it was requested.

    Args:
        value: a field of `AnswerOutputs`, or of another object whose fields are set on request.
        name: the name of the field, for the message.

    Raises:
        ConfigError: the value is None.

    Example:
        >>> required(None, "logits")
        Traceback (most recent call last):
        egup_trainer.errors.ConfigError: Got no `logits`, but expected ...
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
    """Values at the answer positions of B rows with N answer tokens in total; float32, with gradient in training.

    Args:
        token_logps: log-probability of each answer token, shape (N,), nats, row after row.
        token_rows: the row of each token, shape (N,), int64.
        num_tokens: number n_i of answer tokens of each row, shape (B,), float32.
        features: mean of the hidden states at a row's answer tokens, shape (B, d), or None if not requested.
        logits: logits at the answer positions, shape (N, V), or None if not requested.
        token_ids: the answer tokens, shape (N,), int64, or None if not requested.
        hidden: hidden states of one layer at the answer tokens, shape (N, d), or None if not requested.
        states: hidden states of the feature layer where the answer tokens are predicted, one position before them,
            shape (N, d), or None if not requested.
        alternate: the outputs of the rows' alternate answers, B rows, or None if not requested.
        positions: number of tokens that the model read, including padding; 0 for a part of a joined batch.

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
    states: Tensor | None = None
    alternate: "AnswerOutputs | None" = None
    positions: int = 0

    def sum_per_row(self, token_values: Tensor) -> Tensor:
        """Sum of `token_values` over each row's tokens: (N,) -> (B,)."""
        return token_values.new_zeros(self.num_tokens.shape).index_add(0, self.token_rows, token_values)

    @property
    def sum_nll(self) -> Tensor:
        """L_i, the negative log-likelihood of the whole answer, shape (B,), nats."""
        return self.sum_per_row(-self.token_logps)

    @property
    def mean_nll(self) -> Tensor:
        """l_i = L_i / n_i, shape (B,), nats per token; 0 for a row without answer tokens."""
        return self.sum_nll / self.num_tokens.clamp_min(1)

    def split(self, sizes: list[int]) -> list["AnswerOutputs"]:
        """Splits a joined batch (which has no `alternate` yet) into parts of the given numbers of consecutive rows."""
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
                cut(self.states, token_sizes),
                strict=True,
            )
        ]
