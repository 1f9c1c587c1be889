"""What the files beside a saved model hold. Reading a file checks every field against these types."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator, with_config
from pydantic.dataclasses import dataclass
from typing_extensions import NotRequired, Self, TypedDict

from egup_trainer.records.judgments import AFTER, MERGED

RECORD_NAME = "unlearning.json"
RECORD_SCHEMA: Literal[1] = 1
CARD_NAME = "README.md"
LEDGER_NAME = "egup_ledger.jsonl"
LEDGER_SCHEMA = 2
RUN_NAME = "_run.json"
"""The private record of a run. Only the user can read it, since it names paths and holds the secrets that fingerprints
are keyed by. Like every `_*` file, it is not uploaded to a hub."""

ADAPTER_OFF = "adapter_off"
"""The value of `proxy_model` that stands for the model below the adapter."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

Probability = Annotated[float, Field(ge=0, le=1)]


class RowFacts(TypedDict):
    """Number and fingerprint of a set of rows, and how many rows were cut or read in windows, if any were."""

    rows: int
    fingerprint: str
    cut: NotRequired[int]
    in_windows: NotRequired[int]


class ModelFacts(TypedDict):
    """The initial model: its hub id, or the last part of a local folder's path, or None."""

    name: str | None
    is_local: bool


class ExpectedFacts(TypedDict):
    """Where the expected outputs of a run came from.

    `proxy_model` is the model that they were read from, or None if they were estimated from proxies and retain rows.
    `ranked_by_proxies` says whether proxies set how likely the answer tokens are to be.
    """

    proxy_model: ModelFacts | None
    ranked_by_proxies: bool


@with_config(ConfigDict(**_STRICT, extra="allow"))
class RunRecord(TypedDict):
    """`unlearning.json`: the public record of a run. It contains no text of any row, and no path.

    `egup` says which of its parts were active: a proxy constraint without proxies is not. `components` names other
    components that acted on the run, if there were any, and `own_answers` how many answers of the model's own were
    forgotten beside the rows. `reference` is how the reference model was kept, see `ReferenceKind`. `expected_outputs`
    is there if the objective read any. `options` holds the arguments that differ from the
    defaults of the configuration, and always the learning rate, the number of epochs, the sizes that make up a step
    (world_size is the number of processes) and the seed. `auto` has what a run with auto arrived at beside its learning
    rate: by which factor the retain objective counted more at the end, and its last step. `verdict` has the status and
    what it rests on. `egup unlearn` adds `probability` (by when it was measured, then by set of rows; a text where it
    could not be measured), and `is_merged` for a model that its adapter was merged into.
    """

    schema_version: Literal[1]
    date: str
    author: str | None
    model: ModelFacts
    adapter: dict[str, Any] | None
    trainer: str
    objective: str
    retain_loss: str
    reference: NotRequired[str]
    egup: dict[str, bool]
    clreg_weight: float
    options: dict[str, Any]
    steps: int
    rows: dict[str, RowFacts]
    versions: dict[str, str]
    verdict: NotRequired[dict[str, Any]]
    probability: NotRequired[dict[str, dict[str, float] | str]]
    is_merged: NotRequired[bool]
    components: NotRequired[list[str]]
    expected_outputs: NotRequired[ExpectedFacts]
    own_answers: NotRequired[int]
    auto: NotRequired[dict[str, float]]


@dataclass(frozen=True, config=ConfigDict(**_STRICT, extra="forbid"))
class Request:
    """A request to forget rows, and how it was met: one line of the ledger.

    Args:
        date: date of the run, UTC, ISO 8601.
        rows: number of forget rows.
        fingerprint: fingerprint of the forget rows, keyed by the run's secret; see `egup_trainer.records.facts`.
        objective: forget objective.
        steps: optimizer steps.
        versions: versions of the packages.
        probability: mean probability of the forget rows' answers, by when it was measured ("before", "after").
        earlier: the same for the rows of earlier requests, by their fingerprint.
        status: the verdict, such as "FORGOTTEN"; None if there was none.
    """

    date: str
    rows: int
    fingerprint: str
    objective: str
    steps: int
    versions: dict[str, str]
    probability: dict[str, float] = Field(default_factory=dict)
    earlier: dict[str, dict[str, float]] = Field(default_factory=dict)
    status: str | None = None

    @classmethod
    def of(cls, record: RunRecord) -> "Request":
        """The request that a run's record describes."""
        forget = record["rows"]["forget"]
        return cls(
            date=record["date"],
            rows=forget["rows"],
            fingerprint=forget["fingerprint"],
            objective=record["objective"],
            steps=record["steps"],
            versions=record["versions"],
            status=record["verdict"]["status"] if "verdict" in record else None,
        )


@dataclass(frozen=True, config=_STRICT)
class Reading:
    """The options that decide which rows are read, and how."""

    max_length: int
    on_long_row: str
    user_marker: str | None
    assistant_marker: str | None
    template_date: str | None
    seed: int
    drop_overlap: bool
    system_prompt: str | None = None
    template_kwargs: dict[str, Any] | None = None


class Secrets(TypedDict):
    """The part of `_run.json` that is there before the run has ended."""

    secrets: NotRequired[list[str]]


@dataclass(frozen=True, config=_STRICT)
class Run:
    """The part of `_run.json` that `egup verify` and later runs read.

    Args:
        schema_version: version of the record.
        adapter: type and sizes of the adapter, or None if all weights were trained.
        probability: by when it was measured, then by set of rows; a text where it could not be measured.
        sources: where the rows came from, by set.
        rows: number and fingerprint, by set.
        secrets: what the fingerprints are keyed by: the run's own secret, then those of earlier requests.
        files: SHA-256 of the saved model's files by name, by when it was measured.
        reading: how rows were read.
        loading: how the model was loaded.
        mixed_precision: "no", "bf16" or "fp16".
        data_dir: as for `load_rows`.
        columns: the flag `--columns` of the run.
    """

    schema_version: Literal[1]
    adapter: dict[str, Any] | None
    probability: dict[str, dict[str, Probability] | str]
    sources: dict[str, str]
    rows: dict[str, RowFacts]
    secrets: Annotated[list[str], Field(min_length=1)]
    files: dict[str, dict[str, str]]
    reading: Reading
    loading: dict[str, bool | str | None]
    mixed_precision: str
    data_dir: str | None
    columns: str | None

    @model_validator(mode="after")
    def _check_that_the_parts_belong_together(self) -> Self:
        if not self.sources.keys() <= self.rows.keys():
            raise ValueError("rows")
        for when in (AFTER, MERGED) if self.probability.get(MERGED) else (AFTER,):
            measured = self.probability.get(when)
            if not isinstance(measured, dict) or "forget" not in measured or measured.keys() != self.sources.keys():
                raise ValueError("probability")
            if not self.files.get(when):
                raise ValueError("files")
        return self
