"""forget_sharpness: where the weights of a step are moved, that they are put back, and what a step then does."""

import copy
import math

import pytest
import torch
from fixtures_trainer import furthest, runs_of_any_cut, weights_of, whole_and_resumed
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from egup_trainer.components.range_test import can_move_weights
from egup_trainer.components.sharp_forgetting import SharpForgetting
from egup_trainer.data.collator import RowCollator
from egup_trainer.errors import ConfigError

PLAIN = {"objective": "grad_diff", "proxies": False, "inter_entanglement": False, "intra_entanglement": False}
SGD = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.1}


class Watch(TrainerCallback):
    """Notes the weights, and what the model says of the forget rows, when a step begins and when it has ended."""

    def __init__(self):
        self.trainer, self.seen = None, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.note()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.note()

    def note(self):
        nll = self.trainer.score(self.trainer.forget_rows).mean_nll.mean().item()
        self.trainer.model.train()
        self.seen.append((weights_of(self.trainer), nll))


def watched(make_trainer, **options):
    """What a `Watch` notes of a run: as each step begins and has been moved, and before its optimizer step."""
    watch = Watch()
    trainer = watch.trainer = make_trainer(**options)
    trainer.add_callback(watch)  # after the components
    trainer.train()
    return trainer, watch.seen


def nll_of(model, rows):
    """Sums of -log p over the answer tokens of each row, and their numbers."""
    batch = RowCollator(None).pad([row for _, row in rows])
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    nll = cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    return nll.sum(dim=1), (batch["labels"][:, 1:] >= 0).sum(dim=1)


def test_a_step_by_hand(make_trainer, make_model):
    trainer = make_trainer(**PLAIN, **SGD, forget_sharpness=0.5, max_steps=1, per_device_train_batch_size=10)
    trainer.train()
    model = make_model()
    weights = list(model.parameters())
    pairs = trainer.pair_sampler.pairs(0)
    forget, retain = ([trainer.forget_rows[f] for f, _ in pairs], [trainer.retain_rows[r] for _, r in pairs])

    def forget_term():
        sums, counts = nll_of(model, forget)
        return -(sums / counts).mean()

    start = [weight.detach().clone() for weight in weights]
    gradient = torch.autograd.grad(forget_term(), weights)
    norm = math.sqrt(sum(each.square().sum().item() for each in gradient))
    radius = 0.5 * 0.1 * math.sqrt(sum(weight.numel() for weight in weights))
    with torch.no_grad():
        for weight, each in zip(weights, gradient, strict=True):
            weight += radius / norm * each
    sums, counts = nll_of(model, retain)
    step = torch.autograd.grad(forget_term() + sums.sum() / counts.sum(), weights)
    names = [name for name, _ in model.named_parameters()]
    expected = {name: old - 0.1 * each for name, old, each in zip(names, start, step, strict=True)}
    assert furthest(weights_of(trainer), expected) < 1e-5
    assert furthest(weights_of(trainer), dict(zip(names, start, strict=True))) > 1e-3


def test_the_weights_are_moved_to_where_the_rows_are_known_and_put_back(make_trainer, taught):
    options = {"learning_rate": 1e-3, "num_train_epochs": 1, "logging_strategy": "no"}
    trainer, seen = watched(make_trainer, model=taught(), forget_sharpness=0.02, **options)
    _, plain = watched(make_trainer, model=taught(), **options)
    moved, held = seen[0::2], seen[1::2]
    assert len(moved) == 3
    size = math.sqrt(sum(weight.numel() for weight in trainer.model.parameters()))
    for (there, known), (back, unlearned) in zip(moved, held, strict=True):
        length = math.sqrt(sum((there[name] - back[name]).square().sum().item() for name in back))
        assert length == pytest.approx(0.02 * 1e-3 * size, rel=1e-3)
        assert known < unlearned
    assert furthest(held[0][0], plain[0][0]) == 0  # bit by bit


@pytest.mark.parametrize("objective", ["grad_diff", "proxy_kl", "dpo"])
def test_the_result_does_not_depend_on_how_a_step_is_cut(make_trainer, objective):
    """With weights, second views and alternates in the batch where the objective has them."""
    parts = {} if objective == "proxy_kl" else {"clreg_weight": 0.1, "clreg_positives": "views"}
    off = {"inter_entanglement": False, "intra_entanglement": False} if objective == "proxy_kl" else {}
    options = {"optim": "sgd", "learning_rate": 0.1, "forget_sharpness": 0.05, "num_train_epochs": 1}
    runs_of_any_cut(make_trainer, moved=1e-3, apart=1e-5, objective=objective, **options, **parts, **off)


def test_a_resumed_run_is_exact(make_trainer, tmp_path):
    whole_and_resumed(make_trainer, tmp_path, 2, forget_sharpness=0.2, learning_rate=1e-3)


def test_auto_sets_the_radius_by_the_rate_that_it_chose(make_trainer, taught):
    options = {"objective": "proxy_kl", "inter_entanglement": False, "intra_entanglement": False, "max_steps": 1}
    trainer, seen = watched(make_trainer, model=taught(), learning_rate=None, forget_sharpness=0.2, **options)
    (there, _), (back, _) = seen
    length = math.sqrt(sum((there[name] - back[name]).square().sum().item() for name in back))
    rate = next(row["auto_learning_rate"] for row in trainer.state.log_history if "auto_learning_rate" in row)
    assert length == pytest.approx(0.2 * rate * math.sqrt(sum(each.numel() for each in back.values())), rel=1e-4)


def test_only_what_is_trained_is_moved(make_trainer):
    options = {"trainable_params_regex": r".*layers\.1\..*", "forget_sharpness": 0.5, "max_steps": 1}
    _, seen = watched(make_trainer, **PLAIN, **options)
    (there, _), (back, _) = seen
    assert {name for name in back if not torch.equal(there[name], back[name])} == {
        name for name in back if ".layers.1." in name
    }


def test_a_step_without_a_forget_gradient_is_the_usual_one(make_trainer):
    """Weights that are moved nowhere must not become NaN."""
    options = {**PLAIN, "objective": "finetune", "proxy_constraint": False, "max_steps": 2}
    sharp, plain = make_trainer(**options, forget_sharpness=0.5), make_trainer(**options)
    for trainer in (sharp, plain):
        trainer.train()
    assert furthest(weights_of(sharp), weights_of(plain)) == 0


def test_where_weights_cannot_be_moved_it_is_refused(make_trainer, monkeypatch):
    trainer = make_trainer(**PLAIN)
    assert can_move_weights(trainer)
    run = copy.copy(trainer.component(type(trainer.components[0])).run)
    object.__setattr__(run, "can_move_weights", False)
    with pytest.raises(ConfigError) as caught:
        SharpForgetting(0.2).attach(run)
    assert str(caught.value) == (
        "Got forget_sharpness=0.2 with DeepSpeed or FSDP1, under which weights cannot be moved, but expected one "
        "process, DDP or FSDP2. Set --forget_sharpness 0."
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_within_a_step_leaves_the_weights_of_its_start(make_trainer, monkeypatch, error):
    """Whoever interrupts a notebook and saves the model must not save the moved weights."""
    trainer = make_trainer(**PLAIN, forget_sharpness=0.5)
    before = weights_of(trainer)

    def fail(*args, **kwargs):
        assert furthest(before, weights_of(trainer)) > 0  # they are moved
        raise error

    monkeypatch.setattr(trainer, "compute_loss", fail)
    with pytest.raises(error):
        trainer.train()
    assert furthest(before, weights_of(trainer)) == 0
