"""The demo's two models, kept in a folder: for notebooks and trials, which need them again and again."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from egup_trainer.demo.experiment import demo_experiment, prepare, train_all
from egup_trainer.demo.people import People
from egup_trainer.files import check_writable, one_line_write_errors, sync_folder, write_file

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class DemoModels:
    """A model that knows the demo's people, and the one that never saw those to be forgotten.

    Args:
        people: the rows.
        before: folder of the model that learned forget and retain rows, with its tokenizer.
        retrained: folder of its twin, trained in the same way on the retain rows only.
    """

    people: People
    before: Path
    retrained: Path


def demo_models(folder: str | Path = "demo_models", seed: int = 0) -> DemoModels:
    """The demo's models: trained by the first call, in half a minute on two cores, and found there by later ones.

    Args:
        folder: where they are kept. Models of other settings or another seed that are there are replaced.
        seed: of people, weights and orders.

    Example:
        >>> # demo = demo_models()
        >>> # model = AutoModelForCausalLM.from_pretrained(demo.before)
    """
    folder = Path(folder)
    experiment = replace(demo_experiment(seed), methods={})
    settings = json.dumps(experiment.settings(), indent=1) + "\n"
    people = People(experiment.forget, experiment.retain, experiment.proxy, experiment.holdout)
    found = DemoModels(people, folder / "before", folder / "retrained")
    marker = folder / _SETTINGS
    if marker.is_file() and marker.read_text(encoding="utf-8") == settings:
        return found
    check_writable(marker)
    prepared = prepare(experiment)
    trained_models = list(train_all(experiment, prepared, print))
    with one_line_write_errors(folder):
        marker.unlink(missing_ok=True)
        for trained in trained_models:
            trained.model.save_pretrained(folder / trained.name)
            prepared.tokenizer.save_pretrained(folder / trained.name)
        sync_folder(folder)
    write_file(marker, settings, private=False)  # last: where it stands, both models are whole
    return found
