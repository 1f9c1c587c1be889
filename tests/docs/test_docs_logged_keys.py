"""The table of logged keys in docs/reference.md names exactly the keys that runs log."""

import re

from conftest import qa_rows
from fixtures_docs import ROOT

OF_TRAINER = {
    "epoch",
    "grad_norm",
    "learning_rate",
    "step",
    "total_flos",
    "train_loss",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
}


def logged(trainer) -> set[str]:
    trainer.train()
    return {key for entry in trainer.state.log_history for key in entry}


def documented() -> set[str]:
    page = (ROOT / "docs/reference.md").read_text(encoding="utf-8").split("\n## Logged keys\n")[1]
    rows = re.findall(r"^\| (`.*?) \|", page.split("### What to watch")[0], re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_the_page_names_what_runs_log(make_trainer):
    preferences = [{**row, "alternate_answer": "Nobody knows."} for row in qa_rows(0, 4)]
    runs = [
        {"clreg_weight": 0.1, "proxy_form": "penalty", "proxy_dual_rate": 0.1, "stop_at_boundary": True},
        {"objective": "altpo", "forget": preferences},
        {"objective": "pdu"},
    ]
    found = set().union(*(logged(make_trainer(**options)) for options in runs))
    assert found >= OF_TRAINER
    assert found - OF_TRAINER == documented()
