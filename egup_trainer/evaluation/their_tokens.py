"""Tokens of a row as OpenUnlearning makes them, for an evaluation by its definitions, with what is wrong about them.

It tokenizes a prompt alone and together with the answer, and scores all tokens after as many as the prompt alone has:
where a token reaches from the prompt into the answer, it is not scored. An end-of-sequence token is appended unless the
text ends with one, so that two ends are scored if the chat template writes anything after the first. It takes the last
scored token for the one that closes the answer, whatever it is. (src/data/utils.py there, as of 2025.)
"""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import IGNORE_INDEX, Row, RowSource, TokenizedRow
from egup_trainer.data.tokenization import refused_by_template
from egup_trainer.errors import DataError


@dataclass(frozen=True)
class TheirText:
    """A prompt with an answer, as OpenUnlearning reads it.

    Args:
        sample: ids and labels; its last token counts as the one that closes the answer.
        prompt: ids of the prompt alone, which a generation continues.
        zlib_bytes: length of the decoded scored tokens, compressed by zlib.
    """

    sample: TokenizedRow
    prompt: np.ndarray
    zlib_bytes: int


def their_text(row: Row, number: int, renderer: Renderer, *, max_length: int, continues: bool, where: str) -> TheirText:
    """Tokenizes a row with one answer.

    Args:
        number: of the row in its set.
        renderer: has tokenizer and template.
        max_length: maximum number of tokens of a text that no chat template writes; of an answer that is not closed.
        continues: whether the last character of the prompt is a space that belongs to neither prompt nor answer.

    Raises:
        DataError: no token of the answer is scored, or the chat template refuses the row.
    """
    tokenizer = renderer.tokenizer
    with refused_by_template(where):
        ids, prompt = _ids(row, renderer, max_length, continues)
    first = max(len(prompt), 1)  # the first token of all has nothing before it
    labels = np.array(ids, dtype=np.int32)
    labels[:first] = IGNORE_INDEX
    if first >= len(ids):
        raise DataError(
            got=f"no answer token in {where} after the {len(prompt)} tokens of its prompt",
            expected="at least one, as OpenUnlearning counts them",
            fix="evaluate by our own definitions, which score tokens that reach into the answer",
        )
    sample = TokenizedRow(np.array(ids, dtype=np.int32), labels, is_closed=True)
    sample = replace(sample, source=RowSource.of(number, sample))
    text = tokenizer.decode(ids[first:], skip_special_tokens=True)
    return TheirText(sample, np.array(prompt, dtype=np.int32), len(zlib.compress(text.encode("utf-8"))))


def _ids(row: Row, renderer: Renderer, max_length: int, continues: bool) -> tuple[list[int], list[int]]:
    """Ids of the whole text, and of its prompt alone."""
    tokenizer, template = renderer.tokenizer, renderer.template
    renderer.row(row)  # refuses a chat template that leaves out the answer or the system prompt
    row = template.with_system_turn(row)
    if row.has_turns and tokenizer.chat_template and not template.always:
        turns = [{"role": turn.role, "content": turn.content} for turn in row.prompt]
        whole = renderer.chat([*turns, {"role": "assistant", "content": row.answer}])
        asked = renderer.chat(turns, add_generation_prompt=True)
        ids, prompt = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole, asked))
        return _closed(ids, tokenizer), prompt
    asked = template.render(row.prompt)
    prompt = tokenizer(asked.removesuffix(" ") if continues else asked)["input_ids"]
    ids = tokenizer(asked + row.answer)["input_ids"]
    if row.prompt and template.closed:
        return _closed(ids[:max_length], tokenizer), prompt[:max_length]
    return ids[: len(prompt) + max_length], prompt


def _closed(ids: list[int], tokenizer: Any) -> list[int]:
    eos = tokenizer.eos_token_id
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]
