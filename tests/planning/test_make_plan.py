"""Plans against real trainers: weights, steps, micro-batches, what is scanned; and the arithmetic of peaks."""

from dataclasses import replace

import pytest
import torch
from conftest import MODEL_CONFIGS, qa_rows

from egup_trainer import EGUPTrainer
from egup_trainer.losses.registry import OBJECTIVES
from egup_trainer.planning.machine import Machine
from egup_trainer.planning.plan import MARGIN, STEP, Job, make_plan
from egup_trainer.planning.steps import Rows, largest_batch, optimizer_steps
from egup_trainer.preparation import prepare_dataset, prepare_forget_set


@pytest.fixture
def job(base, tokenizer, config):
    """job(forget=10, peft_config=None, **options): a job on a saved tiny model and invented rows."""

    def make(forget=10, peft_config=None, model=None, alternates=False, **options):
        args = config(**options)
        records = qa_rows(0, forget)
        if alternates:
            records = [{**record, "alternate": "Somewhere else."} for record in records]
        rows = Rows(
            prepare_forget_set(records, tokenizer, args),
            prepare_dataset(qa_rows(20, 33), "retain set", tokenizer, args),
            prepare_dataset(qa_rows(40, 46), "proxy set", tokenizer, args) if args.proxy_constraint else None,
            tokenizer,
        )
        return Job(str(model or base), args, peft_config, rows, Machine(False, 10**9, "a test"))

    return make


def trainer_of(job):
    rows = job.rows
    return EGUPTrainer(
        job.model,
        job.args,
        rows.forget,
        rows.retain,
        rows.proxy,
        processing_class=rows.tokenizer,
        peft_config=job.peft_config,
    )


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)


# Weights


def test_weights_are_those_of_the_model(job):
    made = make_plan(job())
    real = trainer_of(job()).model
    assert made.total == made.trained == sum(weight.numel() for weight in real.parameters())
    step = made.phases[STEP]
    assert step["gradients"] == 4 * made.total
    assert step["optimizer state"] == 8 * made.total
    buffers = sum(each.numel() * each.element_size() for each in real.buffers())
    assert (step["weights"], step["adapters"]) == (4 * made.total + buffers, 0)


def test_an_adapter_alone_trains(job):
    made = make_plan(job(peft_config=lora()))
    # Three layers: q 32 -> 32 and v 32 -> 16, of rank 4
    assert made.trained == 3 * 4 * ((32 + 32) + (32 + 16))
    step = made.phases[STEP]
    assert [step[name] / made.trained for name in ("adapters", "gradients", "optimizer state")] == [4, 4, 8]


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_models_of_all_kinds_can_be_planned(job, make_model, tokenizer, tmp_path, name):
    folder = tmp_path / name
    make_model(name).save_pretrained(folder)
    made = make_plan(job(model=folder, objective="grad_diff"))
    assert made.trained == sum(weight.numel() for weight in make_model(name).parameters())
    assert made.phases[STEP]["activations"] > 0


# Steps and batches


@pytest.mark.parametrize(
    ("forget", "batch", "accumulation", "epochs"), [(10, 4, 1, 2), (10, 4, 2, 2), (10, 3, 3, 2.5), (7, 2, 3, 0.4)]
)
def test_steps_are_those_of_a_real_trainer(job, forget, batch, accumulation, epochs):
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    found = job(forget=forget, num_train_epochs=epochs, **options)
    trainer = trainer_of(found)
    trainer.train()
    assert make_plan(found).steps == trainer.state.max_steps == trainer.state.global_step


def test_steps_by_hand():
    assert optimizer_steps(batches=5, accumulation=2, epochs=3) == 9  # 3 an epoch
    assert optimizer_steps(batches=5, accumulation=2, epochs=3, max_steps=4) == 4
    assert optimizer_steps(batches=1, accumulation=8, epochs=2) == 2


@pytest.mark.parametrize("positives", [None, "views"])
def test_the_largest_batch_is_that_of_a_real_loader(job, positives):
    options = {} if positives is None else {"clreg_weight": 0.1, "clreg_positives": positives}
    found = job(per_device_train_batch_size=3, **options)
    trainer = trainer_of(found)
    sizes = []
    for epoch in range(2):
        loader = trainer.get_train_dataloader()
        trainer.pair_sampler.set_epoch(epoch)
        sizes += [int(batch["attention_mask"].sum()) for batch in loader]
    assert int(largest_batch(found.rows, found.args, positives)["attention_mask"].sum()) == max(sizes)


# What a step holds


def test_less_is_held_with_checkpointing_smaller_batches_and_an_adapter(job):
    def step(**options):
        return make_plan(job(per_device_train_batch_size=8, **options)).phases[STEP]

    plain = step()
    assert step(gradient_checkpointing=True)["activations"] < plain["activations"]
    assert step(peft_config=lora())["activations"] < plain["activations"]
    halves = make_plan(job(per_device_train_batch_size=2, gradient_accumulation_steps=4)).phases[STEP]
    assert halves["activations"] + halves["logits"] < (plain["activations"] + plain["logits"]) / 2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_can_be_planned(job, objective):
    guided = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
    found = job(objective=objective, alternates=True, **guided)
    assert make_plan(found).peak > 0


def test_a_copy_of_the_model_is_counted_where_a_loss_needs_it_and_not_beside_an_adapter(job):
    guided = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
    options = {"objective": "npo", "retain_loss": "kl", "kl_top_k": 0, **guided}
    copied, beside = make_plan(job(**options)), make_plan(job(peft_config=lora(), **options))
    assert (copied.reference.value, beside.reference.value) == ("frozen_copy", "adapter_off")
    assert copied.phases[STEP]["reference, cache and tables"] == copied.phases[STEP]["weights"]
    assert beside.phases[STEP]["reference, cache and tables"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "npo"},
        {"objective": "npo", "retain_loss": "kl"},
        {"objective": "undial", "proxy_constraint": False, "inter_entanglement": False, "intra_entanglement": False},
        {"objective": "rmu", "proxy_constraint": False, "inter_entanglement": False, "intra_entanglement": False},
    ],
    ids=lambda options: "_".join(map(str, list(options.values())[:2])),
)
def test_the_model_before_is_kept_as_the_trainer_keeps_it(job, options):
    found = job(**options)
    assert make_plan(found).reference is trainer_of(found).before.reference.kind


def test_planning_draws_on_no_memory_for_weights(job, base):
    # 4 billion weights: their sizes in the configuration alone
    import json

    path = base / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"hidden_size": 8192, "intermediate_size": 24576, "head_dim": 8}
    path.write_text(json.dumps(settings), encoding="utf-8")
    made = make_plan(job())
    attention, mlp = 8192 * (32 + 16 + 16 + 32), 3 * 8192 * 24576
    vocabulary = settings["vocab_size"] * 8192
    assert made.total == 2 * vocabulary + 3 * (attention + mlp + 2 * 8192) + 8192
    assert made.phases[STEP]["optimizer state"] == 8 * made.total > 10**10


# What fits


def test_it_fits_with_a_margin(job):
    made = make_plan(replace(job(), libraries=10**6))
    assert all(parts["libraries"] == 10**6 for parts in made.phases.values())
    assert made.peak == max(sum(parts.values()) for parts in made.phases.values())
    assert made.fits(int(made.peak * (1 + MARGIN)) + 1)
    assert not made.fits(int(made.peak * (1 + MARGIN)) - 1)


def test_random_numbers_stay_where_they_were(job):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    make_plan(job())
    assert torch.equal(torch.get_rng_state(), state)
