"""Estimates of what a model that never saw a row would say, from rows that are not to be forgotten."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.top_k_logps import TopKLogProbs

NEIGHBORS, TEMPERATURE = 64, 0.1
"""Proxy positions that an output is a mean of, and how much more the nearer ones count (docs/methods.md)."""

DISCOUNT = 0.75
"""What each bigram's count is reduced by in favour of pairs that were never seen (Ney et al. 1994)."""

_CHUNK = 1 << 24
"""Numbers in the largest tensor that an estimate holds at a time: 64 MB in float32, and it holds a few of them."""


def match_quantiles(values: Tensor, reference: Tensor) -> Tensor:
    """Gives `values` the distribution of `reference`, and keeps their order: (N,), (M,) -> (N,).

    The n-th smallest value becomes the quantile (n - 1/2) / N of the reference: a single value becomes its median.

    Example:
        >>> match_quantiles(torch.tensor([5.0, 1.0, 3.0]), torch.tensor([-2.0, 0.0, -8.0]))
        tensor([ 0., -8., -2.])
    """
    order = values.argsort(stable=True)
    # By hand, because `torch.quantile` takes at most 16 million values.
    ranked = reference.double().sort().values
    share = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
    at = (share * len(reference) - 0.5).clamp(0, len(reference) - 1)
    low, high = at.floor().long(), at.ceil().long()
    matched = torch.empty_like(values)
    matched[order] = torch.lerp(ranked[low], ranked[high], at - low).to(values.dtype)
    return matched


def with_answer_logps(expected: TopKLogProbs, answer_logps: Tensor) -> TopKLogProbs:
    """The same distributions with other log-probabilities of the answer tokens, (N,), and the others scaled to fit.

    Example:
        >>> q = TopKLogProbs(torch.tensor([[7, 3]]), torch.tensor([[0.5, 0.25, 0.25]]).log())
        >>> with_answer_logps(q, torch.tensor([0.2]).log()).logps.exp()
        tensor([[0.2000, 0.4000, 0.4000]])
    """
    others = expected.logps[:, 1:].log_softmax(dim=-1)
    # A probability of exactly 1 would leave nothing to the others.
    left = torch.log1p(-answer_logps.exp().clamp_max(1 - 1e-6))
    return TopKLogProbs(expected.ids, torch.cat([answer_logps[:, None], others + left[:, None]], dim=-1))


class NearestOutputs:
    """What the model says in the most similar positions of proxies, rows that it never saw.

    For the hidden state h of a position, centred by the mean over the proxies' positions and of unit length, it is the
    mean of the outputs at the `neighbors` nearest proxy positions m, weighted by softmax(cos(h, h_m) / temperature).

    Args:
        states: hidden states at M proxy positions, shape (M, d).
        outputs: the outputs there; the tokens that are not among the k share the rest evenly.
        vocabulary: number of tokens V.
        neighbors, temperature: how many positions count, and how much more the nearer ones do.
    """

    def __init__(
        self,
        states: Tensor,
        outputs: TopKLogProbs,
        vocabulary: int,
        neighbors: int = NEIGHBORS,
        temperature: float = TEMPERATURE,
    ):
        self._center = states.mean(dim=0)
        self._keys = normalize(states - self._center, dim=-1)
        self._ids, self._probabilities = outputs.ids.long(), outputs.logps.exp()
        self._vocabulary, self._temperature = vocabulary, temperature
        self._neighbors = min(neighbors, len(states))

    @property
    def width(self) -> int:
        """Numbers in the largest tensor that is made for a position."""
        return max(self._vocabulary, len(self._keys), self._neighbors * self._probabilities.shape[1])

    @property
    def num_bytes(self) -> int:
        """Bytes of what is kept of the proxies."""
        tables = (self._center, self._keys, self._ids, self._probabilities)
        return sum(table.numel() * table.element_size() for table in tables)

    def logps(self, states: Tensor) -> Tensor:
        """Log-probabilities for hidden states (N, d): (N, V)."""
        device = states.device
        cosines = normalize(states - self._center.to(device), dim=-1) @ self._keys.to(device).T  # (N, M)
        nearest = cosines.topk(self._neighbors, dim=1)
        weights = (nearest.values / self._temperature).softmax(dim=1)  # (N, n)
        at = nearest.indices.cpu()
        ids = self._ids[at].to(device)  # (N, n, k)
        shares = self._probabilities[at].to(device) * weights[..., None]  # (N, n, k + 1)
        even = shares[..., -1] / max(self._vocabulary - ids.shape[-1], 1)  # (N, n)
        mixed = even.sum(dim=1, keepdim=True).repeat(1, self._vocabulary)
        mixed.scatter_add_(1, ids.flatten(1), (shares[..., :-1] - even[..., None]).flatten(1))
        return mixed.clamp_min(torch.finfo(torch.float32).tiny).log()


class BigramOutputs:
    """What a bigram model of answers says that were never those to forget: it knows nothing of the forget rows.

    With c(a, b) the number of times that b follows a in an answer, D the discount and n(a) the number of different
    tokens that follow a: p(b | a) = max(c(a, b) - D, 0) / c(a) + D n(a) / c(a) * u(b), where u(b) is the share of b
    among all answer tokens, with half a token added to each. An answer begins after a token of its own.

    Args:
        answers: the tokens of each answer, shape (n_i,).
        vocabulary: number of tokens V.
    """

    def __init__(self, answers: Sequence[Tensor], vocabulary: int):
        from scipy.sparse import coo_array

        self.vocabulary, begin = vocabulary, torch.tensor([vocabulary])
        before = torch.cat([torch.cat([begin, answer[:-1]]) for answer in answers]).numpy()
        after = torch.cat(list(answers)).numpy()
        ones = torch.ones(len(after)).numpy()
        self._counts = coo_array((ones, (before, after)), shape=(vocabulary + 1, vocabulary)).tocsr()
        self._different = torch.from_numpy(self._counts.indptr).diff()  # n, (V + 1,)
        self._total = torch.from_numpy(self._counts.sum(axis=1))  # c(a), (V + 1,)
        shares = torch.from_numpy(self._counts.sum(axis=0)).float() + 0.5
        self._shares = shares / shares.sum()  # u, (V,)

    def before(self, token_ids: Tensor, token_rows: Tensor) -> Tensor:
        """What each token (N,) of the rows (N,) follows: (N,); V stands for the beginning of an answer."""
        begins = torch.ones_like(token_rows, dtype=torch.bool)
        begins[1:] = token_rows[1:] != token_rows[:-1]
        return token_ids.roll(1).masked_fill(begins, self.vocabulary)

    def of_answers(self, answers: Sequence[Tensor]) -> Tensor:
        """Log-probabilities of the tokens of answers, answer after answer: (N,), nats."""
        owners = torch.repeat_interleave(torch.arange(len(answers)), torch.tensor([len(each) for each in answers]))
        tokens = torch.cat(list(answers))
        return self.logps(self.before(tokens, owners), tokens)

    def logps(self, before: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of tokens (N,) after the tokens `before` (N,): (N,)."""
        rows, columns = (np.array(each.cpu()) for each in (before, tokens))
        seen = torch.from_numpy(np.asarray(self._counts[rows, columns]))
        different, total = self._different[rows], self._total[rows].clamp_min(1)
        unseen = torch.where(different > 0, DISCOUNT * different / total, 1)  # D n(a) / c(a)
        found = (seen - DISCOUNT).clamp_min(0) / total + unseen * self._shares[tokens.cpu()]
        return found.log().to(before.device)


class EstimatedOutputs:
    """What the nearest outputs say at the answer tokens of a batch, as top-k log-probabilities.

    Args:
        nearest: the nearest outputs.
        top_k: most likely tokens that are kept, the answer's token among them.
    """

    def __init__(self, nearest: NearestOutputs, top_k: int):
        self._nearest, self._top_k = nearest, top_k

    @property
    def num_bytes(self) -> int:
        """Bytes of what is kept of the proxies, on the CPU."""
        return self._nearest.num_bytes

    def __call__(self, outputs: AnswerOutputs) -> TopKLogProbs:
        """The estimate at the answer tokens of a batch, whose `states` are read; the answer's token first."""
        states, ids = required(outputs.states, "states"), required(outputs.token_ids, "token_ids")
        size = max(_CHUNK // self._nearest.width, 1)
        parts = [slice(start, start + size) for start in range(0, max(len(ids), 1), size)]
        found = [TopKLogProbs.of(self._nearest.logps(states[part]), self._top_k, first=ids[part]) for part in parts]
        return TopKLogProbs(torch.cat([each.ids for each in found]), torch.cat([each.logps for each in found]))
