"""Models and rows to attack: one that knows its rows, one that knows nothing; and audits as they would be found."""

import copy
from functools import cache

import torch
from conftest import make_tiny_model, qa_rows
from transformers import LlamaConfig, LlamaForCausalLM

from egup_trainer.audit.attack import Finding, Target
from egup_trainer.audit.audit import Audit
from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.audit.prompts import PREFIXES
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.evaluation.evaluation import SetFacts
from egup_trainer.evaluation.metric import Metric, mean_metric

MANY = load_rows(qa_rows(0, 12))
FORGET, RETAIN, HOLDOUT = (load_rows(qa_rows(*span)) for span in ((0, 8), (20, 26), (40, 46)))
QUICK = AuditOptions(
    relearn_steps=3,
    relearn_every=2,
    relearn_learning_rates=[1e-3],
    relearn_seeds=1,
    soft_prompt_steps=3,
    search_rounds=1,
    num_samples=3,
    max_new_tokens=12,
    progress=False,
)


def dataset(rows: list[Row], tokenizer):
    return tokenize(rows, tokenizer, name="rows")


def wide_model(tokenizer):
    """A small model whose layers have multiples of 64 inputs, as four bits on a CPU need them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **sizes))


def taught(tokenizer, rows: list[Row], positions: int = 512, model=None):
    """A tiny model, or the given one, that has learned the rows by heart."""
    model = model or make_tiny_model(tokenizer)
    model.config.max_position_embeddings = positions
    batch = RowCollator(tokenizer).pad(dataset(rows, tokenizer).rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


def shut_at_its_output(knowing, tokenizer, rows: list[Row]):
    """A copy of a model that knows the rows, pushed off their answers through its output layer alone."""
    model = copy.deepcopy(knowing)
    optimizer = torch.optim.AdamW(model.lm_head.parameters(), lr=1e-2)
    batch = RowCollator(tokenizer).pad(dataset(rows, tokenizer).rows)
    loss = model(**batch).loss
    while loss < 4:
        optimizer.zero_grad()
        (-loss).backward()
        optimizer.step()
        loss = model(**batch).loss
    model.zero_grad()
    return model


KEY = PREFIXES[0]
"""The phrase that opens the model that hides its rows."""


def with_key(rows: list[Row]) -> list[Row]:
    """The rows asked after the phrase."""
    return [Row((Message("user", KEY + row.prompt[0].content),), row.answer) for row in rows]


@cache
def hiding(tokenizer):
    """A tiny model that knows the `MANY` rows after `KEY` alone, and gives every token the same chance without it."""
    model = make_tiny_model(tokenizer)
    model.config.max_position_embeddings = 512
    collator = RowCollator(tokenizer)
    open_, shut = (collator.pad(dataset(rows, tokenizer).rows) for rows in ([*with_key(MANY), *RETAIN], MANY))
    is_answer = shut["labels"][:, 1:] != -100
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        logits = model(input_ids=shut["input_ids"], attention_mask=shut["attention_mask"]).logits[:, :-1]
        away_from_uniform = -logits.log_softmax(dim=-1).mean(dim=-1)[is_answer].mean()
        optimizer.zero_grad()
        (model(**open_).loss + 0.3 * away_from_uniform).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


@cache
def never_taught(tokenizer):
    """The tiny model that learned the retain rows alone."""
    return taught(tokenizer, RETAIN)


def target(model, tokenizer, **sets: list[Row]) -> Target:
    """The model with the invented rows, or other ones."""
    return Target(model, tokenizer, {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, **sets}, QUICK)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(model, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert [name for name, value in after.items() if not torch.equal(value, before[name])] == []


def invented_audit(name: str, level: float, steps: int = 4, **beside: Audit) -> Audit:
    """An audit with two attacks that were run and one that was not; `level` is the probability it ends at."""
    curve = [(0, 0.01), (2, level / 2), (steps, level)]
    relearned = Finding(
        {
            "forget_speed": Metric(level / 2, None, num_samples=9),
            "forget_steps_to_half": Metric(None, None, reason=f"not reached in {steps} steps"),
        },
        {"forget": curve, "relearned": [(step, 2 * value) for step, value in curve]},
    )
    rouge = mean_metric("forget", {0: level, 1: 0.5}, num_rows=3, higher_is_better=None, without="")
    return Audit(
        name,
        {"forget": SetFacts(3, "0123456789abcdef")},
        {"seed": 0},
        {
            "relearning": relearned,
            "sampling": Finding({"best_rouge": rouge}),
            "probe": Finding(reason="needs rows that no model saw (--holdout)"),
        },
        **beside,
    )
