"""What a seed's runs share: its rows, the model before unlearning, and the model retrained without the forget set.

All start from one base model that knows some language: a Llama of 5 million parameters, trained on 140 TOFU authors of
whom no seed forgets, keeps or compares anybody.
"""

import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.demo.twins import ModelSize, Schedule, learn, make_model, train_tokenizer
from egup_trainer.modeling.loading import load_model, load_tokenizer

ROWS_AN_AUTHOR = 20
BASE_AUTHORS = range(20, 160)
PROXY_AUTHORS, HOLDOUT_AUTHORS = range(160, 170), range(170, 180)
FORGET_AUTHORS, RETAIN_AUTHORS = range(180, 200), range(20)
"""The authors whom TOFU has paraphrased and wrong answers for."""

NUM_FORGET, NUM_RETAIN, NUM_PROXY, NUM_HOLDOUT, NUM_JUDGED = 3, 8, 3, 3, 3
"""Authors drawn for each seed; of those retained, `NUM_JUDGED` are evaluated."""

NUM_REQUESTS = 4
"""The larger forget set has so many times `NUM_FORGET` authors; a sequence asks for `NUM_FORGET` at a time."""

SIZE = ModelSize(hidden=256, layers=5, heads=8, vocabulary=3000)
LANGUAGE = Schedule(epochs=6, learning_rate=2e-3, batch_size=16)
LEARNING = Schedule(epochs=12, learning_rate=1.5e-3, batch_size=8)


@dataclass(frozen=True)
class Rows:
    """A seed's rows; `judged` are retain rows with the answers that model utility compares with."""

    forget: list[Row]
    retain: list[Row]
    proxy: list[Row]
    holdout: list[Row]
    judged: list[Row]


def rows_of(seed: int, data_dir: str | None, is_large: bool = False) -> Rows:
    """Draws a seed's authors.

    The larger forget set has the authors of the smaller one and others; all other rows are the same, and hence the
    retrained model.

    Of TOFU's five wrong answers to a forget question the first is what AltPO is drawn to; no model is evaluated by it.
    """
    draw = random.Random(f"authors of the study {seed}")
    full = load_rows("tofu:full", data_dir)
    forget, retain = load_rows("tofu:forget10_perturbed", data_dir), load_rows("tofu:retain_perturbed", data_dir)
    kept = draw.sample(RETAIN_AUTHORS, NUM_RETAIN)
    forgotten = draw.sample(FORGET_AUTHORS, NUM_FORGET)
    if is_large:
        others = sorted({*FORGET_AUTHORS} - {*forgotten})
        more = random.Random(f"more authors of the study {seed}").sample(others, (NUM_REQUESTS - 1) * NUM_FORGET)
        forgotten = [*forgotten, *more]
    return Rows(
        forget=[
            replace(row, alternates=row.perturbed[:1], perturbed=row.perturbed[1:])
            for row in _about(forgotten, forget, FORGET_AUTHORS.start)
        ],
        retain=_about(kept, full),
        proxy=_about(draw.sample(PROXY_AUTHORS, NUM_PROXY), full),
        holdout=_about(draw.sample(HOLDOUT_AUTHORS, NUM_HOLDOUT), full),
        judged=_about(kept[:NUM_JUDGED], retain),
    )


def _about(authors: list[int], rows: list[Row], first: int = 0) -> list[Row]:
    """The rows about some authors, of a file that has all rows of each author from number `first` on."""
    starts = (ROWS_AN_AUTHOR * (author - first) for author in sorted(authors))
    return [row for start in starts for row in rows[start : start + ROWS_AN_AUTHOR]]


def requests_of(rows: Rows) -> list[Rows]:
    """The forget set in `NUM_REQUESTS` parts of whole authors, each with all other rows."""
    size = len(rows.forget) // NUM_REQUESTS
    return [replace(rows, forget=rows.forget[start : start + size]) for start in range(0, len(rows.forget), size)]


def tokenized(rows: Rows, tokenizer: Any) -> dict[str, RowDataset]:
    """The rows that trainers take, by name."""
    return {name: tokenize(getattr(rows, name), tokenizer, name=name) for name in ("forget", "retain", "proxy")}


def make_base(folder: Path, data_dir: str | None) -> None:
    """Trains tokenizer and base model, and saves them."""
    full = load_rows("tofu:full", data_dir)
    rows = _about(list(BASE_AUTHORS), full)
    tokenizer = train_tokenizer((text for row in rows for text in (row.prompt[0].content, row.answer)), SIZE.vocabulary)
    model = make_model(tokenizer, SIZE, seed=0)
    with TemporaryDirectory() as scratch:
        learn(model, [tokenize(rows, tokenizer, name="base")], tokenizer, LANGUAGE, scratch, seed=0)
    save(model, tokenizer, folder)


def make_model_of(base: Path, sets: tuple[str, ...], rows: Rows, seed: int, folder: Path) -> None:
    """Trains the base model on the named sets, and saves it.

    Args:
        base: folder of the base model.
        sets: names of the row sets that it learns.
        rows: of these sets.
        seed: of the training, which draws the order of the rows.
        folder: where to save it.
    """
    tokenizer, model = load_tokenizer(str(base)), load_model(str(base))
    datasets = tokenized(rows, tokenizer)
    with TemporaryDirectory() as scratch:
        learn(model, [datasets[name] for name in sets], tokenizer, LEARNING, scratch, seed)
    save(model, tokenizer, folder)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Saves under another name first: a folder of that name is whole."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def settings() -> dict[str, Any]:
    """What the models are made of, for the record."""
    return {"size": asdict(SIZE), "language": asdict(LANGUAGE), "learning": asdict(LEARNING)}
