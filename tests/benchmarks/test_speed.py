"""The speed benchmark: contenders do the same work on the same rows, and the arithmetic of its ratios."""

import math

import numpy as np
import pytest
import torch
from conftest import SHARED, make_tiny_model
from fixtures_trainer import boundary_of, cache_of
from transformers import TrainerCallback

from benchmarks.speed import contenders, measure, report, rows, scale, scan
from benchmarks.speed.measure import Case, StepClock, ratio
from benchmarks.speed.shapes import SHAPES, Tuning
from benchmarks.tables import Line
from egup_trainer.modeling.forward import AnswerReader

TOFU = SHARED / "data" / "tofu"
needs_tofu = pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU's files are not at hand")


def found(**seconds):
    """What `compare` returns, as far as ratios read it."""
    return {
        name: {"rounds": {"seconds": values, "peak_gb": [2 * v for v in values]}} for name, values in seconds.items()
    }


def test_a_ratio_is_the_median_over_rounds_of_ratios_within_a_round():
    # The machine was slow in the second round, for both.
    times = found(egup=[1.0, 9.0, 1.2], npo=[2.0, 10.0, 2.0])
    assert ratio(times, "egup", "npo") == pytest.approx(0.6)
    assert ratio(times, "npo", "egup", "peak_gb") == pytest.approx(2.0 / 1.2)


def test_the_step_that_warms_up_does_not_count():
    clock = StepClock()
    clock.ends = [50.0, 51.0, 53.0]
    assert clock.seconds == [1.0, 2.0]


def test_a_peak_is_forgotten_between_runs():
    block = np.ones(40_000_000)  # 320 MB
    measure._forget_peak()
    with_block = measure._peak()
    del block
    measure._settle()
    measure._forget_peak()
    assert with_block - measure._peak() > 250e6


@pytest.fixture(scope="module")
def four_pairs():
    return rows.read_rows(str(TOFU), pairs=4)


@pytest.fixture
def tiny(monkeypatch, four_pairs):
    """A shape that every contender runs in no time."""
    monkeypatch.setattr(measure, "make_model", lambda name, tuning: make_tiny_model(four_pairs.tokenizer))
    return Case("tiny", batch=2, accumulation=2)


@needs_tofu
@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_every_contender_steps_as_often_as_asked(name, tiny, four_pairs):
    run = measure.run(name, tiny, four_pairs, steps=2)
    assert len(run.seconds) == 2
    assert all(second > 0 for second in run.seconds)
    assert run.before > 0
    assert run.tokens == sum(len(row) for side in (four_pairs.forget, four_pairs.retain) for row in side.rows)


class Losses(TrainerCallback):
    def __init__(self):
        self.first = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.first = logs["loss"] if self.first is None else self.first


@needs_tofu
def test_contenders_take_the_same_rows(tiny, four_pairs, tmp_path):
    """The first step's loss follows from the rows: -log p of each contender's own mean over them."""
    model = make_tiny_model(four_pairs.tokenizer)
    reader = AnswerReader(model)
    read = {}
    for side in ("forget", "retain"):
        batch = contenders.RowCollator(four_pairs.tokenizer)(list(enumerate(getattr(four_pairs, side).rows)))
        read[side] = reader(model, **batch, with_features=False)
    tokens = torch.cat([read[side].token_logps for side in read])
    retain = -read["retain"].token_logps.mean().item()
    npo = 2 / contenders.BETA * math.log(2)
    expected = {"floor": -tokens.mean().item(), "sft": -tokens.mean().item(), "npo": npo + retain, "npo_kl": npo}
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none"}
    options |= {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    for name, value in expected.items():
        losses = Losses()
        made = make_tiny_model(four_pairs.tokenizer)
        trainer = contenders.CONTENDERS[name](made, four_pairs, tmp_path / name, options, None)
        trainer.add_callback(losses)
        trainer.train()
        assert losses.first == pytest.approx(value, rel=1e-4), name


def test_the_table_has_a_row_for_each_case(tmp_path):
    times = {
        name: {**each, "seconds": 1.5, "tokens_per_second": 200.0, "peak_gb": 1.25}
        for name, each in found(egup=[1.0], npo=[2.0], sft=[1.25]).items()
    }
    table = tmp_path / "steps.jsonl"
    Line(table, "llama_full_2x8").write({"contenders": times})
    lines = report.table_of(table).splitlines()
    assert lines[2] == "| `llama_full_2x8` | 1.5 | 200 | 1.25 |  | 0.80 | 0.50 |  |  | 0.50 |"
    assert report.table_of(tmp_path / "none") == "Not run."


def test_shapes_are_what_they_are_called():
    sizes = {"llama_32k": 32_000, "gemma_262k": 262_144, "gpt2_50k": 50_257}
    assert {name: SHAPES[name].config().vocab_size for name in sizes} == sizes
    assert Case("gemma_262k", Tuning.LORA, 2, 8).name == "gemma_262k_lora_2x8"


def test_the_run_with_many_rows_has_everything_on(tmp_path):
    trainer = scale.make_trainer(40, steps=3, folder=tmp_path, callbacks=[])
    trainer.train()
    assert cache_of(trainer).initial.codes.shape == (40, 64)
    assert boundary_of(trainer).shape == (40,)
    assert trainer.args.clreg_weight > 0


@needs_tofu
def test_the_scan_is_compared_with_the_forward_passes_over_its_rows(monkeypatch, four_pairs):
    monkeypatch.setattr(scan, "make_model", lambda name, tuning: make_tiny_model(four_pairs.tokenizer))
    monkeypatch.setattr(scan, "DIMENSIONS", 2)
    times = scan.compare_scan("tiny", four_pairs, rounds=1)
    assert all(len(times["seconds"][name]) == 1 for name in ("forward", "scan", "reused"))
    assert times["scan_over_forward"] > times["reused_over_forward"] > 0
