"""Models and tokenizers that cannot be used are refused in one line, with nothing written."""

import json
import shutil

import pytest
import torch
from conftest import make_tiny_model
from fixtures_bad_input import (
    assert_refused,
    save,
    smaller_vocabulary,
    source_flags,
    tokenizer_with,
    unlearn_words,
    write,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def folder(good_model, tmp_path):
    """A copy of the model that nothing is wrong with yet."""
    return shutil.copytree(good_model, tmp_path / "model")


@pytest.fixture
def adapter(good_model, tokenizer, tmp_path):
    """An adapter of that model."""
    model = get_peft_model(
        make_tiny_model(tokenizer), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.peft_config["default"].base_model_name_or_path = str(good_model)
    return save(model, tokenizer, tmp_path / "adapter")


def change_json(path, **changes):
    """Writes the JSON file anew with the changes; None drops an entry."""
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def keep(folder, *names):
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


class Bomb:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def bomb(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb()}, folder / "pytorch_model.bin")


def resized(folder, name, rows):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = tensors[name][:rows].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def without(folder, *starts):
    path = folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith(starts)}
    save_file(tensors, path, metadata={"format": "pt"})


def encoder_decoder(folder):
    size = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=400, **size)).save_pretrained(folder)


def encoder(folder):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=400, **size)).save_pretrained(folder)


def own_code(folder):
    change_json(
        folder / "config.json", model_type="mine", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    )
    write(folder / "code.py", "raise SystemExit('run')")


NO_MODEL = "Got {path}, from which no causal language model could be loaded ("
NO_TOKENIZER = "Got {path}, from which no tokenizer could be loaded ("
# name -> (what is done to a sound folder, what the line must say)
REFUSED = {
    "empty folder": (lambda folder: keep(folder), NO_TOKENIZER),
    "no config": (lambda folder: (folder / "config.json").unlink(), NO_MODEL + "Unrecognized model in {path}"),
    "broken config": (
        lambda folder: write(folder / "config.json", "{"),
        NO_TOKENIZER + "It looks like the config file at",
    ),
    "config without a type": (
        lambda folder: change_json(folder / "config.json", model_type=None),
        NO_MODEL + "Unrecognized model in {path}",
    ),
    "unknown type": (
        lambda folder: change_json(folder / "config.json", model_type="llamaa"),
        NO_MODEL + "The checkpoint you are trying to load has model type `llamaa`",
    ),
    "text for a size": (
        lambda folder: change_json(folder / "config.json", hidden_size="big"),
        NO_TOKENIZER + "Validation error for field 'hidden_size'",
    ),
    "other sizes": (lambda folder: change_json(folder / "config.json", hidden_size=48), NO_MODEL),
    "own code": (own_code, "Got {path}, whose causal language model needs Python code from that folder, "),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), NO_MODEL),
    "no tokenizer": (lambda folder: keep(folder, "config.json", "model.safetensors"), NO_TOKENIZER),
    "broken tokenizer": (lambda folder: write(folder / "tokenizer.json", "{"), NO_TOKENIZER),
    "tokenizer of another kind": (lambda folder: write(folder / "tokenizer.json", '{"version": "1.0"}'), NO_TOKENIZER),
    "weights of no byte": (lambda folder: write(folder / "model.safetensors", ""), NO_MODEL),
    "text for weights": (lambda folder: write(folder / "model.safetensors", "weights" * 99), NO_MODEL),
    "cut weights": (cut_weights, NO_MODEL),
    "weights that lack a layer": (
        lambda folder: without(folder, "model.layers.1."),
        "Got {path}, which lacks 9 weights of LlamaForCausalLM, such as model.layers.1.input_layernorm",
    ),
    "weights of another shape": (lambda folder: resized(folder, "model.embed_tokens.weight", 300), NO_MODEL),
    "pickle with code": (bomb, NO_MODEL),
    "vocabulary smaller than the tokenizer's": (
        smaller_vocabulary,
        "in the forget and retain sets for a model of 300 tokens, but expected the model's own tokenizer",
    ),
    "encoder-decoder": (encoder_decoder, NO_MODEL),
    "encoder": (encoder, "Got {path}, which lacks "),
}


NO_ADAPTER = "Got {path}, from which no adapter could be loaded ("
ADAPTERS = {
    "no base": (
        lambda folder: change_json(folder / "adapter_config.json", base_model_name_or_path="/no/such"),
        "Got no folder at /no/such, but expected a saved causal language model. Check the path.",
    ),
    "base unnamed": (
        lambda folder: change_json(folder / "adapter_config.json", base_model_name_or_path=None),
        "Got {path}, an adapter that does not name its base model, but expected its folder or hub id",
    ),
    "broken config": (
        lambda folder: write(folder / "adapter_config.json", "{"),
        NO_ADAPTER + "Expecting property name",
    ),
    "unknown kind": (
        lambda folder: change_json(folder / "adapter_config.json", peft_type="LORRA"),
        NO_ADAPTER + "'LORRA'), but expected a local folder or hub id of an adapter",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "Got {path} without adapter_model.safetensors, but expected a saved adapter. Save it again.",
    ),
    "text for weights": (
        lambda folder: write(folder / "adapter_model.safetensors", "weights" * 99),
        NO_ADAPTER + "Error while deserializing header",
    ),
    "other rank": (
        lambda folder: change_json(folder / "adapter_config.json", r=3),
        NO_ADAPTER + "Error(s) in loading state_dict for PeftModelForCausalLM: size mismatch for ",
    ),
    "other modules": (
        lambda folder: change_json(folder / "adapter_config.json", target_modules=["query"]),
        NO_ADAPTER + "Target modules {{'query'}} not found in the base model",
    ),
}


def assert_spoilt_is_refused(case, folder, tmp_path, capsys):
    """Spoils the folder as the case says, and unlearns it."""
    spoil, says = case
    spoil(folder)
    words = [*unlearn_words(folder, tmp_path / "out"), *source_flags(tmp_path)]
    assert_refused(words, tmp_path, capsys, says.format(path=folder), loads_a_model=True)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_used_is_refused(folder, tmp_path, capsys, name):
    assert_spoilt_is_refused(REFUSED[name], folder, tmp_path, capsys)


def test_a_plan_does_not_ask_to_run_a_model_s_code(folder, tmp_path, capsys, monkeypatch):
    own_code(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    words = ["plan", *unlearn_words(folder, tmp_path / "out")[1:], *source_flags(tmp_path)]
    assert_refused(words, tmp_path, capsys, "; then allow it by --model_init_kwargs '{\"trust_remote_code\": true}'")


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_cannot_be_used_is_refused(adapter, tmp_path, capsys, name):
    assert_spoilt_is_refused(ADAPTERS[name], adapter, tmp_path, capsys)


def test_an_adapter_of_another_model_is_refused(adapter, tokenizer, tmp_path, capsys):
    base = save(make_tiny_model(tokenizer, "gpt2"), tokenizer, tmp_path / "gpt2")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    words = [*unlearn_words(adapter, tmp_path / "out"), *source_flags(tmp_path)]
    assert_refused(
        words, tmp_path, capsys, f"Got {adapter}, from which no adapter could be loaded (", loads_a_model=True
    )


def test_an_adapter_of_a_model_of_other_sizes_is_refused(adapter, tokenizer, tmp_path, capsys):
    config = make_tiny_model(tokenizer).config
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 8
    base = save(LlamaForCausalLM(config), tokenizer, tmp_path / "wide")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    words = [*unlearn_words(adapter, tmp_path / "out"), *source_flags(tmp_path)]
    assert_refused(
        words, tmp_path, capsys, f"Got {adapter}, from which no adapter could be loaded (", loads_a_model=True
    )


def test_a_fresh_adapter_that_does_not_fit_is_refused(good_model, tmp_path, capsys):
    words = [*unlearn_words(good_model, tmp_path / "out"), *source_flags(tmp_path), "--use_peft"]
    words += ["--lora_target_modules", "query"]
    assert_refused(
        words, tmp_path, capsys, "Got a peft_config that does not fit LlamaForCausalLM (", loads_a_model=True
    )


@pytest.mark.parametrize("flag", ["--feature_layer", "--rmu_layer"])
def test_a_layer_that_the_model_does_not_have_is_refused(good_model, tmp_path, capsys, flag):
    words = [*unlearn_words(good_model, tmp_path / "out"), *source_flags(tmp_path), flag, "3", "--objective", "rmu"]
    says = (
        f"Got {flag[2:]}=3 for a model of 3 layers, but expected a fraction between 0 and 1, or an index from -3 to 2"
    )
    assert_refused(words, tmp_path, capsys, says, loads_a_model=True)


@pytest.mark.parametrize("place", ["{tmp}/nowhere", "./nowhere", "nobody/nothing", "{tmp}/model/config.json"])
@pytest.mark.parametrize("command", ["unlearn", "evaluate", "audit", "proxy", "inspect"])
def test_a_place_without_a_model_is_refused(folder, tmp_path, capsys, command, place):
    place = place.format(tmp=tmp_path)
    sources = source_flags(tmp_path, proxy=None)
    words = [command, "--model_name_or_path", place, *(sources[:2] if command == "inspect" else sources)]
    words += {
        "unlearn": ["--output_dir", str(tmp_path / "out"), "--use_cpu"],
        "evaluate": ["--suite", "custom", "--output", str(tmp_path / "o.json"), "--use_cpu"],
        "audit": ["--output", str(tmp_path / "o.json"), "--use_cpu"],
        "proxy": ["--output", str(tmp_path / "o.jsonl"), "--use_cpu"],
        "inspect": [],
    }[command]
    is_path = place[0] in "./"
    says = (
        f"Got no folder at {place}, but expected a saved tokenizer"
        if is_path
        else f"Got {place}, from which no tokenizer"
    )
    assert_refused(words, tmp_path, capsys, says)


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_the_other_commands_refuse_the_tokenizer_of_another_model(folder, tmp_path, capsys, command):
    smaller_vocabulary(folder)
    words = [command, "--model_name_or_path", str(folder), "--use_cpu", "--output", str(tmp_path / "o.json")]
    words += [*source_flags(tmp_path, proxy=None), "--disable_tqdm", "--max_new_tokens", "4"]
    words += ["--suite", "custom"] if command == "evaluate" else ["--attacks", "sampling"]
    says = "for a model of 300 tokens, but expected the model's own tokenizer. Check the tokenizer's files"
    assert_refused(words, tmp_path, capsys, says, loads_a_model=True)


def test_a_row_longer_than_the_models_positions_is_refused(folder, tmp_path, capsys):
    path = write(tmp_path / "long.jsonl", json.dumps({"question": "Where?", "answer": "Here, and there. " * 40}))
    words = [*unlearn_words(folder, tmp_path / "out"), *source_flags(tmp_path, forget=path)]
    says = "tokens of a row for a model of 128 positions, but expected at most 128 tokens. Lower --max_length."
    assert_refused(words, tmp_path, capsys, says, loads_a_model=True)


# Tokenizers that lack something


def test_a_chat_template_that_drops_the_answer_is_refused(folder, tmp_path, capsys):
    tokenizer_with(folder, chat_template="{% for m in messages %}<{{ m.role }}>{% endfor %}")
    words = [*unlearn_words(folder, tmp_path / "out"), *source_flags(tmp_path)]
    assert_refused(
        words, tmp_path, capsys, "Got a chat template whose text does not hold the answer, but expected a template"
    )


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages[0].content + 1 }}"],
)
def test_a_chat_template_that_fails_is_refused(folder, tmp_path, capsys, template):
    tokenizer_with(folder, chat_template=template)
    words = [*unlearn_words(folder, tmp_path / "out"), *source_flags(tmp_path)]
    assert_refused(
        words, tmp_path, capsys, "Got row 0 of the forget set, which the chat template refuses, but expected"
    )
