"""The headline numbers of a run: mean probability of the answers of each set of rows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import RowScores, score_rows

MOST_ROWS = 400
"""Larger sets are judged by a random sample of this many rows."""


def probabilities(
    score: Callable[[RowDataset, Tensor], RowScores], datasets: Mapping[str, RowDataset], seed: int
) -> dict[str, float]:
    """Mean over rows of exp(-l_i) by name of the set, with l_i the mean negative log-likelihood per answer token.

    Args:
        score: scores the rows with the given ids, shape (n,).
        datasets: the rows by name.
        seed: of the random sample of a large set.
    """
    found = {}
    for name, rows in datasets.items():
        owners = torch.tensor(rows.owners)
        ids = torch.isin(owners, sample_ids(int(owners.max()) + 1, seed)).nonzero().flatten()
        found[name] = score(rows, ids).probability_of(owners[ids])
    return found


def probabilities_of(
    model: nn.Module,
    tokenizer: Any,
    datasets: Mapping[str, RowDataset],
    *,
    seed: int,
    batch_size: int,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """`probabilities` of a model without a trainer, such as one just loaded.

    Example:
        >>> # probabilities_of(load_model("unlearned"), tokenizer, {"forget": rows}, seed=42, batch_size=8)
    """
    reader, collator = AnswerReader(model), RowCollator(tokenizer)
    return probabilities(
        lambda rows, ids: score_rows(
            model, reader, rows, collator, batch_size=batch_size, accelerator=accelerator, ids=ids
        ),
        datasets,
        seed,
    )


def sample_ids(of: int, seed: int, count: int = MOST_ROWS) -> Tensor:
    """A random sample of `count` numbers below `of`, or all of them if there are fewer: ascending, int64.

    Example:
        >>> sample_ids(3, seed=5)
        tensor([0, 1, 2])
    """
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count].sort().values
