"""The modules for Hugging Face's `evaluate`: values by hand, combination, processes, and what is refused."""

import json
import math
import multiprocessing
import socket

import evaluate
import numpy as np
import pytest
import torch
from conftest import SHARED
from scipy.stats import ks_2samp

import egup_trainer.evaluation
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.hf_metrics import ForgetQuality, ModelUtility, TruthRatio
from egup_trainer.evaluation.metrics.truth_ratio import TruthRatioForm, raw_truth_ratio

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


def test_forget_quality_is_scipys_test():
    generator = np.random.default_rng(3)
    ours, theirs = generator.lognormal(size=60), generator.lognormal(0.4, size=60)
    value = ForgetQuality().compute(predictions=ours, references=torch.from_numpy(theirs))["forget_quality"]
    assert value == pytest.approx(ks_2samp(ours, theirs).pvalue, rel=1e-12)
    assert 0.001 < value < 0.9


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


def test_the_forget_form_is_the_default():
    assert TruthRatio().compute(predictions=[4.0])["truth_ratio"] == pytest.approx(0.25, abs=1e-9)


def test_model_utility_by_hand():
    assert ModelUtility().compute(**UTILITY_ROWS) == pytest.approx(UTILITY)


def test_model_utility_is_0_where_one_part_is():
    assert ModelUtility().compute(**{**UTILITY_ROWS, "rouge": [0.0, 0.5, 0.0]})["model_utility"] == 0


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


def test_all_three_combine():
    every = evaluate.combine([ForgetQuality(), TruthRatio(), ModelUtility()])
    ratios = {"predictions": [0.1, 0.2, 0.3, 0.4], "references": [0.6, 0.7, 0.8, 0.9]}
    expected = pytest.approx({"forget_quality": 2 / 70, "truth_ratio": 0.25, **UTILITY})
    rows = {name: [*column, column[1]] for name, column in UTILITY_ROWS.items()}  # one of world_facts twice
    assert every.compute(**ratios, **rows) == expected
    every.add_batch(**ratios, **rows)
    assert every.compute() == expected


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


NO_NAMES = "Got a subset that is no list of text, but expected a name a row. Give a list of names."
CHECK = "Leave out rows without a value, and check how the others were computed."
ROW = {name: column[:1] for name, column in UTILITY_ROWS.items()}
REFUSED = {
    "no rows": (
        ForgetQuality,
        {},
        "Got no rows for forget_quality, but expected at least one. Add rows before compute().",
    ),
    "empty columns": (
        TruthRatio,
        {"predictions": []},
        "Got no rows for truth_ratio, but expected at least one. Add rows before compute().",
    ),
    "NaN": (
        TruthRatio,
        {"predictions": [1.0, math.nan]},
        f"Got nan in row 1 of predictions, but expected finite numbers of at least 0. {CHECK}",
    ),
    "infinite": (
        ForgetQuality,
        {"predictions": [1.0], "references": [math.inf]},
        f"Got inf in row 0 of references, but expected finite numbers of at least 0. {CHECK}",
    ),
    "none": (
        TruthRatio,
        {"predictions": [None]},
        f"Got nan in row 0 of predictions, but expected finite numbers of at least 0. {CHECK}",
    ),
    "negative": (
        TruthRatio,
        {"predictions": np.array([0.5, -0.25])},
        f"Got -0.25 in row 1 of predictions, but expected finite numbers of at least 0. {CHECK}",
    ),
    "above 1": (
        ModelUtility,
        {**ROW, "probability": [1.5]},
        f"Got 1.5 in row 0 of probability, but expected numbers from 0 to 1. {CHECK}",
    ),
    "text": (
        TruthRatio,
        {"predictions": ["XYZZYSECRET"]},
        "Got predictions that are no numbers, but expected finite numbers of at least 0. Give a number a row.",
    ),
    "a table": (
        TruthRatio,
        {"predictions": [[0.5, 0.5]]},
        "Got predictions of 2 dimensions, but expected one. Give a number a row.",
    ),
    "one column": (
        ForgetQuality,
        {"predictions": [0.5]},
        "Got no references, but expected the columns predictions, references. Give references to forget_quality.",
    ),
    "unequal columns": (
        ForgetQuality,
        {"predictions": [0.5], "references": [0.5, 0.5]},
        "Got columns of 1 predictions and 2 references, but expected equally many. "
        "Give forget_quality one value of each a row.",
    ),
    "no subset": (
        ModelUtility,
        {name: column for name, column in ROW.items() if name != "subset"},
        "Got no subset, but expected the columns subset, probability, rouge, truth_ratio. Give subset to "
        "model_utility.",
    ),
    "subset by number": (ModelUtility, {**ROW, "subset": [3]}, NO_NAMES),
    "subset as text": (ModelUtility, {**ROW, "subset": "r"}, NO_NAMES),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    module, columns, message = REFUSED[name]
    metric = module()
    with pytest.raises(DataError) as error:
        metric.compute(**columns)
    assert str(error.value) == message
    assert len(metric) == 0  # nothing of it counts in what follows


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError) as error:
        TruthRatio("odds")
    assert str(error.value) == "Got form='odds', but expected one of forget, truth, probability. Set --form."


def test_the_package_exports_the_modules():
    exported = [getattr(egup_trainer.evaluation, name) for name in ("ForgetQuality", "TruthRatio", "ModelUtility")]
    assert exported == [ForgetQuality, TruthRatio, ModelUtility]
    assert all(issubclass(each, evaluate.EvaluationModule) for each in exported)


@pytest.fixture(scope="module")
def released():
    """released("phi_full"): a log of TOFU's release, or with "expected" what is known of all; skips without them."""

    def read(name):
        path = SHARED / "reference" / "tofu_logs" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"the logs of the TOFU release are not at {path.parent}")
        return json.loads(path.read_text(encoding="utf-8"))

    return read


def _ratios(section):
    right, wrong = section["avg_paraphrased_loss"], section["average_perturb_loss"]
    return [raw_truth_ratio(np.ravel(right[row])[0], wrong[row]) for row in right]


def test_forget_quality_of_the_released_logs(released):
    ours, theirs = (_ratios(released(name)["eval_log_forget.json"]) for name in ("phi_full", "phi_retain90"))
    value = ForgetQuality().compute(predictions=ours, references=theirs)["forget_quality"]
    assert value == pytest.approx(released("expected")["phi_full"]["forget_quality"]["phi_retain90"], rel=1e-6)


@pytest.mark.parametrize("model", ["phi_full", "phi_retain90"])
def test_model_utility_of_the_released_logs(released, model):
    log, expected, utility = released(model), released("expected")[model], ModelUtility()
    for subset, file in (
        ("retain", "eval_log.json"),
        ("real_authors", "eval_real_author_wo_options.json"),
        ("world_facts", "eval_real_world_wo_options.json"),
    ):
        section = log[file]
        right = [math.exp(-np.ravel(nll)[0]) for nll in section["avg_gt_loss"].values()]
        wrong = [sum(math.exp(-nll) for nll in nlls) for nlls in section["average_perturb_loss"].values()]
        utility.add_batch(
            subset=[subset] * len(right),
            probability=right if subset == "retain" else [p / (p + w) for p, w in zip(right, wrong, strict=True)],
            rouge=list(section["rougeL_recall"].values()),
            truth_ratio=_ratios(section),
        )
        known = expected["sets"][file]
    result = utility.compute()
    assert result["model_utility"] == pytest.approx(expected["model_utility"], rel=1e-6)
    assert result["world_facts_truth_ratio"] == pytest.approx(known["truth_ratio"], rel=1e-6)
