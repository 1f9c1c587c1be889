"""What the benchmark on real pretrained models found, for the study's summary."""

from typing import Any

from benchmarks.pretrained.plan import PLANS, Pretrained, Size
from benchmarks.pretrained.summary import summary


def real_models() -> dict[str, Any]:
    """The summary of each real model by its name. It is empty if the model has no results yet."""
    return {which.value: summary(PLANS[which, Size.SMALL]) for which in Pretrained}
