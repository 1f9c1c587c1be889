"""RMU in a run: what trains, what the retain loss measures from, and that each row counts by itself."""

import pytest
import torch
from fixtures_trainer import furthest, logged, weights_of
from peft import LoraConfig
from test_objectives import UNWEIGHTED

from egup_trainer.modeling.reference import ReferenceKind

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
RMU = {"objective": "rmu", "rmu_layer": 2, "rmu_steering": 20.0}


def moved(trainer):
    start = weights_of(trainer)
    trainer.train()
    end = weights_of(trainer)
    return {name for name in start if not torch.equal(start[name], end[name])}


@pytest.mark.parametrize("guided", [False, True], ids=["alone", "with EGUP and CLReg"])
def test_three_matrices_train_and_nothing_else_has_a_gradient(make_trainer, guided):
    """Other code freezes weights for the optimizer only, and computes and keeps the gradients of all."""
    options = {"clreg_weight": 0.5, "feature_layer": -1, "proxy_form": "penalty"} if guided else UNWEIGHTED
    trainer = make_trainer(**RMU, **options)
    seen, step = [], trainer.training_step

    def spy(*args, **kwargs):
        loss = step(*args, **kwargs)
        seen.append({name for name, weight in trainer.model.named_parameters() if weight.grad is not None})
        return loss

    trainer.training_step = spy
    expected = {f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(3)}
    assert moved(trainer) == expected
    assert seen == [expected] * 6
    assert trainer.reference.kind is ReferenceKind.FROZEN_COPY


def test_an_adapter_trains_all_its_weights_up_to_the_layer(make_trainer):
    trainer = make_trainer(peft_config=LoraConfig(**LORA), **RMU, **UNWEIGHTED)
    names = moved(trainer)
    assert trainer.reference.kind is ReferenceKind.ADAPTER_OFF
    assert names == {name for name, _ in trainer.model.named_parameters() if "lora_" in name}
    assert len(names) == 2 * 7 * 3
    kept = logged(trainer, "loss_retain")
    assert kept[0] == pytest.approx(0, abs=1e-9)  # measured from the model without its adapter
    assert kept[-1] > 1e-6


def by_hand(model, item, layer):
    """Hidden states after a layer at a row's scored tokens, of that row alone."""
    ids, labels = (torch.tensor(part[None].astype("int64")) for part in (item[1].input_ids, item[1].labels))
    states = []
    with model.model.layers[layer].register_forward_hook(lambda module, args, output: states.append(output)):
        model(input_ids=ids)
    return states[0][labels != -100]


def test_a_step_follows_the_hand_written_gradient(make_model, make_trainer):
    """Rows of different lengths, each read by itself without padding."""
    options = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    options |= {"retain_weight": 3.0, "max_steps": 2, "per_device_train_batch_size": 10, **UNWEIGHTED}
    trainer = make_trainer(objective="rmu", rmu_layer=1, rmu_steering=4.0, **options)
    trainer.train()
    model, frozen = make_model(), make_model()
    target = 4.0 * trainer.forget_loss.direction(32)
    for step in range(2):
        pairs = trainer.pair_sampler.pairs(step)
        forget = [by_hand(model, trainer.forget_rows[index], 1) for index, _ in pairs]
        losses = [((states - target) ** 2).mean(dim=-1).mean() for states in forget]
        kept = [trainer.retain_rows[index] for _, index in pairs]
        shifts = [((by_hand(model, row, 1) - by_hand(frozen, row, 1).detach()) ** 2).mean(dim=-1) for row in kept]
        model.zero_grad()
        (sum(losses) / 10 + 3.0 * torch.cat(shifts).mean()).backward()
        assert step == 0 or torch.cat(shifts).min() > 0
        with torch.no_grad():
            for layer in (0, 1):
                weight = model.model.layers[layer].mlp.down_proj.weight
                weight -= 0.5 * weight.grad
    assert furthest(weights_of(trainer), dict(model.named_parameters())) < 1e-6


def test_features_may_be_held_with_any_objective(make_trainer):
    shifts = []
    for weight in (1e-6, 1000.0):
        options = {"retain_loss": "features", "rmu_layer": -1, "retain_weight": weight, "num_train_epochs": 4}
        trainer = make_trainer(objective="grad_diff", **options, **UNWEIGHTED)
        trainer.train()
        shifts.append([row["loss_retain"] / weight for row in trainer.state.log_history if "loss_retain" in row][-1])
    assert shifts[1] < shifts[0] / 2


def test_the_weights_that_are_named_are_trained_and_no_others(make_trainer):
    """Also in a model whose layers RMU knows no output projection of, such as a mixture of experts."""
    trainer = make_trainer(**RMU, **UNWEIGHTED, trainable_params_regex=r"model\.layers\.1\.mlp\.up_proj\.weight")
    assert moved(trainer) == {"model.layers.1.mlp.up_proj.weight"}
