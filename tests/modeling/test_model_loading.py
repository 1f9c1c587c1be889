"""Models from folders, with adapters, and the errors of what cannot be loaded."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures_audit import wide_model
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.base_weights import weights_digest
from egup_trainer.modeling.loading import add_adapter, check_peft_config, load_model, load_tokenizer, model_init_kwargs
from egup_trainer.modeling.merging import merged
from egup_trainer.modeling.trainable import mlp_output, train_matching, train_mlp_alone
from egup_trainer.modeling.trials import check_training
from egup_trainer.records.schema import RECORD_NAME

TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def saved(make_model, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path / "model")
    return model, str(tmp_path / "model")


def trained(model):
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def test_a_saved_model_is_loaded_in_float32_unless_asked_otherwise(saved):
    model, folder = saved
    loaded = load_model(folder).eval()
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)
    model.bfloat16().save_pretrained(folder)
    assert {parameter.dtype for parameter in load_model(folder).parameters()} == {torch.float32}
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype="auto").dtype == torch.bfloat16


def test_a_saved_adapter_is_loaded_with_its_base_and_continues_learning(saved, with_lora, tmp_path):
    model, folder = saved
    before = with_lora(load_model(folder), trained=True).eval()
    before.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter")).eval()
    assert isinstance(loaded, PeftModel)
    torch.testing.assert_close(loaded(TOKENS).logits, before(TOKENS).logits)
    assert (loaded(TOKENS).logits - model(TOKENS).logits).abs().max() > 1e-3
    assert trained(loaded) == [name for name, _ in loaded.named_parameters() if "lora_" in name]


def test_an_adapter_as_other_tools_save_it_is_loaded(saved, with_lora, tokenizer, tmp_path):
    """PEFT alone saves no tokenizer, and some tools the base model's configuration beside the adapter."""
    _, folder = saved
    tokenizer.save_pretrained(folder)
    before = with_lora(load_model(folder), trained=True).eval()
    before.save_pretrained(tmp_path / "other" / "adapter")
    adapter = str(tmp_path / "other" / "adapter")
    assert load_tokenizer(adapter).get_vocab() == tokenizer.get_vocab()
    before.config.save_pretrained(adapter)
    loaded = load_model(adapter).eval()
    assert isinstance(loaded, PeftModel)
    torch.testing.assert_close(loaded(TOKENS).logits, before(TOKENS).logits)
    assert load_tokenizer(adapter).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("count", [448, 320])
def test_an_adapter_finds_as_many_embeddings_as_it_was_trained_with(count, saved, tokenizer, tmp_path):
    """Padded to a multiple of 64, as some trainers do, or cut to the tokens, where the base model has more."""
    base = load_model(saved[1])
    base.resize_token_embeddings(count)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    before = get_peft_model(base, lora).eval()
    before.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": saved[1]}))
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter")).eval()
    assert loaded.get_input_embeddings().weight.shape[0] == count
    torch.testing.assert_close(loaded(TOKENS).logits, before(TOKENS).logits)


def test_a_whole_model_beside_an_adapter_is_refused(saved, with_lora):
    """After merging into the adapter's own folder, transformers would apply the adapter once more."""
    adapted = with_lora(load_model(saved[1]), trained=True)
    adapted.save_pretrained(saved[1])
    with pytest.raises(ModelError) as error:
        load_model(saved[1])
    assert str(error.value) == (
        f"Got {saved[1]}, which holds a whole model and an adapter, but expected one of them: an adapter that is "
        "merged already must not be applied once more. Move adapter_config.json and adapter_model.safetensors to "
        "another folder, and name the one you mean."
    )


def test_weights_in_bin_files_are_not_read(saved):
    (Path(saved[1]) / "model.safetensors").rename(Path(saved[1]) / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"whose weights are in \.bin files, .* convert it: AutoModelForCausalLM"):
        load_model(saved[1])


def test_a_file_of_arguments_is_no_weights(saved):
    """Every folder of a `Trainer` has one. What is wrong is said."""
    (Path(saved[1]) / "training_args.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="FlashAttention2"):
        load_model(saved[1], attn_implementation="flash_attention_2")


def test_the_base_tokenizer_of_an_adapter_has_the_revision_that_the_adapter_names(tmp_path, monkeypatch):
    seen = []

    def from_pretrained(name, **kwargs):
        seen.append((name, kwargs["revision"]))
        return SimpleNamespace(vocab_files_names={})

    monkeypatch.setattr("egup_trainer.modeling.loading._refuse_missing_folder", lambda *args: None)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    save_file({}, tmp_path / "adapter_model.safetensors")
    for named, expected in (("v3", "v3"), (None, "main")):
        config = {"peft_type": "LORA", "base_model_name_or_path": "team/base", "revision": named}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        load_tokenizer(str(tmp_path), revision="of-the-adapter")
        assert seen.pop() == ("team/base", expected)


def test_a_model_that_reads_images_is_loaded_though_it_is_no_causal_language_model_by_class(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**size, image_size=8, patch_size=4, projection_dim=8)
    model = LlavaForConditionalGeneration(
        LlavaConfig(text_config=LlamaConfig(vocab_size=32, **size), vision_config=vision)
    )
    model.eval().save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(str(tmp_path))(TOKENS).logits, model(TOKENS).logits)


def test_the_tokenizer_of_a_folder(tokenizer, tmp_path):
    with pytest.raises(ModelError, match="from which no tokenizer could be loaded"):
        load_tokenizer(str(tmp_path))
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded("Where does Ada live?").input_ids == tokenizer("Where does Ada live?").input_ids


def test_a_folder_without_a_tokenizer_and_a_misspelt_folder_are_named(saved, tmp_path, monkeypatch):
    folder = tmp_path / "gpt2"  # of which transformers makes a tokenizer without tokens
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(folder))
    assert str(caught.value) == (
        f"Got no tokenizer in {folder}, but expected a folder with the model's tokenizer (tokenizer.json). Save the "
        "tokenizer of the model that it was made from there (tokenizer.save_pretrained)."
    )
    monkeypatch.chdir(tmp_path)
    no_way = ", and no model of that name on the hub, or no way to it"
    for name, got, fix in (
        ("modell", f"modell{no_way}", "Did you mean model?"),
        ("xyz/abc", f"xyz/abc{no_way}", "Check the name and the network."),
        ("./modell", "./modell", "Did you mean model?"),
    ):
        with pytest.raises(ModelError) as caught:
            load_model(name)
        assert str(caught.value) == f"Got no folder at {got}, but expected a saved causal language model. {fix}"


# Adapters


@pytest.mark.parametrize(
    ("peft_config", "message"),
    [
        (
            {"r": 8},
            "Got a dict as peft_config, but expected a PeftConfig. Make one: "
            "peft.LoraConfig(r=8, target_modules='all-linear').",
        ),
        (
            LoraConfig(task_type="SEQ_CLS"),
            "Got lora_task_type=SEQ_CLS, but expected CAUSAL_LM. Leave out --lora_task_type.",
        ),
        (LoraConfig(lora_alpha=-3), "Got lora_alpha=-3, but expected a number above 0. Set --lora_alpha."),
        (
            LoraConfig(lora_dropout=3),
            "Got lora_dropout=3, but expected a number from 0 to below 1. Set --lora_dropout.",
        ),
    ],
)
def test_what_describes_no_adapter_is_refused(peft_config, message):
    with pytest.raises(ConfigError) as caught:
        check_peft_config(peft_config)
    assert str(caught.value) == message


def test_a_fresh_adapter_changes_nothing_and_freezes_the_rest(saved):
    model, _ = saved
    before = model(TOKENS).logits
    adapted = add_adapter(model, LoraConfig(target_modules="all-linear")).eval()
    assert torch.equal(adapted(TOKENS).logits, before)
    assert trained(adapted) == [name for name, _ in adapted.named_parameters() if "lora_" in name] != []
    with pytest.raises(ModelError, match="adapters and a peft_config"):
        add_adapter(adapted, LoraConfig(target_modules="all-linear"))


MIXTRAL = MixtralConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=2,
    num_experts_per_tok=1,
)


@pytest.mark.parametrize(
    ("options", "expected", "fix"),
    [
        ({"target_modules": ["q_proj", "c_attn"]}, "down_proj gate_proj k_proj lm_head o_proj q_proj", "--lora_target"),
        ({"target_modules": ["no_such_layer"]}, "down_proj gate_proj k_proj lm_head o_proj q_proj", "--lora_target"),
        ({"target_modules": "all-linear", "lora_dropout": 0.05}, "without dropout", "--lora_dropout 0"),
        ({"target_modules": ["q_proj"], "r": 0}, "options that", "change them"),
        ({"target_modules": ["norm"]}, "all-linear, or some of down_proj gate_proj k_proj lm_head", "--lora_target"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "heads"]},
            "names of its parts",
            "modules_to_save",
        ),
        ({"target_parameters": ["up_proj.weight", "up_proj.wait"]}, "names of its parts", "set target_parameters"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [999]}, "options that", "change them"),
    ],
)
def test_an_adapter_that_does_not_fit_names_the_remedy(options, expected, fix, make_model):
    model = MixtralForCausalLM(MIXTRAL) if "lora_dropout" in options else make_model()
    with pytest.raises(ModelError) as caught:
        add_adapter(model, LoraConfig(**options))
    assert type(model).__name__ in caught.value.got
    assert expected in caught.value.expected
    assert fix in caught.value.fix
    if "lora_dropout" in options:
        add_adapter(model, LoraConfig(**{**options, "lora_dropout": 0}))


@pytest.mark.parametrize("targets", [None, "all-linear", ["in_proj", "out_proj"]])
def test_the_layers_that_peft_allows_are_named(targets):
    model = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ModelError) as caught:
        add_adapter(model, LoraConfig(target_modules=targets))
    allowed = "dt_proj in_proj lm_head x_proj" if targets else "all-linear, or some of dt_proj in_proj"
    assert allowed in caught.value.expected
    assert caught.value.fix == "set --lora_target_modules"


@pytest.mark.parametrize("name", ["q_proj", "self_attn.q_proj", r".*\.q_proj"])
def test_one_target_is_a_name_or_a_pattern(name, make_model):
    """TRL turns a list of one name into a string, which PEFT takes as a pattern of the full name."""
    model = add_adapter(make_model(), LoraConfig(target_modules=name))
    layers = make_model().config.num_hidden_layers
    assert sum(each.endswith("q_proj.lora_A.default") for each, _ in model.named_modules()) == layers


def test_virtual_tokens_that_were_saved_are_loaded(saved, tmp_path):
    model = add_adapter(load_model(saved[1]), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    model.save_pretrained(tmp_path / "prompt")
    again, ids = load_model(str(tmp_path / "prompt")).eval(), torch.arange(6)[None]
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)
    check_training(again, without_dropout=False)
    with pytest.raises(ModelError, match="an adapter that cannot be merged"):
        merged(again)


def test_flags_of_trl_become_arguments(saved, tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    kwargs = model_init_kwargs(trl.ModelConfig(model_revision="v2", dtype="bfloat16", attn_implementation="eager"))
    assert kwargs == {"revision": "v2", "dtype": "bfloat16", "attn_implementation": "eager"}
    assert load_model(saved[1], **model_init_kwargs(trl.ModelConfig())).dtype == torch.float32
    bitsandbytes = pytest.importorskip("bitsandbytes")
    kwargs = model_init_kwargs(trl.ModelConfig(load_in_4bit=True, use_bnb_nested_quant=True))
    quantization = kwargs["quantization_config"]
    assert (quantization.load_in_4bit, quantization.bnb_4bit_use_double_quant) == (True, True)
    assert quantization.bnb_4bit_quant_type == "nf4"
    wide_model(tokenizer).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), **kwargs)
    assert isinstance(loaded.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)


# Several adapters


@pytest.fixture
def two_adapters(saved, tmp_path):
    """A folder with two adapters that change something, saved in subfolders, and the model that has them."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(saved[1]), config, adapter_name="first")
    model.add_adapter("second", config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    model.save_pretrained(tmp_path / "out")
    return tmp_path / "out", model


def record(folder, **facts):
    (folder / RECORD_NAME).write_text(json.dumps({"adapter": facts}))


@pytest.mark.parametrize("active", [["first"], ["second"], ["first", "second"]])
def test_adapters_in_subfolders_are_active_as_recorded(two_adapters, active):
    folder, model = two_adapters
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))  # without a record
    assert str(folder / "second") in caught.value.fix
    record(folder, active=active)
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "adapter_config.json").write_text("{}")  # a checkpoint is not one of the adapters
    model.base_model.set_adapter(active)
    with torch.no_grad():
        expected = model.eval()(TOKENS).logits
        assert torch.equal(load_model(str(folder)).eval()(TOKENS).logits, expected)
        if len(active) == 1:
            assert torch.equal(load_model(str(folder / active[0])).eval()(TOKENS).logits, expected)


def test_an_adapter_finds_the_tokenizer_above_it(two_adapters, tokenizer):
    folder, _ = two_adapters
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder / "first")).get_vocab() == tokenizer.get_vocab()


def test_an_adapter_on_other_base_weights_is_refused(two_adapters, saved):
    folder, _ = two_adapters
    record(folder, active=["first"], base=weights_digest(saved[1]))
    load_model(str(folder))
    other = load_model(saved[1])
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.add_(1e-3)
    other.save_pretrained(saved[1])
    for name in (folder, folder / "first"):
        with pytest.raises(ModelError) as caught:
            load_model(str(name))
        assert all(path in caught.value.got for path in (saved[1], str(folder / "first")))


def test_a_digest_of_weights_does_not_depend_on_shards(saved, tmp_path):
    model, whole = load_model(saved[1]), weights_digest(saved[1])
    model.save_pretrained(tmp_path / "cut", max_shard_size="20KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 1
    assert weights_digest(tmp_path / "cut") == whole
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert weights_digest(tmp_path / "half") not in (None, whole)


# Weights that RMU trains


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "model.layers.{}.mlp.down_proj.weight"),
        ("gemma3", "model.layers.{}.mlp.down_proj.weight"),
        ("gpt2", "transformer.h.{}.mlp.c_proj.weight"),
    ],
)
@pytest.mark.parametrize(("layer", "layers"), [(2, [0, 1, 2]), (1, [0, 1]), (0, [0])])
def test_the_mlp_outputs_of_up_to_three_layers_train(family, name, layer, layers, make_model):
    model = make_model(family)
    train_mlp_alone(model, layer)
    assert trained(model) == [name.format(index) for index in layers]
    with pytest.raises(ModelError, match="a layer Identity without an MLP output projection"):
        mlp_output(torch.nn.Identity())


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [(r"model\.layers\.[12]\.mlp\.up_proj\.weight", [1, 2]), (r".*layers\.0\.mlp\.up_proj\.weight", [0])],
)
def test_the_weights_of_matching_names_train_whatever_the_objective(pattern, layers, make_trainer):
    trainer = make_trainer(objective="rmu", rmu_layer=-1, trainable_params_regex=pattern, max_steps=1)
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in layers]
    assert trained(trainer.model) == names
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved = [name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])]
    assert moved == names


def test_all_weights_train_for_a_pattern_of_all(make_model):
    model = make_model()
    train_mlp_alone(model, 1)
    train_matching(model, ".*")
    assert len(trained(model)) == len(list(model.parameters()))


def test_patterns_that_match_nothing_and_adapters_are_refused(make_model, make_trainer):
    with pytest.raises(ConfigError, match=r"=down_proj, which no whole name of a weight matches.*embed_tokens\.weight"):
        train_matching(make_model(), "down_proj")
    with pytest.raises(ConfigError, match="trainable_params_regex with an adapter"):
        make_trainer(peft_config=LoraConfig(r=2, target_modules="all-linear"), trainable_params_regex=".*")
