"""What a model that never saw the forget rows would say at each of their answer tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from egup_trainer.components.component import Component, Needs
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import Step
from egup_trainer.errors import ConfigError, ModelError, check_range
from egup_trainer.losses.proxy_kl import token_gap
from egup_trainer.modeling.loading import load_model
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.probability import sample_ids
from egup_trainer.modeling.reference import adapters_off
from egup_trainer.modeling.scan import RowScores
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs
from egup_trainer.options import OptionGroup, option

ADAPTER_OFF = "adapter_off"
"""The value of `proxy_model` that stands for the model below the adapter."""

NEIGHBORS, TEMPERATURE = 64, 0.1
"""Proxy positions that an expected output is a mean of, and how much nearer ones count: docs/methods.md has others."""

_PROXY_TOP_K = 256
"""Tokens that are kept of each output for a proxy; the other tokens share the rest evenly."""

_MOST_POSITIONS = 1 << 16
"""Proxy positions that are kept: with 256 tokens each, 135 MB."""

_CHUNK = 1 << 26
"""Numbers of a tensor with one entry for each token of the vocabulary that are held at a time: 256 MB."""


@dataclass
class ExpectedOutputOptions(OptionGroup):
    """Options of `ExpectedOutputs`."""

    proxy_model: str | None = option(
        None,
        "A model that never saw the forget rows, such as the base model before fine-tuning, from which the expected "
        "outputs are read instead of from the outputs for proxies: a path or hub id, or adapter_off for the model "
        "below the adapter. Proxies, if given, then set how likely answer tokens are to be.",
    )
    expected_top_k: int = option(
        64, "Most likely tokens that are kept of each expected output, the answer's among them; 2 or more."
    )

    def check_options(self) -> None:
        check_range(self, ("expected_top_k",), low=2, whole=True)


def match_quantiles(values: Tensor, reference: Tensor) -> Tensor:
    """Gives `values` the distribution of `reference`, and keeps their order: (N,), (M,) -> (N,).

    The n-th smallest value becomes the quantile (n - 1) / (N - 1) of the reference.

    Example:
        >>> match_quantiles(torch.tensor([5.0, 1.0, 3.0]), torch.tensor([-2.0, 0.0, -8.0]))
        tensor([ 0., -8., -2.])
    """
    order = values.argsort(stable=True)
    places = torch.linspace(0, 1, len(values), dtype=torch.float64)
    # By hand, because `torch.quantile` takes at most 16 million values.
    ranked, at = reference.double().sort().values, places * (len(reference) - 1)
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
    """Expected outputs from the positions of proxies: what the model says in the most similar places of unseen rows.

    For the hidden state h of a position, centred by the mean over the proxies' positions and of unit length, q is the
    mean of the outputs at the `neighbors` nearest proxy positions m, weighted by softmax(cos(h, h_m) / temperature).

    Args:
        states: hidden states at M proxy positions, shape (M, d).
        outputs: the outputs there.
        vocabulary: number of tokens V.
        top_k: most likely tokens that are kept of q, the answer's token among them.
        neighbors, temperature: how many positions count, and how much more the nearer ones do.
    """

    def __init__(
        self,
        states: Tensor,
        outputs: TopKLogProbs,
        vocabulary: int,
        top_k: int,
        neighbors: int = NEIGHBORS,
        temperature: float = TEMPERATURE,
    ):
        self._center = states.mean(dim=0)
        self._keys = normalize(states - self._center, dim=-1)
        self._ids, self._probabilities = outputs.ids.long(), outputs.logps.exp()
        self._vocabulary, self._top_k, self._temperature = vocabulary, top_k, temperature
        self._neighbors = min(neighbors, len(states))

    def __call__(self, outputs: AnswerOutputs) -> TopKLogProbs:
        """q at the answer tokens of a batch, from its `states` and `token_ids`; the answer's token comes first."""
        states, answers = required(outputs.states, "states"), required(outputs.token_ids, "token_ids")
        size = max(_CHUNK // self._vocabulary, 1)
        parts = zip(states.split(size), answers.split(size), strict=True)
        found = [TopKLogProbs.of(self.logps(part), self._top_k, first) for part, first in parts]
        empty = [TopKLogProbs.of(states.new_zeros(0, self._vocabulary), self._top_k)]
        return TopKLogProbs(*(torch.cat(values) for values in zip(*(vars(each).values() for each in found or empty))))

    def logps(self, states: Tensor) -> Tensor:
        """log q for hidden states (N, d): (N, V)."""
        self._to(states.device)
        cosines = normalize(states - self._center, dim=-1) @ self._keys.T  # (N, M)
        nearest = cosines.topk(self._neighbors, dim=1)
        weights = (nearest.values / self._temperature).softmax(dim=1)  # (N, n)
        shares = self._probabilities[nearest.indices] * weights[..., None]  # (N, n, k + 1)
        ids = self._ids[nearest.indices]  # (N, n, k)
        even = shares[..., -1] / max(self._vocabulary - ids.shape[-1], 1)  # (N, n), of each token not among the k
        mixed = even.sum(dim=1, keepdim=True).repeat(1, self._vocabulary)
        mixed.scatter_add_(1, ids.flatten(1), (shares[..., :-1] - even[..., None]).flatten(1))
        return mixed.clamp_min(torch.finfo(torch.float32).tiny).log()

    def _to(self, device: torch.device) -> None:
        for name in ("_center", "_keys", "_ids", "_probabilities"):
            setattr(self, name, getattr(self, name).to(device))


class ExpectedOutputs(Component):
    """Estimates, before the first step, what a model that never saw the forget rows would say at their answer tokens.

    The source is a `proxy_model` that never saw the rows, if there is one, or else `NearestOutputs` of the proxies. How
    likely the answer tokens are is then set by the proxies, if there are any: their log-probabilities keep their order
    and get the distribution of those of the proxies' tokens under the model before unlearning (`match_quantiles`).
    Whatever made the order, forget rows thereby end with as many likely and unlikely tokens as unseen rows have.

    The trainer adds it when a forget loss or a component needs it.

    Args:
        options: a configuration with `ExpectedOutputOptions`.
        has_proxies: whether proxy rows are given.

    Raises:
        ConfigError: there is neither a proxy model nor a proxy row, or there is no adapter to switch off.
        ModelError: the proxy model cannot be loaded, or has another vocabulary.

    Attributes:
        table: the expected outputs at all answer tokens of the forget rows, on the CPU: the answer's token first, then
            the most likely others, and the rest.
    """

    name = "expected_outputs"
    flag = "objective=proxy_kl"
    table: TopKLogProbs

    def __init__(self, options: Any, has_proxies: bool):
        self._proxy_model, self._top_k = options.proxy_model, options.expected_top_k
        if not has_proxies and not self._proxy_model:
            raise ConfigError(
                got=f"{self.flag} without proxies and without a proxy model",
                expected="a source of the outputs of a model that never saw the forget rows",
                fix="give proxy_dataset (--proxy), or --proxy_model, such as the base model before fine-tuning",
            )
        self.needs = Needs(proxy_rows=has_proxies or not self._proxy_model)

    def scan(self) -> dict[str, ScanRequest]:
        if not self.needs.proxy_rows:
            return {}
        rows, from_proxies = self.run.needed_proxy_rows, not self._proxy_model
        ids = sample_ids(len(rows), self.run.seed, len(rows))
        counts = torch.tensor([len(rows.rows[index]) for index in ids.tolist()])
        fitting = int((counts.cumsum(0) <= _MOST_POSITIONS).sum())
        top_k = _PROXY_TOP_K if from_proxies else 1
        ids = ids[: max(fitting, 1)].sort().values
        return {self.name: ScanRequest(rows, ids, top_k=top_k, answer_first=True, with_states=from_proxies)}

    def start(self, scan: dict[str, RowScores]) -> None:
        proxies = scan.get(self.name)
        table = self._read_proxy_model(self._proxy_model) if self._proxy_model else self._estimate(scan[self.name])
        if proxies is not None:
            seen = required(proxies.top_k_logps, "top_k_logps").logps[:, 0]
            table = with_answer_logps(table, match_quantiles(table.logps[:, 0], seen))
        self.load_state_dict(vars(table))

    def _estimate(self, proxies: RowScores) -> TopKLogProbs:
        """What the model says in the most similar positions of the proxies."""
        estimate = NearestOutputs(
            required(proxies.states, "states"),
            required(proxies.top_k_logps, "top_k_logps"),
            self.run.model.get_input_embeddings().weight.shape[0],
            self._top_k,
        )
        return required(self.run.score(self.run.forget_rows, estimate=estimate).top_k_logps, "top_k_logps")

    def _read_proxy_model(self, name: str) -> TopKLogProbs:
        """What the proxy model says at the answer tokens of the forget rows."""
        rows, options = self.run.forget_rows, {"top_k": self._top_k, "answer_first": True}
        if name != ADAPTER_OFF:
            return required(self.run.score(rows, model=self._load(name), **options).top_k_logps, "top_k_logps")
        if not hasattr(self.run.model, "disable_adapter"):
            raise ConfigError(
                got=f"proxy_model={ADAPTER_OFF} for a model without an adapter",
                expected="a model whose adapter has learned the forget rows",
                fix="name the base model instead (--proxy_model)",
            )
        with adapters_off(self.run.model):
            return required(self.run.score(rows, **options).top_k_logps, "top_k_logps")

    def _load(self, name: str) -> Any:
        model = load_model(name, dtype=self.run.model.dtype).to(self.run.device)
        sizes = [each.get_input_embeddings().weight.shape[0] for each in (model, self.run.model)]
        if sizes[0] != sizes[1]:
            raise ModelError(
                got=f"the proxy model {name} with {sizes[0]} tokens",
                expected=f"the vocabulary of the model that unlearns, {sizes[1]} tokens",
                fix="use the base model that it was fine-tuned from",
            )
        return model

    def of(self, step: Step) -> TopKLogProbs:
        """The expected outputs at the answer tokens of the forget rows of a micro-batch."""
        ids = step.forget_ids
        return self.table.at(self._tokens.of_rows(ids[ids >= 0].cpu())).to(ids.device)  # fillers have no tokens

    def observe(self, step: Step) -> None:
        gap = token_gap(step.forget, self.of(step))  # (N,)
        tokens = step.forget.num_tokens.clamp_min(1)
        step.observe("expected_gap", step.forget.sum_per_row(gap.abs()) / tokens)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self.table))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.table = TopKLogProbs(**{name: values.cpu() for name, values in state.items()})
        self._tokens = TokenOffsets.of(self.run.forget_rows)
