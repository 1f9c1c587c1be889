"""Trials of the model: whether it is causal, where its layers are, what dropout is left, what trains."""

import copy
import random

import numpy as np
import pytest
import torch
import transformers as hf
from peft import CPTConfig, LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft import LoHaConfig as LoHa
from peft import MultitaskPromptTuningConfig as Multitask
from torch import nn

from egup_trainer.errors import ModelError
from egup_trainer.modeling.forward import AnswerReader, decoder_layers
from egup_trainer.modeling.limits import check_positions
from egup_trainer.modeling.loading import add_adapter
from egup_trainer.modeling.memory.packing import Packer
from egup_trainer.modeling.trials import can_run, check_training
from egup_trainer.preparation import disable_dropout
from modeling.conftest import gradients

V = 256
BERT = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
LLAMA = {**BERT, "num_key_value_heads": 2, "head_dim": 8}
GPT = {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4}
VISION = {**{name: BERT[name] for name in BERT if name != "vocab_size"}, "image_size": 16, "patch_size": 8}
T5 = {"vocab_size": V, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {"vocab_size": V, "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 64, "decoder_attention_heads": 4}
OPT = {"vocab_size": V, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CAUSAL = "CAUSAL_LM"
NOISY = {
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT, word_embed_proj_dim=32)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(**GPT, hidden_dropout=0.1, attention_dropout=0.1)),
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(**BERT, hidden_dropout=0.1, attention_dropout=0.1, alibi=False)
    ),
    "gptj": lambda: hf.GPTJForCausalLM(
        hf.GPTJConfig(vocab_size=V, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, attn_pdrop=0.1)
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**LLAMA, num_local_experts=2, num_experts_per_tok=1, router_jitter_noise=0.5)
    ),
    "loha": lambda: add_adapter(
        hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
        LoHa(target_modules=["q_proj"], rank_dropout=0.5, init_weights=False, task_type=CAUSAL),
    ),
}


def build(make):
    torch.manual_seed(0)
    model = make()
    for weight in model.parameters():
        if weight.dim() > 1 and weight.is_floating_point():
            weight.data.mul_(4)  # differences of tenths instead of thousandths
    return model


def two_passes(model):
    model.train()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        return [model(input_ids=ids).logits for _ in range(2)]


@pytest.mark.parametrize("name", NOISY)
def test_no_noise_is_left_without_dropout(name):
    model = build(NOISY[name])
    saved = model.config.to_dict()
    assert not torch.equal(*two_passes(model))
    with pytest.raises(ModelError, match="two passes in training mode differ"):
        check_training(model, without_dropout=True)
    disable_dropout(model)
    assert torch.equal(*two_passes(model))
    check_training(model, without_dropout=True)
    assert model.config.to_dict() == saved  # the model is saved with the configuration that it came with


class Noise(nn.Module):
    """Noise under a name that nobody knows."""

    def forward(self, hidden):
        return hidden + torch.randn_like(hidden) if self.training else hidden


def test_noise_that_cannot_be_switched_off_is_refused_and_its_remedy_works(make_model):
    model = make_model()
    model.model.norm = nn.Sequential(model.model.norm, Noise())
    disable_dropout(model)
    with pytest.raises(ModelError) as caught:
        check_training(model, without_dropout=True)
    assert "--no_disable_dropout" in caught.value.fix
    check_training(model, without_dropout=False)


def test_trials_restore_random_numbers_and_the_mode_of_each_module():
    model = build(NOISY["opt"])
    model.eval().model.decoder.layers[0].train()
    modes = [module.training for module in model.modules()]

    def numbers(trial):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        if trial:
            check_training(model, without_dropout=False)
            with pytest.raises(ModelError):
                check_training(model, without_dropout=True)
        return torch.rand(1).item(), random.random(), np.random.rand()

    assert numbers(trial=True) == numbers(trial=False)
    assert [module.training for module in model.modules()] == modes


# Causal models

REFUSED = {
    "bert": (lambda: hf.BertLMHeadModel(hf.BertConfig(**BERT)), "later tokens change"),
    "masked": (lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)), "later tokens change"),
    "xlnet": (
        lambda: hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=V, d_model=32, n_layer=2, n_head=4, d_inner=64)),
        "later tokens change",
    ),
    "t5": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)), "an encoder with a decoder"),
    "bart": (lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)), "an encoder with a decoder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_causal_is_refused(name, rows, pad):
    make, reason = REFUSED[name]
    torch.manual_seed(0)
    model = make()
    with pytest.raises(ModelError, match=f"the model {type(model).__name__}, .*{reason}"):
        AnswerReader(model)(model, **pad(rows))


@pytest.mark.parametrize(
    "make",
    [
        lambda: hf.BertLMHeadModel(hf.BertConfig(**BERT, is_decoder=True)),
        lambda: hf.MambaForCausalLM(hf.MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=4)),
        lambda: NOISY["mixtral"]().bfloat16(),
    ],
    ids=["bert as a decoder", "mamba", "mixtral in bfloat16"],
)
def test_a_decoder_passes_the_trial(make):
    model = build(make)
    AnswerReader(model).try_out(model)


def vision_as_deep_as_text(kind):
    if kind == "git":
        return hf.GitForCausalLM(hf.GitConfig(**BERT, vision_config=VISION)), "git.encoder.layer"
    text = hf.LlamaConfig(**LLAMA)
    config = hf.LlavaConfig(text_config=text, vision_config=hf.CLIPVisionConfig(**VISION), image_token_index=V - 1)
    return hf.LlavaForConditionalGeneration(config), "model.language_model.layers"


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", ["git", "llava"])
def test_layers_are_those_that_read_a_text(kind, device):
    with torch.device(device):
        model, expected = vision_as_deep_as_text(kind)
    assert can_run(model) is (device == "cpu")
    if (kind, device) != ("git", "meta"):  # its get_decoder() holds the vision tower, too
        assert decoder_layers(model) is model.get_submodule(expected)


def test_layers_of_a_decoder_whose_configuration_counts_an_encoder():
    model = hf.BartForCausalLM(hf.BartConfig(**BART, encoder_layers=7))
    assert decoder_layers(model) is model.model.decoder.layers


# Virtual tokens

PROMPTS = {
    "prompt": PromptTuningConfig(num_virtual_tokens=5, task_type=CAUSAL),
    "encoder": PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, task_type=CAUSAL),
    "prefix": PrefixTuningConfig(num_virtual_tokens=5, task_type=CAUSAL),
    "cpt": CPTConfig(
        cpt_token_ids=[5, 6, 7],
        cpt_mask=[1] * 3,
        cpt_tokens_type_mask=[1, 2, 3],
        opt_weighted_loss_type="none",
        opt_loss_decay_factor=1.0,
        opt_projection_epsilon=0.1,
        opt_projection_format_epsilon=0.1,
        task_type=CAUSAL,
    ),
}


def plain(model, row, layer):
    """Mean log-probability of a row's answer and mean hidden state there, counted from the end of what is read."""
    ids, seen = torch.from_numpy(row.input_ids).long()[None], []
    at = [index for index in range(1, len(row)) if row.labels[index] != -100]
    hook = layer.register_forward_hook(lambda module, args, out: seen.append(out[0] if type(out) is tuple else out))
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(row) :]
    hook.remove()
    logps = logits.log_softmax(-1)
    found = torch.stack([logps[index - 1, ids[0, index]] for index in at])
    return found.mean(), seen[0][0, -len(row) :][at].mean(dim=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_virtual_tokens_do_not_move_what_is_read(kind, family, lively, rows, pad):
    model, rows = add_adapter(lively(family), copy.deepcopy(PROMPTS[kind])).eval(), rows[:4]
    reader = AnswerReader(model)
    with torch.no_grad():
        out = reader(model, **pad(rows), with_hidden=True)
        expected = [plain(model, row, reader.layer) for row in rows]
        torch.testing.assert_close(-out.mean_nll, torch.stack([each for each, _ in expected]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.features, torch.stack([each for _, each in expected]), atol=1e-5, rtol=1e-5)
        with model.disable_adapter():
            off = reader(model, **pad(rows))
        base = model.get_base_model()
        torch.testing.assert_close(off.sum_nll, AnswerReader(base)(base, **pad(rows)).sum_nll, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(off.sum_nll, out.sum_nll, atol=1e-3)


def test_virtual_tokens_learn_as_in_the_plain_way_and_take_positions(lively, rows, pad):
    model = add_adapter(lively(), PROMPTS["prompt"])
    reader = AnswerReader(model)
    found = gradients(model, reader(model, **pad(rows[:1])).mean_nll.sum())
    expected = gradients(model, -plain(model, rows[0], reader.layer)[0])
    assert len(expected) == 1
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    most = model.config.max_position_embeddings - 5
    check_positions(model, most, "a row", "shorten it")
    with pytest.raises(ModelError, match=f"{most + 1} tokens of a row for a model of {most} positions"):
        check_positions(model, most + 1, "a row", "shorten it")


def test_rows_after_virtual_tokens_are_not_packed(lively):
    model = add_adapter(lively(), PROMPTS["prompt"])
    ids = torch.ones(2, 4, dtype=torch.long)
    assert Packer(model)(model, ids, ids).inputs["input_ids"].shape == (2, 4)
    with pytest.raises(ModelError, match="--padding_free"):
        Packer(model, padding_free=True)(model, ids, ids)


def test_models_that_move_positions_or_need_more_than_tokens_are_refused(lively, rows, pad):
    model = lively()
    model.model.norm.register_forward_hook(lambda module, args, out: torch.cat([out[:, :1], out], dim=1))
    with pytest.raises(ModelError, match=r"hidden states of shape \(5, 31, 32\) for lines of 30 tokens"):
        AnswerReader(model, padding_free=False)(model, **pad(rows))
    model = add_adapter(lively(), Multitask(num_virtual_tokens=5, num_tasks=2, task_type=CAUSAL))
    with pytest.raises(ModelError, match="cannot read rows of tokens"):
        AnswerReader(model)(model, **pad(rows))


# Weights that train


def test_a_model_without_trainable_weights_is_refused_and_the_remedies_work(make_model, tmp_path):
    add_adapter(make_model(), LoraConfig(r=2, target_modules=["q_proj"], task_type=CAUSAL)).save_pretrained(tmp_path)
    adapted = PeftModel.from_pretrained(make_model(), tmp_path)
    frozen = make_model().requires_grad_(False)
    for model, fix in ((adapted, "is_trainable=True"), (frozen, "model.requires_grad_(True)")):
        with pytest.raises(ModelError) as caught:
            check_training(model, without_dropout=False)
        assert "LlamaForCausalLM without trainable weights" in caught.value.got
        assert fix in caught.value.fix
    check_training(PeftModel.from_pretrained(make_model(), tmp_path, is_trainable=True), without_dropout=False)
    check_training(frozen.requires_grad_(True), without_dropout=False)
    unreached, _ = vision_as_deep_as_text("llava")
    unreached.requires_grad_(False).model.vision_tower.requires_grad_(True)  # a text does not reach these weights
    with torch.device("meta"):
        elsewhere = hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).requires_grad_(False)
    for model in (unreached, elsewhere):
        with pytest.raises(ModelError, match="without trainable weights"):
            check_training(model, without_dropout=False)
