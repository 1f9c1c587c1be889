"""What evaluating costs over the bare work: `python -m benchmarks.evaluation_speed`.

The TOFU forget10 suite (6,468 texts, 1,017 generations of 200 tokens) on a random Llama, against its floor:
one plain forward pass with loss over the same texts, sorted by length, and the same generations. Both run in one
process, in turn, in the order floor, suite, suite, floor; the ratio is that of the sums. What should hold: at most 1.3.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.tables import RESULTS, Line
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.sources import load_rows
from egup_trainer.demo.twins import ModelSize, make_model, train_tokenizer
from egup_trainer.evaluation.rows import TextKind, texts_of
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.suite import Suite
from egup_trainer.evaluation.suites.tofu import tofu_suite
from egup_trainer.modeling.batches import iter_batches
from egup_trainer.modeling.generation import generate
from egup_trainer.records.facts import run_facts

VOCABULARY = 32_000


def floor_of(model: Any, tokenizer: Any, suite: Suite, batch_size: int) -> dict[str, float]:
    """Seconds of one plain forward pass over all texts, and of all generations."""
    found = texts_of(suite.row_sets, tokenizer, progress=False)
    texts, dataset = found.texts, found.dataset
    prompts = {row_set.name: [] for row_set in suite.row_sets}
    for text in texts:
        if text.kind is TextKind.ANSWER:
            row = dataset.rows[text.pieces[0]]
            prompts[text.row_set].append(row.input_ids[: int(row.is_scored.argmax())])

    def forward() -> None:
        ids = torch.arange(len(dataset))
        with torch.no_grad():
            for _, batch in iter_batches(model, dataset, ids, RowCollator(tokenizer), batch_size=batch_size):
                _ = float(model(**batch).loss)

    def write() -> None:
        for row_set in suite.row_sets:
            new_tokens = row_set.generation.max_new_tokens
            generate(model, tokenizer, prompts[row_set.name], max_new_tokens=new_tokens, batch_size=batch_size)

    return {"forward": seconds(forward), "generations": seconds(write)}


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Runs both twice and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--hidden", type=int, default=256, help="Hidden size of the Llama.")
    parser.add_argument("--layers", type=int, default=4, help="Layers of the Llama.")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--name", default="evaluation_speed", help="Name of the line in the table of results.")
    options = parser.parse_args()
    quiet_libraries()
    suite = tofu_suite("forget10", options.data_dir)
    texts = (text for row in load_rows("tofu:full", options.data_dir) for text in (row.prompt[0].content, row.answer))
    tokenizer = train_tokenizer(texts, 8000)
    size = ModelSize(options.hidden, options.layers, options.hidden // 64, VOCABULARY)
    model = make_model(tokenizer, size, seed=0)
    model.resize_token_embeddings(VOCABULARY)
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    floors, suites = [], []
    for measured in ("floor", "suite", "suite", "floor"):
        if measured == "floor":
            floors.append(floor_of(model, tokenizer, suite, options.batch_size))
            print("floor", floors[-1])
        else:
            scoring = ScoringOptions(batch_size=options.batch_size, progress=False)
            suites.append(seconds(lambda scoring=scoring: evaluate_model(model, tokenizer, suite, scoring)))
            print("suite", suites[-1])
    ratio = sum(suites) / sum(part for floor in floors for part in floor.values())
    facts = run_facts(command="python -m benchmarks.evaluation_speed", settings={**vars(options), "data_dir": "tofu"})
    document = {"ratio": ratio, "floor_seconds": floors, "suite_seconds": suites, "run": facts}
    line = Line(RESULTS / "evaluation_speed.jsonl", options.name)
    line.write(document)
    print(f"ratio {ratio:.3f}, written to {line.table}")


if __name__ == "__main__":
    main()
