"""The headline numbers of a run: mean probability of the answers of each set of rows."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.scan import score_rows

MOST_ROWS = 400
"""Larger sets are judged by a random sample of this many rows."""


def probabilities_of(
    model: nn.Module,
    tokenizer: Any,
    datasets: Mapping[str, RowDataset],
    *,
    seed: int,
    batch_size: int,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """Mean over rows of exp(-l_i) by name of the set, with l_i the mean negative log-likelihood per answer token.

    Args:
        datasets: the rows by name.
        seed: of the random sample of a large set.

    Example:
        >>> # probabilities_of(load_model("unlearned"), tokenizer, {"forget": rows}, seed=42, batch_size=8)
    """
    reader, collator = AnswerReader(model), RowCollator(tokenizer)
    found = {}
    for name, rows in datasets.items():
        ids, owners = sample_of(rows, seed)
        scores = score_rows(model, reader, rows, collator, batch_size=batch_size, accelerator=accelerator, ids=ids)
        found[name] = scores.nll_of(owners).neg().exp().mean().item()
    return found


def sample_of(rows: RowDataset, seed: int) -> tuple[Tensor, Tensor]:
    """Ids of the samples of up to `MOST_ROWS` rows, and the row that each of them is a part of, (n,) each, int64."""
    owners = torch.tensor(rows.owners)
    ids = torch.isin(owners, sample_ids(int(owners.max()) + 1, seed)).nonzero().flatten()
    return ids, owners[ids]


def sample_ids(of: int, seed: int, count: int = MOST_ROWS) -> Tensor:
    """A random sample of `count` numbers below `of`, or all of them if there are fewer: ascending, int64.

    Example:
        >>> sample_ids(3, seed=5)
        tensor([0, 1, 2])
    """
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count].sort().values
