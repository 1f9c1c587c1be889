"""What a model that never saw the forget rows would say at each of their answer tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from math import log
from typing import Any

import torch
from torch import Tensor

from egup_trainer.components.component import Component, Needs, Run
from egup_trainer.components.copying import CopyingBigrams
from egup_trainer.components.known_proxies import refuse_known_proxies
from egup_trainer.components.output_estimates import (
    EstimatedOutputs,
    NearestOutputs,
    match_quantiles,
    with_answer_logps,
)
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import Step
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ConfigError, DataError, check_range
from egup_trainer.losses.proxy_kl import token_gap
from egup_trainer.modeling.base_weights import weights_digest
from egup_trainer.modeling.outputs import required
from egup_trainer.modeling.reference import adapters_off
from egup_trainer.modeling.scan import RowScores
from egup_trainer.modeling.top_k_logps import TokenOffsets, TopKLogProbs
from egup_trainer.options import OptionGroup, option
from egup_trainer.records.judgments import knows_proxies
from egup_trainer.records.schema import ADAPTER_OFF

EXAMPLE_SHARE = 0.2
"""Share of the forget rows that are read after an example with auto."""

_PROXY_TOP_K = 256
"""Tokens that are kept of each output for a proxy; the other tokens share the rest evenly."""

_MOST_POSITIONS = 1 << 16
"""Proxy positions that are kept: with 256 tokens each, 135 MB."""

_LIKELY, _UNLIKELY = 0.5, 0.01
"""In logs, tokens count as likely from the first expected probability on, and as unlikely up to the second."""

_MET = 0.5
"""A token whose log-probability differs by no more than so many nats from what is expected counts as met."""

_FORGET = "forget"
"""The scan of the forget rows, which other components may ask for, too."""


@dataclass
class ExpectedOutputOptions(OptionGroup):
    """Options of `ExpectedOutputs`."""

    proxy_model: str | None = option(
        None,
        "A model that never saw the forget rows, such as the base model before fine-tuning: a path or hub id, or "
        "adapter_off for the model below the adapter. The expected outputs are read from it instead of from the "
        "outputs for proxies; proxies, if given, then set how likely answer tokens are to be.",
    )
    expected_top_k: int = option(
        64, "Most likely tokens that are kept of each expected output, the answer's among them; 2 or more."
    )

    example_share: float | None = option(
        None,
        "Share of the forget rows, from 0 to 1, that are read after a retain row and its answer, with the same "
        "expected outputs, so that they are not forgotten in their usual prompt alone. By default 0.2 with auto, "
        "unless a component reads features, and else 0.",
    )

    def check_options(self) -> None:
        check_range(self, ("expected_top_k",), low=2, whole=True)
        check_range(self, ("example_share",), low=0, high=1)

    def refuse_unread_options(self, objective: str) -> None:
        """Raises `ConfigError` if an option is set although nothing in the run reads expected outputs."""
        for each in fields(ExpectedOutputOptions):
            if getattr(self, each.name) != each.default:
                raise ConfigError(
                    got=f"{each.name}={getattr(self, each.name)} with objective={objective}",
                    expected="an objective that reads expected outputs, such as proxy_kl",
                    fix=f"set --objective proxy_kl, or leave out --{each.name}",
                )


class ExpectedOutputs(Component):
    """Estimates, before the first step, what a model that never saw the forget rows would say at their answer tokens.

    The source is a `proxy_model` that never saw the rows, if there is one, or else `EstimatedOutputs` from proxies and
    retain rows. How likely the answer tokens are is then set by the proxies, if there are any: their log-probabilities
    keep their order and get the distribution of those of the proxies' tokens under the model before unlearning
    (`match_quantiles`). Whatever made the order, forget rows thereby end with as many likely and unlikely tokens as
    unseen rows have. Answers of the model's own (`self_samples`) keep the likelihood that the source gives them.

    The trainer adds it when a forget loss or a component needs it.

    Memory: the table of N answer tokens with k tokens each takes 4 N (2 k + 1) bytes, in main memory and in each
    checkpoint. A step reads the part of its own tokens, and no second model. While the estimate is made, the outputs
    for M proxy positions with K tokens and d hidden units are held, too: 4 M (3 K + d) bytes, M being 65,536 at most,
    and so are less than ten tensors of 64 MB, however long the rows are.

    Args:
        reads_features: whether a component of the run reads features, which are those of rows in their usual prompt.

    Raises:
        ConfigError: there are no proxies and no proxy model, or rows are to be read after examples although features
            are read; from `attach`, if `proxy_model` is adapter_off and the model has no adapter.
        DataError: from `start`, if the model finds the proxies as likely as the forget rows, or if the proxy model
            finds the forget rows as likely as the model does.

    Attributes:
        table: the expected outputs at all answer tokens of the forget rows, on the CPU: the answer's token first, then
            the most likely others, and the rest.
    """

    name = "expected_outputs"
    flag = "objective=proxy_kl"
    stays_on_cpu = True
    table: TopKLogProbs

    def __init__(self, options: Any, has_proxies: bool, reads_features: bool = False):
        self.proxy_model, self._top_k = options.proxy_model, options.expected_top_k
        if not has_proxies and not self.proxy_model:
            raise ConfigError(
                got=f"{self.flag} without proxies and without a proxy model",
                expected="a source of the outputs of a model that never saw the forget rows",
                fix="give proxy_dataset (--proxy), or --proxy_model, such as the base model before fine-tuning",
            )
        share = options.example_share
        if share and reads_features:
            raise ConfigError(
                got=f"example_share={share} with a component that reads features",
                expected="only one of the two, because features are read from rows in their usual prompt",
                fix="leave out --example_share, or both entanglements and CLReg",
            )
        by_default = EXAMPLE_SHARE if getattr(options, "uses_auto", False) and not reads_features else 0.0
        self.needs = Needs(
            proxy_rows=has_proxies,
            retain_rows=bool(share),
            example_share=by_default if share is None else share,
        )

    def describe(self) -> dict[str, Any]:
        """The weights of the proxy model, or its name if they are not in a local folder."""
        return {} if self.proxy_model is None else {"proxy model": weights_digest(self.proxy_model) or self.proxy_model}

    def attach(self, run: Run) -> None:
        super().attach(run)
        if self.proxy_model == ADAPTER_OFF and not hasattr(run.model, "disable_adapter"):
            raise ConfigError(
                got=f"proxy_model={ADAPTER_OFF} for a model without an adapter",
                expected="a model whose adapter has learned the forget rows",
                fix="name the base model instead (--proxy_model)",
            )

    def scan(self) -> dict[str, ScanRequest]:
        forget = self.run.forget_rows
        requests = {_FORGET: ScanRequest(forget, torch.arange(len(forget)))}
        if not self.needs.proxy_rows:
            return requests
        rows, from_proxies = self.run.needed_proxy_rows, not self.proxy_model
        top_k = _PROXY_TOP_K if from_proxies else 1
        self._proxy_ids = _sample_of_positions(rows, self.run.seed)
        request = ScanRequest(rows, self._proxy_ids, top_k=top_k, answer_first=True, with_states=from_proxies)
        return {**requests, self.name: request}

    def start(self, scan: dict[str, RowScores]) -> None:
        # Answers of the model's own are likelier than rows of any other source: only the given rows are judged and
        # compared with proxies.
        given, proxies = len(self.run.forget_rows) - self.run.own_answers, scan.get(self.name)
        forget_nll = scan[_FORGET].mean_nll[:given]
        if proxies is not None:
            refuse_known_proxies(forget_nll, proxies.mean_nll, "give a model that never saw the rows (--proxy_model)")
        if self.proxy_model:
            source = self._read_proxy_model()
            _refuse_knowing_model(self.proxy_model, forget_nll, source.mean_nll[:given])
        else:
            source = self._estimate(scan[self.name])
        table = required(source.top_k_logps, "top_k_logps")
        if proxies is not None:
            tokens = TokenOffsets.of(self.run.forget_rows, range(given)).total
            seen = required(proxies.top_k_logps, "top_k_logps").logps[:, 0]
            logps = table.logps[:, 0]
            table = with_answer_logps(table, torch.cat([match_quantiles(logps[:tokens], seen), logps[tokens:]]))
        self.load_state_dict(vars(table))

    def _estimate(self, proxies: RowScores) -> RowScores:
        """From what the model says in similar positions of the proxies, and from the retain and the proxy rows.

        A row that is known by heart shows what comes next, and similar positions follow it. How likely an answer token
        is beside the others is therefore the geometric mean of what is said there and of a model that knows nothing of
        the row but its prompt.
        """
        vocabulary = self.run.vocabulary_size
        outputs = required(proxies.top_k_logps, "top_k_logps")
        nearest = NearestOutputs(required(proxies.states, "states"), outputs, vocabulary)
        read = [self.run.needed_proxy_rows.rows[index] for index in self._proxy_ids.tolist()]
        if self.run.retain_rows is not None:
            read += [self.run.retain_rows.rows[index] for index in self.run.retain_sample().tolist()]
        found = self.run.score(self.run.forget_rows, estimate=EstimatedOutputs(nearest, self._top_k))
        answers = CopyingBigrams(read, vocabulary).logps(self.run.forget_rows.rows)
        table = required(found.top_k_logps, "top_k_logps")
        return replace(found, top_k_logps=with_answer_logps(table, (table.logps[:, 0] + answers) / 2))

    def _read_proxy_model(self) -> RowScores:
        """What the proxy model says at the answer tokens of the forget rows."""
        with self.proxy_model_in_use() as model:
            return self.run.score(self.run.forget_rows, model=model, top_k=self._top_k, answer_first=True)

    @contextmanager
    def proxy_model_in_use(self) -> Iterator[Any]:
        """Loads the proxy model, or switches the adapter off.

        Yields:
            the other model, or None if it is the model itself without its adapter.
        """
        if self.proxy_model == ADAPTER_OFF:
            with adapters_off(self.run.model):
                yield None
        else:
            yield self.run.load(self.proxy_model)

    def of(self, step: Step) -> TopKLogProbs:
        """The expected outputs at the answer tokens of the forget rows of a micro-batch."""
        ids = step.forget_ids
        return self.table.at(self._tokens.of_rows(ids[ids >= 0].cpu())).to(ids.device)  # fillers have no tokens

    def mean_nll(self) -> Tensor:
        """l of each given forget row as expected: the mean of -log q_t(v), shape (N_f,), nats per token."""
        given = range(len(self.run.forget_rows) - self.run.own_answers)
        of_rows = [self._tokens.of_rows(torch.tensor([row])) for row in given]
        return torch.stack([-self.table.logps[tokens, 0].mean() for tokens in of_rows])

    def scale_nll(self, factors: Tensor) -> None:
        """Multiplies -log q_t(v) of the answer tokens of each given row; the other tokens share the rest as before.

        With a factor above 1, unlikely tokens become more unlikely, and likely ones stay likely.

        Args:
            factors: of each given row, shape (N_f,); at least a half and at most 2 at a time.
        """
        logps, counts = self.table.logps[:, 0].clone(), self._given_counts
        logps[: int(counts.sum())] *= factors.clamp(0.5, 2.0).repeat_interleave(counts)
        self.load_state_dict(vars(with_answer_logps(self.table, logps)))

    @property
    def _given_counts(self) -> Tensor:
        """How many answer tokens each given row has, (N_f,); those of answers of the model's own come after them."""
        return self._tokens.counts[: len(self.run.forget_rows) - self.run.own_answers]

    def observe(self, step: Step) -> None:
        if isinstance(step.forget, RowScores):  # of whole rows, whose tokens are not at hand
            return
        expected = self.of(step)
        gap = token_gap(step.forget, expected)  # (N,)
        tokens = step.forget.num_tokens.clamp_min(1)
        step.observe("expected_gap", step.forget.sum_per_row(gap.abs()) / tokens)
        for kind, is_of_kind in token_kinds(expected.logps[:, 0]).items():
            step.add_mean(f"token_gap_{kind}", gap, is_of_kind)
            step.add_mean(f"tokens_met_{kind}", (gap.abs() <= _MET).float(), is_of_kind)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self.table))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.table = TopKLogProbs(**{name: values.cpu() for name, values in state.items()})
        self._tokens = TokenOffsets.of(self.run.forget_rows)


def token_kinds(answer_logps: Tensor) -> dict[str, Tensor]:
    """Which tokens are expected to be likely, such as function words, which unlikely, such as facts: bool, (N,) each.

    Args:
        answer_logps: log of the probability that is expected of each answer token, shape (N,).

    Example:
        >>> kinds = token_kinds(torch.tensor([0.9, 0.1, 0.001]).log())
        >>> {kind: is_of_kind.tolist() for kind, is_of_kind in kinds.items()}["unlikely"]
        [False, False, True]
    """
    is_likely, is_unlikely = answer_logps > log(_LIKELY), answer_logps < log(_UNLIKELY)
    return {"likely": is_likely, "middling": ~(is_likely | is_unlikely), "unlikely": is_unlikely}


def _sample_of_positions(rows: RowDataset, seed: int) -> Tensor:
    """Ids of a random part of the rows with at most as many answer tokens as are kept, one row at least, (n,)."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    counts = torch.tensor([int(rows.rows[index].is_scored.sum()) for index in order.tolist()])
    fitting = int((counts.cumsum(0) <= _MOST_POSITIONS).sum())
    return order[: max(fitting, 1)].sort().values


def _refuse_knowing_model(name: str, forget_nll: Tensor, source_nll: Tensor) -> None:
    """Raises `DataError` for a proxy model that finds the forget rows as likely as the model does, or is the model.

    Args:
        forget_nll, source_nll: l_i of the forget rows under the model and the proxy model, (N_f,), nats per token.
    """
    forget, source = ((-nll).exp().mean().item() for nll in (forget_nll, source_nll))
    if torch.allclose(forget_nll, source_nll, rtol=1e-3) or knows_proxies(forget, source):
        raise DataError(
            got=f"the proxy model {name}, which finds the forget rows as likely (probability {source:.3g}) as the "
            f"model that is to forget them ({forget:.3g})",
            expected="a model that never saw the forget rows, which finds them less likely",
            fix="name the base model before fine-tuning (--proxy_model), or give proxies (--proxy) in its place",
        )
