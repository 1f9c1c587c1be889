"""The methods that the study compares: each objective alone, with EGUP and CLReg, and with their parts."""

from typing import Any

OFF = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
PARTS: dict[str, dict[str, Any]] = {
    "beta": {"npo_beta": "auto"},
    "proxy": {"proxy_constraint": True},
    "penalty": {"proxy_constraint": True, "proxy_form": "penalty"},
    "inter": {"inter_entanglement": True},
    "intra": {"intra_entanglement": True},
    "egup": {"proxy_constraint": True, "inter_entanglement": True, "intra_entanglement": True},
    "following": {"proxy_reference": "current"},
    "sharp": {"inter_temperature": 1.0},
    "lambda1": {"proxy_lambda": 1.0},
    "lambda2": {"proxy_lambda": 2.0},
    "clreg": {"clreg_weight": 0.1},
}
"""What each word after a plus sign sets."""

WITH_ALL = "+egup+clreg"
OBJECTIVES = (
    "grad_diff", "npo", "simnpo", "wga", "ceu", "undial", "dpo", "rmu", "pdu", "altpo", "satimp", "grad_ascent",
)  # fmt: skip
ALONE_ONLY = ("finetune", "task_vector")
"""Objectives whose forget rows EGUP and CLReg have no hold on; the configuration refuses the combination."""

_TO_THE_WHOLE = ("proxy", "penalty", "proxy+inter", "proxy+intra", "egup", "clreg", "proxy+clreg")
ABLATION = {
    "grad_diff": (*_TO_THE_WHOLE, "egup+sharp+clreg", "egup+following+clreg", "egup+lambda1+clreg"),
    "npo": ("beta", *_TO_THE_WHOLE, "egup+sharp+clreg", "egup+following+clreg", "egup+lambda2+clreg"),
}
"""Parts alone and together, besides none and all."""

HEADLINE = tuple(name + suffix for name in OBJECTIVES for suffix in ("", WITH_ALL)) + ALONE_ONLY
"""Methods that choose their own learning rate."""


def ablation_of(objective: str) -> tuple[str, ...]:
    """The methods of an objective's ablation, from nothing to everything."""
    return (objective, *(f"{objective}+{part}" for part in ABLATION[objective]), objective + WITH_ALL)


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
    return options
