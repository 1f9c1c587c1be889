"""The date that a chat template writes as today's: fixed for a run, recorded with it, and used again afterwards."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.distributed

from egup_trainer.data.rendering import today, writes_date
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.records.io import read_record


def settled_date(
    tokenizer: Any, given: str | None, recorded: Iterable[str | None] = (), folders: Iterable[str | Path] = ()
) -> str | None:
    """The date to write, the same on every process; None for a tokenizer whose chat template writes none.

    The first of these that there is: the given date, a recorded one, that in the record of a folder, today's.

    Args:
        tokenizer: the tokenizer.
        given: what the user asked for (`template_date`).
        recorded: dates of results or of a record that were read already.
        folders: of checkpoints or models that may hold the record of a run.

    Raises:
        ConfigError: a date was given, and the chat template does not write one.
    """
    if not writes_date(tokenizer):
        if given is not None:
            raise ConfigError(
                got=f"template_date={given} for a tokenizer whose chat template writes no date",
                expected="a template that asks for today's date",
                fix="leave out template_date",
            )
        return None
    known = [given, *recorded, *map(recorded_date, folders)]
    dates = [next((each for each in known if each is not None), None) or today()]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(dates)  # clocks may differ
    return dates[0]


def recorded_date(folder: str | Path) -> str | None:
    """The date of the run that the record in a model's or checkpoint's folder is of; None if there is none."""
    try:
        return (read_record(folder) or {}).get("options", {}).get("template_date")
    except (DataError, AttributeError):
        return None  # whoever needs the record says what is wrong with it
