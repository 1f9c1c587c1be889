"""Row sets to evaluate on, models with opinions, and plain ways to their numbers: row by row, without padding."""

import copy

import numpy as np
import pytest
import torch
from conftest import make_tiny_model, qa_rows
from peft import LoraConfig

from egup_trainer.data.schema import Message, Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.modeling.loading import add_adapter

LAYER = 1  # feature_layer=0.5 of three layers
LONG_TEXT = "Ada Lorn number 3 lives in Aren with 5 cats. Bo Quill lives in Denna. " * 2


def lively_model(tokenizer, name: str = "llama", seed: int = 0, positions: int = 128):
    """A tiny model with weights large enough to have opinions; `positions` more than 128 for rotary models only."""
    model = make_tiny_model(tokenizer, name, seed)
    model.config.max_position_embeddings = positions
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.15, generator=generator)
    return model.eval()


@pytest.fixture
def model(tokenizer):
    """A lively model, in place of which a test file may have one of its own."""
    return lively_model(tokenizer)


def taught_model(tokenizer, name: str = "llama", positions: int = 128):
    """A lively model that has learned a part of the invented rows, so that some tokens are hits and some are not."""
    model = lively_model(tokenizer, name, positions=positions)
    samples = [sample for row in invented_sets()[0].rows[:3] for sample in samples_of(row, tokenizer)]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        losses = [model(input_ids=ids, labels=labels[None]).loss for ids, labels in samples]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    model.zero_grad()
    return model


def with_adapter(model, std: float = 0.2):
    """The model with an adapter that changes what it says; only the adapter's weights are trainable."""
    adapted = add_adapter(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.5))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=std, generator=torch.Generator().manual_seed(len(name)))
    return adapted.eval()


def chat_tokenizer(tokenizer):
    """The tokenizer with a chat template that needs no new tokens."""
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    return chatty


def question(text: str, answer: str, **more) -> Row:
    """A row of one question."""
    return Row((Message("user", text),), answer, **more)


def invented_sets(new_tokens: int = 6) -> list[RowSet]:
    """Three sets of rows of many lengths, 21 pieces of texts in all: an odd number, which two processes cannot share.

    Forget rows have a paraphrase and wrong answers, or not; the first holdout text is cut into three pieces; a retain
    row has three answers.
    """
    facts = [question(row["question"], row["answer"]) for row in qa_rows(0, 8)]
    forget = [
        question("Who is Ada?", "Ada Lorn.", paraphrase="It is Ada Lorn.", perturbed=("Bo.", "Cleo Marsh, of Denna.")),
        facts[1],
        question("Where?", "In Aren, with 3 cats, and in Corvo.", perturbed=("In Denna.",)),
        facts[3],
        question("And?", "No.", paraphrase="She is not.", perturbed=("Yes.",)),
    ]
    texts = [Row((), LONG_TEXT), Row((), "Leo Birch lives."), Row((), "Ines Vale number 9 lives in Bryle.")]
    kept = [facts[5], question("Whose cats?", "Kaia's", alternatives=("Of Kaia Stone.", "Jon")), facts[6]]
    generation = Generation(new_tokens) if new_tokens else None
    return [
        RowSet("forget", forget, generation=generation, with_features=True, with_membership=True),
        RowSet("holdout", texts, max_length=16, with_features=True, with_membership=True),
        RowSet("retain", kept, generation=generation),
    ]


def samples_of(row: Row, tokenizer, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids (1, T) and labels (T,) of each piece of a row with one answer."""
    pieces = tokenize([row], tokenizer, name="row", **options).rows
    return [(torch.from_numpy(piece.input_ids).long()[None], torch.from_numpy(piece.labels).long()) for piece in pieces]


@torch.no_grad()
def plain_numbers(model, samples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, np.ndarray]:
    """logps, hits and z of a text's answer tokens and the mean hidden state over them, in float64 from whole logits."""
    found: dict[str, list] = {"logps": [], "greedy_match": [], "z": [], "states": []}
    for ids, labels in samples:
        out = model(input_ids=ids, output_hidden_states=True)
        scored = torch.tensor([place for place in range(1, len(labels)) if labels[place] != -100])
        logps = out.logits[0, scored - 1].double().log_softmax(dim=-1)  # (n, V)
        own = logps[range(len(scored)), ids[0, scored]]
        mean = (logps.exp() * logps).sum(dim=-1)
        variance = (logps.exp() * logps**2).sum(dim=-1) - mean**2
        found["logps"].append(own)
        found["greedy_match"].append(logps.argmax(dim=-1) == ids[0, scored])
        found["z"].append((own - mean) / variance.clamp_min(1e-6).sqrt())
        found["states"].append(out.hidden_states[LAYER + 1][0, scored].double())
    whole = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    return {**whole, "features": whole.pop("states").mean(axis=0)}


def plain_gradient_norm(model, samples: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Norm of d avg / d theta over all floating-point weights, by one backward pass through all pieces."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    losses = []
    for ids, labels in samples:
        logits = model(input_ids=ids).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")[labels[1:] != -100])
    gradients = torch.autograd.grad(torch.cat(losses).mean(), weights, allow_unused=True)
    for weight, required in zip(weights, before, strict=True):
        weight.requires_grad_(required)
    return float(sum(gradient.double().square().sum() for gradient in gradients if gradient is not None).sqrt())


@torch.no_grad()
def plain_tokens(model, ids: list[int], count: int, ends: tuple[int, ...] = ()) -> list[int]:
    """What the model writes after a prompt, one most likely token after the other, up to an end token."""
    written: list[int] = []
    while len(written) < count:
        logits = model(input_ids=torch.tensor([[*ids, *written]]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        if token in ends:
            break
        written.append(token)
    return written


def numbers_by_name(scores) -> dict[str, np.ndarray]:
    """All numbers of score_sets, by a name that says whose they are."""
    found: dict[str, np.ndarray] = {}
    for name, row_set in scores.items():
        for sample, row in row_set.samples.items():
            texts = {"paraphrase": row.paraphrase} if row.paraphrase else {}
            texts |= {f"answer {place}": text for place, text in enumerate(row.answers)}
            texts |= {f"perturbed {place}": text for place, text in enumerate(row.perturbed)}
            for kind, text in texts.items():
                parts = {"logps": text.token_logps, "greedy_match": text.greedy_match, "z": text.token_z}
                found |= {f"{name} {sample} {kind} {part}": v for part, v in parts.items() if v is not None}
            if row.gradient_norm is not None:
                found[f"{name} {sample} gradient norm"] = np.array(row.gradient_norm)
        if row_set.features is not None:
            found[f"{name} features"] = row_set.features
    return found


def generations_by_name(scores) -> dict[str, str | None]:
    """All generations of score_sets."""
    return {f"{name} {sample}": row.generation for name, s in scores.items() for sample, row in s.samples.items()}


def assert_same_numbers(found, expected, tolerance: float = 1e-5) -> None:
    """Both have the same numbers under the same names."""
    first, second = numbers_by_name(found), numbers_by_name(expected)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert generations_by_name(found) == generations_by_name(expected)
