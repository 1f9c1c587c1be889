"""The model's own answers to the forget questions, which are forgotten beside the given ones.

A fact can be told in many wordings, and the rows have one of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egup_trainer.components.scanning import found_on_all_processes
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.data.words import words_of
from egup_trainer.errors import DataError
from egup_trainer.modeling.generation import Continuation, Sampling, continuations
from egup_trainer.modeling.scan import load_scan, save_scan, scan_fingerprint

_FIX = "lower --max_length, or leave out --self_samples"


def sample_answers(
    model: Any,
    tokenizer: Any,
    rows: RowDataset,
    count: int,
    *,
    max_length: int,
    seed: int,
    batch_size: int,
    accelerator: Any,
    folder: Path,
    progress: bool,
) -> list[TokenizedRow]:
    """Further rows: `count` answers of the model to the question of each row, the same on every process.

    Each is sampled at temperature 1 by (seed, row, number of the answer) alone, and has at most as many tokens as the
    longest answer of the rows. Answers with the words of the row's own answer, or of an earlier one to the same
    question, are left out, and so are those without a token. Plain texts have no question, and a question that
    leaves too little of `max_length` is not asked. The answers are kept in `folder`, by the fingerprint of weights,
    rows and settings.

    Args:
        model: the bare model before unlearning, on its device.
        tokenizer: its tokenizer.
        rows: the forget rows.
        count: answers for each question, k.
        max_length: maximum number of tokens per row.
        seed: of the run.
        batch_size: questions per batch.
        accelerator: the `Accelerator` of the run.
        folder: where the scan is kept, too.
        progress: whether to show a progress bar.

    Raises:
        DataError: no row has a question that leaves enough of `max_length`.
        StateError: a file of that name holds something else.
    """
    longest = max(int(row.is_scored.sum()) for row in rows.rows)
    asked = [index for index in first_samples(rows) if 1 < len(prompt_of(rows.rows[index])) <= max_length - longest]
    if not asked:
        raise DataError(
            got=f"self_samples for {len(rows)} forget rows without a question of at most {max_length - longest} tokens",
            expected="questions for the model to answer",
            fix="give rows with a question or prompt, raise --max_length, or leave out --self_samples",
        )
    prompts = [prompt_of(rows.rows[index]) for index in asked for _ in range(count)]
    seeds = [(seed, index, number) for index in asked for number in range(count)]
    settings = {"self_samples": seeds, "longest": longest, "mixed_precision": str(accelerator.mixed_precision)}
    fingerprint = scan_fingerprint(model, [(rows, torch.tensor(asked))], settings)
    path = folder / f"answers-{fingerprint[:16]}.safetensors"
    if found_on_all_processes(path, accelerator):
        written = _unpack(load_scan(path, fingerprint))
    else:
        written = continuations(
            model,
            tokenizer,
            prompts,
            max_new_tokens=longest,
            sampling=Sampling(seeds),
            batch_size=batch_size,
            accelerator=accelerator,
            description="Sampling answers to forget questions" if progress else None,
            fix=_FIX,
        )
        if accelerator.is_main_process:
            save_scan(path, _pack(written, longest), fingerprint)
    return own_answers([rows.rows[index] for index in asked for _ in range(count)], written, tokenizer)


def first_samples(rows: RowDataset) -> list[int]:
    """The first sample of each row: a long row makes several."""
    firsts: dict[int, int] = {}
    for index, owner in enumerate(rows.owners):
        firsts.setdefault(owner, index)
    return list(firsts.values())


def prompt_of(row: TokenizedRow) -> np.ndarray:
    """The tokens before the answer, (n,); at most a start of sequence for a plain text, scored from its start.

    Example:
        >>> row = TokenizedRow(np.array([5, 6, 7]), np.array([IGNORE_INDEX, 6, 7]))
        >>> prompt_of(row).tolist()
        [5]
    """
    return row.input_ids[: int(row.is_scored.argmax())]


def own_answers(rows: Sequence[TokenizedRow], written: Sequence[Continuation], tokenizer: Any) -> list[TokenizedRow]:
    """Each row with the answer written for it, without answers that are known already."""

    def key(row: TokenizedRow, tokens: list[int]) -> tuple[bytes, Any]:
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return prompt_of(row).tobytes(), tuple(words_of(text)) or text

    known = {key(row, row.input_ids[row.is_scored].tolist()) for row in rows}
    samples = []
    for row, answer in zip(rows, written, strict=True):
        own = key(row, answer.tokens)
        if own[1] and own not in known:
            known.add(own)
            samples.append(_with_answer(row, answer))
    return samples


def _with_answer(row: TokenizedRow, answer: Continuation) -> TokenizedRow:
    """The row with another answer. Its end is scored if that of the row is."""
    is_closed = row.is_closed and answer.end is not None
    tokens = np.array([*answer.tokens, *([answer.end] if is_closed else [])], dtype=np.int32)
    prompt = prompt_of(row)
    return replace(
        row,
        input_ids=np.concatenate([prompt, tokens]),
        labels=np.concatenate([np.full_like(prompt, IGNORE_INDEX), tokens]),
        truncated=False,
        is_closed=is_closed,
    )


def _pack(written: Sequence[Continuation], longest: int) -> dict[str, Tensor]:
    """Tokens (n, longest), padded with -1, and the end of each, shape (n,), or -1."""
    tokens = torch.full((len(written), longest), -1, dtype=torch.int32)
    for place, each in enumerate(written):
        tokens[place, : len(each.tokens)] = torch.tensor(each.tokens, dtype=torch.int32)
    ends = [-1 if each.end is None else each.end for each in written]
    return {"tokens": tokens, "ends": torch.tensor(ends, dtype=torch.int32)}


def _unpack(tensors: dict[str, Tensor]) -> list[Continuation]:
    return [
        Continuation(tokens[tokens >= 0].tolist(), None if end < 0 else end)
        for tokens, end in zip(tensors["tokens"], tensors["ends"].tolist(), strict=True)
    ]
