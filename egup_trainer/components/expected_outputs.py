"""What a model that never saw the forget rows would say at each of their answer tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from egup_trainer.components.component import Component, Needs
from egup_trainer.components.output_estimates import (
    BigramOutputs,
    EstimatedOutputs,
    NearestOutputs,
    match_quantiles,
    with_answer_logps,
)
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import Step
from egup_trainer.errors import ConfigError, ModelError, check_range
from egup_trainer.losses.proxy_kl import token_gap
from egup_trainer.modeling.forward import answer_positions
from egup_trainer.modeling.loading import load_model
from egup_trainer.modeling.outputs import required
from egup_trainer.modeling.probability import sample_ids
from egup_trainer.modeling.reference import adapters_off
from egup_trainer.modeling.scan import RowScores
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs
from egup_trainer.options import OptionGroup, option

ADAPTER_OFF = "adapter_off"
"""The value of `proxy_model` that stands for the model below the adapter."""

_PROXY_TOP_K = 256
"""Tokens that are kept of each output for a proxy; the other tokens share the rest evenly."""

_MOST_POSITIONS = 1 << 16
"""Proxy positions that are kept: with 256 tokens each, 135 MB."""


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


class ExpectedOutputs(Component):
    """Estimates, before the first step, what a model that never saw the forget rows would say at their answer tokens.

    The source is a `proxy_model` that never saw the rows, if there is one, or else `EstimatedOutputs` from proxies and
    retain rows. How
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
        self._proxy_ids = ids[: max(fitting, 1)].sort().values
        return {self.name: ScanRequest(rows, self._proxy_ids, top_k=top_k, answer_first=True, with_states=from_proxies)}

    def start(self, scan: dict[str, RowScores]) -> None:
        proxies = scan.get(self.name)
        table = self._read_proxy_model(self._proxy_model) if self._proxy_model else self._estimate(scan[self.name])
        if proxies is not None:
            seen = required(proxies.top_k_logps, "top_k_logps").logps[:, 0]
            table = with_answer_logps(table, match_quantiles(table.logps[:, 0], seen))
        self.load_state_dict(vars(table))

    def _estimate(self, proxies: RowScores) -> TopKLogProbs:
        """From what the model says in similar positions of the proxies, and from the retain and the proxy answers."""
        vocabulary = self.run.model.get_input_embeddings().weight.shape[0]
        outputs = required(proxies.top_k_logps, "top_k_logps")
        nearest = NearestOutputs(required(proxies.states, "states"), outputs, vocabulary)
        read = [self.run.needed_proxy_rows.rows[index] for index in self._proxy_ids.tolist()]
        if self.run.retain_rows is not None:
            read += [self.run.retain_rows.rows[index] for index in self.run.retain_sample().tolist()]
        answers = [answer_positions(torch.as_tensor(row.labels)[None])[2] for row in read]
        bigrams = BigramOutputs(answers, vocabulary)
        estimate = EstimatedOutputs(nearest, bigrams, self._top_k)
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
