"""Models from folders, with adapters, and what is said when that fails."""

import json

import pytest
import torch
from fixtures_audit import wide_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM

from egup_trainer.errors import ModelError
from egup_trainer.modeling.base_weights import weights_digest
from egup_trainer.modeling.loading import add_adapter, load_model, load_tokenizer, model_init_kwargs
from egup_trainer.records.schema import RECORD_NAME

TOKENS = torch.tensor([[5, 6, 7, 8]])
HINT = "check the name, the files and the network"


@pytest.fixture
def saved(make_model, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path / "model")
    return model, str(tmp_path / "model")


def test_a_saved_model_comes_back_in_float32(saved):
    model, folder = saved
    loaded = load_model(folder).eval()
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)


def test_a_bfloat16_model_is_float32_unless_asked_otherwise(saved):
    model, folder = saved
    model.bfloat16().save_pretrained(folder)
    assert load_model(folder).dtype == torch.float32
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype="auto").dtype == torch.bfloat16


def test_a_saved_adapter_comes_with_its_base_and_goes_on_learning(saved, with_lora, tmp_path):
    model, _ = saved
    before = with_lora(load_model(saved[1]), trained=True).eval()
    before.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter")).eval()
    assert isinstance(loaded, PeftModel)
    torch.testing.assert_close(loaded(TOKENS).logits, before(TOKENS).logits)
    assert (loaded(TOKENS).logits - model(TOKENS).logits).abs().max() > 1e-3
    trainable = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in loaded.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert str(caught.value) == f"got no folder at {name}; expected a saved causal language model; check the path"
    with pytest.raises(ModelError) as caught:
        load_tokenizer(name)
    assert str(caught.value) == f"got no folder at {name}; expected a saved tokenizer; check the path"


def test_a_name_that_the_hub_does_not_give_is_an_error_of_ours(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        load_model("no-such-owner/no-such-model")
    assert str(caught.value).startswith("got no-such-owner/no-such-model, from which no causal language model could")
    assert str(caught.value).endswith(f"; expected a local folder or hub id of a causal language model; {HINT}")


@pytest.mark.parametrize(
    "config", [{"model_type": "t5"}, {}, {"model_type": "no-such-type"}], ids=["encoder-decoder", "empty", "unknown"]
)
def test_a_folder_without_a_causal_language_model(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"got {tmp_path}, from which no causal language model could be loaded (")
    assert message.endswith(f"); expected a local folder or hub id of a causal language model; {HINT}")
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["missing", "cut short", "empty"])
def test_damaged_weights_are_an_error_of_ours(damage, saved, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if damage != "missing":
        weights.write_bytes(whole[:-100] if damage == "cut short" else b"")
    with pytest.raises(ModelError, match=r"from which no causal language model could be loaded \("):
        load_model(saved[1])


def test_the_tokenizer_of_a_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded("Where does Ada live?").input_ids == tokenizer("Where does Ada live?").input_ids


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"got {tmp_path}, from which no tokenizer could be loaded (")
    assert message.endswith(f"); expected a local folder or hub id of a tokenizer; {HINT}")


def test_a_fresh_adapter_changes_nothing_and_freezes_the_rest(saved):
    model, _ = saved
    before = model(TOKENS).logits
    adapted = add_adapter(model, LoraConfig(target_modules="all-linear")).eval()
    assert torch.equal(adapted(TOKENS).logits, before)
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_a_second_adapter_is_refused(make_model, with_lora):
    with pytest.raises(ModelError) as caught:
        add_adapter(with_lora(make_model()), LoraConfig(target_modules="all-linear"))
    assert str(caught.value) == (
        "got a model with adapters and a peft_config; expected one of the two; "
        "merge the adapter first, or leave out peft_config (--use_peft) to train on with it"
    )


def test_unknown_target_modules_are_named(make_model):
    with pytest.raises(ModelError) as caught:
        add_adapter(make_model(), LoraConfig(target_modules=["no_such_layer"]))
    message = str(caught.value)
    assert message.startswith("got a peft_config that does not fit LlamaForCausalLM (")
    assert "no_such_layer" in message
    assert message.endswith(
        "); expected target modules that the model has: all-linear, or some of down_proj gate_proj k_proj lm_head "
        "o_proj q_proj up_proj v_proj; set --lora_target_modules"
    )


@pytest.mark.parametrize("name", ["q_proj", "self_attn.q_proj", r".*\.q_proj"])
def test_one_target_is_a_name_or_a_pattern(name, make_model):
    """TRL makes a text of a list of one name, and PEFT takes a text for a pattern of the whole name."""
    model = add_adapter(make_model(), LoraConfig(target_modules=name))
    layers = make_model().config.num_hidden_layers
    assert sum(each.endswith("q_proj.lora_A.default") for each, _ in model.named_modules()) == layers


def test_dropout_that_an_adapter_cannot_have_is_named_and_the_remedy_works():
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    with pytest.raises(ModelError, match=r"; expected an adapter without dropout; set --lora_dropout 0$"):
        add_adapter(model, LoraConfig(target_modules="all-linear", lora_dropout=0.05))
    add_adapter(model, LoraConfig(target_modules="all-linear", lora_dropout=0))


def test_other_misfits_name_no_target_modules(make_model):
    with pytest.raises(ModelError, match=r"options that the model and this kind of adapter allow; change them$"):
        add_adapter(make_model(), LoraConfig(target_modules=["q_proj"], r=0))


def test_flags_of_trl_become_arguments(saved):
    trl = pytest.importorskip("trl")
    kwargs = model_init_kwargs(trl.ModelConfig(model_revision="v2", dtype="bfloat16", attn_implementation="eager"))
    assert kwargs == {"revision": "v2", "dtype": "bfloat16", "attn_implementation": "eager"}
    assert load_model(saved[1], **model_init_kwargs(trl.ModelConfig())).dtype == torch.float32


def test_flags_of_trl_for_four_bits(tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    bitsandbytes = pytest.importorskip("bitsandbytes")
    kwargs = model_init_kwargs(trl.ModelConfig(load_in_4bit=True, use_bnb_nested_quant=True))
    quantization = kwargs["quantization_config"]
    assert quantization.load_in_4bit
    assert quantization.bnb_4bit_quant_type == "nf4"
    assert quantization.bnb_4bit_use_double_quant
    wide_model(tokenizer).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), **kwargs)
    assert isinstance(loaded.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)


@pytest.fixture
def two_adapters(saved, tmp_path):
    """A folder with two adapters that say something, saved in subfolders, and the model that they were saved from."""
    base = load_model(saved[1])
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config, adapter_name="first")
    model.add_adapter("second", config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    model.save_pretrained(tmp_path / "out")
    return tmp_path / "out", model


@pytest.mark.parametrize("active", [["first"], ["second"], ["first", "second"]])
def test_adapters_in_subfolders_are_read_by_the_folders_name(two_adapters, active):
    folder, model = two_adapters
    (folder / RECORD_NAME).write_text(json.dumps({"adapter": {"active": active}}))
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "adapter_config.json").write_text("{}")  # a checkpoint is no adapter of the model's
    model.base_model.set_adapter(active)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        expected = model.eval()(ids).logits
        assert torch.equal(load_model(str(folder)).eval()(ids).logits, expected)
        if len(active) == 1:
            assert torch.equal(load_model(str(folder / active[0])).eval()(ids).logits, expected)


def test_the_record_says_which_adapters_are_active(two_adapters):
    folder, _ = two_adapters
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert str(caught.value) == (
        f"got {folder} with the adapters first, second, and no record of which of them are active; expected one "
        f"adapter, or the folder of a run of this package; name the folder of one of them, such as {folder / 'second'}"
    )
    load_model(str(folder / "second"))


def test_an_adapter_finds_the_tokenizer_above_it(two_adapters, tokenizer):
    folder, _ = two_adapters
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder / "first")).get_vocab() == tokenizer.get_vocab()


def test_an_adapter_on_other_base_weights_is_refused(two_adapters, saved):
    folder, _ = two_adapters
    (folder / RECORD_NAME).write_text(json.dumps({"adapter": {"active": ["first"], "base": weights_digest(saved[1])}}))
    load_model(str(folder))
    other = load_model(saved[1])
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.add_(1e-3)
    other.save_pretrained(saved[1])
    for name in (folder, folder / "first"):
        with pytest.raises(ModelError) as caught:
            load_model(str(name))
        assert str(caught.value) == (
            f"got other weights in {saved[1]} than those that the adapter {folder / 'first'} was trained on; expected "
            "its base model; put that model there, or name its folder as base_model_name_or_path in adapter_config.json"
        )


def test_a_digest_of_weights_does_not_depend_on_how_files_are_cut(saved, tmp_path):
    model, whole = load_model(saved[1]), weights_digest(saved[1])
    model.save_pretrained(tmp_path / "cut", max_shard_size="20KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 1
    assert weights_digest(tmp_path / "cut") == whole
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert weights_digest(tmp_path / "half") not in (None, whole)
