"""The study's pieces from the base model to the summary, on a world of a few rows."""

import json

import pytest
from conftest import SHARED
from fixtures_study import make_study_small

from benchmarks.study import gap10, plan, runs, summary, work
from benchmarks.study.plan import GRID, Record, RunSpec, Task, model_line
from benchmarks.study.work import Place
from egup_trainer.errors import StateError
from egup_trainer.evaluation.evaluation import read_evaluation


@pytest.fixture
def place(tofu, tmp_path, monkeypatch):
    """An author of each kind, a model that learns next to nothing, and an empty folder of results."""
    tofu("full")  # skips where the rows are not at hand
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    make_study_small(monkeypatch)
    # The others are 0 for a model that knows nothing, before unlearning, too.
    monkeypatch.setattr(summary, "GAP_METRICS", ("forget_probability", "forget_truth_ratio"))
    return Place(str(SHARED / "data" / "tofu"), tmp_path / "work")


def digests(seed, names, is_large=False):
    return {name: Record.read(model_line(name, seed, is_large)).experiment["weights"] for name in names}


@pytest.mark.slow
def test_from_the_base_model_to_the_summary(place):
    work.do_base(place)
    work.do_before(place, 0)
    for rate in GRID:
        work.try_rate(place, RunSpec("npo+egup", rate, 0))
    assert not (place.work_dir / "unlearned").exists()  # what only chooses a rate is not kept
    work.do_compared(place, 20)
    work.do_retrained_again(place, ["retrained3"], 20)
    rate = plan.chosen_rate("npo+egup")
    spec = RunSpec("npo+egup", rate, 20)
    work.evaluate(place, spec)

    names = ("before", "retrained", "retrained2", "retrained3")
    assert len(set(digests(20, names).values())) == len(names)  # another order gives another model
    values = {name: Record.read(model_line(name, 20)).values for name in names}
    values["npo"] = Record.read(spec.evaluated).values
    for name, each in values.items():
        for metric in ("mia_gradnorm", "mia_reference", "forget_quality", "relearning_speed"):
            assert each[metric] is not None, (name, metric)
        assert ("l_paraphrase" in each) == (name != "retrained3")  # more noise is told of without other wordings
    assert values["retrained"]["forget_quality"] == 1
    assert values["npo"]["entanglement_retain_shift"] > 0

    found = summary.summary([20])
    assert found["npo+egup"]["seeds"] == found["npo+egup"]["tuning_seeds"] == 1
    assert found["npo+egup"]["gap10"]["mean"] > 0
    models = {name: values[name] for name in names}
    assert summary.noise_floor([models], gap10.units([models])) == found["noise_floor"]
    line = model_line("retrained", 20)
    made = Record.read(line)
    Record({**made.experiment, "weights": "others"}, made.values, made.run).write(line)
    with pytest.raises(StateError):
        work.do_compared(place, 20)


@pytest.mark.slow
def test_generations_are_read_by_a_retrained_model_that_did_not_write_them(place, monkeypatch):
    work.do_base(place)
    read_by = {}
    evaluate = runs.evaluate

    def remember(model, tokenizer, rows, name, reader=None):
        read_by[name] = reader and reader.config.name_or_path
        return evaluate(model, tokenizer, rows, name, reader)

    monkeypatch.setattr(runs, "evaluate", remember)
    work.do_compared(place, 20)
    folders = {name: str(place.model(name, 20)) for name in ("retrained", "retrained2")}
    assert read_by == {
        "base": None,
        "retrained": folders["retrained2"],
        "retrained2": folders["retrained"],
        "before": folders["retrained"],
    }


@pytest.mark.slow
def test_stress_tests_have_models_and_evaluations_of_their_own(place, monkeypatch):
    work.do_base(place)
    work.do_compared(place, 20)
    work.do_compared(place, 20, is_large=True)
    small, large = digests(20, ("before", "retrained")), digests(20, ("before", "retrained"), is_large=True)
    assert small["retrained"] == large["retrained"]
    assert small["before"] != large["before"]
    sizes = [
        read_evaluation(place.evaluation("retrained", 20, is_large)).sets["forget"].num_rows
        for is_large in (False, True)
    ]
    assert sizes == [20, 40]

    asked = []
    unlearn = runs.unlearn

    def remember(folder, options, learning_rate, seed, rows, scans):
        asked.append((folder.name, len(rows.forget)))
        return unlearn(folder, options, learning_rate, seed, rows, scans)

    monkeypatch.setattr(runs, "unlearn", remember)
    for task in (Task.SCALE, Task.SEQUENCE):
        work.evaluate(place, RunSpec("grad_diff", GRID[0], 20, task))
    assert asked == [("before_seed20_large", 40), ("before_seed20_large", 20), ("0", 20)]
    record = Record.read(RunSpec("grad_diff", GRID[0], 20, Task.SEQUENCE).evaluated)
    assert json.loads(json.dumps(record.experiment))["task"] == "sequence"
    assert record.values["forget_quality"] is not None
