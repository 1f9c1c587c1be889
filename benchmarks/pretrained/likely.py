"""How much of the divergence on retain rows the most likely tokens see: `python -m benchmarks.pretrained.likely`.

Needs the models that `python -m benchmarks.pretrained --model gemma` leaves: the one before unlearning, and one that
has unlearned. For each k: the divergence of the k + 1 classes over the exact one, and how far its gradient lies from
the exact gradient, as a share of it, both over all answer tokens of the retain rows.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from benchmarks import markdown
from benchmarks.pretrained.plan import PLANS, RESULTS, Pretrained, Size
from benchmarks.pretrained.work import Place
from benchmarks.speed.report import PAGE
from benchmarks.study.world import tokenized
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.data.collator import RowCollator
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.top_k_logps import TopKLogProbs, coarse_logps
from egup_trainer.records.facts import run_facts

TOP_K = (1, 4, 16, 64, 256)
BATCH = 8


def errors(before: Tensor, now: Tensor) -> dict[int, dict[str, float]]:
    """Sums over tokens, for each k, from two models' logits (N, V): divergences, and squared lengths of gradients."""
    exact, gradient = _divergence(before.log_softmax(-1), now, lambda logits: logits.log_softmax(-1))
    found = {}
    for k in TOP_K:
        likely = TopKLogProbs.of(before, k)
        seen, coarse = _divergence(likely.logps, now, lambda logits, ids=likely.ids: coarse_logps(logits, ids))
        found[k] = {
            "exact": exact,
            "seen": seen,
            "gradient": gradient.square().sum().item(),
            "missed": (gradient - coarse).square().sum().item(),
        }
    return found


def _divergence(before: Tensor, now: Tensor, logps_of: Any) -> tuple[float, Tensor]:
    logits = now.clone().requires_grad_()
    value = kl_div(logps_of(logits), before, reduction="sum", log_target=True)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient


def main() -> None:
    """Measures, writes the results and the table of docs/scaling.md, and prints it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained.likely", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work/pretrained"), help="Where the models are.")
    parser.add_argument("--method", default="npo+egup+clreg", help="Which one has unlearned.")
    options = parser.parse_args()
    quiet_libraries()
    which = (Pretrained.GEMMA, Size.SMALL)
    place = Place(*which, PLANS[which].seeds[0], options.data_dir, options.work_dir)
    tokenizer = load_tokenizer(str(place.start))
    rows = tokenized(place.rows, tokenizer)["retain"].rows
    models = [load_model(str(place.model(name))).eval() for name in ("before", options.method)]
    sums: dict[int, dict[str, float]] = {k: dict.fromkeys(("exact", "seen", "gradient", "missed"), 0.0) for k in TOP_K}
    for start in range(0, len(rows), BATCH):
        batch = RowCollator(tokenizer).pad(rows[start : start + BATCH])
        with torch.no_grad():
            read = [AnswerReader(model)(model, **batch, with_features=False, keep_logits=True) for model in models]
        for k, values in errors(*(each.logits for each in read)).items():
            sums[k] = {name: sums[k][name] + value for name, value in values.items()}
    found = {
        k: {"divergence": each["seen"] / each["exact"], "gradient_error": (each["missed"] / each["gradient"]) ** 0.5}
        for k, each in sums.items()
    }
    Line(RESULTS / "likely_tokens.jsonl", options.method).write({"rows": len(rows), "by_k": found, "run": run_facts()})
    cells = ([str(k), f"{each['divergence']:.4f}", f"{each['gradient_error']:.4f}"] for k, each in found.items())
    table = markdown.table(["k", "divergence seen / exact", "error of its gradient"], cells)
    PAGE.write_text(markdown.put(PAGE.read_text(encoding="utf-8"), "likely tokens", table), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
