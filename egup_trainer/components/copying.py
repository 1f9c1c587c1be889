"""How likely tokens of answers are to somebody who knows the prompt, and no row that is to be forgotten."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from egup_trainer.components.output_estimates import BigramOutputs
from egup_trainer.data.schema import TokenizedRow
from egup_trainer.modeling.forward import answer_positions

_ROUNDS = 50
"""Rounds of expectation maximization, which converges within a few."""


class CopyingBigrams:
    """A bigram model of answers that may copy tokens of the prompt, such as the name of whom a question is about.

    For token v after token a: p(v) = lambda * p_copy(v) + (1 - lambda) * p_bigram(v | a). If a stands in the prompt,
    p_copy is the share of v among the tokens that follow a there, and otherwise among all tokens of the prompt. There
    is a lambda for each of the two cases, found by expectation maximization on either half of the rows under the
    bigrams of the other half. Without a prompt, nothing is copied. (Bigrams as in `BigramOutputs`; a model of recent
    words beside an n-gram model is that of Kuhn and De Mori 1990; the mixture is ours.)

    Args:
        rows: rows that are not to be forgotten, such as retain rows and proxies.
        vocabulary: number of tokens V.

    Attributes:
        shares: lambda where the token before does not stand in the prompt, and where it does.

    Example:
        >>> import numpy as np
        >>> def row(*tokens, answer):
        ...     labels = [-100] * (len(tokens) - answer) + list(tokens[-answer:])
        ...     return TokenizedRow(np.int32(tokens), np.int32(labels))
        >>> rows = [row(5, 6, 6, answer=1), row(7, 8, 8, answer=1)]  # each answer is the last token of its prompt
        >>> likely = CopyingBigrams(rows, vocabulary=10).logps([row(3, 4, 4, answer=1), row(3, 4, 9, answer=1)])
        >>> bool(likely[0] > likely[1])
        True
    """

    def __init__(self, rows: Sequence[TokenizedRow], vocabulary: int):
        answers, half = [answer_tokens(row) for row in rows], len(rows) // 2
        self._bigrams = BigramOutputs(answers, vocabulary)
        self.shares = torch.zeros(2, dtype=torch.float64)
        if not half:
            return
        # Neighbors are often about the same, so that a random half would have seen what the other one copies.
        crossed = [
            BigramOutputs(known, vocabulary).of_answers(asked)
            for known, asked in ((answers[half:], answers[:half]), (answers[:half], answers[half:]))
        ]
        bigrams = torch.cat(crossed).double().exp()
        copied, inside, has_prompt = _copied(rows)
        for case in (0, 1):
            at = (inside == case) & has_prompt
            self.shares[case] = _mixture_share(copied[at], bigrams[at])

    def logps(self, rows: Sequence[TokenizedRow]) -> Tensor:
        """Log-probabilities of the answer tokens of rows, row after row: (N,), nats."""
        copied, inside, has_prompt = _copied(rows)
        share = self.shares[inside.long()] * has_prompt
        bigrams = self._bigrams.of_answers([answer_tokens(row) for row in rows]).double().exp()
        return (share * copied + (1 - share) * bigrams).log().float()


def answer_tokens(row: TokenizedRow) -> Tensor:
    """The answer tokens that a model predicts, (n,): of a text without a prompt, all but the first.

    Example:
        >>> import numpy as np
        >>> answer_tokens(TokenizedRow(np.int32([5, 6, 7]), np.int32([5, 6, 7])))
        tensor([6, 7])
    """
    return answer_positions(torch.as_tensor(row.labels, dtype=torch.long)[None])[2]


def _copied(rows: Sequence[TokenizedRow]) -> tuple[Tensor, Tensor, Tensor]:
    """p_copy of each answer token, whether the token before it stands in the prompt, and whether there is one."""
    copied, inside, has_prompt = [], [], []
    for row in rows:
        prompt = row.prompt.tolist()
        every, after = Counter(prompt), defaultdict[int, Counter[int]](Counter)
        for first, second in pairwise(prompt):
            after[first][second] += 1
        before = -1  # no token
        for token in answer_tokens(row).tolist():
            found = after.get(before)
            counts = every if found is None else found
            copied.append(counts[token] / max(counts.total(), 1))
            inside.append(found is not None)
            has_prompt.append(bool(prompt))
            before = token
    return torch.tensor(copied, dtype=torch.float64), torch.tensor(inside), torch.tensor(has_prompt)


def _mixture_share(first: Tensor, second: Tensor) -> float:
    """The share of the first of two models in their mixture that makes tokens most likely, of which each gives p, (N,).

    Example:
        >>> round(_mixture_share(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.full((4,), 1e-9)), 3)
        0.5
    """
    share = 0.5
    for _ in range(_ROUNDS if len(first) else 0):
        share = float((share * first / (share * first + (1 - share) * second)).mean())
    return share if len(first) else 0.0
