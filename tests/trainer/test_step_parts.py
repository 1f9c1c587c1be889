"""Counts, logs and noise of a step, by hand."""

import pytest
import torch
from accelerate import Accelerator

from egup_trainer.components.clreg import view_noise
from egup_trainer.components.proxy_constraint import _mean_and_share_past
from egup_trainer.components.step import Collected, FinishedStep, Step, StepCounts, mean_and_range
from egup_trainer.components.step_log import StepLog

IGNORE = -100


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def batch(forget_ids, retain_ids, labels, mask):
    ids = {"forget_ids": torch.tensor(forget_ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}
    return ids if retain_ids is None else {**ids, "retain_ids": torch.tensor(retain_ids)}


def test_counts_cover_all_micro_batches_and_leave_fillers_out(accelerator):
    first = batch([4, 1], [7, 7], [[5, 5, 5], [5, 5, 5], [IGNORE, 5, 5], [5, IGNORE, 5]], [[1, 1, 1]] * 4)
    last = batch([2, -1], [0, -1], [[5, 5], [IGNORE, IGNORE], [IGNORE, 5], [IGNORE, IGNORE]], [[1, 1], [1, 0]] * 2)
    counts = StepCounts.of([first, last], accelerator)
    assert counts.forget_ids.tolist() == [4, 1, 2]
    assert counts.retain_ids.tolist() == [7, 7, 0]
    assert counts.retain_tokens.item() == 2 + 1 + 1  # the first token of a row is never predicted
    assert counts.input_tokens.item() == 12 + 6
    assert counts.per_forget_row(torch.tensor([3.0, 6.0])).item() == pytest.approx(9 / 3)
    assert counts.per_retain_token(torch.tensor([2.0])).item() == pytest.approx(2 / 4)


def test_counts_without_retain_rows_or_with_views_are_those_of_the_forget_rows(accelerator):
    alone = StepCounts.of([batch([0, 1], None, [[5, 5]] * 2, [[1, 1]] * 2)], accelerator)
    assert (len(alone.retain_ids), alone.retain_tokens.item(), alone.input_tokens.item()) == (0, 0, 4)
    assert alone.per_retain_token(torch.tensor([0.0])).item() == 0
    views = StepCounts.of([batch([0, 1], [3, 4], [[5, 5]] * 6, [[1, 1]] * 6)], accelerator)
    assert (views.retain_tokens.item(), views.input_tokens.item()) == (2, 12)


def test_a_step_of_fillers_alone_divides_by_no_zero(accelerator):
    counts = StepCounts.of([batch([-1], [-1], [[IGNORE], [IGNORE]], [[1], [1]])], accelerator)
    assert counts.per_forget_row(torch.zeros(1)).item() == counts.per_retain_token(torch.zeros(1)).item() == 0


COUNTS = StepCounts(*(torch.tensor([0, 1]) for _ in range(2)), torch.tensor(4), torch.tensor(75))


def micro_batch(collected, ids=(0, 1)):
    return Step({"forget_ids": torch.tensor(ids)}, {}, collected, None)


def test_the_log_sums_micro_batches_and_averages_steps(accelerator):
    log = StepLog()
    for value in (1.0, 3.0):
        collected = Collected(COUNTS)
        for share, positions, ids in ((value, 60.0, (0, -1)), (0.5, 40.0, (1, -1))):
            step = micro_batch(collected, ids)
            step.keep("forget_ids", step.forget_ids)
            step.add("loss_forget", torch.tensor(share))
            step.add("hidden", torch.tensor(share), log=False)
            step.add("positions", torch.tensor(positions))
            step.add_mean("gap", torch.tensor([value, 9.0, share]), torch.tensor([True, False, share == 3.0]))
            step.add_mean("never", torch.tensor([value, 9.0]), torch.tensor([False, False]))
            step.observe("weight", torch.tensor([value + ids[0], -9.0]), mean_and_range)  # the second is a filler
            step.observe("drift", torch.tensor([value * ids[0], -9.0]))
        finished = FinishedStep(collected, accelerator, epoch=1.0)
        assert finished.sum("hidden").item() == value + 0.5
        assert finished.of_samples("weight").tolist() == [value, value + 1]
        finished.values["proxy_lambda"] = torch.tensor(value)
        log.add(collected, finished)
    logs = log.flush(accelerator)
    assert logs["loss_forget"] == pytest.approx((1.5 + 3.5) / 2)
    assert (logs["weight_mean"], logs["weight_min"], logs["weight_max"]) == (2.5, 1.0, 4.0)
    assert logs["drift"] == 1.0
    assert logs["drift_p10"] == pytest.approx(0.0)
    assert logs["drift_p90"] == pytest.approx(0.3 * 1 + 0.7 * 3)  # sorted 0, 0, 1, 3: at index 2.7
    assert logs["proxy_lambda"] == 3.0
    assert "hidden" not in logs
    # 1 and 1, then 3, 3 and 3: the mean over values, not over steps
    assert {name: value for name, value in logs.items() if "gap" in name or "never" in name} == {"gap": 2.2}
    assert logs["tokens_per_second"] > 0
    assert logs["padding"] == 0.25
    assert log.flush(accelerator) == {}


def test_the_boundary_gap_comes_with_the_share_that_is_past_it():
    logs = _mean_and_share_past("boundary_gap", torch.tensor([-1.0, 1.0, 3.0, -2.0]))
    assert logs == {"boundary_gap": 0.25, "past_boundary": 0.5}


def test_noise_has_neftunes_size_and_stops_at_the_padding():
    noise = view_noise(torch.tensor([3]), torch.tensor([40]), width=50, size=32, alpha=5.0, seed=0, step=0)
    largest = 5.0 / (40 * 32) ** 0.5
    assert noise.shape == (1, 50, 32)
    assert noise[0, 40:].abs().sum() == 0
    assert 0.95 * largest < noise.abs().max() <= largest
    assert abs(noise[0, :40].mean()) < 0.1 * largest


def test_noise_depends_on_seed_step_and_id_and_not_on_company():
    def draw(ids, step=0, seed=0, width=6):
        lengths = torch.full((len(ids),), 6)
        return view_noise(torch.tensor(ids), lengths, width=width, size=4, alpha=1.0, seed=seed, step=step)

    alone = draw([5])[0]
    assert torch.equal(draw([2, 5], width=9)[1, :6], alone)
    for other in (draw([6]), draw([5], step=1), draw([5], seed=1), draw([-1])):
        assert not torch.equal(other[0], alone)
