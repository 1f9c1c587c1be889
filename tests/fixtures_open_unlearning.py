"""Results files laid out as OpenUnlearning's evaluators write them, of invented numbers."""

import json
import math
from pathlib import Path

import numpy as np

TEXTS = ("Aren", "Bo Quill bakes breads")
SHORT = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}


def entry(values, **more) -> dict:
    """An entry of the file: numbers by row, and an aggregate, which is their mean if it is not given."""
    by_index = {str(row): value for row, value in enumerate(values)}
    numbers = [number for value in values for number in value.values() if isinstance(number, float)]
    return {"agg_value": float(np.mean(numbers)) if numbers else None, "value_by_index": by_index, **more}


def losses(values) -> dict:
    """An entry of probabilities from losses; a row's losses are one or several."""

    def share(each):
        return [math.exp(-loss) for loss in each] if isinstance(each, list) else math.exp(-each)

    return entry([{"prob": share(each), "avg_loss": each} for each in values])


def scores(values, **more) -> dict:
    """An entry of scores."""
    return entry([{"score": value} for value in values], **more)


def attack(forget, holdout) -> dict:
    """An entry of an attack."""
    return {"forget": scores(forget), "holdout": scores(holdout), "auc": 0.5, "agg_value": 0.5}


def tofu_document(rows: int = 4, holdout: int = 3, shift: float = 0.0) -> dict:
    """TOFU's metrics of rows whose losses are 1, 1.1, ... plus a shift."""
    numbers = (1 + shift + np.arange(rows) / 10).tolist()
    document = {}
    for set_name, short in SHORT.items():
        right = "Q_A_Prob" if short in ("ra", "wf") else "Q_A_PARA_Prob"
        document[f"{short}_Q_A_Prob"] = losses(numbers)
        document[f"{short}_{right}"] = losses(numbers)
        document[f"{short}_Q_A_PERT_Prob"] = losses([[loss + 0.5, loss + 1.5] for loss in numbers])
        texts = {"input": "Q", "ground_truth": TEXTS[1], "generation": "Bo bakes bread"}
        rouge = {"rouge1_recall": 0.5, "rougeL_f1": 0.6, "rougeL_recall": 0.75}
        document[f"{short}_Q_A_ROUGE"] = entry([rouge | texts for _ in numbers])
        if set_name != "forget":
            document[f"{short}_Truth_Ratio"] = scores([math.exp(-1.0)] * rows)
        if short in ("ra", "wf"):
            document[f"{short}_Q_A_Prob_normalised"] = entry([{"prob": 0.5} for _ in numbers])
    document["forget_truth_ratio"] = scores([math.exp(-1.0)] * rows)
    document["exact_memorization"] = scores([0.25] * rows)
    document["extraction_strength"] = scores([0.125] * rows)
    for name in ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm"):
        document[name] = attack(numbers, [5.0] * holdout)
    document["model_utility"] = {"agg_value": 0.6}
    document["privleak"] = {"agg_value": -90.0}
    return document


def muse_document(rows: int = 3) -> dict:
    """MUSE's metrics; no word of the reference is in the generation as it is, and one only without its ending."""
    texts = {"input": "Q", "ground_truth": "breads", "generation": "bread"}
    rouge = entry([{"rouge1_recall": 1.0, "rougeL_f1": 1.0, "rougeL_recall": 1.0, **texts} for _ in range(rows)])
    sets = ("forget_knowmem", "retain_knowmem", "forget_verbmem")
    return {
        **{f"{name}_ROUGE": rouge for name in sets},
        "exact_memorization": scores([0.25] * rows),
        "extraction_strength": scores([0.125] * rows),
        "mia_loss": attack([1.0] * rows, [2.0] * rows),
        "mia_min_k": attack([1.0] * rows, [2.0] * rows),
        "privleak": {"agg_value": -100.0},
    }


def write_document(path: Path, document: dict) -> Path:
    """The path, with the document as the framework writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(document.items())), indent=4), encoding="utf-8")
    return path
