"""The step: its loss by hand, the same result however it is cut, one forward pass."""

import math

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import CUTS, TRIAL, boundary_of, cache_of, furthest, logged, runs_of_any_cut, weights_of
from transformers import TrainerCallback

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.pairing import PairBatchSampler
from egup_trainer.errors import ConfigError
from egup_trainer.modeling.reference import ReferenceKind

ALL_ON = {
    "clreg_weight": 0.5,
    "clreg_retain_anchor": 1.0,
    "inter_neighbors": 2,
    "proxy_match": "nearest",
    "bank_size": 16,
}
OFF = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}


def plain_nll(model, rows):
    """l_i and L_i, n_i of tokenized rows by full logits, one row at a time."""
    means, sums, counts = [], [], []
    for item in rows:
        batch = RowCollator(None)([item])
        logits = model(input_ids=batch["input_ids"]).logits[0].float()
        scored = [t for t in range(1, len(logits)) if batch["labels"][0, t] != -100]
        logps = logits.log_softmax(-1)
        total = -sum(logps[t - 1, batch["labels"][0, t]] for t in scored)
        sums.append(total)
        counts.append(len(scored))
        means.append(total / len(scored))
    return torch.stack(means), torch.stack(sums), torch.tensor(counts)


def test_one_sgd_step_follows_the_hand_written_gradient_of_the_whole_batch(make_model, make_plain_trainer):
    options = {"objective": "grad_diff", "max_steps": 1, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
    trainer = make_plain_trainer(
        per_device_train_batch_size=10,
        lr_scheduler_type="constant",
        forget_weight=0.7,
        retain_weight=1.3,
        **options,
    )
    trainer.train()
    model = make_model()
    pairs = trainer.pair_sampler.pairs(0)
    forget = [trainer.forget_rows[f] for f, _ in pairs]
    retain = [trainer.retain_rows[r] for _, r in pairs]
    means, _, _ = plain_nll(model, forget)
    _, sums, counts = plain_nll(model, retain)
    (0.7 * -means.sum() / 10 + 1.3 * sums.sum() / counts.sum()).backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in model.named_parameters()}
    assert furthest(weights_of(trainer), expected) < 1e-6


def test_npo_step_follows_the_hand_written_gradient_with_egup_weights(make_model, make_trainer):
    trainer = make_trainer(
        objective="npo",
        npo_beta=0.2,
        max_steps=1,
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        per_device_train_batch_size=10,
        lr_scheduler_type="constant",
        proxy_lambda=0.5,
        proxy_match="mean",
        intra_entanglement=False,
        inter_entanglement=False,
    )
    trainer.train()
    model = make_model()
    pairs = trainer.pair_sampler.pairs(0)
    means, sums, _ = plain_nll(model, [trainer.forget_rows[f] for f, _ in pairs])
    _, retain_sums, counts = plain_nll(model, [trainer.retain_rows[r] for _, r in pairs])
    proxy, _, _ = plain_nll(model, [trainer.proxy_rows[i] for i in range(len(trainer.proxy_rows))])
    effort = 1 - 0.5 * torch.sigmoid((means.detach() - proxy.detach().mean()) / 0.2)
    losses = -2 / 0.2 * torch.nn.functional.logsigmoid(0.2 * (sums - sums.detach()))
    assert losses.detach().tolist() == pytest.approx([10 * math.log(2)] * 10)
    ((effort * losses).sum() / 10 + retain_sums.sum() / counts.sum()).backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in model.named_parameters()}
    assert furthest(weights_of(trainer), expected) < 1e-6


SGD = {"optim": "sgd", "learning_rate": 0.2}


@pytest.mark.parametrize(
    ("objective", "form"),
    [("grad_ascent", "effort"), ("grad_diff", "penalty"), ("npo", "effort"), ("npo", "penalty"), ("simnpo", "effort")],
)
def test_the_result_does_not_depend_on_how_a_step_is_cut(make_trainer, objective, form):
    """Batch x accumulation, with a ragged last step, all of EGUP and CLReg on; plain SGD, so nothing hides an error."""
    options = {"objective": objective, "proxy_form": form, "num_train_epochs": 3, **SGD, **ALL_ON}
    histories = []
    for trainer in runs_of_any_cut(make_trainer, moved=1e-2, **options):
        assert trainer.state.global_step == 6
        histories.append([row for row in trainer.state.log_history if "loss" in row])
    for history in histories[1:]:
        for ours, first in zip(history, histories[0], strict=True):
            for key in ("loss", "loss_forget", "loss_clreg", "weight_max", "drift", "entanglement", "grad_norm"):
                assert ours[key] == pytest.approx(first[key], rel=1e-3, abs=1e-4)


PARAPHRASED = [{**row, "paraphrased_answer": "In short: " + row["answer"]} for row in qa_rows(0, 10)]


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "grad_diff", **ALL_ON},
        {"objective": "npo", **ALL_ON},
        {"inter_match": "centroid", "inter_temperature": 1.0, "clreg_weight": 0.1, **SGD},
        {"clreg_positives": "views", "clreg_weight": 1.0, **SGD},
        # Adam's first steps turn the rounding of gradients near 0 into moves.
        {"clreg_positives": "paraphrase", "clreg_weight": 1.0, "forget": PARAPHRASED, **SGD},
    ],
    ids=["grad_diff by Adam", "npo by Adam", "centroid", "views", "paraphrases"],
)
def test_nor_does_it_with_adam_a_centroid_or_second_views(make_trainer, options):
    first, *_ = runs_of_any_cut(make_trainer, CUTS[:3], apart=1e-5, **{"learning_rate": 1e-3, **options})
    assert min(logged(first, "loss_clreg")) > 0


def test_npo_keeps_no_second_model_and_runs_one_forward_pass_a_step(make_trainer, make_model):
    model = make_model()
    calls = []
    trainer = make_trainer(model, objective="npo", clreg_weight=0.1)
    model.register_forward_hook(lambda module, args, output: calls.append(module.training))
    trainer.train()
    assert trainer.reference.kind is ReferenceKind.CACHED
    assert trainer.reference.frozen_copy is None
    assert sum(calls) == trainer.state.global_step == 6
    scans = len(calls) - sum(calls) - TRIAL
    assert scans == math.ceil(10 / 8) + math.ceil(13 / 8) + math.ceil(6 / 8)


def test_all_parts_off_is_plain_unlearning(make_trainer, make_plain_trainer):
    egup, plain = make_trainer(objective="npo", **OFF), make_plain_trainer(objective="npo")
    egup.train()
    plain.train()
    assert furthest(weights_of(egup), weights_of(plain)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"inter_entanglement": True},
        {"inter_entanglement": True, "inter_match": "centroid"},
        {"intra_entanglement": True},
        {"proxy_constraint": True},
        {"proxy_constraint": True, "proxy_form": "penalty"},
        {"clreg_weight": 0.1},
        {"retain_loss": "kl"},
        {"retain_loss": "none"},
        {"forget_weight": 0.5},
        {"npo_beta": 0.5},
        {"feature_layer": -1, "inter_entanglement": True},
    ],
)
def test_each_option_changes_the_result(make_trainer, change):
    base, changed = make_trainer(objective="npo", **OFF), make_trainer(objective="npo", **{**OFF, **change})
    base.train()
    changed.train()
    assert furthest(weights_of(base), weights_of(changed)) > 1e-5


def test_projected_cache_has_the_dimensions_asked_for(make_trainer):
    trainer = make_trainer(cache_dim=6)
    trainer.train()
    assert cache_of(trainer).initial.codes.shape == cache_of(trainer).latest.codes.shape == (10, 6)
    assert cache_of(trainer).bank.shape == (13 + 2 * 10, 6)


def test_scans_with_other_projections_are_kept_apart(make_trainer, tmp_path):
    scans = {"scan_cache_dir": str(tmp_path / "scans"), "max_steps": 1}
    phi = {}
    for cache_dim, seed in ((None, 0), (6, 0), (6, 1), (6, 0)):
        trainer = make_trainer(cache_dim=cache_dim, seed=seed, **scans)
        trainer.begin_training()
        codes = cache_of(trainer).initial.codes
        assert torch.equal(phi.setdefault((cache_dim, seed), codes), codes)
    assert len(list((tmp_path / "scans").iterdir())) == 3
    assert not torch.equal(phi[6, 0], phi[6, 1])


def test_the_cache_is_read_as_it_stood_at_the_start_of_the_step(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=5, max_steps=1)
    seen = []
    plain_look = type(trainer).compute_terms

    def spy(self, *args, **kwargs):
        seen.append((cache_of(self).latest.codes.clone(), cache_of(self).bank.clone()))
        return plain_look(self, *args, **kwargs)

    trainer.compute_terms = spy.__get__(trainer)
    trainer.train()
    assert len(seen) == 5
    assert all(torch.equal(latest, seen[0][0]) and torch.equal(bank, seen[0][1]) for latest, bank in seen)
    assert not torch.equal(cache_of(trainer).bank[-10:], seen[0][1][-10:])


def test_more_forgetting_makes_forget_rows_less_likely_and_keeps_retain_rows(make_trainer):
    trainer = make_trainer(objective="grad_diff", num_train_epochs=8, **OFF)
    before = {name: trainer.score(rows).mean_nll.mean() for name, rows in sets(trainer).items()}
    trainer.train()
    after = {name: trainer.score(rows).mean_nll.mean() for name, rows in sets(trainer).items()}
    assert after["forget"] > before["forget"] + 1
    assert after["retain"] < before["retain"]


def sets(trainer):
    return {"forget": trainer.forget_rows, "retain": trainer.retain_rows}


def test_the_proxy_constraint_stops_at_the_boundary(make_trainer):
    trainer = make_trainer(
        objective="grad_diff", num_train_epochs=30, learning_rate=3e-3, lr_scheduler_type="constant", proxy_match="mean"
    )
    trainer.train()
    boundary = boundary_of(trainer)
    assert torch.equal(boundary, boundary[:1].expand(10))
    forget = trainer.score(trainer.forget_rows).mean_nll
    assert (forget - boundary).abs().mean() < 0.5


def test_an_epoch_that_a_callback_cuts_short_is_not_read_again(make_trainer, monkeypatch):
    """The state then stands in the middle of an epoch, as that of a run does that was interrupted there."""

    class Cut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = True

    trainer, read = make_trainer(callbacks=[Cut()], num_train_epochs=3), []
    monkeypatch.setattr(PairBatchSampler, "set_epoch", lambda self, epoch: read.append(epoch))
    trainer.train()
    assert list(dict.fromkeys(read)) == [0, 1, 2]


def test_ranks_that_share_a_model_in_other_ways_than_its_rows_are_refused(config):
    from accelerate.parallelism_config import ParallelismConfig

    with pytest.raises(ConfigError) as caught:
        config(parallelism_config=ParallelismConfig(tp_size=2))
    assert caught.value.got == "parallelism_config with tp_size=2"
