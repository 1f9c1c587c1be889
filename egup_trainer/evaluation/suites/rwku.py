"""RWKU: what a model knows of famous people and of their neighbors (Jin et al. 2024, arXiv 2406.10890).

The rows are laid out as on the hub (jinzhuoran/RWKU): configs forget_level1 (fill in the blank), forget_level2
(questions), forget_level3 (adversarial questions), neighbor_level1 and neighbor_level2, each with the split test;
columns query, answer and subject.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egup_trainer.data.layouts import to_row
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import MAX_LENGTH, Row
from egup_trainer.errors import DataError
from egup_trainer.evaluation.metric_registry import Section
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.scores import RowRole, SetUse
from egup_trainer.evaluation.suites.splits import read_split
from egup_trainer.evaluation.suites.suite import Suite, declared_plan

HUB_ID = "jinzhuoran/RWKU"
_BLANK = "Please complete the blank in the following question.\nQuestion: {query}\n"
_BRIEF = "Please briefly answer the following question.\nQuestion: {query}\n"
_SETS = {
    "forget_level1": (RowRole.FORGET, _BLANK),
    "forget_level2": (RowRole.FORGET, _BRIEF),
    "forget_level3": (RowRole.FORGET, _BRIEF),
    "neighbor_level1": (RowRole.NEIGHBOR, _BLANK),
    "neighbor_level2": (RowRole.NEIGHBOR, _BRIEF),
}
"""Role and prompt of each part."""


def rwku_suite(
    subject: str | None = None,
    data_dir: str | Path | None = None,
    template: Template | None = None,
    max_length: int = MAX_LENGTH,
    max_new_tokens: int = 32,
) -> Suite:
    """The RWKU suite: ROUGE-L recall and probability of the answers, for what is to be forgotten and its neighbors.

    The prompts are the benchmark's, in the model's chat template. The benchmark also begins the answer with "Answer:",
    which is left out here (**ours**).

    Args:
        subject: the person to be forgotten, as the column `subject` spells the name; all persons if None.
        data_dir: folder with the files CONFIG/test.jsonl (or .json, .parquet, .csv); without it they are read from the
            hub.
        template: markers for tokenizers without a chat template.
        max_length: maximum number of tokens in a text.
        max_new_tokens: maximum number of tokens in a generation.

    Raises:
        DataError: rows cannot be read, or none is about the subject.

    Example:
        >>> # suite = rwku_suite("Stephen King", data_dir="rwku")
    """
    row_sets = []
    for config, (role, prompt) in _SETS.items():
        rows = _rows(config, prompt, subject, read_split(HUB_ID, config, "test", data_dir))
        use = SetUse(role, ("probability", "rouge"), fluency=config == "forget_level2")
        row_sets.append(
            RowSet(
                config,
                rows,
                use=use,
                generation=Generation(max_new_tokens),
                template=template or Template(),
                max_length=max_length,
            )
        )
    return Suite("rwku", subject, row_sets, lambda scores: declared_plan(scores, (Section.FLUENCY,)))


def _rows(config: str, prompt: str, subject: str | None, records: list[dict[str, Any]]) -> list[Row]:
    rows = [
        _row(record, config, number, prompt)
        for number, record in enumerate(records)
        if subject is None or (isinstance(record, Mapping) and record.get("subject") == subject)
    ]
    if not rows:
        known = sorted({str(record.get("subject")) for record in records})
        raise DataError(
            got=f"no row about {subject} in {config}",
            expected=f"one of its {len(known)} subjects, such as {known[0]}",
            fix="set --rwku_subject as the column subject spells it",
        )
    return rows


def _row(record: Mapping[str, Any], config: str, number: int, prompt: str) -> Row:
    if not isinstance(record, Mapping) or not {"query", "answer"} <= record.keys():
        raise DataError(
            got=f"row {number} of {config} without query and answer", expected="both columns", fix="check the file"
        )
    question = prompt.format(query=record["query"])
    return to_row({"question": question, "answer": record["answer"]}, config, number)
