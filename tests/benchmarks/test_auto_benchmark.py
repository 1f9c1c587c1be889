"""The benchmark of runs without hyper-parameters: its rows, its distance, and its table."""

import json

import pytest

import benchmarks.auto.__main__ as auto
from benchmarks.auto.cost import cost_of_auto
from benchmarks.auto.pairs import PAIRS, Pair, chats, customers, make_pair, people
from egup_trainer.data.sources import load_rows
from egup_trainer.demo.twins import Schedule


@pytest.mark.parametrize("make", [customers, chats, people], ids=lambda make: make.__name__)
def test_rows_can_be_read_differ_and_come_from_the_seed(make):
    records = make(3, None)
    assert records == make(3, None) != make(4, None)
    assert records.keys() == {"forget", "retain", "proxy", "holdout"}
    texts = [json.dumps(row) for rows in records.values() for row in rows]
    assert len(set(texts)) == len(texts)
    assert all(len(load_rows(rows)) == len(rows) >= 30 for rows in records.values())


def test_the_distance_is_the_mean_of_five_shares():
    before = dict.fromkeys(auto.METRICS, 1.0)
    retrained = {**dict.fromkeys(auto.METRICS, 0.5), "forget_rouge": 1.0}
    values = {**before, "forget_probability": 0.75, "mia_min_k": None}
    # half of the way; as before where retraining changes nothing; two not moved; one not known
    assert auto._distance(values, before, retrained) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert auto._distance(values, before, retrained, auto.FORGET_METRICS) == pytest.approx((0.5 + 0 + 1) / 3)


@pytest.mark.slow
def test_a_pair_is_made_whole_and_unlearned(tmp_path, tokenizer, capsys):
    def few(seed, data_dir):
        return {name: rows[:12] for name, rows in customers(seed, data_dir).items()}

    pair = Pair(PAIRS["Llama, people"].make_model, few, 3, Schedule(epochs=2, learning_rate=2e-3), ["--max_steps", "2"])
    make_pair(pair, tmp_path / "pair", None)
    found = auto._unlearn(pair, tmp_path / "pair", 1e-5)
    assert (found["learning_rate"], found["steps"], found["values"].keys()) == (1e-5, 2, set(auto.METRICS))
    assert found["code"] == (0 if found["status"] == "FORGOTTEN" else 3)
    assert {path.name for path in (tmp_path / "pair").iterdir()} >= {"before", "retrained", "before.json"}


@pytest.mark.slow
def test_the_cost_is_that_of_the_same_steps_with_the_rate_that_was_chosen(tmp_path, tokenizer):
    pair = Pair(PAIRS["Llama, people"].make_model, customers, 3, Schedule(epochs=2, learning_rate=2e-3))
    make_pair(pair, tmp_path / "pair", None)
    found = cost_of_auto([*auto._words(pair, tmp_path / "pair"), "--num_train_epochs", "2"])
    assert found["chosen"]["max_steps"] == 10
    assert all(value > 0 for run in ("auto", "known", "examples") for value in found[run].values())


def test_the_table_of_costs_has_ratios(monkeypatch):
    name = next(iter(PAIRS))
    runs = {"auto": (25.0, 1.1), "known": (20.0, 1.0), "examples": (24.0, 1.1)}
    lines = {name: {run: dict(zip(("cpu_seconds", "gigabytes"), each, strict=True)) for run, each in runs.items()}}
    monkeypatch.setattr(auto.tables, "read_table", lambda path: lines)
    assert list(auto._costs()) == [[name, "25", "20 (1.25)", "24 (1.04)", "1.10", "1.00"]]


def test_the_table_has_the_nearest_of_the_rates_that_forget(monkeypatch):
    name = next(iter(PAIRS))
    line = {"status": "FORGOTTEN", "retained": 0.98, "learning_rate": 2e-4, "distance": 0.3}
    line["forget_distance"] = 0.25
    lines = {name: line, f"{name} 0.001": {**line, "learning_rate": 1e-3, "distance": 0.2}}
    lines[f"{name} 0.003"] = {**line, "learning_rate": 3e-3, "distance": 0.4}
    lines[f"{name} 0.0001"] = {**line, "learning_rate": 1e-4, "distance": 0.1, "status": "MODEL HARMED"}
    monkeypatch.setattr(auto.tables, "read_table", lambda path: lines)
    assert list(auto._rows()) == [
        [name, "FORGOTTEN", "0.980", "0.0002", "0.30", "0.25", "2", "0.001", "0.20", "0.25", "0.980"]
    ]
