"""Tasks for lm-evaluation-harness made on the spot, and what a model says of them by its own log-probabilities."""

import json
from importlib.util import find_spec

import pytest
import torch
from conftest import NAMES

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")

CHOICES = ["Aren", "Bryle number 3 with cats", "Corvo, then Denna"]
QUESTIONS = [f"Where does {name} live?" for name in NAMES[:6]]

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/{name}.jsonl}}
  cache_dir: {folder}/cache
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
{more}
"""


def write_task(folder, golds, name="towns", more=""):
    """A multiple-choice task in `folder`: its YAML and its rows, whose right answers are `golds`."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"question": question, "choices": CHOICES, "gold": gold}
        for question, gold in zip(QUESTIONS, golds, strict=True)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, folder=folder, more=more), encoding="utf-8")


def choice_log_probabilities(model, tokenizer):
    """log p(choice | question) of each question and choice, summed over the choice's tokens, shape (6, 3)."""
    found = torch.zeros(len(QUESTIONS), len(CHOICES))
    for row, question in enumerate(QUESTIONS):
        start = len(tokenizer(question).input_ids)
        for column, choice in enumerate(CHOICES):
            ids = torch.tensor([tokenizer(f"{question} {choice}").input_ids])
            with torch.no_grad():
                log_probabilities = model.eval()(ids).logits[0, :-1].log_softmax(-1)
            found[row, column] = log_probabilities.gather(1, ids[0, 1:, None])[start - 1 :].sum()
    return found
