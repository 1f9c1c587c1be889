"""Models and tokenizers that are odd but sound are taken, and what comes of them is that of a usual one."""

import json
import shutil

import pytest
import torch
from fixtures_cli import save, source_flags, tokenizer_with, whole_words, write
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from egup_trainer.cli.main import main

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def folder(good_model, tmp_path):
    """A copy of the model that nothing is wrong with yet."""
    return shutil.copytree(good_model, tmp_path / "model")


def not_finite(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


def unlearn(folder, tmp_path, *flags) -> int:
    return main(whole_words(folder, tmp_path, *flags))


def test_without_a_chat_template_rows_are_written_with_markers(folder, tmp_path, capsys):
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    user = {"role": "user", "content": "Where?"}
    path = write(tmp_path / "chat.jsonl", json.dumps({"messages": [user, {"role": "assistant", "content": "Here."}]}))
    assert main(["inspect", "--model_name_or_path", str(folder), "--forget", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "written by: plain markers (the tokenizer has no chat template)" in printed
    assert repr("Question: Where?\nAnswer: ") in printed
    assert repr("Here.<eos>") in printed


def test_a_padding_token_that_is_the_end_token_is_scored_at_the_end_of_a_row_alone(folder, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    with_end = parameters_after(unlearn(folder, tmp_path), tmp_path)
    tokenizer_with(folder, pad_token="~")  # another token in the padding changes nothing
    again = parameters_after(unlearn(folder, tmp_path), tmp_path)
    assert all(torch.equal(with_end[name], again[name]) for name in with_end)


def test_without_a_padding_token_the_end_token_pads(folder, tmp_path, capsys):
    with_pad = parameters_after(unlearn(folder, tmp_path), tmp_path)
    tokenizer_with(folder, pad_token=None)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    without_pad = parameters_after(unlearn(folder, tmp_path), tmp_path)
    assert all(torch.equal(with_pad[name], without_pad[name]) for name in with_pad)


def test_a_padding_token_that_the_model_does_not_know_is_not_used(folder, tmp_path, capsys):
    """Many tokenizers were given one without a word to the model."""
    with_end = parameters_after(unlearn(folder, tmp_path), tmp_path)
    tokenizer_with(folder, pad_token="<pad>")
    assert AutoTokenizer.from_pretrained(folder).pad_token_id >= LlamaConfig.from_pretrained(folder).vocab_size
    again = parameters_after(unlearn(folder, tmp_path), tmp_path)
    assert all(torch.equal(with_end[name], again[name]) for name in with_end)
    words = ["evaluate", "--model_name_or_path", str(folder), "--use_cpu", "--output", str(tmp_path / "o.json")]
    words += ["--suite", "custom", "--max_new_tokens", "4", *source_flags(tmp_path, proxy=None)]
    assert main(words) == 0


def parameters_after(code, tmp_path) -> dict[str, torch.Tensor]:
    """The weights that `unlearn` saved; the folder is gone afterwards."""
    assert code == 0
    found = load_file(tmp_path / "out" / "model.safetensors")
    shutil.rmtree(tmp_path / "out")
    return found


def test_a_vocabulary_larger_than_the_tokenizers_is_taken(folder, tmp_path, capsys):
    config = LlamaConfig.from_pretrained(folder)
    config.vocab_size += 64  # padded, as many are
    save(LlamaForCausalLM(config), AutoTokenizer.from_pretrained(folder), folder)
    assert parameters_after(unlearn(folder, tmp_path), tmp_path)["lm_head.weight"].shape == (config.vocab_size, 32)


def test_a_tokenizer_with_a_token_that_no_row_makes_is_taken(folder, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > LlamaConfig.from_pretrained(folder).vocab_size
    assert parameters_after(unlearn(folder, tmp_path), tmp_path)


def test_weights_that_are_not_finite_end_the_run_in_one_line(folder, tmp_path, capsys):
    """They show in the scan before the first step; no model is saved."""
    not_finite(folder)
    assert unlearn(folder, tmp_path) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("egup unlearn: error: Got ")
    assert "expected finite numbers" in last
    assert not (tmp_path / "out" / "model.safetensors").exists()
