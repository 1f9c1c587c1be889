"""Probe: whether forget rows can still be distinguished from rows that the model never saw, by its features."""

from dataclasses import replace

from egup_trainer.audit.attack import Finding, Target
from egup_trainer.evaluation.metrics.representation import probe_auc
from egup_trainer.modeling.forward import decoder_layers, layer_index

LAYERS = (0.25, 0.5, 0.75, -1)
"""Where features are read: at shares of the depth, and at the last layer."""


def probe(target: Target) -> Finding:
    """Area under the ROC curve of a five-fold linear probe at several layers, forget rows against holdout rows."""
    depth = len(decoder_layers(target.model))
    metrics = {}
    for layer in dict.fromkeys(layer_index(layer, depth) for layer in LAYERS):
        scores = target.score(
            *(target.row_set(name, with_features=True) for name in ("forget", "holdout")), feature_layer=layer
        )
        found = probe_auc(scores["forget"].features, scores["holdout"].features)
        values = {
            name: found.values[other] for name, other in (("forget", "forget"), ("holdout", "retain")) if found.values
        }
        metrics[f"layer_{layer}_auc"] = replace(found, values=values)
    return Finding(metrics)
