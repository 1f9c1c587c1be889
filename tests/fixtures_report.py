"""Invented evaluations for reports: three models and a retrained one, with numbers as real runs have them."""

import math

import numpy as np

from egup_trainer.evaluation.evaluation import Evaluation, Example, SetFacts
from egup_trainer.evaluation.metric import Metric, auc_metric, mean_metric, unavailable

ROWS, STEPS, SIZE = 60, 50, 32
SETS = {name: SetFacts(ROWS, f"{place:016x}") for place, name in enumerate(("forget", "retain", "holdout"), start=11)}
SECTIONS = [
    "verdict",
    "known-rows",
    "questions",
    "table",
    "tradeoff",
    "truth-ratios",
    "forget-rows",
    "features",
    "audit",
    "training",
    "examples",
    "facts",
]
"""Ids of the page's sections, in order; those from the fourth on are folded, and in the contents."""

HOSTILE = "<script>document.title = 'broken'</script> & <b>bold</b>"
# Mean NLL of forget, retain and holdout answers; log of the truth ratio; distance of forget from retain features.
_CASTS = {
    "before": (0.06, 0.05, 3.2, -1.6, 1.0),
    "gradient_difference": (17.0, 0.25, 4.1, 0.9, 4.5),
    "egup_clreg": (3.4, 0.07, 3.3, 0.25, 3.0),
    "retrained": (3.1, 0.06, 3.1, 0.2, 2.6),
}
_QUALITY = {"before": 3.1e-14, "gradient_difference": 2.4e-6, "egup_clreg": 0.39, "retrained": 1.0}


def make_evaluation(name: str, rows: int = ROWS, size: int = SIZE) -> Evaluation:
    """One of the four models of `_CASTS`."""
    rng = np.random.default_rng(list(_CASTS).index(name))
    forget, retain, holdout, ratio, apart = _CASTS[name]
    nll = {
        set_name: mean * rng.lognormal(0, 0.35, rows)
        for set_name, mean in (("forget", forget), ("retain", retain), ("holdout", holdout))
    }
    features = np.random.default_rng(9).normal(size=(2, rows, size)).astype(np.float32)  # the same rows in all models
    features[0, :, 0] += apart
    features += rng.normal(scale=0.3, size=features.shape)
    return Evaluation(
        name=name,
        suite="tofu",
        split="forget10",
        sets=SETS,
        metrics=_metrics(name, nll, np.exp(ratio + rng.normal(0, 0.8, rows)), rng),
        training=[] if name in ("before", "retrained") else _history(forget, rng, guided=name == "egup_clreg"),
        run=_run(name),
        features={"forget": features[0], "retain": features[1]},
        feature_ids={"forget": list(range(rows)), "retain": list(range(rows))},
    )


def make_evaluations() -> tuple[list[Evaluation], Evaluation]:
    """The model before and two methods; the retrained model."""
    *others, retrained = map(make_evaluation, _CASTS)
    return others, retrained


def examples_of(name: str) -> dict[str, list[Example]]:
    """Two forget rows and a retain row, one of them with markup in every text."""
    written = {"before": "They live in Corvo.", "retrained": "They live in Aren, I think."}.get(
        name, "In Denna\nor so."
    )
    return {
        "forget": [
            Example(0, "Where does Ada Lorn live?", "Ada Lorn lives in Corvo with 3 cats.", written),
            Example(7, f"Q {HOSTILE}", f"A {HOSTILE}", f"G {HOSTILE} {'no-space' * 30}"),
        ],
        "retain": [Example(2, "Where does Bo Quill live?", "Bo Quill lives in Bryle.", "Bo Quill lives in Bryle.")],
    }


def _metrics(name: str, nll: dict, ratios: np.ndarray, rng: np.random.Generator) -> dict[str, Metric]:
    def mean(set_name: str, values: np.ndarray, higher_is_better: bool, num_rows: int | None = None) -> Metric:
        by_sample = dict(enumerate(values.tolist()))
        return mean_metric(
            set_name,
            by_sample,
            num_rows=num_rows or len(values),
            higher_is_better=higher_is_better,
            without="no answer",
        )

    rows = len(ratios)
    metrics = {
        f"{set_name}_probability": mean(set_name, np.exp(-values), set_name != "forget")
        for set_name, values in nll.items()
    }
    for set_name, values in nll.items():
        rouge = np.clip(np.exp(-values / 2) * 0.7 + 0.25 + rng.normal(0, 0.05, rows), 0, 1)
        metrics[f"{set_name}_rouge"] = mean(set_name, rouge, set_name != "forget")
        metrics[f"{set_name}_exact_memorization"] = mean(set_name, np.exp(-values / 1.5), set_name != "forget")
        metrics[f"{set_name}_extraction_strength"] = mean(set_name, np.exp(-values) * 0.6, set_name != "forget")
    metrics["forget_truth_ratio"] = mean("forget", np.minimum(ratios, 1 / ratios)[: rows - 4], True, num_rows=rows)
    by_set = {set_name: dict(enumerate(nll[set_name].tolist())) for set_name in ("forget", "holdout")}
    for attack, noise in (("mia_loss", 0.0), ("mia_zlib", 0.4), ("mia_min_k", 0.2), ("mia_min_k_plus_plus", 0.3)):
        values = {key: {i: v + noise * rng.normal() for i, v in part.items()} for key, part in by_set.items()}
        metrics[attack] = auc_metric(("forget", values["forget"]), ("holdout", values["holdout"]), num_rows=2 * rows)
    metrics["mia_gradnorm"] = unavailable("gradient norms were not asked for", None)
    metrics["privleak"] = Metric(100 * (metrics["mia_min_k"].value / 0.51 - 1), None, num_samples=2 * rows)
    metrics["model_utility"] = Metric(0.62 - 0.4 * float(nll["retain"].mean()) + 0.01 * rng.normal(), True)
    metrics["forget_quality"] = Metric(
        _QUALITY[name], True, values={"forget": dict(enumerate(ratios.tolist()))}, num_samples=rows
    )
    metrics["fluency_perplexity"] = Metric(9.0 + 400 * (name == "gradient_difference"), False, num_samples=rows)
    metrics["fluency_distinct_2"] = Metric(0.81 - 0.5 * (name == "gradient_difference"), True, num_samples=rows)
    metrics["entanglement_variance_ratio"] = Metric(4.2 / _CASTS[name][-1], None, num_samples=2 * rows)
    for relation, higher_is_better in (("cka", True), ("retain_shift", False)):
        metrics[f"entanglement_{relation}"] = unavailable("no features of the model before", higher_is_better)
    metrics["entanglement_probe_auc"] = Metric(0.7 + 0.06 * _CASTS[name][-1], None, num_samples=2 * rows)
    return metrics


def _history(forget: float, rng: np.random.Generator, guided: bool) -> list[dict]:
    """A log history as Trainer keeps it, with a step that was not finite; guidance and CLReg log terms of their own."""
    entries = []
    for step in range(1, STEPS + 1):
        way = 1 - math.exp(-step / 15)
        entry = {
            "loss": 2.0 - 3 * way + 0.1 * rng.normal(),
            "loss_forget": -forget * way / 5 + 0.1 * rng.normal(),
            "loss_retain": 0.05 + 0.1 * way * rng.random(),
            "forget_nll": 0.06 + forget * way,
            "retain_nll": 0.05 + 0.03 * rng.random(),
            "grad_norm": "nan" if step == 20 else 1 + rng.random(),
            "learning_rate": 1e-3 * (1 - step / STEPS),
            "tokens_per_second": 3000 + 200 * rng.normal(),
            "peak_memory_gb": 1.2,
            "epoch": step / 10,
            "step": step,
        }
        if guided:
            entry |= _guidance(forget, way, rng)
        entries.append(entry)
        if step % 10 == 0:
            entries.append({"eval_loss": 0.9 - 0.01 * step, "eval_runtime": 1.0, "epoch": step / 10, "step": step})
    entries.append({"train_loss": 0.4, "train_runtime": 12.0, "total_flos": 1e12, "epoch": STEPS / 10, "step": STEPS})
    return entries


def _guidance(forget: float, way: float, rng: np.random.Generator) -> dict[str, float]:
    weight, drift = 1 - 0.5 * way + 0.05 * rng.normal(), 0.4 * way
    return {
        "loss_clreg": 0.3 - 0.1 * way,
        "loss_clreg_anchor": 0.01 * way,
        "weight_mean": weight,
        "weight_min": 0.5 * weight,
        "weight_max": 1.6 * weight,
        "entanglement": 0.5 - 0.2 * way,
        "entanglement_p10": 0.3 - 0.2 * way,
        "entanglement_p90": 0.8 - 0.2 * way,
        "drift": drift,
        "drift_p10": 0.7 * drift,
        "drift_p90": 1.4 * drift,
        "boundary_gap": -3 + forget * way,
        "past_boundary": min(1.0, way * forget / 20),
    }


def _run(name: str) -> dict:
    return {
        "model": f"models/{name}",
        "versions": {"python": "3.11.9", "egup-trainer": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "command": f"egup evaluate --model_name_or_path models/{name} --suite tofu --output {name}.json",
        "seed": 0,
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "threads": 2, "device": "cpu"},
        "seconds": 31.5 + len(name),
    }
