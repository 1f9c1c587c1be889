"""Writes proxies from beginning to end: examples, prompts, texts, verdicts, files.

Beside the proxies (`proxies.jsonl`) are the attempts (`proxies.attempts.jsonl`), from which an interrupted run goes on,
and the numbers of the run (`proxies.quality.json`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from egup_trainer.data.layouts import to_row
from egup_trainer.data.rendering import Renderer, Template, writes_date
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import Source, load_rows
from egup_trainer.errors import StateError, TooFewProxiesError
from egup_trainer.files import append_to_file, one_line_write_errors, write_file, write_files
from egup_trainer.modeling.generation import Sampling, generate
from egup_trainer.modeling.scan import scan_fingerprint
from egup_trainer.proxies.filters import Rejection
from egup_trainer.proxies.frame import Frame
from egup_trainer.proxies.judge import Judge, Scorer, Verdict
from egup_trainer.proxies.prompt import Example, examples_of, prompt_tokens, read_row, sample_examples
from egup_trainer.proxies.settings import ProxySettings, digest_of_rows, new_tokens_for

_DIGEST_DIGITS = 16


@dataclass(frozen=True)
class Writer:
    """A model that writes rows.

    Args:
        name: its name in the files.
        template: has the date that its chat template writes.
    """

    model: Any
    tokenizer: Any
    name: str
    template: Template = field(default_factory=Template)

    def write(
        self, examples: Sequence[Example], attempts: Sequence[int], settings: ProxySettings, batch_size: int
    ) -> list[Row | None]:
        """What can be read from each attempt, or None. Each is sampled by (seed, attempt) alone."""
        shown = [sample_examples(examples, settings.num_examples, settings.seed, attempt) for attempt in attempts]
        with Renderer(self.tokenizer, self.template) as renderer:
            prompts = [prompt_tokens(each, renderer) for each in shown]
        texts = generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=settings.max_new_tokens or new_tokens_for(list(map(str, examples)), self.tokenizer),
            sampling=Sampling([(settings.seed, attempt) for attempt in attempts], settings.temperature, settings.top_p),
            batch_size=batch_size,
            fix="write proxies by `egup proxy` with a lower --num_examples or --max_new_tokens",
        )
        goes_on = not self.tokenizer.chat_template
        return [read_row(text, each[0].kind, goes_on=goes_on) for text, each in zip(texts, shown, strict=True)]


@dataclass(frozen=True)
class Quality:
    """The numbers of a run.

    Args:
        writer: name of the model that wrote.
        rejected: number of attempts by the reason for their rejection.
        proxy_nll: mean l of the proxies under the initial model, nats per token; None without proxies.
        forget_nll: mean l of the forget rows under it, nats per token.
        digest: of settings, rows and weights.
    """

    writer: str
    asked_for: int
    attempts: int
    kept: int
    rejected: dict[Rejection, int]
    proxy_nll: float | None
    forget_nll: float
    digest: str

    @classmethod
    def of(
        cls, verdicts: Sequence[Verdict], *, writer: str, asked_for: int, forget_nll: float, digest: str
    ) -> "Quality":
        """The numbers of the verdicts."""
        counts = Counter(verdict.rejection for verdict in verdicts)
        losses = [verdict.nll for verdict in verdicts if verdict.nll is not None]
        return cls(
            writer=writer,
            asked_for=asked_for,
            attempts=len(verdicts),
            kept=counts[None],
            rejected={reason: counts[reason] for reason in Rejection},
            proxy_nll=sum(losses) / len(losses) if losses else None,
            forget_nll=forget_nll,
            digest=digest,
        )

    @property
    def warning(self) -> str | None:
        """What to know before using the proxies, or None."""
        if self.proxy_nll is None or self.proxy_nll > self.forget_nll:
            return None
        return (
            f"The proxies are no less likely to the model (l {self.proxy_nll:.2f}) than the forget rows "
            f"({self.forget_nll:.2f}), so a boundary from them asks for no forgetting. Either the model does not know "
            "the forget rows, or its own texts are too likely to it: use rows of a holdout set instead."
        )

    def to_json(self) -> str:
        """The numbers as JSON."""
        numbers: dict[str, Any] = asdict(self)
        numbers["rejected"] = {reason.name.lower(): count for reason, count in self.rejected.items()}
        return json.dumps({**numbers, "warning": self.warning}, indent=1) + "\n"

    def table(self) -> Any:
        """The numbers as a `rich` table."""
        from rich.table import Table

        table = Table(title="Proxies", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("asked for", str(self.asked_for))
        table.add_row("attempts", str(self.attempts))
        table.add_row("kept", str(self.kept), end_section=True)
        for reason, count in self.rejected.items():
            table.add_row(f"rejected: {reason.value}", str(count), end_section=reason is list(Rejection)[-1])
        table.add_row("mean l of the proxies", "none" if self.proxy_nll is None else f"{self.proxy_nll:.2f}")
        table.add_row("mean l of the forget rows", f"{self.forget_nll:.2f}")
        return table


@dataclass(frozen=True)
class Proxies:
    """The written proxies, and the numbers of the run.

    Args:
        rows: the proxies.
        quality: how many were asked for, written and kept, and how likely the model finds them.
    """

    rows: list[Row]
    quality: Quality


@dataclass
class AttemptLog:
    """A JSON Lines file: first the digest of the run, then one line per attempt. It has no rejected texts.

    Args:
        digest: of settings, rows and weights.
        forget_nll: mean l of the forget rows, see `Quality`.
        size: of the file, in bytes.
    """

    path: Path
    digest: str
    forget_nll: float
    size: int
    verdicts: list[Verdict] = field(default_factory=list)

    @classmethod
    def start(cls, path: Path, digest: str, forget_nll: float) -> "AttemptLog":
        """A new file, which replaces any other."""
        head = line_of({"digest": digest, "forget_nll": forget_nll}).encode("utf-8")
        write_file(path, head)
        return cls(path, digest, forget_nll, len(head))

    @classmethod
    def read(cls, path: Path) -> "AttemptLog":
        """The file's attempts, without a last line that was not written completely.

        Raises:
            StateError: the file holds something else.
        """
        found = path.read_bytes()
        whole = found[: found.rfind(b"\n") + 1]
        try:
            head, *lines = (json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1])
            log = cls(path, head["digest"], head["forget_nll"], len(whole), list(map(_verdict_from, lines)))
            if [verdict.attempt for verdict in log.verdicts] != list(range(len(lines))):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                got=f"{path}, which holds no attempts", expected="a file that `egup proxy` wrote", fix="delete it"
            ) from error
        if whole != found:
            write_file(path, whole)
        return log

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Adds verdicts, and writes them to the disk at once.

        Raises:
            StateError: the file cannot be written, or another run has written to it.
        """
        with one_line_write_errors(self.path):
            size = self.path.stat().st_size
        if size != self.size:
            raise StateError(
                got=f"{self.path}, to which another run has written meanwhile",
                expected="one run at a time",
                fix="wait for the other run to end, or choose another --output",
            )
        self.size = append_to_file(self.path, "".join(line_of(_verdict_record(verdict)) for verdict in verdicts))
        self.verdicts += verdicts


def attempts_path(output: Path) -> Path:
    """Path of the attempts of `output`: `proxies.attempts.jsonl` beside `proxies.jsonl`."""
    return output.with_suffix(".attempts.jsonl")


def quality_path(output: Path) -> Path:
    """Path of the numbers of `output`: `proxies.quality.json` beside `proxies.jsonl`."""
    return output.with_suffix(".quality.json")


def record_of(row: Row) -> dict[str, Any]:
    """The row, without further correct answers, in a layout that `load_rows` reads."""
    others = {
        "paraphrased_answer": row.paraphrase,
        "perturbed_answer": row.perturbed,
        "alternate_answer": row.alternates,
        "paraphrased_question": row.paraphrased_questions,
        "translated_question": row.translated_questions,
    }
    given = {name: value for name, value in others.items() if value}
    if not row.prompt:
        return {"text": row.answer, **given}
    if len(row.prompt) == 1:
        names = ("question", "answer") if row.has_turns else ("prompt", "completion")
        return dict(zip(names, (row.prompt[0].content, row.answer), strict=True)) | given
    turns = [{"role": message.role, "content": message.content} for message in row.prompt]
    return {"messages": [*turns, {"role": "assistant", "content": row.answer}], **given}


def _verdict_record(verdict: Verdict) -> dict[str, Any]:
    if verdict.rejection is not None:
        return {"attempt": verdict.attempt, "rejected": verdict.rejection.name.lower()}
    return {"attempt": verdict.attempt, "row": record_of(verdict.row), "nll": verdict.nll}  # type: ignore[arg-type]


def _verdict_from(record: dict[str, Any]) -> Verdict:
    number = record["attempt"]
    if "rejected" in record:
        return Verdict(number, Rejection[record["rejected"].upper()])
    return Verdict(number, None, to_row(record["row"], "the attempts", number), record["nll"])


def line_of(record: dict[str, Any]) -> str:
    """A line of a JSON Lines file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_proxies(
    model: Any,
    tokenizer: Any,
    forget_rows: Source,
    retain_rows: Source | None = None,
    *,
    output: str | Path,
    settings: ProxySettings | None = None,
    writer: Writer | None = None,
    template: Template | None = None,
    batch_size: int = 16,
    replace_other: bool = False,
    progress: bool = True,
) -> Proxies:
    """Has a model write rows that resemble the forget rows, about things that no model saw.

    The model is shown a few forget rows at a time and asked for another one about something that it invents; what it
    writes is read and filtered (docs/data.md). Each attempt is a pure function of the settings' seed and its number.
    Attempts are written to a file beside `output` as they come, without rejected texts, so that the same call goes on
    where an earlier one was interrupted, and repeats nothing.

    Args:
        model: the initial model, by which the proxies are scored. It is not changed.
        tokenizer: its tokenizer.
        forget_rows: rows to forget, anything that `load_rows` reads.
        retain_rows: rows to keep; proxies must not be near them either.
        output: a `.jsonl` file for the proxies, each with its writer, seed, attempt and the run's digest.
        settings: how they are written; `ProxySettings()` by default.
        writer: the model that writes; by default `model`.
        template: how rows are written for scoring with a tokenizer that has no chat template.
        batch_size: number of prompts and rows per batch.
        replace_other: whether to replace files of other settings, rows or weights beside `output`, not refuse them.
        progress: whether to show progress bars.

    Raises:
        TooFewProxiesError: the model writes too few usable rows; the message says why and what to do.
        StateError: `output` exists and was made with other settings, rows or weights.
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
    frame = Frame.of(forget)
    if frame is not None:
        forget, retain = ([frame.take_off(row) for row in rows] for rows in (forget, retain))
        template = frame.template(template)
    examples = examples_of(forget)
    digest = _digest(model, tokenizer, writer, template, forget, retain, settings)
    log = _find_log(output, digest, replace_other)
    if log is None or _is_short(log.verdicts, settings):
        judge = Judge(forget, retain, Scorer(model, tokenizer, template, settings, batch_size), progress)
        log = log or AttemptLog.start(attempts_path(output), digest, judge.forget_nll)
        _attempt(log, judge, writer, examples, settings, batch_size, progress)
    return _finish(log, output, writer, settings, frame)


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
        "template_inputs": (template.system_prompt, json.dumps(dict(template.kwargs), sort_keys=True)),
        "chat_templates": (tokenizer.chat_template, writer.tokenizer.chat_template),
        "writer": None if writer.model is model else scan_fingerprint(writer.model, [], {}),
        "forget": digest_of_rows(forget),
        "retain": digest_of_rows(retain),
    }
    return scan_fingerprint(model, [], parts)[:_DIGEST_DIGITS]


def _find_log(output: Path, digest: str, replace_other: bool) -> AttemptLog | None:
    """The attempts of an earlier run with the same digest, or None if a new file may be started."""
    path = attempts_path(output)
    if not path.exists():
        if output.exists() and not replace_other:
            raise StateError(
                got=f"the file {output} without attempts beside it",
                expected="a new file, or one that `egup proxy` wrote",
                fix="choose another --output",
            )
        return None
    try:
        log = AttemptLog.read(path)
    except StateError:
        if replace_other:
            return None
        raise
    if log.digest == digest:
        return log
    if replace_other or not (log.verdicts or output.exists()):  # a run that ended before its first attempt
        return None
    raise StateError(
        got=f"{path} of other settings, rows or weights",
        expected=f"the digest {digest}",
        fix="choose another --output, or delete that file and its proxies to start again",
    )


def _attempt(
    log: AttemptLog,
    judge: Judge,
    writer: Writer,
    examples: list[Example],
    settings: ProxySettings,
    batch_size: int,
    progress: bool,
) -> None:
    """Makes attempts until there are enough proxies or no attempts left."""
    from tqdm.auto import tqdm

    kept = 0
    for verdict in log.verdicts:
        if verdict.row is not None:
            judge.kept.add(verdict.row)
            kept += 1
    with tqdm(total=settings.num_rows, initial=kept, desc="Writing proxies", unit="row", disable=not progress) as bar:
        while _is_short(log.verdicts, settings):
            first = len(log.verdicts)
            numbers = range(first, min(first + batch_size, settings.budget))
            rows = writer.write(examples, numbers, settings, batch_size)
            # Whatever follows the last row needed is dropped, so that the result does not depend on the batch size.
            verdicts = list(_until(judge(first, rows), settings.num_rows - kept))
            log.append(verdicts)
            new = sum(verdict.row is not None for verdict in verdicts)
            kept += new
            bar.update(new)
            bar.set_postfix(attempts=len(log.verdicts), refresh=True)


def _until(verdicts: Iterable[Verdict], num_rows: int) -> Iterator[Verdict]:
    """The verdicts up to the one with the last of that many rows."""
    for verdict in verdicts:
        if num_rows <= 0:
            return
        num_rows -= verdict.row is not None
        yield verdict


def _is_short(verdicts: Sequence[Verdict], settings: ProxySettings) -> bool:
    kept = sum(verdict.row is not None for verdict in verdicts)
    return kept < settings.num_rows and len(verdicts) < settings.budget


def _finish(log: AttemptLog, output: Path, writer: Writer, settings: ProxySettings, frame: Frame | None) -> Proxies:
    """Writes rows and numbers, and refuses too few rows."""
    verdicts = list(_until(log.verdicts[: settings.budget], settings.num_rows))
    kept = [(verdict.row, verdict.attempt) for verdict in verdicts if verdict.row is not None]
    if frame is not None:
        kept = [(frame.put_on(row), attempt) for row, attempt in kept]
    origin = {"writer": writer.name, "seed": settings.seed, "digest": log.digest}
    quality = Quality.of(
        verdicts,
        writer=writer.name,
        asked_for=settings.num_rows,
        forget_nll=log.forget_nll,
        digest=log.digest,
    )
    text = "".join(line_of({**record_of(row), **origin, "attempt": attempt}) for row, attempt in kept)
    write_files({output: text, quality_path(output): quality.to_json()})
    if quality.kept < settings.min_rows:
        commonest = max(quality.rejected, key=quality.rejected.__getitem__)
        raise TooFewProxiesError(
            got=f"{quality.kept} usable rows of {quality.attempts} attempts by {writer.name} (most of the others: "
            f"{commonest.value})",
            expected=f"at least {settings.min_rows}: the model is too weak to write such rows",
            fix="give rows that it never saw instead (`egup unlearn --proxy` with a holdout file or tofu:NAME), or "
            "have a stronger local model write them (`egup proxy --writer_model`)",
        )
    return Proxies([row for row, _ in kept], quality)
