"""Attacks that try to bring forgotten rows back, and how far they get.

An attack is a file of this folder with a function of its name, and an entry in `ATTACKS`. Nothing here imports torch,
so that commands can show their flags at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from egup_trainer.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from egup_trainer.audit.attack import Finding, Target


@dataclass(frozen=True)
class Attack:
    """The declaration of an attack.

    Args:
        name: of the attack, of its file and of the function in it that runs it.
        title: its part of the report's table.
        meaning: what its numbers are, for readers of the report.
        needs_holdout: whether it compares forget rows with rows that no model saw.
    """

    name: str
    title: str
    meaning: str
    needs_holdout: bool = False

    def run(self, target: "Target") -> "Finding":
        """Attacks the target. The file is imported now, as attacks need libraries that take seconds to import."""
        return getattr(import_module(f"egup_trainer.audit.{self.name}"), self.name)(target)


ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(
            "relearning",
            "Relearning",
            "Probability of forget answers while the model is fine-tuned on a few other forget rows (forget), on "
            "retain rows (retain), and of the relearned rows (relearned). Speed is the mean over the curve.",
        ),
        Attack("quantization", "Quantisation", "The same rows with the weights as given, in 8 bits and in 4."),
        Attack(
            "prompts",
            "Prompts",
            "Forget rows asked in other ways: reworded, in another language, after a phrase, after examples, with the "
            "answer begun.",
        ),
        Attack(
            "sampling",
            "Sampling",
            "ROUGE-L recall of generations sampled at temperature 1: the best and the mean per row.",
        ),
        Attack(
            "probe",
            "Probe",
            "AUC for distinguishing forget from holdout rows by a layer's features; 0.5 is chance.",
            needs_holdout=True,
        ),
        Attack(
            "membership", "Membership attacks", "AUC for distinguishing forget from holdout rows; 0.5 is chance.", True
        ),
    )
}


def attacks_named(names: Iterable[str]) -> list[str]:
    """The given names of attacks, each once, in the order of `ATTACKS`.

    Raises:
        ConfigError: there is no attack of such a name, or no attack is named at all.

    Example:
        >>> attacks_named(["prompts", "relearning", "prompts"])
        ['relearning', 'prompts']
    """
    wanted = list(names)
    for name in wanted:
        if name not in ATTACKS:
            raise ConfigError(
                got=f"the unknown attack {name}",
                expected=f"attacks among {', '.join(ATTACKS)}",
                fix=did_you_mean(name, ATTACKS, "set --attacks"),
            )
    if not wanted:
        raise ConfigError(got="no attack", expected=f"some of {', '.join(ATTACKS)}", fix="set --attacks")
    return [name for name in ATTACKS if name in wanted]
