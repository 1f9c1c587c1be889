"""The card of an unlearned model: README.md beside the weights, written from the record of the run, without any row."""

import json
import math
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egup_trainer.errors import DataError
from egup_trainer.files import write_file

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

RECORD_NAME = "unlearning.json"
RECORD_SCHEMA = 1
CARD_NAME = "README.md"
_RESULTS = re.compile(r"^## Results\s*$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)

_EGUP = "EGUP ([arXiv 2508.20443](https://arxiv.org/abs/2508.20443))"
_EGUP_PARTS = {
    "inter_entanglement": "inter-sample entanglement",
    "intra_entanglement": "intra-sample entanglement",
    "proxy_constraint": "proxy constraint",
}
_CLREG = "CLReg ([arXiv 2601.22028](https://arxiv.org/abs/2601.22028))"
_NOT_EVALUATED = """\
Not evaluated. To measure what the model still says, on rows of your own:

    egup evaluate --model_name_or_path THIS_MODEL --suite custom \\
        --forget forget.jsonl --retain retain.jsonl --output results.json
"""
_LIMITS = """\
## Limits

**Approximate unlearning: no formal guarantee.** The model was trained away from the rows; nothing proves that what it
held of them is gone. It may come back when the model is trained on related text (relearning), when its weights are
quantised, or under prompts worded in another way. What was to be kept may have suffered, too. Verify on rows of your
own, in the form in which the model will be used, and compare with a model that never saw the rows where you can.
"""
_CITATION = """\
## How to cite

```bibtex
@misc{egup,
  title         = {Towards Mitigating Excessive Forgetting in {LLM} Unlearning via Entanglement-Guidance with Proxy
                   Constraint},
  year          = {2025},
  eprint        = {2508.20443},
  archivePrefix = {arXiv}
}

@misc{clreg,
  title         = {From Logits to Latents: Contrastive Representation Shaping for {LLM} Unlearning},
  year          = {2026},
  eprint        = {2601.22028},
  archivePrefix = {arXiv}
}
```
"""


@dataclass(frozen=True)
class CardFacts:
    """What only the publisher of a model can know: the arguments of `Trainer.create_model_card`.

    Args:
        language: code or codes of the model's language.
        license: identifier of the licence, such as "apache-2.0".
        tags: tags besides those that the run gives.
        finetuned_from: hub id of the model before unlearning; by default the one in the record, if it is a hub id.
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


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The record of the run that the saved model in `folder` came from; None if there is none.

    Raises:
        DataError: the file is no record, or one of another version of this package.
    """
    path = Path(folder) / RECORD_NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("schema_version") != RECORD_SCHEMA:
        raise DataError(
            got=f"{path}, which is no record of an unlearning run in schema {RECORD_SCHEMA}",
            expected="the file as this version of the trainer writes it",
            fix="save the model again",
        )
    return record


def model_card(
    record: dict[str, Any], metrics: dict[str, float | None] | None, model_name: str, facts: CardFacts | None = None
) -> "ModelCard":
    """The card of a saved model.

    Args:
        record: of the run, as `egup_trainer.trainer.record.make_record` makes it.
        metrics: values by name, None for one that could not be had; None or empty if nothing was measured.
        model_name: title of the card.
        facts: what the publisher adds.
    """
    from huggingface_hub import ModelCard

    facts = facts or CardFacts()
    data = _metadata(record, metrics or {}, model_name, facts)
    run = [_introduction(record, model_name, facts), _what(record, facts), _how(record), _results(metrics or {})]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join([*run, _LIMITS, _CITATION]))


def write_model_card(folder: str | Path, card: "ModelCard") -> Path:
    """Writes the card as README.md of a model's folder, and says where."""
    path = Path(folder) / CARD_NAME
    write_file(path, str(card), private=False)
    return path


def update_metrics(folder: str | Path, metrics: dict[str, float | None]) -> Path:
    """Puts new results into the card of a saved model: its section on results and its model-index.

    All else of the card stays as it is. A README.md without such a section (PEFT writes one of its own beside an
    adapter), or none at all, gives way to a new card.

    Args:
        folder: of the saved model.
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


def _metadata(
    record: dict[str, Any], metrics: dict[str, float | None], model_name: str, facts: CardFacts
) -> "ModelCardData":
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
        library_name="peft" if is_adapter else "transformers",  # the hub shows by it how the model is loaded
        pipeline_tag=_tasks(facts)[0],
        base_model=facts.finetuned_from or (None if model["is_local"] else model["name"]),
        datasets=_listed(facts.dataset_tags) or None,
        tags=tags + _listed(facts.tags),
        model_name=model_name,
        eval_results=_eval_results(metrics, facts) or None,
    )


def _eval_results(metrics: dict[str, float | None], facts: CardFacts) -> list["EvalResult"]:
    """Each metric for each task and data set, as `Trainer` lists them; the hub refuses what is not a finite number."""
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


def _introduction(record: dict[str, Any], model_name: str, facts: CardFacts) -> str:
    rows = record["rows"]
    adapter = "an adapter merged into " if record.get("is_merged") else "an adapter for "
    what = (adapter if record["adapter"] else "") + _base(record, facts)
    kept = f", to keep: {rows['retain']['rows']}" if "retain" in rows else ""
    return f"""\
# {model_name}

This is {what} after unlearning with `egup_trainer` (rows to forget: {rows["forget"]["rows"]}{kept}).
"""


def _base(record: dict[str, Any], facts: CardFacts) -> str:
    name = facts.finetuned_from or record["model"]["name"]
    if name is None:
        return "a causal language model without a name"
    is_local = record["model"]["is_local"] and not facts.finetuned_from
    return f"`{name}`" if is_local else f"[{name}](https://huggingface.co/{name})"


def _what(record: dict[str, Any], facts: CardFacts) -> str:
    table = "\n".join(f"| {name} | {rows['rows']} | `{rows['fingerprint']}` |" for name, rows in record["rows"].items())
    author = f" by {record['author']}" if record["author"] else ""
    names = _listed(facts.dataset) or _listed(facts.dataset_tags)
    named = f" Data sets, as the publisher names them: {', '.join(names)}." if names else ""
    return f"""\
## What was unlearned

| set | rows | fingerprint |
| --- | ---: | --- |
{table}

Unlearned{author} on {record["date"]}.{named} The trainer publishes none of the rows. A fingerprint is a digest of
the tokenized rows in their order, keyed by a secret that the publisher keeps: who has the rows and the secret can check
with it that they were these.
"""


def _how(record: dict[str, Any]) -> str:
    parts = [_EGUP_PARTS[name] for name, is_on in record["egup"].items() if is_on]
    method = [
        f"forget objective `{record['objective']}`, retain loss `{record['retain_loss']}`",
        f"{_EGUP}: {', '.join(parts) or 'not used'}",
        f"{_CLREG}: " + (f"weight {record['clreg_weight']:g}" if record["clreg_weight"] else "not used"),
        *(f"`{name}`: `{json.dumps(value)}`" for name, value in record["options"].items()),
    ]
    told = {name: value for name, value in (record["adapter"] or {}).items() if name not in ("active", "base")}
    sizes = ", ".join(f"{name} {value}" for name, value in told.items())
    weights = f"an adapter ({sizes})" if sizes else "all weights"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    listed = "".join(f"- {line}\n" for line in method)
    return f"""\
## How

`{record["trainer"]}` trained {weights} for {record["steps"]} steps:

{listed}
All other options of the method had their defaults. Versions: {versions}.
"""


def _results(metrics: dict[str, float | None]) -> str:
    if not metrics:
        return f"## Results\n\n{_NOT_EVALUATED}"
    cells = ((name.replace("|", r"\|"), _number(value)) for name, value in metrics.items())  # a bar would end a cell
    rows = "".join(f"| `{name}` | {value} |\n" for name, value in cells)
    return f"## Results\n\n| metric | value |\n| --- | ---: |\n{rows}"


def _number(value: float | None) -> str:
    return "not available" if value is None else f"{value:.4g}"


def _tasks(facts: CardFacts) -> list[str]:
    return _listed(facts.tasks) or ["text-generation"]


def _listed(value: str | list[str] | None) -> list[str]:
    """One name, several or none, as a list."""
    return [value] if isinstance(value, str) else list(value or [])
