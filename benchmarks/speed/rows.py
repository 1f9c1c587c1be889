"""The rows that every contender takes: real TOFU rows, in the tokens of a tokenizer that was trained on them."""

from dataclasses import dataclass
from typing import Any

from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.demo.twins import train_tokenizer

VOCABULARY = 8000
"""Of the tokenizer; ids that any shape has."""

PROXIES = 16


@dataclass(frozen=True)
class SpeedRows:
    """As many forget rows as retain rows, and proxies.

    Args:
        forget, retain, proxy: tokenized.
        tokenizer: what they were tokenized by.
    """

    forget: RowDataset
    retain: RowDataset
    proxy: RowDataset
    tokenizer: Any


def read_rows(data_dir: str | None, pairs: int) -> SpeedRows:
    """Rows of TOFU's forget10 and of retain90, `pairs` of each, evenly spread, and the last of retain90 as proxies."""
    forget, retain = (load_rows(f"tofu:{split}", data_dir) for split in ("forget10", "retain90"))
    sets = {"forget": forget, "retain": retain[:-PROXIES], "proxy": retain[-PROXIES:]}
    texts = (text for rows in sets.values() for row in rows for text in (row.prompt[0].content, row.answer))
    tokenizer = train_tokenizer(texts, VOCABULARY)
    sizes = {"forget": pairs, "retain": pairs, "proxy": PROXIES}
    spread = {name: rows[:: len(rows) // sizes[name]][: sizes[name]] for name, rows in sets.items()}
    tokenized = {name: tokenize(rows, tokenizer, name=name) for name, rows in spread.items()}
    return SpeedRows(**tokenized, tokenizer=tokenizer)
