"""Models and tokenizers that cannot be used are refused in one line, with nothing written."""

import json
import shutil

import pytest
import torch
from conftest import make_tiny_model
from fixtures_cli import (
    ROWS,
    assert_refused,
    save,
    smaller_vocabulary,
    source_flags,
    tokenizer_with,
    unlearn_words,
    whole_words,
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

from egup_trainer.cli.main import main
from egup_trainer.errors import ConfigError, DataError, LostAnswerError, ModelError, TooFewPositionsError

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


def changed_config(**changes):
    return lambda folder: change_json(folder / "config.json", **changes)


def changed_adapter(**changes):
    return lambda folder: change_json(folder / "adapter_config.json", **changes)


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


NO_MODEL, NO_TOKENIZER, NO_ADAPTER = "no causal language model", "no tokenizer", "no adapter"
REFUSED = {  # what is done to a sound folder, and what the message names besides the folder
    "empty folder": (keep, NO_TOKENIZER),
    "no config": (lambda folder: (folder / "config.json").unlink(), NO_MODEL, "Unrecognized model"),
    "broken config": (lambda folder: write(folder / "config.json", "{"), NO_TOKENIZER, "config file"),
    "config without a type": (changed_config(model_type=None), NO_MODEL, "Unrecognized model"),
    "unknown type": (changed_config(model_type="llamaa"), NO_MODEL, "`llamaa`"),
    "text for a size": (changed_config(hidden_size="big"), NO_TOKENIZER, "'hidden_size'"),
    "other sizes": (changed_config(hidden_size=48), NO_MODEL),
    "own code": (own_code, "Python code", "trust_remote_code"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), NO_MODEL),
    "no tokenizer": (lambda folder: keep(folder, "config.json", "model.safetensors"), NO_TOKENIZER),
    "broken tokenizer": (lambda folder: write(folder / "tokenizer.json", "{"), NO_TOKENIZER),
    "tokenizer of another kind": (lambda folder: write(folder / "tokenizer.json", '{"version": "1.0"}'), NO_TOKENIZER),
    "weights of no byte": (lambda folder: write(folder / "model.safetensors", ""), NO_MODEL),
    "text for weights": (lambda folder: write(folder / "model.safetensors", "weights" * 99), NO_MODEL),
    "cut weights": (cut_weights, NO_MODEL),
    "weights that lack a layer": (
        lambda folder: without(folder, "model.layers.1."),
        "lacks 9",
        "model.layers.1.input_layernorm",
    ),
    "weights of another shape": (lambda folder: resized(folder, "model.embed_tokens.weight", 300), NO_MODEL),
    "pickle with code": (bomb, ".bin files", "can run code"),
    "vocabulary smaller than the tokenizer's": (smaller_vocabulary, "300 tokens", "tokenizer"),
    "encoder-decoder": (encoder_decoder, NO_MODEL),
    "encoder": (encoder, "lacks "),
}
ADAPTERS = {
    "no base": (changed_adapter(base_model_name_or_path="/no/such"), "/no/such"),
    "base unnamed": (changed_adapter(base_model_name_or_path=None), "base model", "adapter_config.json"),
    "broken config": (lambda folder: write(folder / "adapter_config.json", "{"), NO_ADAPTER, "Expecting property name"),
    "unknown kind": (changed_adapter(peft_type="LORRA"), NO_ADAPTER, "'LORRA'"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "text for weights": (
        lambda folder: write(folder / "adapter_model.safetensors", "weights" * 99),
        NO_ADAPTER,
        "deserializing header",
    ),
    "other rank": (changed_adapter(r=3), NO_ADAPTER, "size mismatch"),
    "other modules": (changed_adapter(target_modules=["query"]), NO_ADAPTER, "{'query'}"),
}


def assert_spoilt_is_refused(case, folder, tmp_path, capsys):
    """Spoils the folder as the case says, and unlearns it."""
    spoil, *named = case
    spoil(folder)
    words = whole_words(folder, tmp_path)
    named += [] if {"300 tokens", "/no/such"} & {*named} else [folder]
    assert_refused(words, tmp_path, capsys, *named, error=ModelError)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_used_is_refused(folder, tmp_path, capsys, name):
    assert_spoilt_is_refused(REFUSED[name], folder, tmp_path, capsys)


def test_a_plan_does_not_ask_to_run_a_model_s_code(folder, tmp_path, capsys, monkeypatch):
    own_code(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    words = ["plan", *unlearn_words(folder, tmp_path / "out")[1:], *source_flags(tmp_path)]
    assert_refused(words, tmp_path, capsys, "--model_init_kwargs", "trust_remote_code", error=ModelError)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_cannot_be_used_is_refused(adapter, tmp_path, capsys, name):
    assert_spoilt_is_refused(ADAPTERS[name], adapter, tmp_path, capsys)


@pytest.mark.parametrize("kind", ["another kind", "other sizes"])
def test_an_adapter_of_another_model_is_refused(adapter, tokenizer, tmp_path, capsys, kind):
    model = make_tiny_model(tokenizer, "gpt2" if kind == "another kind" else "llama")
    if kind == "other sizes":
        config = model.config
        config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 8
        model = LlamaForCausalLM(config)
    base = save(model, tokenizer, tmp_path / "other")
    case = (changed_adapter(base_model_name_or_path=str(base)), NO_ADAPTER)
    assert_spoilt_is_refused(case, adapter, tmp_path, capsys)


@pytest.mark.parametrize(
    ("flags", "named", "error"),
    [
        (["--use_peft", "--lora_target_modules", "query"], ["peft_config", "LlamaForCausalLM"], ModelError),
        (["--objective", "rmu", "--feature_layer", "3"], ["feature_layer=3", "3 layers", "from -3 to 2"], ConfigError),
        (["--objective", "rmu", "--rmu_layer", "3"], ["rmu_layer=3", "3 layers", "from -3 to 2"], ConfigError),
        (["--forget", "long.jsonl"], ["128 positions", "--max_length"], TooFewPositionsError),
    ],
)
def test_flags_that_do_not_fit_the_model_are_refused(good_model, tmp_path, capsys, monkeypatch, flags, named, error):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "long.jsonl", json.dumps({"question": "Where?", "answer": "Here, and there. " * 40}))
    words = whole_words(good_model, tmp_path, *flags)
    assert_refused(words, tmp_path, capsys, *named, error=error)


MEASURING = {
    "evaluate": ["--suite", "custom", "--output", "o.json", "--use_cpu"],
    "audit": ["--output", "o.json", "--use_cpu"],
    "proxy": ["--output", "o.jsonl", "--use_cpu"],
    "inspect": [],
}


@pytest.mark.parametrize("place", ["{tmp}/nowhere", "./nowhere", "nobody/nothing", "{tmp}/model/config.json"])
@pytest.mark.parametrize("command", ["unlearn", *MEASURING])
def test_a_place_without_a_model_is_refused(folder, tmp_path, capsys, monkeypatch, command, place):
    monkeypatch.chdir(tmp_path)
    place = place.format(tmp=tmp_path)
    sources = source_flags(tmp_path, proxy=None)[: 2 if command == "inspect" else 4]
    flags = MEASURING.get(command, ["--output_dir", str(tmp_path / "out"), "--use_cpu"])
    words = [command, "--model_name_or_path", place, *sources, *flags]
    assert_refused(words, tmp_path, capsys, place, "tokenizer", error=ModelError)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--max_new_tokens", "125"], ["128 positions", "--max_new_tokens"]),
        (["--feature_layer", "3", "--max_new_tokens", "4"], ["feature_layer=3", "from -3 to 2"]),
    ],
)
def test_what_a_model_cannot_be_measured_by_is_refused(good_model, tmp_path, capsys, flags, named):
    words = ["evaluate", "--model_name_or_path", str(good_model), *source_flags(tmp_path, proxy=None), *flags]
    words += ["--disable_tqdm", *MEASURING["evaluate"][:2], "--output", str(tmp_path / "o.json"), "--use_cpu"]
    error = ConfigError if "feature_layer=3" in named else TooFewPositionsError
    assert_refused(words, tmp_path, capsys, *named, error=error)


@pytest.mark.parametrize("command", ["evaluate", "audit", "chat"])
def test_the_other_commands_refuse_the_tokenizer_of_another_model(folder, tmp_path, capsys, command):
    smaller_vocabulary(folder)
    words = [command, "--model_name_or_path", str(folder), "--use_cpu", "--output", str(tmp_path / "o.json")]
    words += [*source_flags(tmp_path, proxy=None), "--disable_tqdm", "--max_new_tokens", "4"]
    words += ["--suite", "custom"] if command == "evaluate" else ["--attacks", "sampling"]
    if command == "chat":
        question = ROWS["forget"][0]["question"]
        words = ["chat", str(folder), str(folder), "--use_cpu", "--max_new_tokens", "4", "--question", question]
    assert_refused(words, tmp_path, capsys, "300 tokens", "tokenizer", error=ModelError)


def test_inspect_names_the_tokenizer_of_another_model(folder, tmp_path, capsys):
    smaller_vocabulary(folder)
    sources = source_flags(tmp_path, proxy=None)[:2]
    assert main(["inspect", "--model_name_or_path", str(folder), *sources, "--use_cpu"]) == 2
    error = capsys.readouterr().err
    assert "in the forget set for a model of 300 tokens, but expected the model's own tokenizer" in error


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{% for m in messages %}<{{ m.role }}>{% endfor %}", "answer"),
        ("{% for m in messages %}", "row 0 of the forget set"),
        ("{{ raise_exception('no') }}", "row 0 of the forget set"),
        ("{{ 1 / 0 }}", "row 0 of the forget set"),
        ("{{ messages[0].content + 1 }}", "row 0 of the forget set"),
    ],
)
def test_a_chat_template_that_fails_is_refused(folder, tmp_path, capsys, template, named):
    tokenizer_with(folder, chat_template=template)
    words = whole_words(folder, tmp_path)
    error = LostAnswerError if named == "answer" else DataError
    assert_refused(words, tmp_path, capsys, "chat template", named, error=error)
