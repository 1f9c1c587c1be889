"""Proxies from beginning to end: examples, prompts, texts, verdicts, files."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egup_trainer.data.rendering import Renderer, Template, writes_date
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ModelError, StateError
from egup_trainer.files import write_files
from egup_trainer.modeling.generation import Sampling, generate
from egup_trainer.modeling.scan import scan_fingerprint
from egup_trainer.proxies.attempts import AttemptLog, attempts_path, record_of
from egup_trainer.proxies.judge import Judge, Scorer, Verdict
from egup_trainer.proxies.prompt import Example, draw_examples, examples_of, prompt_tokens, read_row
from egup_trainer.proxies.quality import Quality, quality_path
from egup_trainer.proxies.settings import ProxySettings, digest_of_rows

Rows = str | Path | Iterable[Mapping | Row]
_DIGEST_DIGITS = 16


@dataclass(frozen=True)
class Proxies:
    """Written proxies: the rows, and the numbers of the run."""

    rows: list[Row]
    quality: Quality


@dataclass(frozen=True)
class Writer:
    """A model that writes.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        name: for the record.
        template: has the date that its chat template writes.
    """

    model: Any
    tokenizer: Any
    name: str
    template: Template = field(default_factory=Template)

    def write(
        self, examples: Sequence[Example], attempts: Sequence[int], settings: ProxySettings, batch_size: int
    ) -> list[Row | None]:
        """What can be read from each attempt, or None; each is drawn by (seed, attempt) alone."""
        drawn = [draw_examples(examples, settings.num_examples, settings.seed, attempt) for attempt in attempts]
        with Renderer(self.tokenizer, self.template) as renderer:
            prompts = [prompt_tokens(shown, renderer) for shown in drawn]
        texts = generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=settings.max_new_tokens or self._new_tokens(examples),
            sampling=Sampling([(settings.seed, attempt) for attempt in attempts], settings.temperature, settings.top_p),
            batch_size=batch_size,
            fix="write proxies by `egup proxy` with a lower --num_examples or --max_new_tokens",
        )
        goes_on = not self.tokenizer.chat_template
        return [read_row(text, shown[0].kind, goes_on=goes_on) for text, shown in zip(texts, drawn, strict=True)]

    def _new_tokens(self, examples: Sequence[Example]) -> int:
        """Twice what the longer rows have, so that what is cut off is too long anyway."""
        chosen = examples[:: max(len(examples) // 256, 1)]
        lengths = [len(self.tokenizer(str(example), add_special_tokens=False)["input_ids"]) for example in chosen]
        return 2 * int(np.percentile(lengths, 95))


def write_proxies(
    model: Any,
    tokenizer: Any,
    forget_rows: Rows,
    retain_rows: Rows | None = None,
    *,
    output: str | Path,
    settings: ProxySettings | None = None,
    writer: Writer | None = None,
    template: Template | None = None,
    batch_size: int = 16,
    replace_other: bool = False,
    progress: bool = True,
) -> Proxies:
    """Has rows written that are like the forget rows, about things that no model saw.

    A model is shown some forget rows at a time and asked for another one about something that it invents; what it
    writes is read and filtered (docs/data.md). Each attempt is a pure function of the settings' seed and its number.
    Attempts are kept on disk beside `output` as they come, without texts that were rejected: the same call goes on
    where one was cut short, and does nothing again that is done.

    Args:
        model: the model before unlearning; the proxies are scored by it. It stays as it is.
        tokenizer: its tokenizer.
        forget_rows: rows to forget, anything that `load_rows` reads.
        retain_rows: rows to keep; proxies must not be near them either.
        output: a `.jsonl` file for the proxies, each with its writer, seed, attempt and the run's digest.
        settings: how they are written; `ProxySettings()` by default.
        writer: the model that writes; by default `model`.
        template: how rows are written for a tokenizer without a chat template, for scoring.
        batch_size: prompts and rows in a batch.
        replace_other: whether files beside `output` of other settings, rows or weights are replaced, not refused.
        progress: whether to show progress bars.

    Raises:
        ModelError: too few attempts made a proxy; what was kept is in `output`.
        StateError: `output` is there and was made otherwise.
        DataError: rows cannot be read, or are conversations.

    Example:
        >>> # proxies = write_proxies(model, tokenizer, "forget.jsonl", "retain.jsonl", output="proxies.jsonl")
        >>> # EGUPTrainer(model, args, "forget.jsonl", "retain.jsonl", proxy_dataset=proxies.rows)
    """
    settings, output = settings or ProxySettings(), Path(output)
    template = template or Template()
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    writer = writer or Writer(model, tokenizer, name, template)
    forget = load_rows(forget_rows)
    retain = [] if retain_rows is None else load_rows(retain_rows)
    examples = examples_of(forget)
    digest = _digest(model, tokenizer, writer, template, forget, retain, settings)
    log = _find_log(output, digest, replace_other)
    if log is None or _is_short(log.verdicts, settings):
        judge = Judge(forget, retain, Scorer(model, tokenizer, template, settings, batch_size), progress)
        log = log or AttemptLog.start(attempts_path(output), digest, {"forget_nll": judge.forget_nll})
        _attempt(log, judge, writer, examples, settings, batch_size, progress)
    return _finish(log, output, writer, settings)


def _attempt(
    log: AttemptLog,
    judge: Judge,
    writer: Writer,
    examples: list[Example],
    settings: ProxySettings,
    batch_size: int,
    progress: bool,
) -> None:
    """Goes on until there are enough proxies or no attempts left."""
    from tqdm.auto import tqdm

    for verdict in log.verdicts:
        if verdict.row is not None:
            judge.kept.add(verdict.row)
    kept = sum(verdict.row is not None for verdict in log.verdicts)
    with tqdm(total=settings.num_rows, initial=kept, desc="Writing proxies", unit="row", disable=not progress) as bar:
        while _is_short(log.verdicts, settings):
            first = len(log.verdicts)
            numbers = range(first, min(first + batch_size, settings.budget))
            rows = writer.write(examples, numbers, settings, batch_size)
            # What a batch holds beyond the last row needed is dropped, so that nothing hangs on the batch's size.
            verdicts = list(_until(judge(first, rows), settings.num_rows - kept))
            log.append(verdicts)
            new = sum(verdict.row is not None for verdict in verdicts)
            kept += new
            bar.update(new)
            bar.set_postfix(attempts=len(log.verdicts), refresh=True)


def _until(verdicts: Iterable[Verdict], num_rows: int) -> Iterator[Verdict]:
    """The verdicts up to the one that gives the last of so many rows."""
    for verdict in verdicts:
        if num_rows <= 0:
            return
        num_rows -= verdict.row is not None
        yield verdict


def _is_short(verdicts: Sequence[Verdict], settings: ProxySettings) -> bool:
    kept = sum(verdict.row is not None for verdict in verdicts)
    return kept < settings.num_rows and len(verdicts) < settings.budget


def _digest(
    model: Any,
    tokenizer: Any,
    writer: Writer,
    template: Template,
    forget: list[Row],
    retain: list[Row],
    settings: ProxySettings,
) -> str:
    has_date = writes_date(tokenizer) or writes_date(writer.tokenizer)
    parts = {
        **settings.for_digest(),
        "template": (template.user, template.assistant, template.always, template.date if has_date else None),
        "chat_templates": (tokenizer.chat_template, writer.tokenizer.chat_template),
        "writer": None if writer.model is model else scan_fingerprint(writer.model, [], {}),
        "forget": digest_of_rows(forget),
        "retain": digest_of_rows(retain),
    }
    return scan_fingerprint(model, [], parts)[:_DIGEST_DIGITS]


def _find_log(output: Path, digest: str, replace_other: bool) -> AttemptLog | None:
    """The attempts of an earlier run of the same digest, or None where a new file may be started."""
    path = attempts_path(output)
    if replace_other:
        log = _read_or_none(path)
        return log if log is not None and log.digest == digest else None
    if not path.exists():
        if output.exists():
            raise StateError(
                got=f"the file {output} without attempts beside it",
                expected="a new file, or one that `egup proxy` wrote",
                fix="choose another --output",
            )
        return None
    log = AttemptLog.read(path)
    if log.digest != digest and not log.verdicts and not output.exists():
        return None  # that run ended before its first attempt: there is nothing to lose
    if log.digest != digest:
        raise StateError(
            got=f"{path} of other settings, rows or weights",
            expected=f"the digest {digest}",
            fix="choose another --output, or delete that file and its proxies to start afresh",
        )
    return log


def _read_or_none(path: Path) -> AttemptLog | None:
    try:
        return AttemptLog.read(path) if path.exists() else None
    except StateError:
        return None


def _finish(log: AttemptLog, output: Path, writer: Writer, settings: ProxySettings) -> Proxies:
    """Writes rows and numbers; refuses too few."""
    verdicts = list(_until(log.verdicts[: settings.budget], settings.num_rows))
    kept = [verdict for verdict in verdicts if verdict.row is not None]
    origin = {"writer": writer.name, "seed": settings.seed, "digest": log.digest}
    lines = [{**record_of(verdict.row), **origin, "attempt": verdict.attempt} for verdict in kept]  # type: ignore[arg-type]
    quality = Quality.of(
        verdicts,
        writer=writer.name,
        asked_for=settings.num_rows,
        forget_nll=log.facts["forget_nll"],
        digest=log.digest,
    )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_files({output: text, quality_path(output): quality.to_json()})
    if quality.kept < settings.least_rows:
        commonest = max(quality.rejected, key=quality.rejected.__getitem__)
        raise ModelError(
            got=f"{quality.kept} usable rows of {quality.attempts} attempts by {writer.name} (most of the others: "
            f"{commonest.value})",
            expected=f"at least {settings.least_rows}: the model is too weak to write such rows",
            fix="give rows that it never saw instead (`egup unlearn --proxy` with a holdout file or tofu:NAME), or "
            "have a stronger local model write them (`egup proxy --writer_model`)",
        )
    return Proxies([verdict.row for verdict in kept], quality)  # type: ignore[misc]
