"""What a Trainer does keeps working: resume, adapters, 4-bit, evaluation, saving, callbacks, logs, errors."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import qa_rows
from datasets import Dataset, IterableDataset
from fixtures_trainer import (
    TRIAL,
    boundary_of,
    cache_of,
    furthest,
    logged,
    reference_nll,
    weights_of,
    whole_and_resumed,
)
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback, TrainingArguments

from egup_trainer import EGUPTrainer, ForgetLoss, UnlearnConfig, UnlearnTrainer, register_forget_loss
from egup_trainer.checkpointing import write_list
from egup_trainer.components.retain import RetainObjective
from egup_trainer.conditions import STATE_NAME
from egup_trainer.errors import ConfigError, DataError, ModelError, StateError
from egup_trainer.losses import registry
from egup_trainer.modeling.loading import load_model
from egup_trainer.modeling.reference import Need, ReferenceKind
from egup_trainer.preparation import check_optimizer, disable_dropout

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
EVERYTHING = {"objective": "npo", "clreg_weight": 0.5, "clreg_positives": "views"}


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [2, 3, 5], ids=["mid first epoch", "between epochs", "mid second epoch"])
@pytest.mark.parametrize(
    "other",
    [
        {},
        {"dataloader_num_workers": 1},
        {"train_sampling_strategy": "group_by_length"},
        {"inter_match": "centroid"},
    ],
    ids=str,
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(make_trainer, tmp_path, step, other):
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, step, **EVERYTHING, **other, num_train_epochs=3)
    assert whole.state.global_step == 9
    for name, tensor in whole.training_state().items():
        assert torch.equal(tensor, resumed.training_state()[name]), name


def test_a_configuration_serves_several_trainers(config, make_model, tokenizer, monkeypatch):
    """What one finds out, such as the date that its chat template writes, is not taken for given by the next."""
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    args = config(learning_rate=None, num_train_epochs=None)
    rows = {"retain_dataset": qa_rows(20, 33), "proxy_dataset": qa_rows(40, 46)}
    monkeypatch.setattr("egup_trainer.data.rendering.today", lambda: "2026-11-28")
    found = []
    for each, forget in ((dated, 10), (tokenizer, 4)):
        trainer = EGUPTrainer(make_model(), args, qa_rows(0, forget), **rows, processing_class=each)
        found.append((trainer.args.template_date, trainer.args.num_train_epochs))
    assert found == [("2026-11-28", 67), (None, 200)]  # 200 steps, of 3 batches an epoch and of 1
    copied = replace(trainer.args, template_date="2026-01-01")
    assert copied.chooses_length
    trainer = EGUPTrainer(make_model(), copied, qa_rows(0, 4), **rows, processing_class=dated)
    assert trainer.args.template_date == "2026-01-01"
    # On the next day the same template has the date that it had, unless another one is set.
    monkeypatch.setattr("egup_trainer.data.rendering.today", lambda: "2026-11-29")
    for date in ("2026-01-01", "2026-01-02"):
        trainer.args.template_date = date
        EGUPTrainer(make_model(), trainer.args, qa_rows(0, 4), **rows, processing_class=dated)
        assert trainer.args.template_date == date


def test_a_cache_in_a_file_is_resumed_too(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("egup_trainer.components.feature_table._IN_MEMORY", 0)
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, 3, **{**EVERYTHING, "clreg_positives": "forget"})
    for trainer in (whole, resumed):
        assert cache_of(trainer).latest.codes.dtype == torch.int8
    assert torch.equal(cache_of(whole).latest.codes, cache_of(resumed).latest.codes)
    assert not whole.scan_folder.exists()  # nor is there a file of it when the run has ended


def test_a_resumed_run_does_not_scan_again(make_trainer, monkeypatch):
    make_trainer(save_strategy="steps", save_steps=2, callbacks=[StopAt(2)]).train()
    resumed = make_trainer(save_strategy="steps", save_steps=2)
    monkeypatch.setattr("egup_trainer.trainer.run_scan", lambda *a, **k: pytest.fail("the scan was repeated"))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6


def test_a_checkpoint_without_our_state_is_refused(make_trainer):
    trainer = make_trainer(save_strategy="steps", save_steps=2, callbacks=[StopAt(2)])
    trainer.train()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-2"
    (checkpoint / STATE_NAME).unlink()
    write_list(checkpoint)  # as if it had been saved without
    with pytest.raises(StateError) as error:
        make_trainer().train(resume_from_checkpoint=str(checkpoint))
    assert error.value.got == f"the checkpoint {checkpoint} without egup_state.safetensors"


def test_the_scan_is_reused_by_a_second_run_on_the_same_model_and_rows(make_trainer, tmp_path):
    calls = []
    for seed in (0, 1):
        trainer = make_trainer(scan_cache_dir=str(tmp_path / "scan"), learning_rate=1e-3 * (1 + seed))
        trainer.model.register_forward_hook(lambda module, *_: calls.append(module.training))
        trainer.train()
    assert calls.count(False) == 5 + 2 * TRIAL  # forget 2, retain 2, proxy 1: once
    assert len(list((tmp_path / "scan").iterdir())) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_every_adapter_and_nothing_else(make_trainer, make_model, checkpointing):
    base = make_model()
    trainer = make_trainer(peft_config=LoraConfig(**LORA), gradient_checkpointing=checkpointing, **EVERYTHING)
    start = weights_of(trainer)
    trainer.train()
    end = weights_of(trainer)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {name for name in start if "lora_" in name}
    assert len(moved) == 2 * 7 * 3  # both factors, seven linear layers, three blocks
    plain = trainer.model.unload()
    assert all(torch.equal(value, dict(base.named_parameters())[name]) for name, value in plain.named_parameters())


def test_checkpointing_changes_nothing(make_trainer):
    results = []
    for checkpointing in (False, True):
        trainer = make_trainer(gradient_checkpointing=checkpointing, optim="sgd", **EVERYTHING)
        trainer.train()
        results.append(weights_of(trainer))
    assert furthest(*results) < 1e-6


def test_the_kl_reference_of_a_fresh_adapter_is_the_adapter_switched_off(make_trainer):
    trainer = make_trainer(peft_config=LoraConfig(**LORA), objective="grad_diff", retain_loss="kl")
    trainer.train()
    assert trainer.reference.kind is ReferenceKind.ADAPTER_OFF
    kept = logged(trainer, "loss_retain")
    assert kept[0] == pytest.approx(0, abs=1e-6)
    assert kept[-1] > 1e-4


def test_the_kl_reference_of_a_full_model_is_its_most_likely_tokens(make_trainer, tmp_path, caplog):
    caplog.set_level("INFO", "egup_trainer")
    options = {"objective": "grad_diff", "retain_loss": "kl", "kl_top_k": 4, "logging_steps": 1}
    trainer, _ = whole_and_resumed(make_trainer, tmp_path, 3, **options)
    assert trainer.reference.kind is ReferenceKind.TOP_K
    assert "The reference model is kept as: likely_tokens" in caplog.text
    assert trainer.reference.frozen_copy is None
    assert trainer.component(RetainObjective).top_k_logps.ids.shape[1] == 4
    kept = logged(trainer, "loss_retain")
    assert kept[0] == pytest.approx(0, abs=1e-6)
    assert kept[-1] > 1e-4


def test_with_all_tokens_kept_a_run_is_that_with_a_copy(make_trainer):
    ends = []
    for top_k, kind in ((10**6, ReferenceKind.TOP_K), (0, ReferenceKind.FROZEN_COPY)):
        trainer = make_trainer(objective="grad_diff", retain_loss="kl", kl_top_k=top_k, optim="sgd", learning_rate=0.1)
        trainer.reference.kind = kind
        trainer.train()
        ends.append(weights_of(trainer))
    assert furthest(*ends) < 1e-6


def test_a_forget_loss_that_reads_distributions_gets_a_model(make_trainer, monkeypatch):
    class Likely(ForgetLoss):
        needs = frozenset({Need.TOP_K})

        def __call__(self, outputs, reference):
            assert reference.logits.shape == outputs.logits.shape  # of the forget rows, not the retain rows' tokens
            return -outputs.mean_nll

    monkeypatch.setattr(registry, "OBJECTIVES", dict(registry.OBJECTIVES))
    register_forget_loss("likely_in_test", Likely)
    trainer = make_trainer(objective="likely_in_test", retain_loss="kl", max_steps=1)
    assert trainer.reference.kind is ReferenceKind.FROZEN_COPY
    trainer.train()


def test_a_copy_is_kept_where_it_is_smaller(make_trainer):
    trainer = make_trainer(retain_loss="kl", kl_top_k=10**6)
    assert trainer.reference.kind is ReferenceKind.FROZEN_COPY


def test_the_kl_reference_of_a_full_model_may_be_a_frozen_copy(make_trainer, make_model):
    trainer = make_trainer(retain_loss="kl", kl_top_k=0)
    trainer.train()
    assert trainer.reference.kind is ReferenceKind.FROZEN_COPY
    frozen = dict(trainer.reference.frozen_copy.named_parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in make_model().named_parameters())


def test_four_bit_lora_learns_on_the_cpu(make_trainer, make_model, tmp_path):
    config = make_model().config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16  # blocks of 64 weights
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = load_model(str(tmp_path / "base"), quantization_config=quantized)
    trainer = make_trainer(
        model,
        peft_config=LoraConfig(**LORA),
        objective="grad_ascent",
        num_train_epochs=20,
        proxy_constraint=False,
    )
    before = trainer.score(trainer.forget_rows).mean_nll.mean()
    trainer.train()
    trainer.save_model()
    assert trainer.score(trainer.forget_rows).mean_nll.mean() > before + 0.5
    assert (Path(trainer.args.output_dir) / "adapter_model.safetensors").is_file()
    assert sum("4bit" in type(module).__name__ for module in trainer.model.modules()) >= 21


def test_a_saved_model_is_safetensors_and_loads(make_trainer):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert furthest(weights_of(trainer), dict(loaded.named_parameters())) == 0


def test_evaluate_reports_the_plain_loss_of_each_set(make_model, tokenizer, config):
    rows = {"kept": qa_rows(50, 54), "held": Dataset.from_list(qa_rows(60, 63))}
    trainer = UnlearnTrainer(
        make_model(),
        config(per_device_eval_batch_size=8),
        qa_rows(0, 4),
        qa_rows(20, 24),
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    metrics = trainer.evaluate()
    scores = trainer.score(trainer.eval_dataset["kept"])
    assert metrics["eval_kept_loss"] == pytest.approx(float(scores.sum_nll.sum() / scores.num_tokens.sum()), rel=1e-5)
    assert math.isfinite(metrics["eval_held_loss"])


def test_compute_metrics_and_callbacks_are_those_of_a_trainer(make_model, tokenizer, config):
    seen = []

    def accuracy(prediction):
        predicted, labels = prediction.predictions[:, :-1].argmax(-1), prediction.label_ids[:, 1:]
        return {"accuracy": (predicted == labels)[labels != -100].mean()}

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            seen.append((state.global_step, metrics["eval_accuracy"]))
            control.should_training_stop = state.global_step == 2

    options = config(UnlearnConfig, per_device_eval_batch_size=3, eval_strategy="steps", eval_steps=1)
    rows = {"forget_dataset": qa_rows(0, 10), "retain_dataset": qa_rows(20, 24), "eval_dataset": qa_rows(20, 27)}
    trainer = UnlearnTrainer(
        make_model(), options, **rows, processing_class=tokenizer, callbacks=[Watch()], compute_metrics=accuracy
    )
    trainer.train()
    assert [step for step, _ in seen] == [1, 2]
    assert logged(trainer, "eval_accuracy") == [a for _, a in seen]
    right = total = 0
    for _, row in map(trainer.eval_dataset.__getitem__, range(7)):  # each row alone, without padding
        ids = torch.from_numpy(row.input_ids).long()[None]
        with torch.no_grad():
            predicted = trainer.model(ids).logits[0, :-1].argmax(-1)
        scored = torch.from_numpy(row.labels[1:] != -100)
        right += int((predicted == ids[0, 1:])[scored].sum())
        total += int(scored.sum())
    assert seen[-1][1] == pytest.approx(right / total)


def test_evaluation_during_training_picks_the_best_checkpoint(make_model, tokenizer, config):
    trainer = EGUPTrainer(
        make_model(),
        config(
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            objective="grad_diff",
        ),
        qa_rows(0, 8),
        qa_rows(20, 28),
        qa_rows(40, 46),
        eval_dataset=qa_rows(20, 28),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert trainer.state.best_global_step == min(losses, key=losses.get)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses.values()), rel=1e-6)


def test_logs_carry_each_term_under_its_own_name(make_trainer):
    trainer = make_trainer(proxy_form="penalty", clreg_weight=0.1)
    trainer.train()
    logs = trainer.state.log_history[2]
    terms = {"loss_forget", "loss_retain", "loss_proxy", "loss_clreg", "loss_clreg_anchor"}
    assert sum(logs[term] for term in terms) == pytest.approx(logs["loss"], rel=1e-4)
    spread = {f"{name}{end}" for name in ("entanglement", "drift") for end in ("", "_p10", "_p90")}
    rest = {"weight_mean", "weight_min", "weight_max", "boundary_gap", "past_boundary", "forget_nll", "retain_nll"}
    assert terms | spread | rest | {"tokens_per_second", "padding", "peak_memory_gb"} <= logs.keys()
    assert logs["weight_min"] <= logs["weight_mean"] <= logs["weight_max"]
    assert logs["drift_p10"] <= logs["drift"] <= logs["drift_p90"]
    assert 0 <= logs["past_boundary"] <= 1
    json.dumps(trainer.state.log_history)


def test_without_proxies_the_run_says_so_and_trains_without_the_constraint(make_trainer, caplog):
    trainer = make_trainer(proxies=False)

    assert "No proxy rows were given: training without the proxy constraint." in caplog.text
    off = make_trainer(proxy_constraint=False)
    trainer.train()
    off.train()
    assert furthest(weights_of(trainer), weights_of(off)) == 0


def test_a_loss_of_ones_own_takes_one_registration(make_trainer, monkeypatch):
    class Doubled(ForgetLoss):
        def __call__(self, outputs, reference):
            return -2 * outputs.mean_nll

    monkeypatch.setattr(registry, "OBJECTIVES", dict(registry.OBJECTIVES))  # other tests list all objectives
    register_forget_loss("doubled_in_test", Doubled)
    own = make_trainer(objective="doubled_in_test", optim="sgd")
    same = make_trainer(objective="grad_diff", forget_weight=2.0, optim="sgd")
    own.train()
    same.train()
    assert furthest(weights_of(own), weights_of(same)) < 1e-6


def test_a_model_may_be_named_by_its_folder(make_model, tokenizer, config, tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    trainer = EGUPTrainer(str(tmp_path / "base"), config(), qa_rows(0, 6), qa_rows(20, 26), qa_rows(40, 44))
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    assert furthest(weights_of(trainer), dict(make_model().named_parameters())) > 1e-3


def test_token_columns_train_as_the_rows_they_came_from(make_model, tokenizer, config, make_trainer):
    plain = make_trainer(forget=6)
    tokens = {
        name: [{"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()} for row in rows.rows]
        for name, rows in (("f", plain.forget_rows), ("r", plain.retain_rows), ("p", plain.proxy_rows))
    }
    own = EGUPTrainer(
        make_model(), config(), Dataset.from_list(tokens["f"]), tokens["r"], tokens["p"], processing_class=tokenizer
    )
    plain.train()
    own.train()
    assert furthest(weights_of(plain), weights_of(own)) == 0


def test_streamed_rows_train_as_a_list_of_them(make_trainer):
    listed = make_trainer(forget=qa_rows(0, 10))
    streamed = make_trainer(forget=IterableDataset.from_generator(lambda: iter(qa_rows(0, 10))))
    assert [row.key() for row in streamed.forget_rows.rows] == [row.key() for row in listed.forget_rows.rows]
    before = weights_of(streamed)
    listed.train()
    streamed.train()
    assert furthest(weights_of(listed), weights_of(streamed)) == 0
    assert furthest(before, weights_of(streamed)) > 1e-3


def test_gradient_ascent_needs_no_retain_rows(make_model, tokenizer, config):
    off = {"inter_entanglement": False, "intra_entanglement": False, "proxy_match": "mean"}
    trainer = EGUPTrainer(
        make_model(), config(objective="grad_ascent", **off), qa_rows(0, 6), None, qa_rows(40, 44),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"forget_dataset": None}, DataError, "no forget set"),
        (
            {"forget_dataset": []},
            DataError,
            "an empty forget set",
        ),
        (
            {"retain_dataset": None},
            DataError,
            "no retain set, which --retain_loss and the component features read",
        ),
        (
            {"retain_dataset": [*qa_rows(20, 22), qa_rows(3, 4)[0]]},
            DataError,
            "a row in both sets: row 3 of the forget set is row 2 of the retain set",
        ),
        (
            {"proxy_dataset": qa_rows(5, 6)},
            DataError,
            "a row in both sets: row 5 of the forget set is row 0 of the proxy set",
        ),
        (
            {"args": TrainingArguments(output_dir="x", use_cpu=True)},
            ConfigError,
            "args of class TrainingArguments",
        ),
        (
            {"processing_class": None},
            ModelError,
            "no tokenizer, and a model that was not loaded from a folder or hub",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(make_model, tokenizer, config, rows, error, message, tmp_path):
    arguments = {
        "args": config(),
        "forget_dataset": qa_rows(0, 8),
        "retain_dataset": qa_rows(20, 28),
        "proxy_dataset": qa_rows(40, 44),
        "processing_class": tokenizer,
    }
    with pytest.raises(error) as raised:
        EGUPTrainer(make_model(), **{**arguments, **rows})
    assert raised.value.got == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "what", "fix"),
    [
        (lambda model: AutoModelForCausalLM, "the class AutoModelForCausalLM", "load it: AutoModelForCausalLM"),
        (lambda model: PeftModel, "the class PeftModel", "load it: AutoModelForCausalLM"),
        (lambda model: {}, "an object of class dict", "load it: AutoModelForCausalLM"),
        (lambda model: nn.Linear(2, 2), "an object of class Linear", "load it: AutoModelForCausalLM"),
        (nn.DataParallel, "an object of class DataParallel", "pass the model inside"),
        (torch.compile, "an object of class OptimizedModule", "pass the model inside"),
    ],
)
def test_what_is_no_model_is_refused(make_model, tokenizer, config, model, what, fix):
    with pytest.raises(ConfigError) as raised:
        EGUPTrainer(model(make_model()), config(), qa_rows(0, 8), qa_rows(20, 28), processing_class=tokenizer)
    assert raised.value.got == f"{what} as model"
    assert raised.value.expected == "a model of transformers, or its folder or hub id"
    assert raised.value.fix.startswith(fix)


def test_an_adapter_inside_the_model_is_refused(make_model, make_trainer):
    """As transformers itself adds one, and loads a folder that holds one."""
    model = make_model()
    model.add_adapter(LoraConfig(**LORA))
    with pytest.raises(ConfigError, match="LlamaForCausalLM with an adapter inside"):
        make_trainer(model)
    merged = get_peft_model(make_model(), LoraConfig(**LORA)).merge_and_unload()
    assert make_trainer(merged.requires_grad_(True), max_steps=1).train().global_step == 1


@pytest.mark.parametrize("what", ["Tokenizer", "Processor"])
def test_what_is_no_tokenizer_is_refused(make_model, tokenizer, config, what):
    given = {"Tokenizer": tokenizer.backend_tokenizer, "Processor": type("Processor", (), {"tokenizer": tokenizer})()}
    with pytest.raises(ConfigError, match=f"an object of class {what} as processing_class.*processor.tokenizer"):
        EGUPTrainer(make_model(), config(), qa_rows(0, 8), qa_rows(20, 28), processing_class=given[what])


@pytest.mark.parametrize("made_for", ["another model", "the model without its adapter"])
def test_an_optimizer_of_other_weights_is_refused(make_model, tokenizer, config, made_for):
    model, lora = make_model(), None
    optimizer = torch.optim.SGD((make_model() if made_for == "another model" else model).parameters(), lr=0.1)
    if made_for != "another model":
        lora = LoraConfig(**LORA)
    arguments = {"processing_class": tokenizer, "peft_config": lora, "optimizers": (optimizer, None)}
    with pytest.raises(ConfigError, match="an optimizer that holds no trainable weight of the model"):
        EGUPTrainer(model, config(), qa_rows(0, 8), qa_rows(20, 28), **arguments)


def test_a_stand_in_for_an_optimizer_is_left_to_its_engine(make_model):
    stand_in = type("DummyOptim", (), {})()  # DeepSpeed's holds no groups of weights
    check_optimizer(stand_in, make_model())


def test_an_adapter_of_the_token_embeddings_is_trained(make_model, make_trainer):
    lora = LoraConfig(**{**LORA, "target_modules": ["q_proj", "embed_tokens"]})
    trainer = make_trainer(get_peft_model(make_model(), lora), max_steps=1)
    assert trainer.train().global_step == 1


@pytest.mark.parametrize("name", ["proxy_dataset", "eval_dataset"])
def test_a_token_that_the_model_lacks_is_named_whatever_set_it_is_in(make_model, tokenizer, config, name):
    model = make_model()
    unknown = [{"input_ids": [1, len(tokenizer) + 500, 2], "labels": [-100, len(tokenizer) + 500, 2]}]
    sets = {"forget_dataset": qa_rows(0, 8), "retain_dataset": qa_rows(20, 28), "proxy_dataset": qa_rows(40, 44)}
    with pytest.raises(ModelError, match=f"token {len(tokenizer) + 500} in the rows"):
        EGUPTrainer(model, config(), **{**sets, name: unknown}, processing_class=tokenizer)


def test_dropout_is_switched_off_of_both_kinds(make_model):
    gpt2, llama = make_model("gpt2"), make_model("llama")
    gpt2.transformer.drop.p = 0.3
    llama.model.layers[0].self_attn.attention_dropout = 0.2
    disable_dropout(gpt2)
    disable_dropout(llama)
    assert all(module.p == 0 for module in gpt2.modules() if isinstance(module, torch.nn.Dropout))
    assert llama.model.layers[0].self_attn.attention_dropout == 0


def test_a_trained_adapter_can_be_trained_on(make_trainer, make_model, tmp_path):
    first = make_trainer(peft_config=LoraConfig(**LORA))
    first.train()
    make_model().save_pretrained(tmp_path / "base")
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), save(first, tmp_path), is_trainable=True
    )
    second = make_trainer(adapted, retain_loss="kl", kl_top_k=0)
    second.train()
    assert second.reference.kind is ReferenceKind.FROZEN_COPY
    assert second.state.log_history[0]["loss_retain"] == pytest.approx(0, abs=1e-6)


def save(trainer, tmp_path):
    trainer.save_model(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def test_training_again_goes_on_from_the_model_before_unlearning(make_trainer):
    trainer = make_trainer(objective="npo")
    trainer.train()
    boundary, reference = (
        boundary_of(trainer).clone(),
        reference_nll(trainer)["nll"].clone(),
    )
    trainer.train()
    assert torch.equal(boundary_of(trainer), boundary)
    assert torch.equal(reference_nll(trainer)["nll"], reference)


def test_what_a_broken_step_left_behind_is_dropped(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    look, calls = trainer.compute_terms, []

    def fail_at_the_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return look(*args, **kwargs)

    trainer.compute_terms = fail_at_the_second
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    (kept,) = trainer.collected.rows["features"]
    assert kept.grad_fn is None
    trainer.train()
    fresh = make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    fresh.train()
    assert furthest(weights_of(trainer), weights_of(fresh)) == 0


def test_rows_may_be_given_to_evaluate_and_predict(make_trainer):
    trainer = make_trainer(per_device_eval_batch_size=8)
    scores = trainer.score(trainer.retain_rows, torch.arange(8))
    loss = float(scores.sum_nll.sum() / scores.num_tokens.sum())
    assert trainer.evaluate(qa_rows(20, 28))["eval_loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.predict(qa_rows(20, 28)).metrics["test_loss"] == pytest.approx(loss, rel=1e-5)


def test_bf16_autocast_keeps_float32_weights_and_an_exact_reference(make_trainer):
    trainer = make_trainer(bf16=True, retain_loss="kl", objective="npo", clreg_weight=0.1)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    first = trainer.state.log_history[0]
    assert first["loss_retain"] == pytest.approx(0, abs=1e-7)
    assert math.isfinite(first["loss"])
    assert cache_of(trainer).bank.dtype == torch.float32


def test_errors_survive_a_data_loader_worker():
    import pickle

    error = DataError(got="a", expected="b", fix="c")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (DataError, "Got a, but expected b. C.")


@pytest.mark.parametrize("trainer", [UnlearnTrainer, EGUPTrainer])
def test_the_argument_of_other_trainers_is_answered_by_ours(trainer):
    with pytest.raises(ConfigError) as error:
        trainer("no-model", train_dataset=qa_rows(0, 4))
    assert (error.value.got, error.value.fix) == (
        "train_dataset",
        "pass them as forget_dataset and retain_dataset",
    )
