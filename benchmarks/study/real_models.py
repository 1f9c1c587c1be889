"""What the benchmarks on real pretrained models found, for the study's summary."""

from typing import Any

from benchmarks.gemma.plan import Size
from benchmarks.gemma.summary import summary as gemma_summary


def real_models() -> dict[str, Any]:
    """The summary of each real model, by its name; empty where there are no results."""
    return {"smollm2": {}, "gemma": gemma_summary(Size.SMALL, seed=0)}
