"""The results of one model on one suite: the metrics, and what is needed to compare and show them; kept as JSON."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from egup_trainer.errors import DataError
from egup_trainer.evaluation.definitions import SETTING, Definitions
from egup_trainer.evaluation.documents import STRICT, read_results, refuse_differences, to_json
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.rows import Writing
from egup_trainer.files import write_files

SCHEMA_VERSION = 2
FRAMEWORK = "framework"
"""In the facts of a run, which framework wrote the results, where it is another one."""
_KIND = "egup_trainer evaluation"


@dataclass(frozen=True)
class SetFacts:
    """Facts of a row set: the number of its rows, and fingerprints by which two sets can be compared.

    Args:
        fingerprint: of the rows' texts; None in results of another framework, which name no rows.
        tokens: fingerprint of the tokens that the model reads; None if no tokenizer was given.
        cut: number of rows that were longer than `max_length` and were cut.
        in_windows: number of rows that were longer and were read in several windows.
    """

    num_rows: int
    fingerprint: str | None
    tokens: str | None = None
    cut: int = 0
    in_windows: int = 0


@dataclass(frozen=True)
class Example:
    """A row's texts, and what the model wrote after its prompt."""

    sample: int
    prompt: str
    answer: str
    generation: str


@dataclass(frozen=True)
class Evaluation:
    """One model on one suite.

    Args:
        name: of the model, for tables.
        suite: its name, as for `--suite`.
        split: which part of the suite ("forget10"; "news"), or None.
        sets: facts of the row sets, by name.
        metrics: by name.
        settings: how rows are rendered and features read, by name; the same for results that are compared.
        examples: texts that the user asked to keep, by row set; none by default.
        training: the log history of the training that produced the model, if it was found.
        run: model, versions, command, machine, seconds.
        writing: what the rows were rendered with.
        features: mean hidden states over answer tokens, float32 (N, d), by row set; rows in the order of
            `feature_ids`. Kept in a file of its own beside the JSON.
        feature_ids: sample ids of the feature rows, by row set.
    """

    name: str
    suite: str
    split: str | None
    sets: dict[str, SetFacts]
    metrics: dict[str, Metric]
    settings: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    writing: Writing = field(default_factory=Writing)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    feature_ids: dict[str, list[int]] = field(default_factory=dict)
    __pydantic_config__: ClassVar = STRICT

    @property
    def names_no_rows(self) -> bool:
        """Whether the results are those of another framework, in which rows have numbers, but no fingerprints."""
        return any(facts.fingerprint is None for facts in self.sets.values())

    @property
    def definitions(self) -> Definitions:
        """Whose definitions the metrics follow."""
        return Definitions.of(self.settings)

    @property
    def values(self) -> dict[str, float | None]:
        """Values alone, by metric."""
        return {name: metric.value for name, metric in self.metrics.items()}

    def values_of(self, metric: str, set_name: str) -> dict[int, float]:
        """Per-sample numbers behind a metric, by sample id; empty if there are none.

        Example:
            >>> Evaluation("mine", "custom", None, {}, {}).values_of("forget_probability", "forget")
            {}
        """
        found = self.metrics.get(metric)
        return {} if found is None else found.values.get(set_name, {})


_FIELDS = [each.name for each in fields(Evaluation) if each.name != "features"]


def features_path(path: Path) -> Path:
    """The file of the features that belong to the results at `path`."""
    return path.with_suffix(".features.safetensors")


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes the results as JSON, and the features beside it; both atomically, and readable by the user alone."""
    from safetensors.numpy import save

    features = save({name: np.ascontiguousarray(value) for name, value in evaluation.features.items()})
    digest = hashlib.sha256(features).hexdigest() if evaluation.features else None
    document = asdict(replace(evaluation, features={})) | {"features_digest": digest}
    del document["features"]
    text = to_json(document, _KIND, SCHEMA_VERSION)
    write_files({path: text, **({features_path(path): features} if evaluation.features else {})})


def read_evaluation(path: str | Path, definitions: Definitions = Definitions.OURS) -> Evaluation:
    """Reads results back, with their features if the file beside them exists; also those of OpenUnlearning.

    Args:
        path: a file of `egup evaluate`, or a TOFU_EVAL.json or MUSE_EVAL.json of OpenUnlearning.
        definitions: those that metrics of OpenUnlearning are to follow; see `open_unlearning.from_document`.

    Raises:
        DataError: the file is missing or incomplete, or is of another kind or version.
    """
    from egup_trainer.evaluation.open_unlearning import find_document, from_document

    path = Path(path)
    theirs = find_document(path)
    if theirs is not None:
        return from_document(theirs, path, definitions)
    required = [*_FIELDS, "features_digest"]
    evaluation, more = read_results(path, Evaluation, _KIND, SCHEMA_VERSION, "evaluate", required)
    return replace(evaluation, features=_read_features(features_path(path), more["features_digest"]))


def check_same_rows(evaluation: Evaluation, other: Evaluation, other_name: str, as_tokens: bool = True) -> None:
    """Raises `DataError` if two evaluations differ in suite, split, rows or settings; names what differs.

    If one of them names no rows, only the suite, whose definitions are used, and the numbers of rows are compared.

    Args:
        evaluation: of the model in question.
        other: what it is compared with.
        other_name: how the user gave it, such as "--retrained".
        as_tokens: whether the models must also have read the same tokens.
    """
    identity = _shape if evaluation.names_no_rows or other.names_no_rows else _identity
    refuse_differences(
        (evaluation.name, identity(evaluation, other)),
        (other_name, identity(other, evaluation)),
        fix="evaluate both models on the same suite, split and rows, and by the same definitions (--as)"
        if evaluation.definitions is not other.definitions
        else "evaluate both models on the same suite, split and rows",
    )
    for name, facts in evaluation.sets.items() if as_tokens and identity is _identity else ():
        if facts.tokens != other.sets[name].tokens:
            refuse_differences(
                (evaluation.name, _tokens_of(evaluation, name)),
                (other_name, _tokens_of(other, name)),
                fix="evaluate both models with the same chat template and tokenizer, and with the same "
                "--template_date, --system_prompt and --template_kwargs",
            )


def _tokens_of(evaluation: Evaluation, name: str) -> dict[str, str]:
    """Facts by which the tokens of a set may differ from those of other results, the most informative first."""
    writing = evaluation.writing
    return {
        f"{name} rows written with template_date": str(writing.template_date),
        f"{name} rows written with system_prompt": repr(writing.system_prompt),
        f"{name} rows written with template_kwargs": json.dumps(writing.template_kwargs),
        f"{name} rows written by the chat template of digest": str(writing.chat_template),
        f"{name} rows whose tokens, which the tokenizer makes, have the fingerprint": str(evaluation.sets[name].tokens),
    }


def _shape(evaluation: Evaluation, other: Evaluation) -> dict[str, str]:
    """What is known even of rows without a fingerprint, of the sets that both have."""
    both = evaluation.sets.keys() & other.sets.keys()
    counts = {f"{name} rows, in number": str(evaluation.sets[name].num_rows) for name in sorted(both)}
    return {"suite": evaluation.suite, SETTING: evaluation.definitions.value, **counts}


def _identity(evaluation: Evaluation, _: Evaluation) -> dict[str, str]:
    sets = {f"{name} rows of fingerprint": str(facts.fingerprint) for name, facts in evaluation.sets.items()}
    settings = {name: json.dumps(value) for name, value in evaluation.settings.items()}
    of = {"suite": evaluation.suite, "split": str(evaluation.split), SETTING: evaluation.definitions.value}
    return {**of, **sets, **settings}


def _read_features(path: Path, digest: str | None) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    if digest is None or not path.is_file():
        return {}
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            got=f"{path}, which is not as it was written with the results beside it",
            expected="the two files of one evaluation",
            fix="evaluate the model again",
        )
    return load(content)
