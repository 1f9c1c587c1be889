"""Which estimate of expected outputs is the best: `python -m benchmarks.estimators --work_dir study_work --seeds 0 1`.

An expected output is what a model that never saw the forget rows would say at their answer tokens. Each estimate is
judged without any unlearning: it predicts what the model before unlearning says of the proxies of one author from those
of the others, and it is asked how likely it finds the forget rows' tokens beside the proxies'. If much likelier, the
estimate has seen the rows through the states of a model that knows them. Then, once, it is compared with the retrained
model. Reads the models that `python -m benchmarks.study` or `python -m benchmarks.pretrained` leaves.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import markdown, tables
from benchmarks.pretrained.plan import Pretrained, Size
from benchmarks.pretrained.work import BEFORE, RETRAINED, Place
from benchmarks.study.world import ROWS_AN_AUTHOR, Rows, rows_of, tokenized
from benchmarks.tables import Line, read_table
from benchmarks.tofu import add_data_dir
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.components.output_estimates import BigramOutputs, NearestOutputs, match_quantiles
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import Row
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.modeling.forward import AnswerReader, answer_positions
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.top_k_logps import TopKLogProbs
from egup_trainer.records.facts import run_facts

TABLE = tables.RESULTS / "estimators.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
TOP_K = 256
LAYERS = (0.25, 0.5, 0.75, -1.0)
NUM_QUESTIONS = 4
"""Questions of proxies under which the model reads the same answers."""


@dataclass(frozen=True)
class Outputs:
    """What a model says at N answer tokens.

    Args:
        logps: shape (N, V).
        states: hidden states by layer, shape (N, d) each.
        ids, rows: the tokens, and the row of each, shape (N,).
        under_others: logps under the questions of other rows; empty where they were not read.
    """

    logps: Tensor
    states: dict[float, Tensor]
    ids: Tensor
    rows: Tensor
    under_others: Tensor

    def at(self, chosen: Tensor) -> "Outputs":
        """A part of the positions."""
        states = {layer: each[chosen] for layer, each in self.states.items()}
        others = self.under_others[chosen] if len(self.under_others) else self.under_others
        return Outputs(self.logps[chosen], states, self.ids[chosen], self.rows[chosen], others)

    @property
    def of_answers(self) -> Tensor:
        """Log-probabilities of the answer tokens, (N,)."""
        return self.logps.gather(1, self.ids[:, None]).squeeze(1)


@dataclass(frozen=True)
class Known:
    """What an estimate may read: the proxies, answers that are not to be forgotten, and what the base model says.

    Args:
        proxies: outputs of the model before unlearning for proxies.
        answers: tokens of retain rows and proxies.
        base: outputs of the base model at the positions that are asked for.
    """

    proxies: Outputs
    answers: list[Tensor]
    base: Tensor


Estimate = Callable[[Known, Outputs], Tensor]
"""Log-probabilities (N, V) at the positions of rows, of which the model before unlearning shows the states."""


def _mean(known: Known, asked: Outputs) -> Tensor:
    return known.proxies.logps.exp().mean(dim=0).log().expand(len(asked.ids), -1)


def _nearest(layer: float, **options: Any) -> Estimate:
    def estimate(known: Known, asked: Outputs) -> Tensor:
        outputs = TopKLogProbs.of(known.proxies.logps, TOP_K)
        return NearestOutputs(known.proxies.states[layer], outputs, asked.logps.shape[1], **options).logps(
            asked.states[layer]
        )

    return estimate


def _swapped(known: Known, asked: Outputs) -> Tensor:
    """The form that was probed first: four neighbours, the entries of their answer tokens and ours swapped."""
    from torch.nn.functional import normalize

    states, queries = known.proxies.states[0.5], asked.states[0.5]
    center = states.mean(dim=0)
    nearest = (normalize(queries - center, dim=-1) @ normalize(states - center, dim=-1).T).topk(4, dim=1).indices
    total = torch.zeros_like(asked.logps)
    shares = torch.zeros(len(asked.ids))
    at = torch.arange(len(asked.ids))
    for column in nearest.T:
        logps, theirs = known.proxies.logps[column].clone(), known.proxies.ids[column]
        ours = logps[at, asked.ids].clone()
        logps[at, asked.ids] = logps[at, theirs]
        logps[at, theirs] = ours
        shares += logps[at, asked.ids] / 4
        total += logps.exp() / 4
    return _with_answers(total.clamp_min(1e-30).log(), asked.ids, shares)


def _bigrams(known: Known, asked: Outputs) -> Tensor:
    bigrams = BigramOutputs(known.answers, asked.logps.shape[1])
    before = bigrams.before(asked.ids, asked.rows)
    every = (bigrams.logps(before, torch.full_like(before, token)) for token in range(asked.logps.shape[1]))
    return torch.stack(list(every), dim=1)


def _both(first: Estimate, second: Estimate) -> Estimate:
    return lambda known, asked: ((first(known, asked) + second(known, asked)) / 2).log_softmax(dim=-1)


ESTIMATES: dict[str, Estimate] = {
    "the model itself": lambda known, asked: asked.logps,
    "under other questions": lambda known, asked: asked.under_others,
    "mean over the proxies": _mean,
    "4 nearest, entries swapped": _swapped,
    **{f"64 nearest, layer {layer:g}": _nearest(layer) for layer in LAYERS},
    "4 nearest, layer 0.5": _nearest(0.5, neighbors=4),
    "16 nearest, layer 0.5": _nearest(0.5, neighbors=16, temperature=0.05),
    "bigrams": _bigrams,
    "64 nearest and bigrams": _both(_nearest(0.5), _bigrams),
    "64 nearest and the mean": _both(_nearest(0.5), _mean),
    "base model": lambda known, asked: known.base,
    "base model and bigrams": _both(lambda known, asked: known.base, _bigrams),
}


@torch.no_grad()
def read(model: Any, rows: list[Row], tokenizer: Any, questions: list[Row] | None = None) -> Outputs:
    """What a model says at the answer tokens of rows, under other rows' questions, too, if some are given."""
    whole = _read(model, tokenize(rows, tokenizer, name="rows"), tokenizer, LAYERS)
    if questions is None:
        return whole
    asked = [[replace(row, prompt=other.prompt) for row in rows] for other in questions[:NUM_QUESTIONS]]
    found = [_read(model, tokenize(each, tokenizer, name="rows"), tokenizer, ()).logps.exp() for each in asked]
    return replace(whole, under_others=torch.stack(found).mean(dim=0).log())


def _read(model: Any, data: RowDataset, tokenizer: Any, layers: tuple[float, ...]) -> Outputs:
    parts: list[list[Any]] = []
    readers = {layer: AnswerReader(model, layer) for layer in layers or (0.5,)}
    for start in range(0, len(data), 10):
        batch = RowCollator(tokenizer).pad(data.rows[start : start + 10])
        found = {
            layer: reader(model, **batch, with_features=False, keep_logits=True, with_states=True)
            for layer, reader in readers.items()
        }
        first = next(iter(found.values()))
        states = [found[layer].states for layer in layers]
        parts.append([first.logits.log_softmax(-1), first.token_ids, first.token_rows + start, *states])
    logps, ids, rows, *states = (torch.cat(each) for each in zip(*parts, strict=True))
    return Outputs(logps, dict(zip(layers, states, strict=True)), ids, rows, torch.zeros(0))


def scores(q: Tensor, p: Tensor, ids: Tensor) -> dict[str, float]:
    """How well q predicts p, both (N, V): divergence, error and correlation at the answer tokens, greedy agreement."""
    ours, theirs = (each.gather(1, ids[:, None]).squeeze(1) for each in (q, p))
    return {
        "divergence": (p.exp() * (p - q)).sum(dim=1).mean().item(),
        "error": (ours - theirs).abs().mean().item(),
        "correlation": torch.corrcoef(torch.stack([ours, theirs]))[0, 1].item(),
        "agreement": (q.argmax(dim=1) == p.argmax(dim=1)).float().mean().item(),
        "nll": -ours.mean().item(),
    }


def judge(estimate: Estimate, proxies: Outputs, forget: Outputs, retrained: Tensor, world: dict[str, Any]) -> dict:
    """The scores on proxies of authors left out, and against the retrained model; and the likelihoods' shift."""
    authors, halves = proxies.rows // ROWS_AN_AUTHOR, []
    for author in authors.unique():
        seen, left_out = proxies.at(authors != author), proxies.at(authors == author)
        answers = [*world["retain"], *_answers_of(seen)]
        known = Known(seen, answers, world["base proxies"][authors == author])
        halves.append(scores(estimate(known, left_out), left_out.logps, left_out.ids))
    crossed = {name: sum(each[name] for each in halves) / len(halves) for name in halves[0]}
    q = estimate(Known(proxies, [*world["retain"], *_answers_of(proxies)], world["base forget"]), forget)
    matched = _with_answers(q, forget.ids, match_quantiles(q.gather(1, forget.ids[:, None])[:, 0], proxies.of_answers))
    final = scores(q, retrained, forget.ids)
    return {
        "proxies": crossed,
        "shift": crossed["nll"] - final["nll"],
        "retrained": final,
        "retrained, quantiles matched": scores(matched, retrained, forget.ids),
    }


def _answers_of(outputs: Outputs) -> list[Tensor]:
    return [outputs.ids[outputs.rows == row] for row in outputs.rows.unique()]


def _with_answers(q: Tensor, ids: Tensor, answer_logps: Tensor) -> Tensor:
    others = q.scatter(1, ids[:, None], -torch.inf).log_softmax(dim=-1)
    left = torch.log1p(-answer_logps.exp().clamp_max(1 - 1e-6))
    return (others + left[:, None]).clamp_min(-70).scatter(1, ids[:, None], answer_logps[:, None])


def measure(name: str, rows: Rows, folders: dict[str, Path]) -> None:
    """Judges all estimates on one set of models, `before`, `retrained` and `base`."""
    tokenizer = load_tokenizer(str(folders["before"]))
    models = {each: load_model(str(folder)).eval() for each, folder in folders.items()}
    proxies, forget = (read(models["before"], each, tokenizer, rows.proxy[::-1]) for each in (rows.proxy, rows.forget))
    data = tokenized(rows, tokenizer)
    world = {
        "retain": [answer_positions(torch.as_tensor(row.labels)[None])[2] for row in data["retain"].rows],
        "base proxies": _read(models["base"], data["proxy"], tokenizer, ()).logps,
        "base forget": _read(models["base"], data["forget"], tokenizer, ()).logps,
    }
    retrained = _read(models["retrained"], data["forget"], tokenizer, ()).logps
    found = {each: judge(estimate, proxies, forget, retrained, world) for each, estimate in ESTIMATES.items()}
    Line(TABLE, name).write({"estimates": found, "run": run_facts()})


def write_report() -> None:
    """Writes the tables of docs/methods.md, one for each kind of model: means over its seeds."""
    lines = read_table(TABLE)
    kinds = dict.fromkeys(name.rsplit("_", 1)[0] for name in lines)
    text = PAGE.read_text(encoding="utf-8")
    for kind in kinds:
        of_kind = [line["estimates"] for name, line in lines.items() if name.rsplit("_", 1)[0] == kind]
        cells = []
        for estimate in ESTIMATES:
            each = [found[estimate] for found in of_kind if estimate in found]
            mean = {
                (part, key): sum(one[part][key] for one in each) / len(each)
                for part in ("proxies", "retrained", "retrained, quantiles matched")
                for key in ("divergence", "error", "correlation", "agreement")
            }
            shift = sum(one["shift"] for one in each) / len(each)
            cells.append(
                [
                    estimate,
                    *(f"{mean['proxies', key]:.2f}" for key in ("divergence", "error", "correlation", "agreement")),
                    f"{shift:+.2f}",
                    *(f"{mean['retrained', key]:.2f}" for key in ("divergence", "correlation")),
                    *(f"{mean['retrained, quantiles matched', key]:.2f}" for key in ("divergence", "error")),
                ]
            )
        heads = ["estimate", "KL", "error", "corr.", "greedy", "shift", "KL", "corr.", "KL matched", "error matched"]
        text = markdown.put(text, f"estimators {kind}", markdown.table(heads, cells))
    PAGE.write_text(text, encoding="utf-8")


def _study(options: argparse.Namespace, seed: int) -> tuple[str, Rows, dict[str, Path]]:
    folders = {each: options.work_dir / f"{each}_seed{seed}" for each in ("before", "retrained")}
    return f"study_seed{seed}", rows_of(seed, options.data_dir), {**folders, "base": options.work_dir / "base"}


def _pretrained(options: argparse.Namespace, seed: int) -> tuple[str, Rows, dict[str, Path]]:
    place = Place(options.model, Size.SMALL, seed, options.data_dir, options.work_dir)
    folders = {"before": place.model(BEFORE), "retrained": place.model(RETRAINED), "base": place.start}
    return f"{options.model.value}_seed{seed}", place.rows, folders


def main() -> None:
    """Judges the estimates on the models that are there, and writes the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("study_work"), help="Where the models are.")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1), help="Of the models.")
    parser.add_argument("--model", type=Pretrained, choices=list(Pretrained), help="A real model; the study's if none.")
    options = parser.parse_args()
    quiet_libraries()
    for seed in options.seeds:
        name, rows, folders = _study(options, seed) if options.model is None else _pretrained(options, seed)
        measure(name, rows, folders)
    write_report()


if __name__ == "__main__":
    main()
