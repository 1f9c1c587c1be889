"""The registry of suites. A suite is a file of this folder with the function NAME_suite, and an entry in `SUITES`.

Nothing here imports torch, so that commands can show their flags at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, signature
from typing import Any


@dataclass(frozen=True)
class SuiteSpec:
    """The declaration of a suite.

    Args:
        name: of the suite, of its file, and of the function NAME_suite in it, which makes the suite. The parameters of
            that function are the flags that the suite reads; those without a default are required. `forget`, `retain`
            and `holdout` are rows, read from a source.
        rows: what its rows are, for the docs.
        flags: help texts of the flags that no other suite has. Such a flag may have the suite's name before that of
            the parameter.
        set_titles: what row sets are called in tables, if not by their name.
    """

    name: str
    rows: str
    flags: Mapping[str, str] = field(default_factory=dict)
    set_titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def make(self) -> Callable[..., Any]:
        """The function that makes the suite."""
        return getattr(import_module(f"egup_trainer.evaluation.suites.{self.name}"), f"{self.name}_suite")

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of `make` by the flags that give them."""
        flags = {name.removeprefix(f"{self.name}_"): name for name in self.flags}
        return {flags.get(name, name): each for name, each in signature(self.make).parameters.items()}

    @property
    def required(self) -> list[str]:
        """The flags without which the suite cannot be made."""
        return [flag for flag, each in self.parameters.items() if each.default is Parameter.empty]


SUITES = {
    suite.name: suite
    for suite in (
        SuiteSpec(
            "tofu",
            "TOFU's forget rows with paraphrased and perturbed answers, retain rows, real authors, world facts",
            flags={"forget_split": "tofu: forget01, forget05 or forget10; the files of TOFU are in --data_dir."},
        ),
        SuiteSpec(
            "muse",
            "MUSE's news or books: knowmem, verbmem, privleak",
            flags={"muse_corpus": "muse: news or books."},
            set_titles={"forget_knowmem": "knowledge", "retain_knowmem": "knowledge", "forget_verbmem": "verbatim"},
        ),
        SuiteSpec(
            "wmdp",
            "WMDP's multiple-choice questions on a hazardous subject, by accuracy",
            flags={"wmdp_subject": "wmdp: bio, chem or cyber."},
        ),
        SuiteSpec(
            "rwku",
            "RWKU's probes of what a model knows of famous people, and of their neighbors",
            flags={"rwku_subject": "rwku: the person to be forgotten (default: all)."},
            set_titles={
                "forget_level1": "fill in the blank",
                "forget_level2": "questions",
                "forget_level3": "adversarial questions",
                "neighbor_level1": "neighbors, fill in the blank",
                "neighbor_level2": "neighbors, questions",
            },
        ),
        SuiteSpec("custom", "your own rows"),
    )
}
