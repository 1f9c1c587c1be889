"""Scores of finished row sets, kept beside the results until these are written: a killed evaluation goes on with them.

A file of scores holds what the model wrote, but none of the rows' texts, and only the user may read it. It counts only
for the same model, rows, tokens and options, which a fingerprint tells.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from egup_trainer.evaluation.rows import RowSet, texts_of
from egup_trainer.evaluation.scores import SampleScores, SetScores, TextScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.files import write_file
from egup_trainer.modeling.scan import scan_fingerprint

_ENDING = ".unfinished.json"


class KeptScores:
    """Scores one row set after the other, and keeps the scores of each.

    With several processes nothing is kept, since all of them would have to find the same files.

    Args:
        output: the file of the results; scores are kept in files of its folder that begin with its name.
        version: of the program; scores of another one do not count.

    Attributes:
        found: names of the row sets whose scores had been kept by an earlier, unfinished evaluation.

    Example:
        >>> # kept = KeptScores(Path("after.json"))
        >>> # evaluate_model(model, tokenizer, suite, score=kept.score)
    """

    def __init__(self, output: Path, version: str = ""):
        self.output, self.version = output, version
        self.found: list[str] = []

    def score(
        self,
        model: nn.Module,
        tokenizer: Any,
        row_sets: list[RowSet],
        options: ScoringOptions,
        accelerator: Any = None,
        texts: Any = None,
    ) -> dict[str, SetScores]:
        """The same as `score_sets`, whose arguments it takes."""
        if accelerator is not None and accelerator.num_processes > 1:
            return score_sets(model, tokenizer, row_sets, options, accelerator, texts)
        precision = None if accelerator is None else accelerator.mixed_precision
        facts = [self.version, model_fingerprint(model), options.feature_layer, options.with_gradient_norms, precision]
        return {each.name: self._score(model, tokenizer, each, options, accelerator, facts) for each in row_sets}

    def remove(self) -> None:
        """Removes the files, once the results are written, also those of row sets that were not scored again."""
        for path in self.output.parent.glob(f"*{_ENDING}"):
            stem, _, row_set = path.name.removesuffix(_ENDING).rpartition(".")
            if stem == self.output.stem and row_set:
                path.unlink()

    def _score(
        self, model: nn.Module, tokenizer: Any, row_set: RowSet, options: ScoringOptions, accelerator: Any, facts: Any
    ) -> SetScores:
        path = self.output.with_name(f"{self.output.stem}.{row_set.name}{_ENDING}")
        texts = texts_of([row_set], tokenizer, options.progress)
        of_rows = [row_set.fingerprint, texts.fingerprint(row_set.name), row_set.settings, repr(row_set.generation)]
        switches = [row_set.with_features, row_set.with_membership]
        key = hashlib.sha256(json.dumps([*facts, *of_rows, *switches]).encode()).hexdigest()
        kept = read_scores(path, key, row_set)
        if kept is not None:
            self.found.append(row_set.name)
            return kept
        scores = score_sets(model, tokenizer, [row_set], options, accelerator, texts)[row_set.name]
        write_scores(path, key, scores)
        return scores


def model_fingerprint(model: nn.Module) -> str:
    """A digest of a model's configuration, adapters and weights, and of how it generates."""
    generation = getattr(model, "generation_config", None)
    return scan_fingerprint(model, [], {"generation": None if generation is None else generation.to_json_string()})


def write_scores(path: Path, key: str, scores: SetScores) -> None:
    """Writes scores, without the rows' texts, for `read_scores`."""
    samples = {sample: asdict(row) | {"references": None} for sample, row in scores.samples.items()}
    document = {"key": key, "samples": samples, "features": scores.features}
    write_file(path, json.dumps(document, default=lambda array: array.tolist()))


def read_scores(path: Path, key: str, row_set: RowSet) -> SetScores | None:
    """The scores of a row set that `write_scores` wrote under the same key; None if there are none."""
    document: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("key") != key:
        return None
    samples = {
        int(sample): SampleScores(
            **{
                **row,
                "answers": tuple(map(_text, row["answers"])),
                "paraphrase": row["paraphrase"] and _text(row["paraphrase"]),
                "perturbed": tuple(map(_text, row["perturbed"])),
                "references": (row_set.rows[int(sample)].answer, *row_set.rows[int(sample)].alternatives),
            }
        )
        for sample, row in document["samples"].items()
    }
    features = None if document["features"] is None else np.array(document["features"], dtype=np.float32)
    return SetScores(row_set.name, samples, features, row_set.use)


def _text(numbers: dict[str, Any]) -> TextScores:
    z = numbers["token_z"]
    return TextScores(
        np.array(numbers["token_logps"], dtype=np.float64),
        np.array(numbers["greedy_match"], dtype=bool),
        None if z is None else np.array(z, dtype=np.float64),
        numbers["is_closed"],
    )
