"""Depth: down to which layers unlearning reaches, by patching hidden states into the model before unlearning.

The Unlearning Depth Score of Lee et al. 2026, arXiv 2605.24614. The model before unlearning, M, reads a forget row, and
its hidden states after one layer are replaced by those of a source S, where answer tokens are predicted:

    drop_l(S) = mean over answer tokens t of log p_M(t) - log p_M(t | layer l of S)                  nats per token
    score_i = sum_l drop_l(R) clip(drop_l(U) / drop_l(R), 0, 1) / sum_l drop_l(R)

with the unlearned model U and the retrained model R, over the layers at which drop_l(R) exceeds a threshold. The output
layer of S takes no part. A model that only its output layer keeps from answering therefore has a score of 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egup_trainer.audit.attack import NEEDS_BEFORE, NEEDS_RETRAINED, Finding, Target
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.evaluation.metric import Metric, finite, mean_metric, unavailable
from egup_trainer.modeling.batches import evaluation_mode, iter_batches
from egup_trainer.modeling.forward import AnswerReader, answer_positions, decoder_layers
from egup_trainer.modeling.limits import check_token_ids

THRESHOLD = 0.05
"""Nats per token: the layers at which the retrained model lowers a row by more than this count for the row."""


def depth(target: Target) -> Finding:
    """The drop of each forget row at each layer, and the score if the retrained model's drops are known.

    The model and the model before unlearning are in memory together, and no third one: what the retrained model does
    is known from its own audit, as drops, so that no hidden states need to be kept.
    """
    if target.load_before is None:
        return Finding(reason=NEEDS_BEFORE)
    before = target.load_before()
    models: tuple[Any, Any] = (target.model, before)
    shapes = [(len(decoder_layers(each)), each.config.get_text_config().hidden_size) for each in models]
    if shapes[0] != shapes[1]:
        mine, theirs = (f"{layers} layers of width {width}" for layers, width in shapes)
        return Finding(reason=f"the model has {mine}, and the model before unlearning {theirs}")
    rows = target.tokenized(target.forget, "forget set")
    check_token_ids(before, [row.input_ids for row in rows.rows], "the forget set")
    options = target.options
    drops = layer_drops(
        target.model, before, target.tokenizer, rows, options.batch_size, options.title("Patching layers")
    )
    by_layer = {f"layer_{layer}": finite(dict(enumerate(column))) for layer, column in enumerate(drops.T.tolist())}
    drop = mean_metric("forget", dict(enumerate(drops.mean(axis=1))), num_rows=len(drops), without="")
    return Finding(
        {"score": _score(target, by_layer), "drop": replace(drop, values={**drop.values, **by_layer})},
        {"drop": list(enumerate(drops.mean(axis=0).tolist()))},
    )


@torch.no_grad()
def layer_drops(
    source: Any, before: Any, tokenizer: Any, rows: RowDataset, batch_size: int, description: str | None = None
) -> np.ndarray:
    """What each layer of `source` costs the answers if its hidden states are patched into `before`.

    Args:
        source: the model that hidden states are taken from; of the same depth and width as `before`.
        before: the model that reads the rows.
        rows: the rows; the pieces of a long text are joined again.
        batch_size: rows per forward pass, of which there is one of `source` and one of `before` for each layer.

    Returns:
        drop_l of each row, nats per token, shape (R, L). Below 0 where the states of `source` are better.

    Example:
        >>> # layer_drops(model, model, tokenizer, rows, batch_size=4)  # zeros
    """
    theirs, layers = decoder_layers(source), decoder_layers(before)
    read, read_source = (AnswerReader(model, padding_free=False) for model in (before, source))
    read_source.try_out(source)  # with other tokens, which hooks must not see
    owners = torch.tensor(rows.owners)
    sums, counts = torch.zeros(int(owners.max()) + 1, len(layers)), torch.zeros(int(owners.max()) + 1)
    with evaluation_mode(source):
        for ids, batch in iter_batches(
            before,
            rows,
            torch.arange(len(rows)),
            RowCollator(tokenizer),
            batch_size=batch_size,
            description=description,
        ):
            reads: dict[str, Any] = {**batch, "with_features": False}
            own = read(before, **reads)
            with _reading(theirs, batch["labels"]) as states:
                read_source(source, **reads)
            tokens = owners[ids.cpu()][own.token_rows.cpu()]  # the row that each answer token belongs to, (N,)
            counts.index_add_(0, tokens, torch.ones(len(tokens)))
            for index, layer in enumerate(layers):
                with _patched(layer, batch["labels"], states[index]):
                    patched = read(before, **reads).token_logps
                sums[:, index].index_add_(0, tokens, (own.token_logps - patched).float().cpu())
    return (sums / counts[:, None]).double().numpy()


def depth_scores(drops: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """score_i of each row; NaN if no layer counts for it.

    Args:
        drops: drop_l of the unlearned model, shape (R, L).
        retrained: those of the retrained model, shape (R, L).

    Example:
        >>> depth_scores(np.array([[0.0, 1.0]]), np.array([[1.0, 3.0]]))  # (1 * 0 + 3 * 1/3) / (1 + 3)
        array([0.25])
    """
    weights = np.where(retrained > THRESHOLD, retrained, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(weights > 0, np.clip(drops / retrained, 0.0, 1.0), 0.0)
        return (weights * shares).sum(axis=1) / weights.sum(axis=1)


def _score(target: Target, by_layer: dict[str, dict[int, float]]) -> Metric:
    """The mean score over the rows that have the drops of all layers in both models."""
    found = target.retrained.get("depth", Finding(reason=NEEDS_RETRAINED))
    if found.reason is not None:
        return unavailable(found.reason if found.reason == NEEDS_RETRAINED else f"the retrained model: {found.reason}")
    theirs = {name: found.metrics["drop"].values.get(name, {}) for name in by_layer}
    columns: Sequence[dict[int, float]] = [*by_layer.values(), *theirs.values()]
    rows = sorted(set.intersection(*(set(column) for column in columns)))
    tables = [np.array([[column[row] for column in each.values()] for row in rows]) for each in (by_layer, theirs)]
    scores = dict(zip(rows, depth_scores(*tables), strict=True)) if rows else {}
    return mean_metric(
        "forget",
        finite(scores),
        num_rows=len(target.forget),
        higher_is_better=True,
        without=f"no layer of the retrained model lowers a row by more than {THRESHOLD:g} nats per token",
    )


@contextmanager
def _reading(layers: nn.ModuleList, labels: Tensor) -> Iterator[list[Tensor]]:
    """Collects the hidden states (N, d) after each layer, in the layers' order, where answer tokens are predicted."""
    states: list[Tensor] = [torch.empty(0)] * len(layers)

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = _hidden(output)
            states[index] = hidden[_places(hidden, labels)]

        return hook

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_hook(keep(index)))
        yield states


@contextmanager
def _patched(layer: nn.Module, labels: Tensor, states: Tensor) -> Iterator[None]:
    """Replaces what a layer gives, where answer tokens are predicted, by other states (N, d)."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = _hidden(output)
        hidden = hidden.index_put(_places(hidden, labels), states.to(hidden))
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with layer.register_forward_hook(hook):
        yield


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _places(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column in (B, T', d) where each answer token is predicted; T' counts an adapter's virtual tokens, too."""
    width = labels.shape[1]
    positions, rows, _ = answer_positions(labels)
    return rows, positions - rows * width + hidden.shape[1] - width
