"""The methods that the study compares: each objective alone, the first design and the second, and their parts."""

from typing import Any

from egup_trainer.config import EGUPConfig

OFF = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
PARTS: dict[str, dict[str, Any]] = {
    "beta": {"npo_beta": "auto"},
    "proxy": {"proxy_constraint": True},
    "inter": {"inter_entanglement": True},
    "intra": {"intra_entanglement": True},
    "centroid": {"inter_entanglement": True, "inter_match": "centroid"},
    "egup": {"proxy_constraint": True, "inter_entanglement": True, "intra_entanglement": True},
    "clreg": {"clreg_weight": 0.1},
    "base": {"proxy_model": "base"},
    "samples": {"self_samples": 2},
    "twice": {"num_train_epochs": 20},
    "sharp": {"forget_sharpness": 0.2},
    "auto": {"learning_rate": None, "num_train_epochs": None, "warmup_steps": 0},
    "bare": {"example_share": 0.0},
    "thorough": {"strength": "thorough"},
}
"""What each word after a plus sign sets; the proxy model "base" is the study's base model, wherever it lies."""

WITH_ALL = "+egup+clreg"
ALONE = (
    "grad_diff", "npo", "pdu", "simnpo", "wga", "ceu", "undial", "dpo", "rmu", "altpo", "satimp", "grad_ascent",
    "finetune", "task_vector",
)  # fmt: skip
FIRST_DESIGN = ("npo+egup", "npo" + WITH_ALL, "grad_diff+egup", "grad_diff" + WITH_ALL)
SECOND = "proxy_kl"
"""The second design, whose parts the ablation adds and changes."""


def options_of(method: str) -> dict[str, Any]:
    """`EGUPConfig` options of a method.

    With a proxy constraint, NPO's beta follows from the boundary: at its own default it stops long before.

    Example:
        >>> options_of("npo+clreg")["clreg_weight"]
        0.1
    """
    objective, *parts = method.split("+")
    options = {"objective": objective, **OFF}
    for part in parts:
        options |= PARTS[part]
    if objective == "npo" and options["proxy_constraint"]:
        options |= PARTS["beta"]
    if objective == SECOND:
        del options["proxy_constraint"]  # it has a boundary of its own
    return options


LEADING = (SECOND, SECOND + "+base", *FIRST_DESIGN, *ALONE[:4])
"""Methods that are run first; like the others, each chooses its own learning rate."""

OTHERS = ALONE[4:]
_ADDED = ("inter", "intra", "clreg", "inter+intra+clreg", "centroid", "samples", "twice", "twice+sharp")
ABLATION = tuple(f"{SECOND}+{part}" for part in _ADDED)
"""The second design with more or other parts, at the second design's learning rate."""

AUTO = tuple(f"{SECOND}+{part}" for part in ("auto+bare", "auto+thorough", "base+auto", "auto"))
"""The second design at a learning rate that it chooses: without rows that are read after examples, harder to relearn,
with a base model, and by default."""

METHODS = (*LEADING, *OTHERS, *ABLATION, *AUTO)


def rate_giver(method: str) -> str:
    """The method whose learning rate it takes: its own, or the second design's if it is the same with other parts."""
    return SECOND if method in (*ABLATION, *AUTO) else method


def default_method() -> str | None:
    """The method that `EGUPConfig()` is, or None if the study has no such method.

    Of those that differ in the learning rate alone, it is the last one, without a given learning rate.
    """
    default = _config()
    return next((method for method in reversed(METHODS) if _config(**options_of(method)) == default), None)


def _config(**options: Any) -> EGUPConfig:
    return EGUPConfig(output_dir="unused", use_cpu=True, report_to="none", **options)
