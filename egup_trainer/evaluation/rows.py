"""Rows to evaluate on: named sets, how they are rendered for the model, and the texts that each row makes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from egup_trainer.data.rendering import Renderer, Template, writes_date
from egup_trainer.data.schema import MAX_LENGTH, OnLongRow, Row, TokenizedRow
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.scores import SetUse
from egup_trainer.evaluation.their_tokens import TheirText, their_text

EXCHANGED = "exchanged"
"""In settings, where the wrong answers of rows are those of other rows."""


@dataclass(frozen=True)
class Generation:
    """How the model continues a prompt: greedily, up to a number of tokens, cut before the first stop word."""

    max_new_tokens: int = 200
    stop_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowSet:
    """Rows that are scored in the same way.

    Args:
        name: "forget", "retain", ...
        rows: the rows; a row's index is its sample id.
        template: markers for the prompt.
        on_long_row: what to do with a longer text that has a prompt.
        generation: how generations are made; None for no generations.
        with_membership: whether the numbers of membership inference are computed.
        use: what the set is measured for.
        exchanged: whether the wrong answers are those of other rows.
        continues: whether the answer goes on after the prompt's last character, a space that belongs to neither.
    """

    name: str
    rows: list[Row]
    template: Template = field(default_factory=Template)
    max_length: int = MAX_LENGTH
    on_long_row: OnLongRow = OnLongRow.WINDOW
    generation: Generation | None = None
    with_features: bool = False
    with_membership: bool = False
    use: SetUse = SetUse()
    exchanged: bool = False
    continues: bool = False

    @property
    def fingerprint(self) -> str:
        """Digest of the rows' texts, 16 hexadecimal digits; the same whatever the tokenizer."""
        digest = hashlib.sha256()
        for row in self.rows:
            turns = [[message.role, message.content] for message in row.prompt]
            texts = [turns, row.answer, row.paraphrase, row.perturbed, row.alternatives]
            digest.update(json.dumps(texts).encode() + b"\n")
        return digest.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """How the rows are rendered and answered, for the record: only results of the same settings can be compared."""
        new_tokens = None if self.generation is None else self.generation.max_new_tokens
        markers = [self.template.user, self.template.assistant, self.template.always, self.template.closed]
        long = {"max_length": self.max_length, "on_long_row": self.on_long_row.value}
        wrong = {"wrong_answers": EXCHANGED} if self.exchanged else {}
        return {**long, "max_new_tokens": new_tokens, "markers": markers, **wrong, **self.use.definitions.settings}


class TextKind(Enum):
    """What a text is to its row."""

    ANSWER = "answer"
    PARAPHRASE = "paraphrase"
    PERTURBED = "perturbed"


@dataclass(frozen=True)
class Text:
    """A text that is scored: a row's prompt with one of its answers, in one piece or, if long, in several.

    Args:
        pieces: indices of its tokenized pieces in the data set of all texts.
    """

    row_set: str
    sample: int
    kind: TextKind
    pieces: tuple[int, ...] = ()


@dataclass(frozen=True)
class Writing:
    """What rows are rendered with, to explain why tokens differ from those of other results.

    Args:
        template_date: the date that the chat template writes; None if it writes none.
        chat_template: digest of the chat template, 16 hexadecimal digits; None if there is none.
        system_prompt: text of the system turn before the turns of each row; None if there is none.
        template_kwargs: variables that the chat template is given, by name; None if there are none.
    """

    template_date: str | None = None
    chat_template: str | None = None
    system_prompt: str | None = None
    template_kwargs: dict[str, Any] | None = None

    @classmethod
    def by(cls, tokenizer: Any, row_sets: list[RowSet]) -> "Writing":
        """How a tokenizer renders row sets."""
        template = getattr(tokenizer, "chat_template", None)
        digest = hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else None
        first = next((each.template for each in row_sets if each.template.closed), None)
        if first is None:
            return cls(chat_template=digest)
        date = first.date if writes_date(tokenizer) and not first.always else None
        return cls(date, digest, first.system_prompt, dict(first.kwargs) or None)


@dataclass(frozen=True)
class Texts:
    """All texts of row sets, tokenized.

    Args:
        theirs: first answers as OpenUnlearning reads them, by row set and sample, of the sets that follow its
            definitions.
    """

    texts: list[Text]
    dataset: RowDataset
    writing: Writing
    theirs: dict[tuple[str, int], TheirText] = field(default_factory=dict)

    def fingerprint(self, row_set: str) -> str:
        """Digest of the tokens of a set's texts, and of which of them are scored; 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for text in self.texts:
            if text.row_set == row_set:
                digest.update(text.kind.value.encode())
                digest.update(b"".join(self.dataset.rows[piece].key() for piece in text.pieces))
        return digest.hexdigest()[:16]

    def long_rows(self, row_set: str) -> dict[str, int]:
        """How many rows of a set have a text that was `cut`, and how many have one that is read `in_windows`."""
        texts = [text for text in self.texts if text.row_set == row_set]
        cut = {text.sample for text in texts if any(self.dataset.rows[piece].truncated for piece in text.pieces)}
        return {"cut": len(cut), "in_windows": len({text.sample for text in texts if len(text.pieces) > 1})}


def texts_of(row_sets: list[RowSet], tokenizer: Any, progress: bool) -> Texts:
    """All texts of all sets, tokenized. Each text is scored once, however many metrics there are.

    Raises:
        DataError, ModelError: as in `tokenize`.
    """
    texts: list[Text] = []
    samples: list[TokenizedRow] = []
    theirs: dict[tuple[str, int], TheirText] = {}
    for row_set in row_sets:
        expanded = [(Text(row_set.name, sample, kind), row) for sample, kind, row in _expand(row_set.rows)]
        if row_set.use.definitions is Definitions.OPEN_UNLEARNING:
            for index, found in enumerate(_as_theirs(row_set, expanded, tokenizer)):
                text = replace(expanded[index][0], pieces=(len(samples),))
                if text.kind is TextKind.ANSWER:
                    theirs.setdefault((row_set.name, text.sample), found)
                texts.append(text)
                samples.append(found.sample)
            continue
        tokenized = tokenize(
            [row for _, row in expanded],
            tokenizer,
            name=f"{row_set.name} set",
            max_length=row_set.max_length,
            template=row_set.template,
            progress=progress,
            numbers=[text.sample for text, _ in expanded],
            on_long_row=row_set.on_long_row,
        ).rows
        pieces: list[list[int]] = [[] for _ in expanded]
        for index, sample in enumerate(tokenized, start=len(samples)):
            pieces[sample.source.number].append(index)
        texts += [replace(text, pieces=tuple(found)) for (text, _), found in zip(expanded, pieces, strict=True)]
        samples += tokenized
    return Texts(texts, RowDataset(samples), Writing.by(tokenizer, row_sets), theirs)


def _as_theirs(row_set: RowSet, expanded: list[tuple[Text, Row]], tokenizer: Any) -> Iterator[TheirText]:
    with Renderer(tokenizer, row_set.template) as renderer:
        for index, (text, row) in enumerate(expanded):
            where = f"row {text.sample} of the {row_set.name} set"
            yield their_text(
                row, index, renderer, max_length=row_set.max_length, continues=row_set.continues, where=where
            )


def _expand(rows: list[Row]) -> list[tuple[int, TextKind, Row]]:
    """Sample id, kind and a row with one answer, for each text."""
    expanded = []
    for sample, row in enumerate(rows):
        expanded += [(sample, TextKind.ANSWER, Row(row.prompt, text)) for text in (row.answer, *row.alternatives)]
        if row.paraphrase is not None:
            expanded.append((sample, TextKind.PARAPHRASE, Row(row.prompt, row.paraphrase)))
        expanded += [(sample, TextKind.PERTURBED, Row(row.prompt, text)) for text in row.perturbed]
    return expanded
