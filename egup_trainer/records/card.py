"""The model card of an unlearned model: README.md beside the weights, made from the record of its run."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egup_trainer.errors import DataError
from egup_trainer.files import write_file
from egup_trainer.records.io import read_record
from egup_trainer.records.schema import ADAPTER_OFF, CARD_NAME, RECORD_NAME, RunRecord

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

Metrics = Mapping[str, float | None]
"""Values by name; None for a metric that could not be computed."""
_RESULTS = re.compile(r"^## Results\s*$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_NO_SIZES = ("active", "base", "quantization")
"""What the record of an adapter has besides its type and sizes."""


@dataclass(frozen=True)
class CardFacts:
    """What only the publisher of a model can know: the arguments of `Trainer.create_model_card`.

    Args:
        language: code or codes of the model's language.
        license: identifier of the licence, such as "apache-2.0".
        tags: tags besides those that the run gives.
        finetuned_from: hub id of the initial model; by default the one in the record, if it is a hub id.
        tasks: what the model does, as the hub names it; "text-generation" by default.
        dataset_tags: hub ids of data sets.
        dataset: their names for readers; the ids by default.
        dataset_args: which part of each.
    """

    language: str | list[str] | None = None
    license: str | None = None
    tags: str | list[str] | None = None
    finetuned_from: str | None = None
    tasks: str | list[str] | None = None
    dataset_tags: str | list[str] | None = None
    dataset: str | list[str] | None = None
    dataset_args: str | list[str] | None = None


def model_card(
    record: RunRecord, metrics: Metrics | None, model_name: str, facts: CardFacts | None = None
) -> "ModelCard":
    """The card of a saved model, with the title `model_name`; without `metrics` it says how to measure them."""
    from huggingface_hub import ModelCard
    from jinja2 import Environment, PackageLoader, StrictUndefined

    facts = facts or CardFacts()
    loader = PackageLoader("egup_trainer.records", package_path=".")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["json"] = json.dumps
    text = environment.get_template("card.md.j2").render(
        record=record,
        metrics=metrics,
        model_name=model_name,
        base=_base(record, facts),
        datasets=_listed(facts.dataset) or _listed(facts.dataset_tags),
        weights=_weights(record),
        components=record.get("components", []),
        expected=_expected_outputs(record),
        parts=[
            name.replace("_entanglement", "-sample entanglement").replace("_", " ")
            for name, is_on in record["egup"].items()
            if is_on
        ],
    )
    data = _metadata(record, metrics or {}, model_name, facts)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}\n")


def write_model_card(folder: str | Path, card: "ModelCard") -> Path:
    """Writes the card as README.md into a model's folder, and returns its path."""
    path = Path(folder) / CARD_NAME
    write_file(path, str(card), private=False)
    return path


def update_metrics(folder: str | Path, metrics: Metrics) -> Path:
    """Puts new results into the card of a saved model: into its section on results and its model-index.

    The rest of the card stays as it is. A README.md without such a section (PEFT writes its own beside an adapter) is
    replaced by a new card, as is a missing one.

    Args:
        folder: folder of the saved model.
        metrics: values by name, as for `model_card`.

    Raises:
        DataError: the folder has no record of an unlearning run, or a README.md whose metadata cannot be read.
    """
    record = read_record(folder)
    if record is None:
        raise DataError(
            got=f"no {RECORD_NAME} in {folder}",
            expected="the folder of a model that a trainer of this package saved",
            fix="check the folder",
        )
    old: Any = _read_card(Path(folder) / CARD_NAME)
    name = Path(folder).resolve().name
    if old is None or not _RESULTS.search(old.text):
        return write_model_card(folder, model_card(record, metrics, name))
    new: Any = model_card(record, metrics, old.data.model_name or name, CardFacts(tasks=old.data.pipeline_tag))
    section = _RESULTS.findall(new.text)[0]
    old.text = _RESULTS.sub(lambda _: section, old.text, count=1)
    old.data.model_name, old.data.eval_results = new.data.model_name, new.data.eval_results
    return write_model_card(folder, old)


def _read_card(path: Path) -> "ModelCard | None":
    if not path.is_file():
        return None
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return ModelCard.load(path)
    except (ValueError, YAMLError):
        raise DataError(
            got=f"{path}, whose metadata cannot be read",
            expected="a block of YAML between two lines of ---",
            fix="repair or remove the file",
        ) from None


def _metadata(record: RunRecord, metrics: Metrics, model_name: str, facts: CardFacts) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    adapter, model = record["adapter"], record["model"]
    is_adapter = adapter and not record.get("is_merged")
    tags = ["unlearning", "egup_trainer", record["objective"]]
    tags += ["egup"] if any(record["egup"].values()) else []
    tags += ["clreg"] if record["clreg_weight"] else []
    tags += [adapter["type"].lower()] if adapter else []
    return ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="peft" if is_adapter else "transformers",  # tells the hub how the model is loaded
        pipeline_tag=_tasks(facts)[0],
        base_model=facts.finetuned_from or (None if model["is_local"] else model["name"]),
        datasets=_listed(facts.dataset_tags) or None,
        tags=tags + _listed(facts.tags),
        model_name=model_name,
        eval_results=_eval_results(metrics, facts) or None,
    )


def _eval_results(metrics: Metrics, facts: CardFacts) -> list["EvalResult"]:
    """Each metric for each task and data set, as `Trainer` lists them. The hub refuses numbers that are not finite."""
    from huggingface_hub import EvalResult

    tags = _listed(facts.dataset_tags) or ["custom"]
    names = _listed(facts.dataset) or _listed(facts.dataset_tags) or ["rows of the evaluation"]
    parts: list[Any] = [*_listed(facts.dataset_args), *[None] * len(tags)]
    return [
        EvalResult(task, tag, name, metric, value, dataset_args=part, metric_name=metric)
        for task, (tag, name, part) in product(_tasks(facts), zip(tags, names, parts, strict=False))
        for metric, value in metrics.items()
        if value is not None and math.isfinite(value)
    ]


def _base(record: RunRecord, facts: CardFacts) -> str:
    name = facts.finetuned_from or record["model"]["name"]
    if name is None:
        return "a causal language model without a name"
    return _link(name, record["model"]["is_local"] and not facts.finetuned_from)


def _link(name: str | None, is_local: bool) -> str:
    return f"`{name}`" if is_local else f"[{name}](https://huggingface.co/{name})"


def _expected_outputs(record: RunRecord) -> str | None:
    """How the expected outputs were estimated, or None if the objective read none."""
    if "expected_outputs" not in record:
        return None
    facts = record["expected_outputs"]
    model = facts["proxy_model"]
    if model is None:
        source = "estimated from the outputs for the proxies and from the answers of retain rows and proxies"
    elif model["name"] == ADAPTER_OFF:
        source = "those of the model below the adapter"
    else:
        source = f"those of {_link(model['name'], model['is_local'])}, as a model that never saw the rows to forget"
    ranks = "; how likely the answer tokens are to be was set by the proxies, rank by rank"
    return source + (ranks if facts["ranked_by_proxies"] else "")


def _weights(record: RunRecord) -> str:
    adapter = record["adapter"] or {}
    sizes = ", ".join(f"{name} {value}" for name, value in adapter.items() if name not in _NO_SIZES)
    return f"an adapter ({sizes})" if sizes else "all weights"


def _tasks(facts: CardFacts) -> list[str]:
    return _listed(facts.tasks) or ["text-generation"]


def _listed(value: str | list[str] | None) -> list[str]:
    """One name, several or none, as a list."""
    return [value] if isinstance(value, str) else list(value or [])
