"""The modules for Hugging Face's `evaluate`: values by hand, combination, processes, and what is refused."""

import math
import multiprocessing
import socket

import evaluate
import numpy as np
import pytest
from scipy.stats import ks_2samp

import egup_trainer.evaluation
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.hf_metrics import ForgetQuality, ModelUtility, TruthRatio
from egup_trainer.evaluation.metrics.truth_ratio import TruthRatioForm

UTILITY_ROWS = {
    "subset": ["retain", "world_facts", "retain"],
    "probability": [0.5, 1.0, 1.0],
    "rouge": [0.25, 0.5, 0.75],
    "truth_ratio": [0.5, 0.75, 3.0],
}
UTILITY = {  # 6 / (1/0.75 + 1/0.5 + 1/0.25 + 1/1 + 1/0.5 + 1/0.25)
    "model_utility": 6 / (4 / 3 + 2 + 4 + 1 + 2 + 4),
    "retain_probability": 0.75,
    "retain_rouge": 0.5,
    "retain_truth_ratio": 0.25,
    "world_facts_probability": 1.0,
    "world_facts_rouge": 0.5,
    "world_facts_truth_ratio": 0.25,
}


@pytest.fixture(autouse=True)
def _offline_in_an_empty_folder(monkeypatch, tmp_path):
    """No network, and nothing may be left in the working folder."""

    def refuse(*_):
        raise AssertionError("the network was used")

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.6, 0.7, 0.8, 0.9], 2 / math.comb(8, 4)),  # two of all orders are as far apart
        ([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.1, 0.2], 1.0),
    ],
)
def test_forget_quality_by_hand(ours, theirs, p):
    assert ForgetQuality().compute(predictions=ours, references=theirs) == {"forget_quality": pytest.approx(p)}


def test_forget_quality_of_three_rows_is_none():
    assert ForgetQuality().compute(predictions=[0.1, 0.2, 0.3], references=[7, 8, 9]) == {"forget_quality": None}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("forget", (0.5 + 0.25 + 0.5) / 3),
        ("truth", (0.5 + 0.75 + 0) / 3),
        ("probability", (2 / 3 + 4 / 5 + 1 / 3) / 3),
        (TruthRatioForm.TRUTH, (0.5 + 0.75 + 0) / 3),
    ],
)
def test_truth_ratio_by_hand(form, expected):
    assert TruthRatio(form).compute(predictions=[0.5, 0.25, 2]) == {"truth_ratio": pytest.approx(expected, abs=1e-9)}


def test_model_utility_by_hand():
    assert ModelUtility().compute(**UTILITY_ROWS) == pytest.approx(UTILITY)


def test_rows_may_come_in_batches_and_one_by_one_and_are_gone_after():
    quality, utility = ForgetQuality(), ModelUtility()
    for _ in range(2):
        quality.add_batch(predictions=[0.1, 0.2, 0.3], references=[0.7, 0.8, 0.6])
        quality.add(prediction=0.4, reference=0.9)
        assert len(quality) == 4
        assert quality.compute() == {"forget_quality": pytest.approx(2 / 70)}
        for row in zip(*UTILITY_ROWS.values(), strict=True):
            utility.add(**dict(zip(UTILITY_ROWS, row, strict=True)))
        assert utility.compute() == pytest.approx(UTILITY)
    quality.add_batch(predictions=[0.1, 0.2, 0.4], references=[0.7, 0.8, 0.6])
    assert quality.compute(predictions=[0.3], references=[0.9]) == {"forget_quality": pytest.approx(2 / 70)}


def test_two_combine():
    both = evaluate.combine([ForgetQuality(), TruthRatio()])
    expected = {"forget_quality": pytest.approx(2 / 70), "truth_ratio": pytest.approx(0.25)}
    assert both.compute(predictions=[0.1, 0.2, 0.3, 0.4], references=[0.6, 0.7, 0.8, 0.9]) == expected
    both.add_batch(predictions=[0.1, 0.2, 0.4], references=[0.7, 0.8, 0.6])
    both.add(0.3, 0.9)
    assert both.compute() == expected


def test_two_forms_combine_under_their_own_names():
    forms = evaluate.combine({"forget": TruthRatio("forget"), "truth": TruthRatio("truth")})
    assert [form.data_dir.rpartition("/")[2] for form in forms.evaluation_modules] == ["forget", "truth"]
    expected = pytest.approx({"forget_truth_ratio": 0.25, "truth_truth_ratio": 0.75})
    assert forms.compute(predictions=[0.25]) == expected


def test_rows_stay_in_memory(tmp_path):
    metric = TruthRatio(cache_dir=str(tmp_path / "cache"))
    metric.add_batch(predictions=[0.1, 0.2])
    metric.compute()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def _compute_on(rank, folder, results, wait):
    options = {"num_process": 2, "process_id": rank, "cache_dir": folder, "experiment_id": "test"}
    quality = ForgetQuality(**options)
    for _ in range(2):
        results.put((rank, quality.compute(predictions=[0.1 + rank, 0.2 + rank], references=[0.7, 0.8])))
        wait.wait(timeout=100)


def test_two_processes_compute_over_the_rows_of_both(tmp_path):
    fork = multiprocessing.get_context("fork")  # a fresh interpreter would import for half a minute
    results, wait = fork.Queue(), fork.Barrier(2)
    arguments = (str(tmp_path / "cache"), results, wait)
    processes = [fork.Process(target=_compute_on, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=100) for _ in range(4)]
    for process in processes:
        process.join(timeout=100)
    value = ks_2samp([0.1, 0.2, 1.1, 1.2], [0.7, 0.8, 0.7, 0.8]).pvalue
    assert [result for rank, result in found if rank == 0] == [{"forget_quality": pytest.approx(value)}] * 2
    assert [result for rank, result in found if rank == 1] == [None, None]
    assert list((tmp_path / "cache").rglob("*.arrow")) == []


ROW = {name: column[:1] for name, column in UTILITY_ROWS.items()}
REFUSED = {
    "no rows": (ForgetQuality, {}, "no rows for forget_quality"),
    "empty columns": (TruthRatio, {"predictions": []}, "no rows for truth_ratio"),
    "NaN": (TruthRatio, {"predictions": [1.0, math.nan]}, "nan in row 1 of predictions"),
    "infinite": (ForgetQuality, {"predictions": [1.0], "references": [math.inf]}, "inf in row 0 of references"),
    "none": (TruthRatio, {"predictions": [None]}, "nan in row 0 of predictions"),
    "negative": (TruthRatio, {"predictions": np.array([0.5, -0.25])}, "-0.25 in row 1 of predictions"),
    "above 1": (ModelUtility, {**ROW, "probability": [1.5]}, "1.5 in row 0 of probability"),
    "text": (TruthRatio, {"predictions": ["XYZZYSECRET"]}, "predictions that are"),
    "a table": (TruthRatio, {"predictions": [[0.5, 0.5]]}, "predictions of 2 dimensions"),
    "one column": (ForgetQuality, {"predictions": [0.5]}, "no references"),
    "unequal columns": (ForgetQuality, {"predictions": [0.5], "references": [0.5, 0.5]}, "columns of 1 predictions"),
    "no subset": (ModelUtility, {name: column for name, column in ROW.items() if name != "subset"}, "no subset"),
    "subset by number": (ModelUtility, {**ROW, "subset": [3]}, "a subset that is"),
    "subset as text": (ModelUtility, {**ROW, "subset": "r"}, "a subset that is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    module, columns, got = REFUSED[name]
    metric = module()
    with pytest.raises(DataError) as error:
        metric.compute(**columns)
    assert got in error.value.got
    assert len(metric) == 0  # nothing of it counts in what follows


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError) as error:
        TruthRatio("odds")
    assert error.value.got == "form='odds'"


def test_the_package_exports_the_modules():
    exported = [getattr(egup_trainer.evaluation, name) for name in ("ForgetQuality", "TruthRatio", "ModelUtility")]
    assert exported == [ForgetQuality, TruthRatio, ModelUtility]
    assert all(issubclass(each, evaluate.EvaluationModule) for each in exported)
