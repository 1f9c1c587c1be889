"""A small model that has learned to write rows in context, made in memory within seconds, and rows of its kind."""

from functools import cache

import numpy as np
import torch

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import Row, TokenizedRow
from egup_trainer.data.sources import load_rows
from egup_trainer.demo.people import invent_people
from egup_trainer.demo.twins import ModelSize, make_model, train_tokenizer
from egup_trainer.proxies.filters import question_of
from egup_trainer.proxies.prompt import examples_of, prompt_tokens, sample_examples
from egup_trainer.proxies.settings import ProxySettings

SETTINGS = ProxySettings(num_rows=8, num_examples=1, max_attempts=200, seed=3)


def people_rows(seed: int = 1) -> tuple[list[Row], list[Row]]:
    """Forget and retain rows about invented people."""
    people = invent_people(num_forget=3, num_retain=3, num_proxy=1, num_holdout=1, seed=seed)
    return load_rows(people.forget), load_rows(people.retain)


@cache
def writing_model():
    """A model that goes on after a prompt with a row about somebody new, and its tokenizer. Not to be changed."""
    people = invent_people(num_forget=400, num_retain=1, num_proxy=1, num_holdout=1, seed=2)
    rows = load_rows(people.forget)
    texts = [text for row in rows for text in (question_of(row), row.answer)]
    tokenizer = train_tokenizer(texts, 700)
    model = make_model(tokenizer, ModelSize(hidden=64, layers=2, heads=4), seed=0)
    samples, examples = [], examples_of(rows)
    for number, row in enumerate(rows):
        prompt = prompt_tokens(sample_examples(examples, 1, 0, number), Renderer(tokenizer))
        text = f" {question_of(row)}\nAnswer: {row.answer}"
        ids = np.append(prompt, [*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        samples.append(TokenizedRow(ids, ids))
    collator, generator = RowCollator(tokenizer), np.random.default_rng(0)
    steps = 120
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        batch = collator.pad([samples[place] for place in generator.choice(len(samples), 16)])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval(), tokenizer
