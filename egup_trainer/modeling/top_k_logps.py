"""Top-k log-probabilities: a model's distribution at each answer token as its k most likely tokens and the rest."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.forward import count_answer_tokens

_CHUNK = 1 << 22
"""Number of logits that are processed at a time, so that no second tensor of their size is made."""


@dataclass(frozen=True)
class TopKLogProbs:
    """The k most likely tokens at each of N answer positions.

    Args:
        ids: the tokens, shape (N, k), int32.
        logps: their log-probabilities, and last that of all other tokens together, shape (N, k + 1), float32, nats.
    """

    ids: Tensor
    logps: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int, first: Tensor | None = None) -> "TopKLogProbs":
        """The top k of logits (N, V), at most V - 1 of them.

        Args:
            logits: shape (N, V), or log-probabilities.
            first: a token for each position that is kept, too, and comes first, shape (N,).

        Example:
            >>> TopKLogProbs.of(torch.tensor([[0.0, 2.0, 1.0]]), k=1).ids
            tensor([[1]], dtype=torch.int32)
            >>> TopKLogProbs.of(torch.tensor([[0.0, 2.0, 1.0]]), k=2, first=torch.tensor([0])).ids
            tensor([[0, 1]], dtype=torch.int32)
        """
        k, size = min(k, logits.shape[-1] - 1), max(_CHUNK // logits.shape[-1], 1)
        parts = []
        for index, part in enumerate(logits.split(size)):
            ranked = part
            if first is not None:
                answers = first[index * size : index * size + len(part), None]
                ranked = part.scatter(1, answers, torch.inf)
            ids = ranked.topk(k, dim=-1).indices
            parts.append((ids.int(), coarse_logps(part, ids)))
        return cls(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def at(self, indices: Tensor) -> "TopKLogProbs":
        """A part of the positions, by indices of shape (M,)."""
        return TopKLogProbs(self.ids[indices], self.logps[indices])

    def to(self, device: torch.device) -> "TopKLogProbs":
        """A copy on a device."""
        return TopKLogProbs(self.ids.to(device), self.logps.to(device))


def coarse_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of some tokens, and last of all others together: (N, V), (N, k) -> (N, k + 1), nats.

    Example:
        >>> coarse_logps(torch.zeros(1, 4), torch.tensor([[2]])).exp()
        tensor([[0.2500, 0.7500]])
    """
    ids = ids.long()
    others = logits.scatter(1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True)  # (N, 1)
    return torch.cat([logits.gather(1, ids), others], dim=-1).log_softmax(dim=-1)


class TokenOffsets:
    """Where the answer tokens of each row are in a table of all rows' answer tokens, row after row.

    Args:
        counts: number of answer tokens of each row, shape (R,), int64.
    """

    def __init__(self, counts: Tensor):
        self.counts, self._starts = counts, counts.cumsum(0) - counts

    @classmethod
    def of(cls, dataset: RowDataset, ids: Iterable[int] | None = None) -> "TokenOffsets":
        """The offsets of some rows of a data set, or of all."""
        rows = [dataset.rows[index] for index in (range(len(dataset)) if ids is None else ids)]
        return cls(torch.cat([count_answer_tokens(torch.as_tensor(row.labels)[None]) for row in rows]))

    @property
    def total(self) -> int:
        """Number of answer tokens of all rows."""
        return int(self.counts.sum())

    def of_rows(self, rows: Tensor) -> Tensor:
        """Indices of the tokens of some rows, in the order of the rows: (B,) -> (N,).

        Example:
            >>> TokenOffsets(torch.tensor([2, 1, 3])).of_rows(torch.tensor([2, 0]))
            tensor([3, 4, 5, 0, 1])
        """
        device, rows = rows.device, rows.to(self.counts.device)
        counts = self.counts[rows]
        firsts = (self._starts[rows] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
        return (firsts + torch.arange(len(firsts), device=firsts.device)).to(device)

    def to(self, device: torch.device) -> "TokenOffsets":
        """A copy on a device."""
        return TokenOffsets(self.counts.to(device))


def top_k_bytes(tokens: int, k: int) -> int:
    """Size of the top-k log-probabilities of that many tokens, in bytes."""
    return tokens * (k + (k + 1)) * 4  # int32 ids, float32 log-probabilities
