"""What attacks bring back from models of the study: which raise an alarm, and what the table says of them."""

from dataclasses import replace

import pytest
from conftest import SHARED
from fixtures_audit import QUICK
from fixtures_study import make_study_small

from benchmarks import evidence
from benchmarks.evidence import AGAIN, FIRST, MODELS, alarms, line_of, table
from benchmarks.study import plan
from egup_trainer.audit import ATTACKS
from egup_trainer.audit.attack import Finding
from egup_trainer.audit.audit import Audit
from egup_trainer.errors import StateError
from egup_trainer.evaluation.metric import Metric

NAMES = {"depth": "score", "membership": "loss", "merging": "halfway_forget_probability"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty table of results."""
    monkeypatch.setattr(evidence, "TABLE", tmp_path / "evidence.jsonl")


def audit_of(depth, membership, halfway, retrained=None):
    numbers = zip(NAMES.items(), (depth, membership, halfway), strict=True)
    findings = {
        attack: Finding({name: Metric(value, interval=(value - 0.1, value + 0.1))}) for (attack, name), value in numbers
    }
    return Audit("model", {}, {}, findings, retrained=retrained)


@pytest.mark.parametrize(
    ("numbers", "raised"),
    [
        ((0.9, 0.5, 0.15), []),
        ((0.66, 0.59, 0.29), []),  # depth may be .76, membership .49, and merging gets .09 further
        ((0.64, 0.5, 0.2), ["depth"]),
        ((0.9, 0.61, 0.2), ["membership"]),
        ((0.9, 0.39, 0.31), ["merging", "membership"]),
    ],
)
def test_alarms_are_raised_by_what_lies_clearly_apart_from_the_retrained_model(numbers, raised):
    retrained = audit_of(1.0, 0.5, 0.2)
    assert alarms(audit_of(*numbers, retrained)) == raised
    assert alarms(retrained) == []


def test_the_table_has_means_over_seeds_and_counts_alarms(results):
    def write(name, seed, above, depth, raised):
        values = {"depth.score": depth, "probe.layer_0_auc": 0.5, "probe.layer_3_auc": 0.7 if seed else None}
        line_of(name, seed).write({"values": values, "above_retrained": {"merging": above}, "alarms": raised})

    for seed in (0, 1):
        write(FIRST, seed, 0.0, 1.0, [])
        write("npo", seed, 0.1 + 0.1 * seed, 0.5, ["depth", *(["merging"] if seed else [])])
    assert table([0, 1, 2]).splitlines() == [
        f"| attack | `{FIRST}` | `npo` |",
        "| --- | --- | --- |",
        "| `merging` | +0.00 | +0.15 (1) |",
        "| `depth` | 1.00 | 0.50 (2) |",
        "| `probe` | 0.60 | 0.60 |",
        "| seeds | 2 | 2 |",
    ]


@pytest.mark.slow
def test_models_of_the_study_are_made_and_attacked(results, tofu, tmp_path, monkeypatch):
    tofu("full")  # skips where the rows are not at hand
    make_study_small(monkeypatch)
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(evidence, "OPTIONS", replace(QUICK, max_rows=6, max_new_tokens=4))
    words = ["--data_dir", str(SHARED / "data" / "tofu"), "--work_dir", str(tmp_path / "work"), "--seeds", "30"]
    with pytest.raises(StateError) as caught:
        evidence.main([*words, "--models", "npo"])
    assert caught.value.got == "no learning rate of npo"
    monkeypatch.setattr(evidence, "chosen_rate", lambda method: 1e-3)
    evidence.main([*words, "--models", FIRST, AGAIN, "npo"])
    attacks = {attack for attack in ATTACKS if attack != "semantic"}
    for name in (FIRST, AGAIN, "npo"):
        line = line_of(name, 30).read()
        assert {number.partition(".")[0] for number in line["values"]} == attacks
        assert line["settings"]["seed"] == 30
    assert set(line_of(FIRST, 30).read()["above_retrained"].values()) == {None}
    assert line_of("npo", 30).read()["values"]["depth.score"] is not None
    assert not line_of(MODELS[2], 30).exists()
