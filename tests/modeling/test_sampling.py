"""Sampled texts: the right shares, and each prompt by its own seed, independent of its batch."""

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures_evaluation import lively_model

from egup_trainer.modeling.generation import Sampling, generate


class Dice(torch.nn.Module):
    """A model whose next token has the given probabilities after any prompt; its `generate` is greedy."""

    def __init__(self, *probabilities: float):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(probabilities).log())
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def get_input_embeddings(self):
        return torch.nn.Embedding(100_000, 1)

    def generate(self, input_ids, generation_config, logits_processor, **options):
        logits = self.logits.expand(len(input_ids), -1)
        for _ in range(generation_config.max_new_tokens):
            scores = logits_processor(input_ids, logits)
            input_ids = torch.cat([input_ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
        if generation_config.return_dict_in_generate:
            return SimpleNamespace(logits=(logits,) * generation_config.max_new_tokens)
        return input_ids


class Speller:
    eos_token_id, pad_token_id = 99, 0

    def decode(self, tokens, skip_special_tokens):
        return " ".join(map(str, tokens))


def sampled(model, num_prompts, new=1, **options):
    sampling = Sampling([(7, number) for number in range(num_prompts)], **options)
    prompts = [np.array([1] * (1 + number % 3)) for number in range(num_prompts)]
    return generate(model, Speller(), prompts, max_new_tokens=new, sampling=sampling, batch_size=64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        ({"top_p": 0.8}, [0.5 / 0.8, 0.3 / 0.8, 0, 0]),
        ({"top_p": 0.81}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_sampled_with_their_probabilities(options, expected):
    counts = Counter(sampled(Dice(0.5, 0.3, 0.15, 0.05), 4000, **options))
    shares = [counts[str(token)] / 4000 for token in range(4)]
    np.testing.assert_allclose(shares, expected, atol=0.025)  # three standard deviations of a share of 4000 samples
    assert all(counts[str(token)] == 0 for token in range(4) if not expected[token])


def test_tokens_of_a_text_are_independent():
    tokens = " ".join(sampled(Dice(0.5, 0.3, 0.2), 40, new=50)).split()
    shares = [tokens.count(str(token)) / 2000 for token in range(3)]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.035)
    assert Counter(pairwise(tokens))["0", "0"] / 2000 == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_text_depends_on_its_own_seed_alone(tokenizer, name):
    model = lively_model(tokenizer, name)
    prompts = [np.array(tokenizer(text)["input_ids"]) for text in ("Where", "Who is Bo?", "Ada Lorn", "And whose?")]

    def texts(seeds, batch_size=4, chosen=prompts):
        sampling = Sampling(seeds, temperature=2.0, top_p=0.9)
        return generate(model, tokenizer, chosen, max_new_tokens=12, sampling=sampling, batch_size=batch_size)

    seeds = [(0, number) for number in range(4)]
    expected = texts(seeds)
    assert len(set(expected)) == 4
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert texts(seeds) == texts(seeds, batch_size=1) == texts(seeds, batch_size=3) == expected
    assert torch.equal(torch.random.get_rng_state(), state)
    assert texts(seeds[2:], chosen=prompts[2:]) == expected[2:]
    assert texts([(1, number) for number in range(4)]) != expected
    assert len(set(texts(seeds, chosen=prompts[:1] * 4))) == 4


def test_a_number_close_to_one_takes_the_last_token_of_the_nucleus(monkeypatch):
    rng = SimpleNamespace(random=lambda length: np.full(length, np.nextafter(1, 0)))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: rng)
    assert sampled(Dice(0.5, 0.3, 0.2), 2, top_p=0.6) == ["1", "1"]
