"""A process of test_evaluation_processes.py: scores its share of the texts and writes what it ended with."""

from pathlib import Path

import conftest
import torch
from accelerate import Accelerator
from fixtures_evaluation import invented_sets, lively_model

from egup_trainer.cli.main import main as egup
from egup_trainer.evaluation.rows import texts_of
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.batches import iter_indices

RUNS = ((1, True), (3, False), (16, True))
"""Batch size, and whether with gradient norms (and the model wrapped for training)."""


def batches(tokenizer, batch_size: int, accelerator: Accelerator) -> list[tuple[list[int], bool]]:
    """This process's share of all texts, and which of its batches count."""
    lengths = [len(row) for row in texts_of(invented_sets(), tokenizer, False).dataset.rows]
    return [(places.tolist(), counts) for places, counts in iter_indices(lengths, batch_size, accelerator, None)]


def record(folder: Path, accelerator: Accelerator, name: str, found: object) -> None:
    torch.save(found, folder / f"{name}{accelerator.process_index}.pt")


def main(folder: Path) -> None:
    """Each record is written as soon as it is there, so that what fails later leaves those before it."""
    tokenizer, accelerator = conftest.make_tokenizer(), Accelerator(cpu=True)
    model = lively_model(tokenizer)
    wrapped = accelerator.prepare(lively_model(tokenizer))
    facts = {
        "world_size": accelerator.num_processes,
        "wrapped": type(wrapped).__name__,
        "batches": {size: batches(tokenizer, size, accelerator) for size, _ in RUNS},
    }
    record(folder, accelerator, "facts", facts)
    for batch_size, norms in RUNS:
        options = ScoringOptions(batch_size=batch_size, with_gradient_norms=norms, progress=False)
        scores = score_sets(wrapped if norms else model, tokenizer, invented_sets(), options, accelerator)
        record(folder, accelerator, f"scores-{batch_size}-", scores)
    forget, holdout, retain = invented_sets()
    suite = custom_suite(forget.rows, retain.rows, holdout.rows, max_new_tokens=4)
    evaluation = evaluate_model(wrapped, tokenizer, suite, accelerator=accelerator, model_before=model)
    record(folder, accelerator, "evaluation", evaluation)
    words = ["--model_name_or_path", str(folder / "model"), "--suite", "custom", "--forget", str(folder / "rows.jsonl")]
    words += ["--output", str(folder / "results.json"), "--max_new_tokens", "4", "--use_cpu"]
    record(folder, accelerator, "command", egup(["evaluate", *words]))
    few = [type(forget)("forget", forget.rows[:2], with_features=True)]  # one batch: a process has none of its own
    record(folder, accelerator, "few", score_sets(model, tokenizer, few, ScoringOptions(progress=False), accelerator))


def main_fsdp2(folder: Path) -> None:
    """The same with weights that FSDP2 has spread over the processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    tokenizer, accelerator = conftest.make_tokenizer(), Accelerator(cpu=True)
    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    model = lively_model(tokenizer)
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh)
    held = sum(weight.to_local().numel() for weight in model.parameters())
    record(folder, accelerator, "held", held / sum(weight.numel() for weight in model.parameters()))
    forget, holdout, retain = invented_sets()
    suite = custom_suite(forget.rows, retain.rows, holdout.rows, max_new_tokens=4)
    record(folder, accelerator, "evaluation", evaluate_model(model, tokenizer, suite, accelerator=accelerator))
    scores = score_sets(model, tokenizer, invented_sets(), ScoringOptions(progress=False), accelerator)
    record(folder, accelerator, "scores", scores)
