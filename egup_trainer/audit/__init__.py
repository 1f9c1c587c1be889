"""Attacks that try to bring forgotten rows back, and how far they get.

An attack is a file of this folder with a function of its name, and an entry in `ATTACKS`. Nothing here imports torch,
so that commands can show their flags at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
        reading: one sentence on what it means if the attack gets far.
        needs_holdout: whether it compares forget rows with rows that no model saw.
        row_names: for numbers whose names begin with a word that does not say which rows are measured, what does.
    """

    name: str
    title: str
    meaning: str
    reading: str
    needs_holdout: bool = False
    row_names: Mapping[str, str] = field(default_factory=dict)

    def label(self, number: str) -> str:
        """The name of one of its numbers in tables.

        Example:
            >>> ATTACKS["relearning"].label("relearned_start")
            'relearned forget rows, start'
        """
        first, _, rest = number.partition("_")
        shown = f"{self.row_names[first]}, {rest}" if first in self.row_names else number
        return shown.replace("_", " ")

    def run(self, target: "Target") -> "Finding":
        """Attacks the target. The file is imported now, as attacks need libraries that take seconds to import."""
        return getattr(import_module(f"egup_trainer.audit.{self.name}"), self.name)(target)


TRAINED = (
    "found on a few forget rows (given) and measured on the others, without it (plain) and with it (attacked, gain); "
    "excess is what lies above the retrained model, or above rows that no model saw."
)
OPENED = "If its excess is above 0, the answers are still in the model, and a prompt opens them."

ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(
            "relearning",
            "Relearning",
            "Probability of forget answers while the model is fine-tuned on a few other forget rows (forget), on "
            "retain rows (retain), and of the relearned rows (relearned). Speed is the mean over the curve.",
            "If held-back forget rows come back faster than in a model that never saw them, they are only hidden.",
            row_names={
                "forget": "held-back forget rows, others relearned",
                "retain": "held-back forget rows, retain rows learned",
                "relearned": "relearned forget rows",
            },
        ),
        Attack(
            "quantization",
            "Quantisation",
            "The same rows with the weights as given, in 8 bits and in 4.",
            "If forget rows are more likely in few bits than as given, rounding the weights undoes the unlearning.",
        ),
        Attack(
            "prompts",
            "Prompts",
            "Forget rows asked in other ways: reworded, in another language, after a phrase, after examples, with the "
            "answer begun.",
            "If asking in another way brings out more than the question itself, the answers are still in the model.",
        ),
        Attack(
            "depth",
            "Depth",
            "How much less likely the answers become if the model's hidden states replace those of the model before, "
            "in nats per token (drop), and what share of the retrained model's drop that is (score).",
            "A score of 1 is as deep as retraining; 0 means that the hidden states still hold what the output does "
            "not say.",
        ),
        Attack(
            "soft_prompts",
            "Soft prompts",
            f"Probability of forget answers after one soft prompt for all rows, {TRAINED}",
            OPENED,
        ),
        Attack(
            "prompt_search",
            "Prompt search",
            f"Probability of forget answers after one phrase before the question, {TRAINED}",
            OPENED,
        ),
        Attack(
            "worst_prompt",
            "Worst prompt",
            "Probability of forget answers, and ROUGE-L recall, under the worst of all combined prompts: wordings, "
            "prefixes, examples, templates. Excess is what lies above the retrained model, or above rows that no model "
            "saw.",
            "If its excess is above 0, some prompt brings out more than a model that never saw the rows would say.",
        ),
        Attack(
            "sampling",
            "Sampling",
            "ROUGE-L recall of generations sampled at temperature 1: the best and the mean per row.",
            "If the best of several samples is nearer to the answers than that of a model that never saw the rows, "
            "asking often enough brings them out.",
        ),
        Attack(
            "probe",
            "Probe",
            "AUC for distinguishing forget from holdout rows by a layer's features; 0.5 is chance.",
            "If it is far from 0.5, the model's hidden states still tell which rows were forgotten.",
            needs_holdout=True,
        ),
        Attack(
            "membership",
            "Membership attacks",
            "AUC for distinguishing forget from holdout rows; 0.5 is chance.",
            "If it is far from 0.5 on either side, the model's outputs still tell which rows were forgotten.",
            needs_holdout=True,
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
