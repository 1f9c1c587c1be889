"""What tells likely tokens of answers from unlikely ones: `python -m benchmarks.answer_order --model smollm2 --seed 0`.

Without a proxy model, a run has to estimate which answer tokens of the forget rows a model that never saw them would
find likely. Each estimate is judged without any unlearning. It reads the proxies of all authors but one, and is
compared with what the model before unlearning says of the proxies of that author. If the seed has a retrained model,
the estimate of the forget rows is also compared with what that model says. Reads the models that
`python -m benchmarks.pretrained` leaves. `--report` writes the table in docs/methods.md.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import markdown, tables
from benchmarks.pretrained.plan import Pretrained, Size
from benchmarks.pretrained.work import BEFORE, RETRAINED, Place
from benchmarks.study.world import ROWS_AN_AUTHOR, tokenized
from benchmarks.tables import Line, read_table
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.components.copying import CopyingBigrams, answer_tokens
from egup_trainer.components.output_estimates import BigramOutputs, EstimatedOutputs, NearestOutputs, match_quantiles
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.scan import RowScores, score_rows
from egup_trainer.records.facts import run_facts

TABLE = tables.RESULTS / "answer_order.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
TOP_K = 256


def estimates(
    proxies: list[TokenizedRow], others: list[TokenizedRow], asked: list[TokenizedRow], model: Any, tokenizer: Any
) -> dict[str, Tensor]:
    """Log-probabilities of the answer tokens of the rows that are asked about, by estimate, (N,) each.

    Args:
        proxies: rows never seen, of which the model's outputs are read.
        others: rows that are kept.
        asked: the rows.
    """
    seen = _scored(model, tokenizer, proxies, top_k=TOP_K, answer_first=True, with_states=True)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    nearest = EstimatedOutputs(NearestOutputs(seen.states, seen.top_k_logps, vocabulary), TOP_K)
    nearby = _scored(model, tokenizer, asked, estimate=nearest).top_k_logps.logps[:, 0]
    known = [*proxies, *others]
    plain = BigramOutputs([answer_tokens(row) for row in known], vocabulary)
    bigrams = plain.of_answers([answer_tokens(row) for row in asked]).float()
    copying = CopyingBigrams(known, vocabulary).logps(asked)
    return {
        "64 nearest": nearby,
        "bigrams": bigrams,
        "bigrams that copy": copying,
        "64 nearest and bigrams": (nearby + bigrams) / 2,
        "64 nearest and bigrams that copy": (nearby + copying) / 2,
    }


def _scored(model: Any, tokenizer: Any, rows: list[TokenizedRow], **options: Any) -> Any:
    reader, data = AnswerReader(model), RowDataset(rows)
    found: RowScores = score_rows(model, reader, data, RowCollator(tokenizer), batch_size=8, **options)
    return found


def correlation(ours: Tensor, theirs: Tensor) -> float:
    """Pearson's, of log-probabilities."""
    return torch.corrcoef(torch.stack([ours, theirs]))[0, 1].item()


def measure(place: Place) -> None:
    """Judges all estimates on one seed's models, and writes what was found."""
    tokenizer = load_tokenizer(str(place.start))
    rows = tokenized(place.rows, tokenizer)
    before, proxies, retain = load_model(str(place.model(BEFORE))).eval(), rows["proxy"].rows, rows["retain"].rows
    crossed: dict[str, list[float]] = {}
    for start in range(0, len(proxies), ROWS_AN_AUTHOR):
        asked, others = proxies[start : start + ROWS_AN_AUTHOR], proxies[:start] + proxies[start + ROWS_AN_AUTHOR :]
        theirs = _answer_logps(before, tokenizer, asked)
        for name, ours in estimates(others, retain, asked, before, tokenizer).items():
            crossed.setdefault(name, []).append(correlation(ours, theirs))
    found: dict[str, Any] = {"proxies": {name: sum(each) / len(each) for name, each in crossed.items()}}
    if place.model(RETRAINED).is_dir():
        seen = _answer_logps(before, tokenizer, proxies)
        theirs = _answer_logps(load_model(str(place.model(RETRAINED))).eval(), tokenizer, rows["forget"].rows)
        matched = {
            name: match_quantiles(each, seen)
            for name, each in estimates(proxies, retain, rows["forget"].rows, before, tokenizer).items()
        }
        found["retrained"] = {name: correlation(each, theirs) for name, each in matched.items()}
        found["error"] = {name: (each - theirs).abs().mean().item() for name, each in matched.items()}
    Line(TABLE, f"{place.which.value}_seed{place.seed}").write({**found, "run": run_facts()})


def _answer_logps(model: Any, tokenizer: Any, rows: list[TokenizedRow]) -> Tensor:
    found: Tensor = _scored(model, tokenizer, rows, top_k=1, answer_first=True).top_k_logps.logps[:, 0]
    return found


def write_report() -> None:
    """Writes the table of docs/methods.md: the seeds beside each other."""
    kinds, headings, columns = ("proxies", "retrained", "error"), ["estimate"], []
    for seed, line in read_table(TABLE).items():
        for kind in filter(line.__contains__, kinds):
            headings.append(f"{seed.replace('_', ', ')}: {kind}")
            columns.append(line[kind])
    rows = [[name, *(f"{column[name]:.2f}" for column in columns)] for name in columns[0]]
    text = markdown.put(PAGE.read_text(encoding="utf-8"), "answer order", markdown.table(headings, rows))
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures a seed, or writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answer_order", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Pretrained, choices=list(Pretrained), default=Pretrained.SMOLLM2)
    parser.add_argument("--seed", type=int, default=0)
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work/pretrained"), help="Where the models are.")
    parser.add_argument("--report", action="store_true", help="Write the table of docs/methods.md, and do no more.")
    options = parser.parse_args()
    quiet_libraries()
    if options.report:
        write_report()
    else:
        measure(Place(options.model, Size.SMALL, options.seed, options.data_dir, options.work_dir))


if __name__ == "__main__":
    main()
