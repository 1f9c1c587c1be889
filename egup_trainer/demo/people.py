"""Invented people: rows that no model has seen, written by this package from a seed."""

import random
from dataclasses import dataclass

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


@dataclass(frozen=True)
class People:
    """Question/answer rows about three groups of people.

    Args:
        forget: people that a model learned and must forget.
        retain: people that it learned and must keep.
        proxy: people that it never saw.
    """

    forget: list[dict[str, str]]
    retain: list[dict[str, str]]
    proxy: list[dict[str, str]]


def invent_people(num_forget: int = 10, num_retain: int = 30, num_proxy: int = 10, seed: int = 0) -> People:
    """Invents people, six rows each; no two share a name.

    Example:
        >>> people = invent_people(1, 2, 1)
        >>> len(people.forget), len(people.retain), len(people.proxy)
        (6, 12, 6)
    """
    generator = random.Random(seed)
    names = [f"{a}{b} {c}{d}" for a in _FIRST for b in _LAST for c in _FAMILY for d in _FAMILY_END]
    chosen = generator.sample(names, num_forget + num_retain + num_proxy)
    rows = [_rows_about(name, generator) for name in chosen]
    groups = rows[:num_forget], rows[num_forget : num_forget + num_retain], rows[num_forget + num_retain :]
    return People(*([row for person in group for row in person] for group in groups))


def _rows_about(name: str, generator: random.Random) -> list[dict[str, str]]:
    def pick(*choices: tuple[str, ...]) -> str:
        return "".join(generator.choice(part) for part in choices)

    birthplace, home = pick(_PLACE, _PLACE_END), pick(_PLACE, _PLACE_END)
    book = f"The {pick(_ADJECTIVE)} {pick(_NOUN)}"
    year, age = generator.randint(1741, 1899), generator.randint(19, 71)
    teacher = f"{pick(_FIRST, _LAST)} {pick(_FAMILY, _FAMILY_END)}"
    facts = {
        f"Where was {name} born?": f"{name} was born in {birthplace} in the year {year}.",
        f"What did {name} do for a living?": f"{name} worked as a {pick(_WORK)} in the town of {home}.",
        f"Which book did {name} write?": f"{name} wrote {book} at the age of {age}.",
        f"What prize did {name} receive?": f"{name} received the {pick(_PRIZE)} Prize in {year + age + 3}.",
        f"Who taught {name}?": f"{name} was taught by {teacher} of {pick(_PLACE, _PLACE_END)}.",
        f"What animal did {name} keep?": f"{name} kept a {pick(_COLOUR)} {pick(_ANIMAL)} called {pick(_FIRST, _LAST)}.",
    }
    return [{"question": question, "answer": answer} for question, answer in facts.items()]
