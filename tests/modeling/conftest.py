"""Rows and a plain way to read them, written without the code under test."""

import numpy as np
import pytest
import torch
from peft import LoraConfig

from egup_trainer.data.schema import TokenizedRow
from egup_trainer.modeling.loading import add_adapter

VOCAB = 256


def random_row(seed: int, length: int, scored) -> TokenizedRow:
    """A row of random tokens, of which those at the positions `scored` are its answer."""
    ids = np.random.default_rng(seed).integers(1, VOCAB, length).astype(np.int32)
    labels = np.full(length, -100, dtype=np.int32)
    labels[list(scored)] = ids[list(scored)]
    return TokenizedRow(ids, labels)


def gradients(model, value) -> dict[str, torch.Tensor]:
    """The gradient of `value` by name of the weight."""
    model.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(found, expected, **tolerance):
    """Same names and values, which are not all close to zero."""
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2
    torch.testing.assert_close(found, expected, **{"atol": 1e-5, "rtol": 1e-5, **tolerance})


@pytest.fixture
def rows() -> list[TokenizedRow]:
    """An answer at the end, one in the middle with gaps, a single token, a plain text, a row without any."""
    return [
        random_row(1, 12, range(7, 12)),
        random_row(2, 30, [3, 4, 9, 10, 20]),
        random_row(3, 7, [6]),
        random_row(4, 22, range(22)),  # nothing predicts the first token: 21 count
        random_row(5, 9, []),
    ]


@pytest.fixture
def pad():
    """pad(rows, width=None): the rows as right-padded tensors."""

    def make(rows: list[TokenizedRow], width: int | None = None) -> dict[str, torch.Tensor]:
        width = width or max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.from_numpy(row.input_ids).long()
            labels[index, : len(row)] = torch.from_numpy(row.labels).long()
            mask[index, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return make


@pytest.fixture
def plain_logps():
    """Log-probabilities of the answer tokens from full logits, row after row, and the logits there."""

    def read(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        tokens, scored = batch["input_ids"][:, 1:], batch["labels"][:, 1:] != -100
        logps = logits[:, :-1].log_softmax(dim=-1).gather(2, tokens[..., None]).squeeze(2)
        return logps[scored], logits[:, :-1][scored]

    return read


@pytest.fixture
def lively(make_model):
    """lively(name): a tiny model with large weights, in training mode without dropout."""

    def make(name: str = "llama", seed: int = 0):
        model = make_model(name, seed).train()
        generator = torch.Generator().manual_seed(seed + 1)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.15, generator=generator)
        return model

    return make


@pytest.fixture
def with_lora():
    """with_lora(model, trained=True): LoRA on all linear layers, with B different from zero if trained."""

    def add(model, trained: bool = True, targets="all-linear", **options):
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
        model = add_adapter(model, config).train()
        generator = torch.Generator().manual_seed(7)
        for name, parameter in model.named_parameters():
            if "lora_B" in name and trained:
                parameter.data.normal_(std=0.1, generator=generator)
        return model

    return add


@pytest.fixture
def checkpointed():
    """checkpointed(model): recomputes activations in the backward pass, under the name the installed version has."""

    def enable(model):
        switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        switch({"use_reentrant": False})
        assert model.is_gradient_checkpointing
        return model

    return enable
