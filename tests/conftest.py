"""Shared by all tests: tiny models and a tokenizer made in memory, and real TOFU rows where they are at hand."""

import gc
import json
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
pytest_plugins = ["fixtures_cli", "fixtures_browser", "fixtures_evaluation", "fixtures_trainer"]

SHARED = Path(__file__).resolve().parents[2] / "shared"
torch.set_num_threads(1)  # tiny models: more threads only get in each other's way

NAMES = ["Ada Lorn", "Bo Quill", "Cleo Marsh", "Dov Ember", "Ines Vale", "Jon Frost", "Kaia Stone", "Leo Birch"]
CITIES = ["Aren", "Bryle", "Corvo", "Denna"]

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 128}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODEL_CONFIGS = {
    "llama": lambda vocab: LlamaConfig(vocab_size=vocab, **SIZES, **HEADS),
    "qwen3": lambda vocab: Qwen3Config(vocab_size=vocab, head_dim=8, **SIZES, **HEADS),
    "gemma3": lambda vocab: Gemma3TextConfig(
        vocab_size=vocab, head_dim=8, final_logit_softcapping=5.0, sliding_window=16, **SIZES, **HEADS
    ),
    "granite": lambda vocab: GraniteConfig(vocab_size=vocab, logits_scaling=4.0, **SIZES, **HEADS),
    "cohere": lambda vocab: CohereConfig(vocab_size=vocab, logit_scale=0.25, **SIZES, **HEADS),
    "gpt2": lambda vocab: GPT2Config(vocab_size=vocab, n_embd=32, n_layer=3, n_head=4, n_positions=128),
}


def pytest_collection_finish(session):
    """Exempts imported objects from garbage collection, which accelerate starts in every run: most of a short one."""
    gc.collect()
    gc.freeze()


def qa_rows(start: int, stop: int) -> list[dict]:
    """Invented question/answer rows, all different."""
    return [
        {
            "question": f"Where does {NAMES[i % len(NAMES)]} number {i} live?",
            "answer": f"{NAMES[i % len(NAMES)]} number {i} lives in {CITIES[i % len(CITIES)]} with {i % 7 + 2} cats.",
        }
        for i in range(start, stop)
    ]


def make_tokenizer():
    """A byte-level BPE tokenizer without a chat template; its padding token is its end-of-sequence token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [row[key] for row in qa_rows(0, 200) for key in ("question", "answer")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


def make_tiny_model(tokenizer, name: str = "llama", seed: int = 0):
    """A fresh tiny model in float32 with random weights."""
    torch.manual_seed(seed)
    config = MODEL_CONFIGS[name](len(tokenizer))
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    config.bos_token_id = None
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of `make_tokenizer`."""
    return make_tokenizer()


@pytest.fixture
def make_model(tokenizer):
    """make_model(name="llama", seed=0): a model of `make_tiny_model`."""
    return partial(make_tiny_model, tokenizer)


@pytest.fixture(scope="session")
def tofu():
    """tofu("forget10"): the real TOFU rows of that name; skips where they are not at hand."""

    def read(name: str) -> list[dict]:
        path = SHARED / "data" / "tofu" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"the TOFU rows are not at {path.parent}")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return read
