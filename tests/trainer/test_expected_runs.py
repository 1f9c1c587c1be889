"""Runs to expected outputs: the same however they are cut, wrapped, packed and interrupted, and within bounds."""

import time
from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny_model, qa_rows
from fixtures_trainer import CUTS, furthest, runs_of_any_cut, weights_of
from peft import LoraConfig, get_peft_model
from safetensors import safe_open

from egup_trainer import EGUPTrainer
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.components.output_estimates import EstimatedOutputs, NearestOutputs
from egup_trainer.conditions import STATE_NAME
from egup_trainer.data.schema import TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import StateError
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.modeling.top_k_logps import TopKLogProbs
from egup_trainer.planning.tally import Tally
from egup_trainer.records.schema import ADAPTER_OFF

PLAIN = {"objective": "proxy_kl", "inter_entanglement": False, "intra_entanglement": False}
SGD = {**PLAIN, "optim": "sgd", "learning_rate": 0.02, "max_grad_norm": 0.0}
APART = {"moved": 1e-3, "apart": 1e-5}


@pytest.fixture
def never_saw(tokenizer, tmp_path):
    """Folder of a model that never saw a row."""
    folder = tmp_path / "never saw"
    make_tiny_model(tokenizer, seed=1).save_pretrained(folder)
    return str(folder)


def table_of(trainer):
    return trainer.component(ExpectedOutputs).table


# Cuts


@pytest.mark.parametrize("source", ["proxies", "a proxy model", "both"])
def test_a_step_may_be_cut_in_any_way(make_trainer, never_saw, source):
    options = {} if source == "proxies" else {"proxy_model": never_saw}
    runs_of_any_cut(make_trainer, CUTS[:3], **APART, proxies=source != "a proxy model", **SGD, **options)


def test_a_step_of_an_adapter_may_be_cut_in_any_way(make_model, make_trainer):
    def make(**options):
        model = get_peft_model(make_model(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.5)
        return make_trainer(model, proxies=False, proxy_model=ADAPTER_OFF, **options)

    runs_of_any_cut(make, CUTS[:3], **APART, **{**SGD, "learning_rate": 0.2})


def test_a_step_on_4_bits_may_be_cut_in_any_way(make_trainer, tokenizer, tmp_path, never_saw):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    from egup_trainer.modeling.loading import load_model

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **sizes)).save_pretrained(
        tmp_path / "4"
    )
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)

    def make(**options):
        model = load_model(str(tmp_path / "4"), quantization_config=quantized)
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        return make_trainer(model, peft_config=lora, **options)

    for source in ({}, {"proxies": False, "proxy_model": never_saw}):
        runs_of_any_cut(make, CUTS[:2], **APART, **{**SGD, "learning_rate": 0.5}, **source)


def test_rows_that_share_lines_end_as_padded_ones(make_trainer):
    found = []
    for padding_free in (True, False):
        trainer = make_trainer(padding_free=padding_free, **SGD)
        trainer.train()
        found.append((weights_of(trainer), table_of(trainer)))
    assert furthest(found[0][0], found[1][0]) < 1e-5
    torch.testing.assert_close(found[0][1].logps, found[1][1].logps, rtol=1e-4, atol=1e-5)


# Repetition


def test_two_scans_give_the_same_table(make_trainer, tmp_path):
    tables, cache = [], str(tmp_path / "scans")
    for folder in (None, cache, cache):  # the third run reads what the second one has kept
        trainer = make_trainer(scan_cache_dir=folder, max_steps=1, **SGD)
        trainer.train()
        tables.append(table_of(trainer))
    for other in tables[1:]:
        assert torch.equal(tables[0].ids, other.ids)
        assert torch.equal(tables[0].logps, other.logps)


STEPS = {**PLAIN, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}


def test_a_resumed_run_is_exact_and_reads_no_source(make_trainer, never_saw, tmp_path, monkeypatch):
    for number, source in enumerate(({}, {"proxies": False, "proxy_model": never_saw})):
        whole = make_trainer(output_dir=str(tmp_path / f"whole{number}"), **STEPS, **source)
        whole.train()
        checkpoint = tmp_path / f"whole{number}" / "checkpoint-2"
        resumed = make_trainer(output_dir=str(tmp_path / f"resumed{number}"), **STEPS, **source)
        monkeypatch.setattr(resumed, "score", None)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert furthest(weights_of(whole), weights_of(resumed)) == 0
        assert torch.equal(table_of(whole).logps, table_of(resumed).logps)
        with safe_open(checkpoint / STATE_NAME, "pt") as file:
            assert torch.equal(file.get_tensor("expected_outputs.logps"), table_of(whole).logps)
            assert torch.equal(file.get_tensor("expected_outputs.ids"), table_of(whole).ids)


def test_another_proxy_model_is_another_condition(make_trainer, never_saw, tokenizer, tmp_path):
    make_trainer(proxies=False, proxy_model=never_saw, output_dir=str(tmp_path / "whole"), **STEPS).train()
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    folders = []
    for name, seed in {"same": 1, "other": 2}.items():
        make_tiny_model(tokenizer, seed=seed).save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    make_trainer(proxies=False, proxy_model=folders[0], **STEPS).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(StateError, match="expected_outputs: proxy model"):
        make_trainer(proxies=False, proxy_model=folders[1], **STEPS).train(resume_from_checkpoint=checkpoint)


# Memory


def test_what_is_kept_of_100_000_rows(monkeypatch):
    count, answers, k = 100_000, 10, 8
    ids = torch.arange(answers + 4, dtype=torch.int32).numpy()
    labels = ids.copy()
    labels[:4] = -100
    rows = RowDataset([TokenizedRow(ids, labels)] * count)
    component = ExpectedOutputs(
        SimpleNamespace(proxy_model=None, expected_top_k=k, example_share=None), has_proxies=True
    )
    component.run = SimpleNamespace(forget_rows=rows)
    made = TopKLogProbs(torch.zeros(count * answers, k, dtype=torch.int32), torch.zeros(count * answers, k + 1))
    component.load_state_dict(dict(vars(made)))
    assert component.bytes_of_state() == 4 * (count * answers) * (2 * k + 1)

    step = SimpleNamespace(forget_ids=torch.tensor([99_999, 5, -1, 70_000]))
    started = time.perf_counter()
    with Tally() as tally:
        found = component.of(step)
    assert found.ids.shape == (3 * answers, k)
    assert tally.peak < 3 * answers * (4 * (2 * k + 1) + 8 * 8)  # the tokens' part of the table, and their numbers
    assert time.perf_counter() - started < 1


def test_an_estimate_for_a_row_of_10_000_tokens_is_made_in_parts():
    vocabulary, positions, tokens, size = 20_000, 500, 10_000, 16
    generator = torch.Generator().manual_seed(0)
    logps = torch.randn(positions, 257, generator=generator).log_softmax(-1)
    outputs = TopKLogProbs(torch.randint(vocabulary, (positions, 256), generator=generator).int(), logps)
    nearest = NearestOutputs(torch.randn(positions, size, generator=generator), outputs, vocabulary)
    row = AnswerOutputs(
        torch.zeros(tokens),
        torch.zeros(tokens, dtype=torch.long),
        torch.tensor([float(tokens)]),
        token_ids=torch.randint(vocabulary, (tokens,), generator=generator),
        states=torch.randn(tokens, size, generator=generator),
    )
    with Tally() as tally:
        found = EstimatedOutputs(nearest, top_k=16)(row)
    assert found.ids.shape == (tokens, 16)
    assert tally.peak < 10 * (1 << 26) < 4 * tokens * vocabulary  # docs: less than ten tensors of 64 MB


def test_a_run_on_long_rows_needs_no_more(make_trainer, config, make_model, tokenizer):
    """Rows that are read in windows have a table of all their tokens."""
    long = [
        {"question": "Who?", "answer": " ".join(row["answer"] for row in qa_rows(start, start + 9))} for start in (0, 9)
    ]
    args = config(max_length=60, max_steps=2, **PLAIN)
    trainer = EGUPTrainer(make_model(), args, long, qa_rows(20, 33), qa_rows(40, 46), processing_class=tokenizer)
    trainer.train()
    assert len(trainer.forget_rows) > 2
    assert len(table_of(trainer).ids) == sum(int(row.is_scored.sum()) for row in trainer.forget_rows.rows)


# Logs


def test_the_logged_gaps_are_those_of_the_tokens(make_trainer):
    trainer = make_trainer(**SGD, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=1)
    before = trainer.score(trainer.forget_rows, top_k=2, answer_first=True).top_k_logps.logps[:, 0]
    trainer.train()
    ids = torch.tensor([forget for forget, _ in trainer.pair_sampler.pairs(0)][:8])
    tokens = trainer.component(ExpectedOutputs)._tokens.of_rows(ids)
    expected, gap = (
        values[tokens] for values in (table_of(trainer).logps[:, 0], table_of(trainer).logps[:, 0] - before)
    )
    logs = next(entry for entry in trainer.state.log_history if "expected_gap" in entry)
    kinds = {
        "likely": expected.exp() > 0.5,
        "middling": (expected.exp() <= 0.5) & (expected.exp() >= 0.01),
        "unlikely": expected.exp() < 0.01,
    }
    found = {name for name in logs if name.startswith(("token_gap", "tokens_met"))}
    assert found == {
        f"{name}_{kind}" for name in ("token_gap", "tokens_met") for kind, is_of in kinds.items() if is_of.any()
    }
    assert found
    for kind, is_of in kinds.items():
        if is_of.any():
            assert logs[f"token_gap_{kind}"] == pytest.approx(gap[is_of].mean().item(), abs=1e-4)
            assert logs[f"tokens_met_{kind}"] == pytest.approx(
                (gap[is_of].abs() <= 0.5).float().mean().item(), abs=1e-5
            )


def test_scaled_outputs_are_as_unlikely_as_asked_and_still_sum_to_one(make_trainer):
    trainer = make_trainer(**PLAIN, self_samples=1)
    trainer.begin_training()
    expected, before = trainer.component(ExpectedOutputs), table_of(trainer)
    rows = expected.mean_nll()
    factors = torch.linspace(0.75, 1.25, len(rows))
    expected.scale_nll(factors)
    after = table_of(trainer)
    assert expected.mean_nll().tolist() == pytest.approx((factors * rows).tolist())
    assert after.logps.exp().sum(dim=-1).tolist() == pytest.approx([1.0] * len(after.ids), abs=1e-5)
    others = [table.logps[:, 1:].log_softmax(dim=-1) for table in (before, after)]
    torch.testing.assert_close(*others)
    own = int(expected._given_counts.sum())
    assert 0 < own < len(after.ids)
    torch.testing.assert_close(after.logps[own:], before.logps[own:])  # the model's own answers keep their likelihood


def test_a_run_meets_what_is_expected(make_trainer, taught):
    """Of rows known by heart: tokens that are expected to be unlikely end there, and stay likelier before."""
    trainer = make_trainer(taught(), **PLAIN, num_train_epochs=30, learning_rate=3e-3)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "expected_gap" in entry]
    assert logs[0]["token_gap_unlikely"] < -3
    assert logs[-1]["token_gap_unlikely"] > 0.5 * logs[0]["token_gap_unlikely"]
    assert logs[-1]["expected_gap"] < 0.5 * logs[0]["expected_gap"]
    assert logs[-1]["tokens_met_unlikely"] > logs[0]["tokens_met_unlikely"]
