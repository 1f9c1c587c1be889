"""Attacks that try to bring forgotten rows back, and how far they get.

An attack is a file of this folder with a function of its name, and an entry in `ATTACKS`. Nothing here imports torch,
so that commands can show their flags at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
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
        brings_back: numbers that say how much of the forget rows comes back, from 0 to 1: patterns of names, each with
            a sentence that the number completes.
        cost: seconds on a model of 5.8 million weights, with 40 forget and 100 retain rows; a budget compares by it.
        needs_holdout: whether it compares forget rows with rows that no model saw.
        needs_before: whether it needs the weights of the model before unlearning.
        needs_judge: whether it needs a model that judges texts.
        row_names: for numbers whose names begin with a word that does not say which rows are measured, what does.
    """

    name: str
    title: str
    meaning: str
    reading: str
    cost: float
    brings_back: Mapping[str, str] = field(default_factory=dict)
    needs_holdout: bool = False
    needs_before: bool = False
    needs_judge: bool = False
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

    def sentence_of(self, number: str) -> str | None:
        """The sentence that one of its numbers completes; None if the number does not say how much comes back.

        Example:
            >>> ATTACKS["prompts"].sentence_of("begun_rouge")
            "With the answer begun, it writes this share of the answers' words:"
        """
        return next((text for name, text in self.brings_back.items() if fnmatchcase(number, name)), None)

    def run(self, target: "Target") -> "Finding":
        """Attacks the target. The file is imported now, as attacks need libraries that take seconds to import."""
        return getattr(import_module(f"egup_trainer.audit.{self.name}"), self.name)(target)


TRAINED = (
    "found on a few forget rows (given) and measured on the others, without it (plain) and with it (attacked, gain); "
    "excess is what lies above the retrained model, or above rows that no model saw."
)
OPENED = (
    "If the excess over a model that never saw the rows is above 0, the answers are still in the model, and a prompt "
    "opens them."
)

ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(
            "relearning",
            "Relearning",
            "Probability of forget answers while the model is fine-tuned on a few other forget rows (forget), on a few "
            "retain rows of the same subjects (related) or of others (unrelated), and of the relearned rows "
            "(relearned). Speed is the mean over the curve. Means over seeds.",
            "If held-back forget rows come back faster than in a model that never saw them, they are only hidden.",
            cost=48,
            brings_back={
                "forget*_end": "After training on a few of the rows, the others have probability",
                "related*_end": "After training on a few retain rows of the same subjects, they have probability",
                "unrelated*_end": "After training on a few retain rows of other subjects, they have probability",
            },
            row_names={
                "forget": "held-back forget rows, others relearned",
                "related": "held-back forget rows, related retain rows learned",
                "unrelated": "held-back forget rows, unrelated retain rows learned",
                "relearned": "relearned forget rows",
            },
        ),
        Attack(
            "quantization",
            "Quantization",
            "The same rows with the weights as given, in 8 bits and in 4: as bitsandbytes rounds them (4bit), to the "
            "nearest point of even grids (nearest), and by GPTQ with retain rows as calibration rows (gptq).",
            "If forget rows are more likely in few bits than as given, rounding the weights undoes the unlearning.",
            cost=13,
            brings_back={
                "8bit_forget_probability": "With its weights rounded to 8 bits, the model gives them probability",
                "4bit_forget_probability": "With its weights rounded to 4 bits, the model gives them probability",
                "nearest_forget_probability": "With its weights rounded to 4 even bits, it gives them probability",
                "gptq_forget_probability": "With its weights rounded to 4 bits by GPTQ, it gives them probability",
            },
        ),
        Attack(
            "merging",
            "Merging",
            "The same rows with weights halfway between the model and the one before unlearning.",
            "If the mean of its weights and those of the model before makes forget rows likelier than the same mean "
            "with a model that never saw them, merging undoes the unlearning.",
            cost=1,
            brings_back={"halfway_forget_probability": "Halfway to the model before, they have probability"},
            needs_before=True,
        ),
        Attack(
            "prompts",
            "Prompts",
            "Forget rows asked in other ways: reworded, in another language, after a phrase, after examples, with the "
            "answer begun.",
            "If asking in another way brings out more than the question itself, the answers are still in the model.",
            cost=8,
            brings_back={
                "paraphrased_rouge": "Asked in other words, it writes this share of the answers' words:",
                "translated_rouge": "Asked in another language, it writes this share of the answers' words:",
                "prefixed_rouge": "Asked after a phrase, it writes this share of the answers' words:",
                "examples_rouge": "Asked after examples, it writes this share of the answers' words:",
                "begun_rouge": "With the answer begun, it writes this share of the answers' words:",
            },
        ),
        Attack(
            "depth",
            "Depth",
            "How much less likely the answers become if the model's hidden states replace those of the model before, "
            "in nats per token (drop), and what share of the retrained model's drop that is (score).",
            "A score of 1 is as deep as retraining; 0 means that the hidden states still hold what the output does "
            "not say.",
            cost=2,
            needs_before=True,
        ),
        Attack(
            "soft_prompts",
            "Soft prompts",
            f"Probability of forget answers after one soft prompt for all rows, {TRAINED}",
            OPENED,
            cost=9,
            brings_back={"attacked": "After a trained soft prompt, rows that it was not trained on have probability"},
        ),
        Attack(
            "prompt_search",
            "Prompt search",
            f"Probability of forget answers after one phrase before the question, {TRAINED}",
            OPENED,
            cost=4,
            brings_back={"attacked": "After the best phrase that was found on other rows, they have probability"},
        ),
        Attack(
            "worst_prompt",
            "Worst prompt",
            "Probability of forget answers, and ROUGE-L recall, under the worst of all combined prompts: wordings, "
            "prefixes, examples, templates. Excess is what lies above the retrained model, or above rows that no model "
            "saw.",
            "If the excess over a model that never saw the rows is above 0, some prompt brings the answers out.",
            cost=15,
            brings_back={
                "worst": "Under the worst of many prompts, they have probability",
                "worst_rouge": "Under the worst of many prompts, it writes this share of the answers' words:",
            },
        ),
        Attack(
            "sampling",
            "Sampling",
            "ROUGE-L recall of generations sampled at temperature 1: the best and the mean per row.",
            "If the best of several samples is nearer to the answers than that of a model that never saw the rows, "
            "asking often enough brings them out.",
            cost=7,
            brings_back={
                "best_rouge": "The best of several random answers has this share of the answer's words:",
            },
        ),
        Attack(
            "semantic",
            "Meaning",
            "Greedy generations for forget questions beside the answers: their likeness as a judging model sees it, "
            "and their ROUGE-L recall.",
            "If its generations are more like the answers than those of a model that never saw the rows, the model "
            "still tells the facts, though in other words.",
            cost=2,
            brings_back={"similarity": "Asked the question, what it writes is like the answer, to a judging model:"},
            needs_judge=True,
        ),
        Attack(
            "probe",
            "Probe",
            "AUC for distinguishing forget from holdout rows by a layer's features; 0.5 is chance.",
            "If the AUC is further from 0.5 than that of the retrained model, the model's hidden states tell which "
            "rows were forgotten. Rows of other subjects differ in any model, so the AUC alone says nothing.",
            cost=2,
            needs_holdout=True,
        ),
        Attack(
            "membership",
            "Membership attacks",
            "AUC for distinguishing forget from holdout rows; 0.5 is chance.",
            "If an AUC is further from 0.5 than that of the retrained model, on either side, the model's outputs tell "
            "which rows were forgotten.",
            cost=1,
            needs_holdout=True,
        ),
    )
}
"""All attacks, the strongest first: in this order they are run, and a budget is spent."""


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
