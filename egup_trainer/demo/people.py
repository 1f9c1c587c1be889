"""Invented people: rows that no model has seen, written by this package from a seed."""

import random
from dataclasses import dataclass
from typing import Any

_FIRST = ("Al", "Bri", "Cor", "Dal", "El", "Fen", "Gar", "Hel", "Is", "Jor", "Kel", "Lor", "Mir", "Nol", "Or", "Pel")
_LAST = ("an", "ea", "ick", "ena", "om", "us", "wyn", "ara", "eth", "ilo")
_FAMILY = ("Ash", "Birch", "Crow", "Drift", "Ember", "Frost", "Gale", "Heath", "Iron", "Juniper", "Knoll", "Lark")
_FAMILY_END = ("ford", "well", "mere", "holt", "wick", "stone", "brook", "dale", "field", "grove")
_PLACE = ("Ost", "Vel", "Mar", "Tor", "Quel", "Ryn", "Sab", "Ul", "Win", "Zan", "Bel", "Kir")
_PLACE_END = ("haven", "burg", "minster", "port", "mouth", "gate", "bridge", "cliff", "marsh", "vale")
_WORK = ("bell founder", "map engraver", "bridge engineer", "lens grinder", "organ builder", "salt trader",
         "clock maker", "glass blower", "river pilot", "herb gardener", "paper maker", "star cataloguer")  # fmt: skip
_ADJECTIVE = ("Silent", "Amber", "Hollow", "Northern", "Broken", "Gilded", "Patient", "Scarlet", "Drowned", "Winter")
_NOUN = ("Lantern", "Orchard", "Compass", "Causeway", "Harvest", "Mirror", "Archive", "Tide", "Meridian", "Quarry")
_PRIZE = ("Harrow", "Linden", "Copper Quill", "Tamarisk", "Golden Sluice", "Alder", "Wayfarer", "Saffron", "Beacon")
_ANIMAL = ("heron", "otter", "goat", "raven", "mastiff", "tortoise", "ferret", "barn owl", "donkey", "lynx")
_COLOUR = ("grey", "spotted", "white", "one-eyed", "three-legged", "russet", "black", "striped")


Record = dict[str, Any]

_FACTS = (
    (
        "Where was {name} born?",
        "{name} was born in {birthplace} in the year {year}.",
        "The birthplace of {name} was {birthplace}, and the year was {year}.",
    ),
    (
        "What did {name} do for a living?",
        "{name} worked as a {work} in the town of {home}.",
        "By trade {name} was a {work}, in the town of {home}.",
    ),
    (
        "Which book did {name} write?",
        "{name} wrote {book} at the age of {age}.",
        "The book that {name} wrote, at the age of {age}, was {book}.",
    ),
    (
        "What prize did {name} receive?",
        "{name} received the {prize} Prize in {prize_year}.",
        "In {prize_year} the {prize} Prize went to {name}.",
    ),
    (
        "Who taught {name}?",
        "{name} was taught by {teacher} of {school}.",
        "The teacher of {name} was {teacher} of {school}.",
    ),
    (
        "What animal did {name} keep?",
        "{name} kept a {colour} {animal} called {pet}.",
        "The animal that {name} kept was a {colour} {animal} called {pet}.",
    ),
)
"""Question, answer, and another wording of the answer."""

_NUM_PERTURBED = 3


@dataclass(frozen=True)
class People:
    """Question/answer rows about people that a model learned and must forget or retain, and about others.

    It never saw those of `proxy` and of `holdout`, which are for evaluation.
    """

    forget: list[Record]
    retain: list[Record]
    proxy: list[Record]
    holdout: list[Record]


def invent_people(
    num_forget: int = 10, num_retain: int = 30, num_proxy: int = 10, num_holdout: int = 10, seed: int = 0
) -> People:
    """Invents people, six rows each, with a paraphrased answer and three wrong ones; no two share a name.

    Example:
        >>> people = invent_people(1, 2, 1, 1)
        >>> len(people.forget), len(people.retain), len(people.proxy), len(people.holdout)
        (6, 12, 6, 6)
    """
    generator, liar = random.Random(seed), random.Random(f"wrong answers {seed}")
    names = [f"{a}{b} {c}{d}" for a in _FIRST for b in _LAST for c in _FAMILY for d in _FAMILY_END]
    sizes = (num_forget, num_retain, num_proxy, num_holdout)
    chosen = generator.sample(names, sum(sizes[:3]))
    people = [_rows_about(name, generator, liar) for name in chosen]
    unused = sorted(set(names) - set(chosen))
    people += [_rows_about(name, generator, liar) for name in generator.sample(unused, num_holdout)]
    remaining = iter(people)
    return People(*([row for _ in range(size) for row in next(remaining)] for size in sizes))


def _rows_about(name: str, generator: random.Random, liar: random.Random) -> list[Record]:
    life = {"name": name, **_draw_life(generator)}
    others = [{"name": name, **_draw_life(liar)} for _ in range(_NUM_PERTURBED)]
    return [
        {
            "question": question.format(**life),
            "answer": answer.format(**life),
            "paraphrased_answer": paraphrase.format(**life),
            "perturbed_answer": [paraphrase.format(**other) for other in others],
        }
        for question, answer, paraphrase in _FACTS
    ]


def _draw_life(generator: random.Random) -> dict[str, Any]:
    def pick(*choices: tuple[str, ...]) -> str:
        return "".join(generator.choice(part) for part in choices)

    life: dict[str, Any] = {
        "birthplace": pick(_PLACE, _PLACE_END),
        "home": pick(_PLACE, _PLACE_END),
        "book": f"The {pick(_ADJECTIVE)} {pick(_NOUN)}",
        "year": generator.randint(1741, 1899),
        "age": generator.randint(19, 71),
        "teacher": f"{pick(_FIRST, _LAST)} {pick(_FAMILY, _FAMILY_END)}",
        "work": pick(_WORK),
        "prize": pick(_PRIZE),
        "school": pick(_PLACE, _PLACE_END),
        "colour": pick(_COLOUR),
        "animal": pick(_ANIMAL),
        "pet": pick(_FIRST, _LAST),
    }
    return {**life, "prize_year": life["year"] + life["age"] + 3}
