"""auto: the learning rate of the range test, what the epochs change, and the same after a resume."""

from dataclasses import fields, replace

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import furthest, logged, weights_of, whole_and_resumed

from egup_trainer import EGUPConfig, EGUPTrainer
from egup_trainer.components import auto
from egup_trainer.components.auto import Auto, Strength
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.components.retain import RetainObjective
from egup_trainer.components.sharp_forgetting import SharpForgetting
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.records.facts import make_record

PLAIN_EGUP = {"inter_entanglement": False, "intra_entanglement": False}
PLAIN = {"proxy_constraint": False, **PLAIN_EGUP}
STILL = {"boundary_p": 0.0, "unseen_gap": 0.0, "forget_progress": 1.0}


def rates(trainer):
    return logged(trainer, "learning_rate")


def with_numbers(make_trainer, monkeypatch, measured, needed_rise=1.0, **options):
    """A trainer at the rate 1e-4, which measures what it is told to at the ends of epochs of three steps."""
    trainer = make_trainer(auto=True, learning_rate=1e-4, logging_steps=1, **options)
    component, found = trainer.component(Auto), iter(measured)

    def measure():
        component._needed_rise = needed_rise
        return {**STILL, **next(found)}

    monkeypatch.setattr(component, "measure", measure)
    return trainer


def test_the_range_test_puts_weights_and_random_numbers_back(make_trainer):
    trainer = make_trainer(auto=True, num_train_epochs=2)
    trainer.create_optimizer_and_scheduler(6)
    trainer.begin_training()
    before, state = weights_of(trainer), torch.get_rng_state()
    trials = trainer.component(Auto).run.try_rates([1e-3, 1e-2, 1e-1], lambda trial: False)
    assert [round(trial.moved, 6) for trial in trials] == [0, 0.001, 0.011]
    assert furthest(weights_of(trainer), before) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_a_range_test_takes_at_most_a_tenth_of_the_steps(make_trainer, taught):
    """Of a run of the default length; the range test of this short one is the same."""
    trainer, taken = make_trainer(model=taught(), learning_rate=None, num_train_epochs=1), []
    step = trainer.training_step
    trainer.training_step = lambda *args, **options: taken.append(trainer.state.global_step) or step(*args, **options)
    trainer.train()
    in_range_test = len(taken) - trainer.state.global_step
    assert 10 < in_range_test < len(auto.RATES)  # it ended by itself
    assert len(auto.RATES) <= auto.LEAST_STEPS / 10


def test_a_run_after_a_range_test_sees_the_same_pairs(make_trainer, taught):
    seen = {}
    for rate in (None, 1e-4):
        trainer = make_trainer(model=taught(), learning_rate=rate, num_train_epochs=3)
        pairs = seen[rate] = []

        def note(model, inputs, *args, read=trainer.compute_loss, pairs=pairs, trainer=trainer, **kwargs):
            pairs.append(str((inputs["forget_ids"].tolist(), inputs["retain_ids"].tolist())))
            return read(model, inputs, *args, **kwargs)

        trainer.compute_loss = note
        trainer.train()
    assert len(seen[None]) > 9  # the range test comes first
    assert len(set(seen[1e-4])) == 9
    assert seen[None][-9:] == seen[1e-4]


def test_a_step_of_the_range_test_is_the_rate_in_the_direction_of_the_gradients_sign(make_trainer):
    trainer = make_trainer(auto=True, retain_weight=0.0, objective="grad_ascent", proxy_constraint=False)
    trainer.create_optimizer_and_scheduler(6)
    trainer.begin_training()
    trials = trainer.component(Auto).run.try_rates([1e-3] * 8, lambda trial: trial.forget_rise > 0.01)
    assert trials[-1].forget_rise > 0.01
    assert trials[-1].moved == pytest.approx(1e-3 * (len(trials) - 1))
    assert all(trial.forget_rise == 0 for trial in trials[:3])  # read for the first time


def test_the_learning_rate_falls_to_zero_over_the_run(make_trainer, monkeypatch):
    quiet = {"retain_rise": 0.0}
    trainer = with_numbers(make_trainer, monkeypatch, [quiet, quiet], num_train_epochs=2)
    trainer.train()
    assert rates(trainer) == pytest.approx([1e-4 * (1 - step / 6) for step in range(6)])
    assert logged(trainer, "auto_learning_rate") == [1e-4]


def test_retain_rows_that_suffer_count_twice_as_much_until_they_recover(make_trainer, monkeypatch):
    rises = [{"retain_rise": rise} for rise in (0.9, 0.9, 0.95, 0.9, 0.9, 0.0, -0.1, -0.1, -0.1, 0.0)]
    trainer = with_numbers(make_trainer, monkeypatch, rises, num_train_epochs=10, retain_weight=0.5)
    component, retain, weights = trainer.component(Auto), trainer.component(RetainObjective), []
    monkeypatch.setattr(component, "_restart", lambda *args: pytest.fail("another learning rate"))
    measure = component.measure
    monkeypatch.setattr(component, "measure", lambda: weights.append(retain.weight) or measure())
    trainer.train()
    # Not after the first measurement, and at most 8 times as much.
    assert weights == [0.5, 0.5, 1.0, 2.0, 2.0, 4.0, 4.0, 1.0, 0.25, 0.0625]
    assert logged(trainer, "auto_retain_factor") == [1.0, 2.0, 4.0, 4.0, 8.0, 8.0, 2.0, 0.5, 0.125, 0.125]
    assert make_record(trainer)["auto"] == {"retain_factor": 0.125, "last_step": 30.0}


def test_retain_rows_that_are_better_than_before_count_less_until_they_are_not(make_trainer, monkeypatch):
    """Otherwise they would be learned further than the retrained model learned them."""
    rises = [{"retain_rise": rise} for rise in (-0.5, -0.5, -0.5, -0.5, 0.0, 0.05, 0.05, 0.05, 0.05)]
    trainer = with_numbers(make_trainer, monkeypatch, rises, num_train_epochs=9)
    trainer.train()
    assert logged(trainer, "auto_retain_factor") == [1 / 4, 1 / 16, 1 / 32, 1 / 32, 1 / 8, 1 / 2, 1.0, 1.0, 1.0]


def test_ten_epochs_of_many_end_with_a_measurement(make_trainer, monkeypatch):
    trainer = with_numbers(make_trainer, monkeypatch, [{"retain_rise": 0.0}] * 10, num_train_epochs=30)
    trainer.train()
    steps = [row["step"] for row in trainer.state.log_history if "auto_last_step" in row]
    assert steps == [9, 18, 27, 36, 45, 54, 63, 72, 81, 90]


def test_a_run_that_was_shortened_is_measured_more_often(make_trainer, monkeypatch):
    """Its epochs are then a larger share of it."""
    monkeypatch.setattr(auto, "LEAST_STEPS", 5)
    there = {"retain_rise": 0.0, "boundary_p": 0.051}
    trainer = with_numbers(make_trainer, monkeypatch, [there] * 5, num_train_epochs=20)
    trainer.train()
    steps = [row["step"] for row in trainer.state.log_history if "auto_last_step" in row]
    assert steps == [6, 9, 12]  # from 6 on, the run has 12 steps, not 60


def test_it_is_doubled_when_forget_rows_lag_behind(make_trainer, monkeypatch):
    slow = {"retain_rise": 0.0, "forget_progress": 0.3}  # three quarters of the way are due after half of the steps
    trainer = with_numbers(make_trainer, monkeypatch, [slow, slow], num_train_epochs=2)
    trainer.train()
    assert rates(trainer)[4:] == pytest.approx([2e-4 * (1 - step / 6) for step in (4, 5)])


def test_it_is_doubled_at_each_measurement_that_shows_little_but_the_last(make_trainer, monkeypatch):
    slow = {"retain_rise": 0.0, "forget_progress": 0.0}
    trainer = with_numbers(make_trainer, monkeypatch, [slow] * 10, num_train_epochs=31)
    changes = []
    monkeypatch.setattr(trainer.component(Auto), "_restart", lambda step, factor, end: changes.append((step, factor)))
    trainer.train()
    assert changes == [(step, 2.0) for step in (12, 21, 30, 39, 48, 57, 66, 75, 84)]  # the first after a tenth of 93


def test_it_is_not_doubled_where_there_was_nothing_to_forget(make_trainer, monkeypatch):
    """Rows as unlikely as rows never seen from the start: the model never knew them, or not in this format."""
    slow = {"retain_rise": 0.0, "forget_progress": 0.0}
    trainer = with_numbers(make_trainer, monkeypatch, [slow] * 4, needed_rise=0.05, num_train_epochs=4)
    trainer.train()
    assert rates(trainer) == pytest.approx([1e-4 * (1 - step / 12) for step in range(12)])


def test_a_short_run_at_the_boundary_keeps_its_length(make_trainer, monkeypatch):
    there = {"retain_rise": 0.0, "boundary_p": 0.051}
    trainer = with_numbers(make_trainer, monkeypatch, [there] * 4, num_train_epochs=4)
    trainer.train()
    assert trainer.state.global_step == 12
    assert rates(trainer) == pytest.approx([1e-4 * (1 - step / 12) for step in range(12)])


def test_a_run_at_the_boundary_ends_after_as_many_steps_again(make_trainer, monkeypatch):
    monkeypatch.setattr(auto, "LEAST_STEPS", 5)
    there = {"retain_rise": 0.0, "boundary_p": 0.051}
    trainer = with_numbers(make_trainer, monkeypatch, [there] * 9, num_train_epochs=9)
    trainer.train()
    assert trainer.state.global_step == 6
    assert rates(trainer)[4:] == pytest.approx([1e-4 * (1 - 3 / 27) * (1 - step / 3) for step in (1, 2)])
    assert logged(trainer, "auto_last_step") == [6.0, 6.0]
    assert make_record(trainer)["auto"] == {"retain_factor": 1.0, "last_step": 6.0}


def test_a_run_is_shortened_to_whole_epochs(make_trainer, monkeypatch):
    """Its last steps would otherwise have a learning rate of 0."""
    monkeypatch.setattr(auto, "LEAST_STEPS", 8)
    there = {"retain_rise": 0.0, "boundary_p": 0.051}
    trainer = with_numbers(make_trainer, monkeypatch, [there] * 9, num_train_epochs=9)
    trainer.train()
    assert trainer.state.global_step == 9
    assert min(rates(trainer)) > 0


def test_the_verdict_says_when_the_boundary_was_reached(make_trainer, monkeypatch):
    far, there = {"retain_rise": 0.0}, {"retain_rise": 0.1, "boundary_p": 0.051}
    harmed = {"retain_rise": 0.11, "boundary_p": 0.9}
    trainer = with_numbers(make_trainer, monkeypatch, [far, harmed, there, far], num_train_epochs=4, verdict=True)
    trainer.train()
    assert logged(trainer, "at_boundary") == [0.0, 0.0, 1.0, 0.0]
    assert trainer.verdict.remarks[-1] == (
        "Training ended at epoch 4 of 4; forget rows first looked like rows never seen at epoch 3."
    )


def test_expected_outputs_move_by_half_of_what_each_forget_row_lacks(make_trainer, monkeypatch):
    options = {"num_train_epochs": 4, "objective": "proxy_kl", "inter_entanglement": False, "intra_entanglement": False}
    trainer = with_numbers(make_trainer, monkeypatch, [{"retain_rise": 0.0}] * 4, **options)
    expected, moved = trainer.component(ExpectedOutputs), []
    lacking = torch.linspace(-0.5, 0.5, len(trainer.forget_rows))
    trainer.component(Auto)._lacking = lacking
    scale = ExpectedOutputs.scale_nll

    def note(self, factors):
        before = self.mean_nll()
        scale(self, factors)
        moved.append(self.mean_nll() - before)

    monkeypatch.setattr(ExpectedOutputs, "scale_nll", note)
    trainer.train()
    assert len(moved) == 2  # neither in the first half nor at the end
    for each in moved:
        torch.testing.assert_close(each, 0.5 * lacking, atol=1e-5, rtol=0)
    assert expected.table.logps.exp().sum(dim=-1).tolist() == pytest.approx([1.0] * len(expected.table.ids), abs=1e-5)


def test_expected_outputs_move_in_the_second_half_of_a_run_that_was_shortened(make_trainer, monkeypatch):
    monkeypatch.setattr(auto, "LEAST_STEPS", 5)
    options = {"num_train_epochs": 9, "objective": "proxy_kl", "inter_entanglement": False, "intra_entanglement": False}
    there = {"retain_rise": 0.0, "boundary_p": 0.051}
    trainer = with_numbers(make_trainer, monkeypatch, [{"retain_rise": 0.0}, there, there, there], **options)
    trainer.component(Auto)._lacking = torch.zeros(len(trainer.forget_rows))
    moved_at = []
    monkeypatch.setattr(ExpectedOutputs, "scale_nll", lambda self, factors: moved_at.append(trainer.state.global_step))
    trainer.train()
    assert trainer.state.global_step == 12
    assert moved_at == [9]  # at 3 and 6 it was a run of 27 steps, in its first half


def test_what_forget_rows_lack_of_proxies_is_measured(make_trainer, taught):
    trainer = make_trainer(model=taught(), auto=True, num_train_epochs=1, learning_rate=1e-9)
    trainer.train()
    forget, proxies = (trainer.score(rows).mean_nll.mean().item() for rows in (trainer.forget_rows, trainer.proxy_rows))
    assert forget < proxies - 0.5
    assert logged(trainer, "unseen_gap") == [pytest.approx(forget - proxies, abs=1e-4)]
    rows, unseen = (trainer.score(each).mean_nll for each in (trainer.forget_rows, trainer.proxy_rows))
    as_unlikely = rows + trainer.component(Auto)._lacking  # at this learning rate, proxies are what they were before
    assert as_unlikely.argsort().tolist() == rows.argsort().tolist()
    ends = [each.item() for each in (as_unlikely.min(), as_unlikely.max())]
    assert ends == pytest.approx([unseen.min().item(), unseen.max().item()], abs=1e-3)


def test_the_goal_is_halfway_between_what_proxies_were_and_are(make_trainer, taught):
    trainer = make_trainer(model=taught(), auto=True, num_train_epochs=1, learning_rate=1e-9)
    trainer.train()
    component = trainer.component(Auto)
    torch.testing.assert_close(component._unseen_before, trainer.score(trainer.proxy_rows).mean_nll)
    component._unseen_before = trainer.score(trainer.proxy_rows).mean_nll - 1
    unmoved = component._lacking
    component.measure()
    torch.testing.assert_close(component._lacking, unmoved - 0.5)


def test_a_given_learning_rate_is_kept_and_no_range_test_made(make_trainer, monkeypatch):
    trainer = make_trainer(auto=True, learning_rate=3e-4, num_train_epochs=1)
    monkeypatch.setattr(trainer.component(Auto), "_choose_rate", lambda: pytest.fail("a range test"))
    trainer.train()
    assert logged(trainer, "auto_learning_rate") == [3e-4]


def test_twice_the_strength_is_twice_the_learning_rate(make_trainer, monkeypatch):
    chosen = {}
    for strength in Strength:
        trainer = make_trainer(auto=True, strength=strength.value, num_train_epochs=1)
        component = trainer.component(Auto)
        component.schedule(3, 1e-5)
        monkeypatch.setattr(component, "_needed_rise", 1.0, raising=False)
        trainer.create_optimizer_and_scheduler(3)
        trainer.begin_training()
        component._needed_rise = 0.1  # a model with random weights knows nothing
        chosen[strength] = component._choose_rate()
    assert chosen[Strength.BALANCED] == pytest.approx(2 * chosen[Strength.GENTLE])
    assert chosen[Strength.THOROUGH] == pytest.approx(4 * chosen[Strength.GENTLE])


def test_a_thorough_run_is_twice_as_long_and_sharpness_aware(make_trainer, config):
    options = {"learning_rate": None, "num_train_epochs": None, "objective": "proxy_kl", **PLAIN_EGUP}
    lengths = {}
    for strength in Strength:
        trainer = make_trainer(strength=strength.value, max_steps=1, **options)
        lengths[strength] = trainer.args.num_train_epochs
        sharp = [each.share for each in trainer.components if isinstance(each, SharpForgetting)]
        assert sharp == ([0.2] if strength is Strength.THOROUGH else [])
    assert list(lengths.values()) == [67, 67, 134]  # of three steps: 200, 200 and 400
    thorough = config(strength="thorough", **options)
    assert (thorough.sharpness, replace(thorough, strength="gentle").sharpness) == (0.2, 0.0)
    assert config(strength="thorough", forget_sharpness=0.0, **options).sharpness == 0
    assert config(learning_rate=1e-3, **PLAIN_EGUP).sharpness == 0


@pytest.mark.parametrize("step", [4, 6])  # within an epoch of three steps, and at the end of one
def test_a_resumed_run_ends_with_the_same_weights(make_trainer, tmp_path, step):
    options = {"auto": True, "objective": "proxy_kl", "num_train_epochs": 3}
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, step, **options)
    assert resumed.component(Auto).rate == whole.component(Auto).rate


def test_a_run_that_is_resumed_from_where_auto_ended_it_takes_no_step(make_trainer, monkeypatch, tmp_path):
    options = {"num_train_epochs": 9, "save_strategy": "epoch", "output_dir": str(tmp_path / "out")}
    there = {"retain_rise": 0.0, "forget_progress": 1.0, "boundary_p": 0.5}
    monkeypatch.setattr(auto, "LEAST_STEPS", 5)
    whole = with_numbers(make_trainer, monkeypatch, [there] * 9, **options)
    whole.train()
    again = with_numbers(make_trainer, monkeypatch, [there] * 9, **options)
    again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{whole.state.global_step}")
    assert again.state.global_step == whole.state.global_step < 27
    assert furthest(weights_of(whole), weights_of(again)) == 0


def test_a_run_without_a_learning_rate_is_resumed_from_its_files(make_trainer, tmp_path):
    """They are read without pickle, and hold nothing but numbers and tensors."""
    options = {"learning_rate": None, "num_train_epochs": None, "max_steps": 4, "objective": "proxy_kl"}
    whole_and_resumed(make_trainer, tmp_path, 2, **options)
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(tmp_path / "whole" / "checkpoint-2" / name, weights_only=True)


def test_a_copy_of_a_configuration_knows_what_was_not_given(config):
    made = config(learning_rate=None, num_train_epochs=None, objective="proxy_kl")
    assert (made.learning_rate, made.num_train_epochs, made.retain_weight) == (1e-5, 5, 3)
    copied = replace(made, seed=3)
    assert (copied.uses_auto, copied.has_learning_rate, copied.chooses_length) == (True, False, True)
    assert replace(made, objective="npo", proxy_constraint=True).retain_weight == 1
    alone = replace(made, objective="grad_ascent", inter_entanglement=False, intra_entanglement=False)
    assert (alone.retain_loss, replace(made, retain_loss="kl", objective="npo").retain_loss) == ("none", "kl")
    again = EGUPConfig(**{each.name: made.to_dict()[each.name] for each in fields(made) if each.init})
    assert (again.uses_auto, again.has_learning_rate, again.chooses_length) == (True, False, True)
    given = replace(made, learning_rate=1e-5, num_train_epochs=5.0, retain_weight=3.0)
    assert (given.uses_auto, given.has_learning_rate, given.chooses_length) == (False, True, False)
    assert replace(made, auto=True, learning_rate=1e-5).uses_auto
    assert replace(given, objective="npo").retain_weight == 3


def test_a_given_learning_rate_counts_whatever_it_is(config):
    assert config(auto=True, learning_rate=1e-5).has_learning_rate
    with pytest.raises(ConfigError) as caught:
        config(auto=True, learning_rate=0.0)
    assert caught.value.got == "learning_rate=0.0"


@pytest.mark.parametrize("objective", ["finetune", "task_vector"])
def test_it_is_off_where_forget_rows_do_not_become_less_likely(config, objective):
    made = config(learning_rate=None, num_train_epochs=None, objective=objective, **PLAIN)
    assert (made.uses_auto, made.learning_rate, made.num_train_epochs) == (False, 1e-5, 5)
    with pytest.raises(ConfigError) as caught:
        config(auto=True, objective=objective, **PLAIN)
    assert (
        caught.value.got == f"auto with objective={objective}, which does not make forget rows less likely as it trains"
    )


def test_a_retain_set_or_a_learning_rate_is_asked_for(config, make_model, tokenizer):
    args = config(learning_rate=None, objective="grad_ascent", **PLAIN)
    with pytest.raises(DataError) as caught:
        EGUPTrainer(make_model(), args, qa_rows(0, 4), processing_class=tokenizer)
    assert caught.value.fix == "give retain_dataset (--retain), or set --learning_rate"


@pytest.mark.parametrize(
    ("option", "said"),
    [({"lr_scheduler_type": "cosine"}, "lr_scheduler_type=cosine"), ({"warmup_steps": 8}, "warmup_steps=8")],
)
def test_a_schedule_that_would_do_nothing_is_refused(config, option, said):
    with pytest.raises(ConfigError) as caught:
        config(learning_rate=None, objective="proxy_kl", **option)
    assert caught.value.got == f"{said} with auto, which sets the learning rate of each step"
    assert not config(learning_rate=1e-3, objective="proxy_kl", **option).uses_auto


def test_an_optimizer_of_ones_own_is_refused(config, make_model, tokenizer):
    """Its learning rate would be multiplied by the one that is chosen."""
    model = make_model()
    optimizers = (torch.optim.AdamW(model.parameters(), lr=5e-4), None)
    rows = {"retain_dataset": qa_rows(20, 33), "proxy_dataset": qa_rows(40, 46), "processing_class": tokenizer}
    with pytest.raises(ConfigError) as caught:
        EGUPTrainer(model, config(learning_rate=None), qa_rows(0, 10), **rows, optimizers=optimizers)
    said = "an optimizer or a schedule of your own with auto, which is on where no learning_rate is given"
    assert caught.value.got == said


def test_a_second_training_begins_as_the_first_did(make_trainer, monkeypatch, taught):
    slow = {"retain_rise": 0.2, "forget_progress": 0.0}
    trainer = with_numbers(make_trainer, monkeypatch, [slow] * 8, model=taught(), num_train_epochs=4, verdict=True)
    trainer.train()
    before, first = trainer.measuring.before, rates(trainer)
    assert trainer.component(Auto)._retain_factor > 1
    trainer.train()  # with a new log
    assert rates(trainer) == first
    assert first[:3] == pytest.approx([1e-4 * (1 - step / 12) for step in range(3)])
    assert trainer.measuring.before is before  # the model of before is no longer there


@pytest.mark.parametrize(("progress", "is_there"), [(0.1, 0.0), (1.0, 1.0)])
def test_a_row_or_two_are_at_the_boundary_once_they_have_come_all_of_the_way(
    make_trainer, monkeypatch, progress, is_there
):
    """The test cannot tell one row from six, whatever the model says of it: its p-value is 2/7 at least."""
    found = {"retain_rise": 0.0, "forget_progress": progress, "boundary_p": 2 / 7}
    trainer = with_numbers(make_trainer, monkeypatch, [found] * 9, num_train_epochs=2, forget=1)
    trainer.train()
    assert set(logged(trainer, "at_boundary")) == {is_there}


def test_fp16_gradients_that_overflow_are_read_again_at_a_lower_scale(make_trainer, taught):
    expected = make_trainer(model=taught(), auto=True, num_train_epochs=2)
    trainer = make_trainer(model=taught(), auto=True, num_train_epochs=2)
    found = []
    for each, scaler in ((expected, None), (trainer, torch.amp.GradScaler("cpu", init_scale=2.0**127))):
        each.create_optimizer_and_scheduler(6)
        each.begin_training()
        each.accelerator.scaler = scaler
        found.append(each.component(Auto).run.try_rates([1e-4] * 6, lambda trial: False))
        each.accelerator.scaler = None
    assert scaler.get_scale() < 2.0**127
    assert [trial.forget_rise for trial in found[1]] == pytest.approx(
        [trial.forget_rise for trial in found[0]], abs=1e-4
    )


def test_strength_alone_is_refused(make_trainer):
    with pytest.raises(ConfigError) as caught:
        make_trainer(strength="gentle")
    assert str(caught.value) == (
        "Got strength=gentle without auto, which is off where a learning rate is given, but expected a run with auto, "
        "the only one that reads strength. Leave out --learning_rate or add --auto, or leave out --strength."
    )
