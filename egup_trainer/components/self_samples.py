"""The model's own answers to the forget questions, which are forgotten beside the given ones.

A fact can be told in many wordings, and the rows have one of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egup_trainer.components.scanning import found_on_all_processes
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.data.words import words_of
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.modeling.generation import Continuation, Sampling, continuations
from egup_trainer.modeling.scan import load_scan, save_scan, scan_fingerprint


def sample_answers(trainer: Any) -> list[TokenizedRow]:
    """Further forget rows: k answers of the model to the question of each row, the same on every process.

    Each is sampled at temperature 1 by (seed, row, number of the answer) alone, and has at most as many tokens as the
    longest answer of the rows. Answers with the words of the row's own answer, or of an earlier one to the same
    question, are left out, and so are those without a token. Plain texts have no question, and a question that
    leaves too little of `max_length` is not asked. The answers are kept beside the scan, by the fingerprint of weights,
    rows and settings.

    Args:
        trainer: an `UnlearnTrainer`, whose model is as before unlearning; k is its option `self_samples`.

    Raises:
        ConfigError: the weights are spread over processes.
        DataError: no row has a question that leaves enough of `max_length`.
        StateError: a file of that name holds something else.
    """
    args, rows, accelerator = trainer.args, trainer.forget_rows, trainer.accelerator
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            got=f"self_samples={args.self_samples} with FSDP or DeepSpeed",
            expected="whole weights on the device of each process, which write the answers before training",
            fix="train with DDP or on one GPU, or leave out --self_samples",
        )
    longest = max(int(row.is_scored.sum()) for row in rows.rows)
    most = args.max_length - longest
    asked = [index for index in rows.first_samples if 1 < len(rows.rows[index].prompt) <= most]
    if not asked:
        raise DataError(
            got=f"self_samples for {len(rows)} forget rows without a question of at most {most} tokens",
            expected="questions for the model to answer",
            fix="give rows with a question or prompt, raise --max_length, or leave out --self_samples",
        )
    seeds = [(args.seed, index, number) for index in asked for number in range(args.self_samples)]
    asking = [rows.rows[index] for _, index, _ in seeds]
    settings = {"self_samples": seeds, "longest": longest, "mixed_precision": str(accelerator.mixed_precision)}
    fingerprint = scan_fingerprint(trainer.model, [(rows, torch.tensor(asked))], settings)
    path = trainer.scan_folder / f"answers-{fingerprint[:16]}.safetensors"
    if found_on_all_processes(path, accelerator):
        written = _unpack(load_scan(path, fingerprint))
    else:
        written = continuations(
            trainer.model,
            trainer.processing_class,
            [row.prompt for row in asking],
            max_new_tokens=longest,
            sampling=Sampling(seeds),
            batch_size=args.per_device_eval_batch_size,
            accelerator=accelerator,
            description=None if args.disable_tqdm else "Sampling answers to forget questions",
            fix="lower --max_length, or leave out --self_samples",
        )
        if accelerator.is_main_process:
            save_scan(path, _pack(written, longest), fingerprint)
    return own_answers(asking, written, trainer.processing_class)


def own_answers(rows: Sequence[TokenizedRow], written: Sequence[Continuation], tokenizer: Any) -> list[TokenizedRow]:
    """Each row with the answer written for it, without answers that are known already."""

    def key(row: TokenizedRow, tokens: list[int]) -> tuple[bytes, Any]:
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return row.prompt.tobytes(), tuple(words_of(text)) or text

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
    return replace(
        row,
        input_ids=np.concatenate([row.prompt, tokens]),
        labels=np.concatenate([np.full_like(row.prompt, IGNORE_INDEX), tokens]),
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
