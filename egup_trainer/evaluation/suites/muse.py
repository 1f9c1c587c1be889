"""MUSE: news or books to forget; what of them is known, recited, and betrayed (Shi et al. 2024, arXiv 2407.06460).

The rows are laid out as on the hub (muse-bench/MUSE-News, muse-bench/MUSE-Books): `knowmem` with the splits forget_qa,
retain_qa, forget_qa_icl and retain_qa_icl (question, answer), `verbmem` with forget (prompt, gt), and `privleak` with
forget, retain and holdout (text).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from egup_trainer.data.layouts import to_row
from egup_trainer.data.schema import MAX_LENGTH, Message, Row
from egup_trainer.errors import DataError, choose
from egup_trainer.evaluation.metric_registry import Section
from egup_trainer.evaluation.metrics.rouge import MUSE_ROUGE
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.scores import RowRole, SetUse
from egup_trainer.evaluation.suites.splits import WRITTEN_OUT, read_split
from egup_trainer.evaluation.suites.suite import Suite, declared_plan

SHOTS = 10


class MuseCorpus(Enum):
    """MUSE's two corpora, and their data sets on the hub."""

    NEWS = "news"
    BOOKS = "books"

    @property
    def hub_id(self) -> str:
        """Id of the corpus on the hub."""
        return f"muse-bench/MUSE-{self.value.capitalize()}"


def muse_suite(corpus: MuseCorpus | str, data_dir: str | Path | None = None, max_length: int = MAX_LENGTH) -> Suite:
    """The MUSE suite: knowledge and verbatim memorization by ROUGE, and membership inference.

    Args:
        corpus: a `MuseCorpus` or its value, "news" or "books".
        data_dir: folder with the files CONFIG/SPLIT.jsonl (or .json, .parquet, .csv); without it they are read from the
            hub.
        max_length: maximum number of tokens in a text; longer texts are scored in pieces.

    Raises:
        ConfigError: there is no such corpus.
        DataError: rows cannot be read, or there are fewer than ten examples for the prompts.
    """

    corpus = choose(MuseCorpus, corpus, "muse_corpus")

    read = partial(read_split, corpus.hub_id, data_dir=data_dir)
    shared: dict[str, Any] = {"template": WRITTEN_OUT, "max_length": max_length}
    answering = Generation(32, stop_words=("\n\n", "\nQuestion", "Question:"))
    row_sets = [
        RowSet(
            f"{name}_knowmem",
            _with_shots(read("knowmem", f"{name}_qa"), read("knowmem", f"{name}_qa_icl"), name),
            use=SetUse(RowRole(name), ("rouge",), MUSE_ROUGE),
            generation=answering,
            **shared,
        )
        for name in ("forget", "retain")
    ]
    recited = [_recital(record, number) for number, record in enumerate(read("verbmem", "forget"))]
    use = SetUse(RowRole.FORGET, ("rouge", "exact_memorization", "extraction_strength"), MUSE_ROUGE, fluency=True)
    row_sets.append(RowSet("forget_verbmem", recited, use=use, generation=Generation(128), continues=True, **shared))
    roles = {"forget": RowRole.FORGET, "retain": RowRole.RETAIN, "holdout": RowRole.UNSEEN}
    for name, role in roles.items():
        rows = [to_row(record, f"privleak {name}", number) for number, record in enumerate(read("privleak", name))]
        use = SetUse(role, ("probability",))
        featured, membership = name != "holdout", name != "retain"
        row_sets.append(RowSet(name, rows, use=use, with_features=featured, with_membership=membership, **shared))
    sections = (Section.MEMBERSHIP, Section.FLUENCY, Section.REPRESENTATION)
    return Suite("muse", corpus.value, row_sets, partial(declared_plan, sections=sections))


def _with_shots(records: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]], name: str) -> list[Row]:
    """Rows whose prompt is ten answered questions and then the row's own."""
    if len(examples) < SHOTS:
        raise DataError(
            got=f"{len(examples)} rows in {name}_qa_icl",
            expected=f"at least {SHOTS} examples for the prompts",
            fix="give the whole file",
        )
    answered = [_question(record, f"{name}_qa_icl", number) for number, record in enumerate(examples[:SHOTS])]
    shots = "".join(f"Question: {row.prompt[0].content}\nAnswer: {row.answer}\n\n" for row in answered)
    rows = [_question(record, f"{name}_qa", number) for number, record in enumerate(records)]
    return [
        Row(
            prompt=(Message("user", f"{shots}Question: {row.prompt[0].content}\nAnswer: "),),
            answer=row.answer,
            alternatives=row.alternatives,
        )
        for row in rows
    ]


def _recital(record: Mapping[str, Any], number: int) -> Row:
    if not isinstance(record, Mapping) or not {"prompt", "gt"} <= record.keys():
        raise DataError(
            got=f"row {number} of verbmem without prompt and gt", expected="both columns", fix="check the file"
        )
    row = to_row({"prompt": record["prompt"], "completion": record["gt"]}, "verbmem", number)
    prompt = row.prompt[0].content
    has_space = prompt[-1].isspace() or row.answer[0].isspace()  # MUSE cut the text at a space, which neither part has
    return row if has_space else replace(row, prompt=(Message("user", f"{prompt} "),))


def _question(record: Mapping[str, Any], source: str, number: int) -> Row:
    row = to_row(record, source, number)
    if not row.prompt:
        raise DataError(
            got=f"no question in row {number} of {source}", expected="question and answer", fix="check the file"
        )
    return row
