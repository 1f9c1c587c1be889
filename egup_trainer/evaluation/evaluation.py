"""The results of one model on one suite: metrics, and what is needed to judge, compare and show them. Kept as JSON."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from egup_trainer.errors import DataError
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.rows import Writing
from egup_trainer.files import write_files
from egup_trainer.typed import check_types

SCHEMA_VERSION = 2
_KIND = "egup_trainer evaluation"


@dataclass(frozen=True)
class SetFacts:
    """A row set: how many rows it has, and fingerprints that tell whether two are the same.

    Args:
        num_rows: number of rows.
        fingerprint: of what the rows say.
        tokens: fingerprint of the tokens that the model reads; other ones give other numbers. None where no tokenizer
            was at hand.
        cut: how many rows were longer than `max_length` and lost what did not fit.
        in_windows: how many rows were longer and were read in several windows.
    """

    num_rows: int
    fingerprint: str
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
        suite: "tofu", "muse" or "custom".
        split: which part of the suite ("forget10"; "news"), or None.
        sets: facts of the row sets, by name.
        metrics: by name.
        settings: how rows are written and features read, by name; the same for results that are compared.
        examples: texts that the user asked to keep, by row set; none by default.
        training: the log history of the training that made the model, if it was found.
        run: model, versions, command, seed, machine, seconds.
        writing: what makes tokens of the rows.
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

    @property
    def values(self) -> dict[str, float | None]:
        """Values alone, by metric."""
        return {name: metric.value for name, metric in self.metrics.items()}


def features_path(path: Path) -> Path:
    """Where the features of the results at `path` are kept."""
    return path.with_suffix(".features.safetensors")


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes the results as JSON, and the features beside it; both readable by the user alone, whole or not at all."""
    from safetensors.numpy import save

    head = {"kind": _KIND, "schema_version": SCHEMA_VERSION}
    features = save({name: np.ascontiguousarray(value) for name, value in evaluation.features.items()})
    digest = hashlib.sha256(features).hexdigest() if evaluation.features else None
    document = {**head, **_without_features(evaluation), "features_digest": digest}
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_files({path: text, **({features_path(path): features} if evaluation.features else {})})


def read_evaluation(path: str | Path) -> Evaluation:
    """Reads results back, with their features where the file beside them exists.

    Raises:
        DataError: the file is missing, cut short, of another kind or another version.
    """
    path = Path(path)
    document = read_document(path, _KIND, SCHEMA_VERSION, "evaluate")
    try:
        evaluation = Evaluation(
            name=document["name"],
            suite=document["suite"],
            split=document["split"],
            sets={name: SetFacts(**facts) for name, facts in document["sets"].items()},
            metrics={name: metric_of(record) for name, record in document["metrics"].items()},
            settings=dict(document["settings"]),
            examples={name: [Example(**row) for row in rows] for name, rows in document["examples"].items()},
            training=list(document["training"]),
            run=dict(document["run"]),
            writing=Writing(**document["writing"]),
            feature_ids={name: list(map(int, ids)) for name, ids in document["feature_ids"].items()},
        )
        digest = document["features_digest"]
        check_types(evaluation)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            got=f"{path}, whose contents do not fit the format ({type(error).__name__})",
            expected=f"results as `egup evaluate` writes them, version {SCHEMA_VERSION}",
            fix="evaluate the model again",
        ) from error
    return replace(evaluation, features=_read_features(features_path(path), digest))


def check_same_rows(evaluation: Evaluation, other: Evaluation, other_name: str, as_tokens: bool = True) -> None:
    """Raises `DataError` if two evaluations differ in suite, split, rows or settings; names what differs.

    Args:
        evaluation: of the model in question.
        other: what it is compared with.
        other_name: how the user gave it, such as "--retrained".
        as_tokens: whether the models must have read the same tokens, too.
    """
    refuse_differences(
        (evaluation.name, _identity(evaluation)),
        (other_name, _identity(other)),
        fix="evaluate both models on the same suite, split and rows",
    )
    for name, facts in evaluation.sets.items() if as_tokens else ():
        if facts.tokens != other.sets[name].tokens:
            refuse_differences(
                (evaluation.name, _tokens_of(evaluation, name)),
                (other_name, _tokens_of(other, name)),
                fix="evaluate both models with the same chat template and tokenizer, and with the same --template_date",
            )


def _tokens_of(evaluation: Evaluation, name: str) -> dict[str, str]:
    """Why the tokens of a set may differ from those of other results, the reason that says most first."""
    writing = evaluation.writing
    return {
        f"{name} rows written with template_date": str(writing.template_date),
        f"{name} rows written by the chat template of digest": str(writing.chat_template),
        f"{name} rows whose tokens, which the tokenizer makes, have the fingerprint": str(evaluation.sets[name].tokens),
    }


def refuse_differences(ours: tuple[str, dict[str, str]], theirs: tuple[str, dict[str, str]], fix: str) -> None:
    """Raises `DataError` if facts of two results differ, each given with a name for it."""
    (name, facts), (other_name, others) = ours, theirs
    for fact in dict.fromkeys([*others, *facts]):
        if facts.get(fact) != others.get(fact):
            raise DataError(
                got=f"{other_name} with {fact} {others.get(fact, 'missing')}",
                expected=f"{fact} {facts.get(fact, 'missing')}, that of {name}",
                fix=fix,
            )


def _identity(evaluation: Evaluation) -> dict[str, str]:
    sets = {f"{name} rows of fingerprint": facts.fingerprint for name, facts in evaluation.sets.items()}
    settings = {name: json.dumps(value) for name, value in evaluation.settings.items()}
    return {"suite": evaluation.suite, "split": str(evaluation.split), **sets, **settings}


def _without_features(evaluation: Evaluation) -> dict[str, Any]:
    document = {name: value for name, value in vars(evaluation).items() if name != "features"}
    document["writing"] = asdict(evaluation.writing)
    for name in ("sets", "metrics"):
        document[name] = {key: asdict(value) for key, value in document[name].items()}
    document["examples"] = {name: [asdict(row) for row in rows] for name, rows in evaluation.examples.items()}
    return finite_json(document)


def finite_json(value: Any) -> Any:
    """JSON has no NaN: what a run that went wrong has logged becomes text, which nobody can take for a number."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value


def read_document(path: Path, kind: str, version: int, command: str) -> dict[str, Any]:
    """Reads a JSON file that names its kind and version.

    Args:
        kind: what must stand under "kind".
        version: what must stand under "schema_version".
        command: of `egup`, which writes such files.

    Raises:
        DataError: the file is missing, cut short, of another kind or another version.
    """
    expected, again = f"results as `egup {command}` writes them", f"{command} the model again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(got=f"no readable file at {path}", expected=expected, fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(got=f"{path}, which is no whole JSON file", expected=expected, fix=again) from error
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise DataError(got=f"{path}, which holds something else", expected=expected, fix="name such a file")
    if document.get("schema_version") != version:
        raise DataError(
            got=f"{path} of schema version {document.get('schema_version')}",
            expected=f"version {version}",
            fix=f"{again} with this version of egup_trainer",
        )
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def metric_of(record: dict[str, Any]) -> Metric:
    """The metric that JSON holds as a record of its fields."""
    interval = record["interval"]
    values = {name: {int(key): value for key, value in part.items()} for name, part in record["values"].items()}
    return Metric(**{**record, "values": values, "interval": None if interval is None else tuple(interval)})


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
