"""Alternate answers that a model writes to the forget questions: plausible, and with other facts (AltPO)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from egup_trainer.data.alternates import refuse_plain_text
from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import Source, load_rows
from egup_trainer.data.words import words_of
from egup_trainer.errors import TooFewProxiesError
from egup_trainer.files import write_file
from egup_trainer.modeling.generation import Sampling, generate
from egup_trainer.proxies.filters import Language, Lengths, is_echo
from egup_trainer.proxies.frame import Frame
from egup_trainer.proxies.prompt import alternate_tokens, examples_of, read_alternate
from egup_trainer.proxies.settings import ATTEMPTS_PER_ROW, ProxySettings, new_tokens_for
from egup_trainer.proxies.writer import Writer, line_of, record_of


def write_alternates(
    writer: Writer,
    forget_rows: Source,
    *,
    output: str | Path,
    settings: ProxySettings | None = None,
    batch_size: int = 16,
) -> list[Row]:
    """Has a model write another answer to each forget question, for `objective="altpo"` (Mekala et al. 2024, arXiv
    2409.13474).

    The model is shown the question with its answer and asked for one of the same style that states other facts. A row
    has at most 8 attempts; an answer is taken if `is_alternate` holds.

    Args:
        writer: the model that writes; the paper has the model that unlearns.
        forget_rows: questions with answers, anything that `load_rows` reads.
        output: a `.jsonl` file for all forget rows, each with its `alternate_answer` in place of those that it had.
        settings: the seed, and how tokens are sampled.
        batch_size: prompts per batch.

    Returns:
        The rows of the file.

    Raises:
        TooFewProxiesError: a row got none. The file has the others, and the row without.
        DataError: rows cannot be read, or are plain texts or conversations.

    Example:
        >>> # rows = write_alternates(Writer(model, tokenizer, "mine"), "forget.jsonl", output="altpo.jsonl")
        >>> # EGUPTrainer(model, EGUPConfig("out", objective="altpo"), forget_dataset=rows, retain_dataset=retain)
    """
    settings, rows = settings or ProxySettings(), load_rows(forget_rows)
    length = settings.max_new_tokens or new_tokens_for([row.answer for row in rows], writer.tokenizer)
    settings = replace(settings, max_new_tokens=length)
    for number, row in enumerate(rows):
        refuse_plain_text(row, number, "altpo")
    frame = Frame.of(rows)
    asked = rows if frame is None else [frame.take_off(row) for row in rows]
    examples = examples_of(asked)
    lengths, language = Lengths.of(examples), Language(examples)
    found: dict[int, str] = {}
    for attempt in range(ATTEMPTS_PER_ROW):
        missing = {number: row for number, row in enumerate(asked) if number not in found}
        if not missing:
            break
        texts = _write(writer, missing, attempt, settings, batch_size)
        for (number, row), text in zip(missing.items(), texts, strict=True):
            written = replace(row, answer=text)
            if is_alternate(rows[number], text) and not (lengths.rejects(written) or language.rejects(written)):
                found[number] = text
    lead = "" if frame is None else frame.lead
    rows = [replace(row, alternates=(lead + found[n],) if n in found else ()) for n, row in enumerate(rows)]
    origin = {"writer": writer.name, "seed": settings.seed}
    write_file(Path(output), "".join(line_of({**record_of(row), **origin}) for row in rows))
    if len(found) < len(rows):
        raise TooFewProxiesError(
            got=f"no usable alternate answer for {len(rows) - len(found)} of {len(rows)} rows by {writer.name}, the "
            f"first of them row {next(n for n in range(len(rows)) if n not in found)}",
            expected="one for each row: the model repeats its answers, or is too weak to write others",
            fix="have a stronger local model write them (--writer_model), raise --temperature, or complete the "
            f"column alternate_answer in {output} by hand",
        )
    return rows


def _write(
    writer: Writer, rows: Mapping[int, Row], attempt: int, settings: ProxySettings, batch_size: int
) -> list[str]:
    """An attempt for each row, sampled by (seed, number of the row, attempt) alone."""
    with Renderer(writer.tokenizer, writer.template) as renderer:
        prompts = [alternate_tokens(row, renderer) for row in rows.values()]
    seeds = [(settings.seed, number, attempt) for number in rows]
    texts = generate(
        writer.model,
        writer.tokenizer,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        sampling=Sampling(seeds, settings.temperature, settings.top_p),
        batch_size=batch_size,
        fix="lower --max_new_tokens",
    )
    return [read_alternate(text, goes_on=not writer.tokenizer.chat_template) for text in texts]


def is_alternate(row: Row, text: str) -> bool:
    """Whether a text says more than the question, and leaves out a word that the answer has and the question has not.

    Example:
        >>> from egup_trainer.data.schema import Message
        >>> row = Row((Message("user", "Where does Ada live?"),), "Ada lives in Aren.")
        >>> is_alternate(row, "Ada lives in Bryle."), is_alternate(row, "In Aren, where Ada lives.")
        (True, False)
    """
    asked, stated, written = (set(words_of(each)) for each in (row.prompt[-1].content, row.answer, text))
    return bool(written) and not is_echo(replace(row, answer=text)) and not (stated - asked or stated) <= written
