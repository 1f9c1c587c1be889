"""Plans compared with real trainers: weights, steps, micro-batches, reference; and the arithmetic of peaks."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import MODEL_CONFIGS, qa_rows

from egup_trainer import EGUPTrainer
from egup_trainer.losses.registry import OBJECTIVES, make_forget_loss
from egup_trainer.modeling.reference import Need
from egup_trainer.modeling.top_k_logps import top_k_bytes
from egup_trainer.planning.fake_model import FakeModel
from egup_trainer.planning.job import Job, Machine
from egup_trainer.planning.plan import KEPT, MARGIN, SCAN, STEP, ShapeTrainer, make_plan
from egup_trainer.planning.rehearsal import Measured
from egup_trainer.preparation import prepare_rows
from egup_trainer.trainer import make_components

ALONE = {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
"""Options that add nothing to the objective."""
EXPECTED = {"objective": "proxy_kl", "inter_entanglement": False, "intra_entanglement": False}
"""An objective that reads expected outputs, from proxies."""


@pytest.fixture
def job(base, tokenizer, config):
    """job(forget=10, peft_config=None, **options): a job on a saved tiny model and invented rows."""

    def make(forget=10, peft_config=None, model=None, alternates=False, **options):
        args = config(**options)
        records = qa_rows(0, forget)
        if alternates:
            records = [{**record, "alternate": "Somewhere else."} for record in records]
        has_proxies = args.proxy_constraint and not args.proxy_model
        components = make_components(args, make_forget_loss(args), has_proxies)
        proxies = qa_rows(40, 46) if has_proxies else None
        rows = prepare_rows(records, qa_rows(20, 33), proxies, components, tokenizer, args)
        return Job(str(model or base), args, peft_config, rows, tokenizer, Machine(False, 10**9, "a test"))

    return make


def answers_of(rows):
    """Number of answer tokens."""
    return sum(int(row.is_scored.sum()) for row in rows.rows)


def trainer_of(job):
    rows = job.rows
    return EGUPTrainer(
        job.model,
        job.args,
        rows.forget,
        rows.retain,
        rows.proxy,
        processing_class=job.tokenizer,
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
    buffers = sum(each.numel() * each.element_size() for each in real.buffers())
    assert (step["weights"], step["adapters"]) == (4 * made.total + buffers, 0)
    assert (step["gradients"], step["optimizer state"]) == (4 * made.total, 8 * made.total)


def test_an_adapter_alone_trains(job):
    made = make_plan(job(peft_config=lora()))
    # Three layers: q 32 -> 32 and v 32 -> 16, of rank 4
    assert made.trained == 3 * 4 * ((32 + 32) + (32 + 16))
    step = made.phases[STEP]
    assert [step[name] / made.trained for name in ("adapters", "gradients", "optimizer state")] == [4, 4, 8]


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_models_of_all_families_can_be_planned(job, make_model, tmp_path, name):
    make_model(name).save_pretrained(tmp_path / name)
    made = make_plan(job(model=tmp_path / name, objective="grad_diff"))
    assert made.trained == sum(weight.numel() for weight in make_model(name).parameters())
    assert made.phases[STEP]["activations"] > 0


# Steps and batches


@pytest.mark.parametrize(
    ("forget", "batch", "accumulation", "epochs"), [(10, 4, 1, 2), (10, 3, 3, 2.5), (7, 2, 3, 0.4)]
)
def test_steps_are_those_of_a_real_trainer(job, forget, batch, accumulation, epochs):
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    found = job(forget=forget, num_train_epochs=epochs, **options)
    trainer = trainer_of(found)
    trainer.train()
    assert make_plan(found).steps == trainer.state.max_steps == trainer.state.global_step
    assert make_plan(job(max_steps=4, **options)).steps == 4


def test_own_answers_are_planned_as_if_none_were_alike(job):
    found = job(self_samples=2)  # a model with random weights does not repeat itself
    trainer = trainer_of(found)
    trainer.train()
    assert trainer.own_answers == 20
    assert make_plan(found).steps == trainer.state.global_step == 2 * 8


@pytest.mark.parametrize("positives", [None, "views"])
def test_the_largest_batch_is_that_of_a_real_loader(job, positives, tmp_path):
    options = {} if positives is None else {"clreg_weight": 0.1, "clreg_positives": positives}
    found = job(per_device_train_batch_size=3, num_train_epochs=2, **options)
    trainer = trainer_of(found)
    sizes = []
    for epoch in range(2):
        loader = trainer.get_train_dataloader()
        trainer.pair_sampler.set_epoch(epoch)
        sizes += [int(batch["attention_mask"].sum()) for batch in loader]
    loss = make_forget_loss(found.args)
    planned = ShapeTrainer(found, FakeModel.build(found.model, found.args, None, loss), loss, str(tmp_path))
    assert int(planned.largest_batch()["attention_mask"].sum()) == max(sizes)


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
    needed = EXPECTED if Need.EXPECTED in OBJECTIVES[objective].needs else {"objective": objective, **ALONE}
    assert make_plan(job(alternates=True, **needed)).peak > 0


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "npo", "npo_beta": "auto"},
        {"objective": "npo", "retain_loss": "kl"},
        {"objective": "npo", "retain_loss": "kl", "kl_top_k": 0, **ALONE},
        {"objective": "undial", **ALONE},
        {"objective": "rmu", **ALONE},
        {"inter_entanglement": True, "intra_entanglement": True, "clreg_weight": 0.1, "clreg_positives": "views"},
    ],
    ids=lambda options: "_".join(map(str, list(options.values())[:2])),
)
@pytest.mark.parametrize("peft_config", [None, lora()], ids=["full", "lora"])
def test_the_reference_is_kept_as_the_trainer_keeps_it(job, options, peft_config):
    found = job(peft_config=peft_config, **options)
    made = make_plan(found)
    assert made.reference is trainer_of(found).reference.kind
    step = made.phases[STEP]
    if made.reference.value == "frozen_copy":
        assert step[KEPT] == pytest.approx(step["weights"], rel=0.05)
    elif made.reference.value == "adapter_off":
        assert step[KEPT] < step["weights"]


def test_what_is_kept_is_what_a_run_keeps(job):
    guided = {"inter_entanglement": True, "intra_entanglement": True, "clreg_weight": 0.1}
    found = job(objective="npo", retain_loss="kl", bank_size=5, **guided)  # the bank is full from the start
    trainer = trainer_of(found)
    trainer.train()
    kept = sum(tensor.numel() * tensor.element_size() for tensor in trainer.training_state().values())
    assert make_plan(found).phases[STEP][KEPT] == pytest.approx(kept, rel=1e-3)
    grown = make_plan(job(objective="npo", retain_loss="kl", bank_size=1005, **guided)).phases[STEP][KEPT]
    assert grown - kept == pytest.approx(4 * 32 * 1000, rel=0.05)


@pytest.mark.parametrize("peft_config", [None, lora()])
def test_weights_that_are_moved_are_kept_twice(job, peft_config):
    plain, sharp = (make_plan(job(peft_config=peft_config, forget_sharpness=share)) for share in (0.0, 0.2))
    assert sharp.phases[STEP][KEPT] - plain.phases[STEP][KEPT] == 4 * plain.trained


def test_the_table_of_expected_outputs_is_kept(job):
    found = job(**EXPECTED, expected_top_k=30)
    trainer = trainer_of(found)
    trainer.train()
    kept = sum(tensor.numel() * tensor.element_size() for tensor in trainer.training_state().values())
    assert make_plan(found).phases[STEP][KEPT] == kept == top_k_bytes(answers_of(found.rows.forget), 30)
    on_gpu = replace(found, machine=Machine(True, 10**9, "a test"))
    assert make_plan(on_gpu).phases[STEP][KEPT] == 0  # the table stays in main memory


def test_the_scan_holds_the_states_of_the_proxies(job):
    few, many = (make_plan(job(**EXPECTED, expected_top_k=k)).phases[SCAN][KEPT] for k in (10, 50))
    found = job(**EXPECTED)
    assert many - few >= 4 * answers_of(found.rows.forget) * 2 * 40
    assert few > 4 * answers_of(found.rows.proxy) * (2 * 256 + 32)


def test_the_scan_holds_a_proxy_model(job, base):
    found = job(**EXPECTED, proxy_model=str(base), expected_top_k=30)
    scan = make_plan(found).phases[SCAN]
    tables = 2 * top_k_bytes(answers_of(found.rows.forget), 30)  # where it is written, and as it is passed on
    assert scan[KEPT] == pytest.approx(scan["weights"] + tables, rel=0.02)
    assert make_plan(found).phases[STEP][KEPT] == tables / 2


def test_a_saved_adapter_is_part_of_the_reference(job, make_model, tmp_path, base):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora())
    model.save_pretrained(tmp_path / "adapter")
    made = make_plan(job(model=tmp_path / "adapter", objective="undial", **ALONE))
    assert made.reference.value == "frozen_copy"
    assert made.trained == 3 * 4 * ((32 + 32) + (32 + 16))


def test_planning_takes_no_memory_for_weights_and_no_random_numbers(job, base):
    path = base / "config.json"  # 2 billion weights: their sizes in the configuration alone
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"hidden_size": 8192, "intermediate_size": 24576, "head_dim": 8}
    path.write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    made = make_plan(job())
    assert torch.equal(torch.get_rng_state(), state)
    attention, mlp = 8192 * (32 + 16 + 16 + 32), 3 * 8192 * 24576
    vocabulary = settings["vocab_size"] * 8192
    assert made.total == 2 * vocabulary + 3 * (attention + mlp + 2 * 8192) + 8192
    assert made.phases[STEP]["optimizer state"] == 8 * made.total > 10**10


def test_it_fits_with_a_margin(job):
    made = make_plan(replace(job(), libraries=10**6))
    assert all(parts["libraries"] == 10**6 for parts in made.phases.values())
    assert made.peak == max(sum(parts.values()) for parts in made.phases.values())
    assert made.fits(int(made.peak * (1 + MARGIN)) + 1)
    assert not made.fits(int(made.peak * (1 + MARGIN)) - 1)


def test_the_time_to_load_a_proxy_model_does_not_grow_with_the_rows():
    measured = Measured(step=2.0, before=3.0, scanned=10, peak_gb=1.0, loading=5.0)
    assert measured.seconds(steps=4, rows=20) == 5 + 2 * 3 + 4 * 2
