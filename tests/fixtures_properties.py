"""Strategies of tests/properties: numbers with long tails, and rows of answers that can be joined in any order."""

from collections.abc import Sized
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.nn.functional import normalize

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.top_k_logps import TopKLogProbs

FAR = 1e4
"""Logits, hidden states and nats go so far to both sides: answers that are certain, and hopeless ones."""

LONG_TAILED = st.floats(-FAR, FAR, width=32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.lists(
    st.sampled_from(["a", "A", "b", "Zoë", "lives", "7", ".", "東京"]), max_size=8
).map(" ".join)
"""Any text, and texts whose words come again."""


def tensors(*shape: int, elements: st.SearchStrategy = LONG_TAILED) -> st.SearchStrategy[Tensor]:
    """float32 tensors of that shape; many of their numbers are equal."""
    return arrays(np.float32, shape, elements=elements).map(torch.from_numpy)


def units(rows: int, size: int = 3) -> st.SearchStrategy[Tensor]:
    """Vectors of length 1, among them equal ones, and of length 0, as features have that lie at the centre."""
    return tensors(rows, size, elements=st.integers(-2, 2)).map(lambda vectors: normalize(vectors.float(), dim=-1))


def draw_order(data: st.DataObject, rows: Sized) -> Tensor:
    """The indices of `rows` in any order."""
    return torch.tensor(data.draw(st.permutations(range(len(rows)))), dtype=torch.long)


@dataclass(frozen=True)
class AnswerRow:
    """What a model says of one row with n answer tokens, now and before unlearning.

    Args:
        logits, before: shape (n, V). token_ids: shape (n,). hidden, hidden_before: shape (n, d).
        alternate: log-probabilities of another answer's tokens, shape (m,).
        alternate_nll: L^0 of that answer.
    """

    logits: Tensor
    before: Tensor
    token_ids: Tensor
    hidden: Tensor
    hidden_before: Tensor
    alternate: Tensor
    alternate_nll: float


@st.composite
def answer_rows(draw: st.DrawFn, least: int = 0) -> list[AnswerRow]:
    """One to four rows of up to three answer tokens, over a vocabulary of two to five."""
    size = draw(st.integers(2, 5))

    def row() -> AnswerRow:
        count = draw(st.integers(least, 3))
        return AnswerRow(
            *(draw(tensors(count, size)) for _ in range(2)),
            torch.tensor(draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count)), dtype=torch.long),
            *(draw(tensors(count, 2)) for _ in range(2)),
            draw(tensors(draw(st.integers(1, 2)), elements=st.floats(-FAR, 0, width=32))),
            draw(st.floats(0, FAR, width=32)),
        )

    rows = [row() for _ in range(draw(st.integers(1, 3)))]
    return rows + rows[:1] * draw(st.integers(0, 1))  # identical rows


@dataclass(frozen=True)
class Joined:
    """Rows in one batch, and the leaves that gradients arrive at: logits, hidden states, alternate log-probabilities.

    Args:
        sizes: of each row's leaves.
    """

    outputs: AnswerOutputs
    reference: ReferenceOutputs
    leaves: list[Tensor]
    sizes: list[list[int]]

    def gradients(self, values: Tensor) -> list[list[Tensor]]:
        """Those of the sum of values, by row, then by leaf."""
        found = torch.autograd.grad(values.sum(), self.leaves, allow_unused=True)
        whole = [torch.zeros_like(leaf) if each is None else each for leaf, each in zip(self.leaves, found)]
        parts = [each.split(sizes) for each, sizes in zip(whole, self.sizes, strict=True)]
        return [list(row) for row in zip(*parts, strict=True)]


def join(rows: list[AnswerRow], top_k: int | None = None, answer_first: bool = False) -> Joined:
    """The rows as one batch; of the reference model, the top `top_k` log-probabilities or whole logits are known.

    With `answer_first` the answer's own token is among the top ones, as their first.
    """
    logits, hidden, alternates = (
        torch.cat([getattr(row, name) for row in rows]).requires_grad_() for name in ("logits", "hidden", "alternate")
    )
    before, token_ids = (torch.cat([getattr(row, name) for row in rows]) for name in ("before", "token_ids"))
    sizes, alternate_sizes = ([len(getattr(row, name)) for row in rows] for name in ("token_ids", "alternate"))
    owners, alternate_owners = (
        torch.arange(len(rows)).repeat_interleave(torch.tensor(s)) for s in (sizes, alternate_sizes)
    )
    alternate = AnswerOutputs(alternates, alternate_owners, torch.tensor(alternate_sizes).float())
    outputs = AnswerOutputs(
        _logps(logits, token_ids),
        owners,
        torch.tensor(sizes).float(),
        logits=logits,
        token_ids=token_ids,
        hidden=hidden,
        alternate=alternate,
    )
    reference = ReferenceOutputs(
        sum_nll=outputs.sum_per_row(-_logps(before, token_ids)).detach(),
        logits=before,
        hidden=torch.cat([row.hidden_before for row in rows]),
        alternate_nll=torch.tensor([row.alternate_nll for row in rows]),
        top_k_logps=None if top_k is None else TopKLogProbs.of(before, top_k, token_ids if answer_first else None),
    )
    return Joined(outputs, reference, [logits, hidden, alternates], [sizes, sizes, alternate_sizes])


def _logps(logits: Tensor, token_ids: Tensor) -> Tensor:
    return logits.log_softmax(dim=-1).gather(1, token_ids[:, None]).squeeze(1)
