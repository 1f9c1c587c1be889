"""Relearning: how soon a forget answer comes back when the model is fine-tuned on a few other rows.

A model that only hides its forget rows recovers them within a few steps, even rows that it is not shown (Hu et al.
2024, arXiv 2406.13356; Deeb and Roger 2024, arXiv 2410.08827, who hold rows back for the same reason), and even from
rows that were never to be forgotten (Hu et al.: related text; Łucki et al. 2024, arXiv 2409.18025: unrelated text). A
model that never saw them learns the rows it is shown and, of the others, little more than their style.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egup_trainer.audit.attack import Curve, Finding, Target, is_quantized, merged_copy, sample_rows, too_few
from egup_trainer.audit.audit_options import FEWEST_ROWS, AuditOptions
from egup_trainer.audit.runs_of_seeds import mean_curve, metric_over_seeds
from egup_trainer.audit.subjects import related_and_unrelated
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.modeling.batches import device_of
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import add_adapter, keep_gradients_of_4bit_layers
from egup_trainer.modeling.scan import score_rows

HELD_BACK, RELATED, UNRELATED, RELEARNED = "forget", "related", "unrelated", "relearned"
"""What is measured: forget rows that are held back, while other forget rows, retain rows of the same subjects, or those
of other subjects are learned; and the relearned forget rows."""
_TITLES = {
    HELD_BACK: "Relearning forget rows",
    RELATED: "Learning related retain rows",
    UNRELATED: "Learning unrelated retain rows",
}
_RANK = 8  # of the adapter that is trained instead of quantized weights


@dataclass(frozen=True)
class Setting:
    """How many rows are relearned, and how fast.

    Args:
        suffix: what the names of its numbers have after their kind; empty for the first setting.
    """

    size: int
    rate: float
    suffix: str = ""


def settings_for(options: AuditOptions, num_forget: int) -> list[Setting]:
    """All sizes at all learning rates. Numbers of the first setting have no suffix.

    Example:
        >>> [each.suffix for each in settings_for(AuditOptions(relearn_learning_rates=[1e-4, 1e-3]), num_forget=40)]
        ['', '_4_rows_at_0.001']
    """
    pairs = [(size, rate) for size in options.sizes_for(num_forget) for rate in options.rates]
    return [
        Setting(size, rate, f"_{size}_rows_at_{rate:g}" if number else "") for number, (size, rate) in enumerate(pairs)
    ]


def relearning_curve(
    model: nn.Module,
    tokenizer: Any,
    train_rows: RowDataset,
    measured_rows: RowDataset,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    every: int,
    description: str | None = None,
) -> Curve:
    """Fine-tunes a copy of a model on some rows, and measures at intervals how likely others are.

    Each step is one of AdamW (torch's defaults, a constant rate, no clipping) on the mean of l_i over `batch_size`
    rows, without dropout. All weights of the copy are trained, with adapters merged, in float32. If they are quantized,
    the model's adapter is trained instead, or a fresh one (LoRA of rank 8 on all linear layers).

    Args:
        model: the model; it is not changed.
        train_rows: rows to train on; epochs follow each other without a gap, each in an order sampled by the seed.
        steps: optimizer steps.
        learning_rate: of AdamW.
        batch_size: rows per step, at most as many as there are, and per forward pass.
        seed: of the order, and of a fresh adapter.
        every: steps between two points.

    Returns:
        (step, mean over the measured rows of exp(-l_i)) before the first step, after every `every` steps, and after the
        last. A long text counts once for each of its pieces.

    Raises:
        ModelError: weights of four bits have run in evaluation mode on a CPU that repacks them.

    Example:
        >>> # curve = relearning_curve(model, tokenizer, few, others, 20, 1e-4, 4, seed=0, every=2)
    """
    options = AuditOptions(
        seed=seed, relearn_steps=steps, relearn_batch_size=batch_size, relearn_every=every, batch_size=batch_size
    )
    return _curves(model, tokenizer, train_rows, {"": measured_rows}, learning_rate, options, description)[""]


def relearning_speed(curve: Curve) -> float:
    """Area under the curve over its length: sum_k (s_{k+1} - s_k) (p_k + p_{k+1}) / 2 / (s_K - s_0).

    The mean probability while the model learns: p where it stays at p, 1/2 where it climbs from 0 to 1 in a line.

    Args:
        curve: (s_k, p_k), at least two points.

    Example:
        >>> relearning_speed([(0, 0.0), (2, 0.5), (3, 0.5)])
        0.3333333333333333
    """
    area = sum((end - start) * (p + q) / 2 for (start, p), (end, q) in pairwise(curve))
    return area / (curve[-1][0] - curve[0][0])


def steps_to_reach(curve: Curve, probability: float) -> int | None:
    """The first measured step at which the probability is at least the given one; None if it never is.

    Example:
        >>> steps_to_reach([(0, 0.1), (2, 0.4), (4, 0.6)], 0.5)
        4
    """
    return next((step for step, value in curve if value >= probability), None)


def relearning(target: Target) -> Finding:
    """Learns a few forget rows again, or retain rows alone, and measures the forget rows that were held back.

    At each seed, size and learning rate, three copies learn as many rows: forget rows, retain rows of the same
    subjects, and retain rows of other subjects. The rows that are held back are the same for all sizes.
    """
    options, num_rows = target.options, len(target.forget)
    if options.relearn_sizes is None and num_rows <= FEWEST_ROWS:
        return Finding(reason=too_few(num_rows))
    settings = settings_for(options, num_rows)
    largest = max(each.size for each in settings)
    pools = dict(
        zip((RELATED, UNRELATED), related_and_unrelated(target.forget, target.sets["retain"], largest), strict=True)
    )
    runs: dict[str, list[Curve]] = {}
    for seed in range(options.seed, options.seed + options.relearn_seeds):
        for name, curve in _runs(target, settings, pools, seed).items():
            runs.setdefault(name, []).append(curve)
    means = {name: mean_curve(curves) for name, curves in runs.items()}
    curves = {name: curve for name, (curve, _) in means.items()}
    before = target.before.get("relearning", Finding()).curves
    metrics: dict[str, Metric] = {}
    for setting in settings:
        for kind in (HELD_BACK, RELATED, UNRELATED, RELEARNED):
            name = f"{kind}{setting.suffix}"
            measured = setting.size if kind == RELEARNED else num_rows - largest
            metrics |= _numbers(name, runs.get(name, []), options.seed, measured, end_alone=bool(setting.suffix))
            if kind != RELEARNED and name in curves:
                whole = before[name][0][1] if name in before else curves[f"{RELEARNED}{setting.suffix}"][-1][1]
                metrics[f"{name}_steps_to_half"] = steps_to_half(runs[name], whole, options.seed, measured)
    return Finding(metrics, curves, {name: band for name, (_, band) in means.items() if band})


def steps_to_half(runs: Sequence[Curve], whole: float, first_seed: int = 0, num_rows: int = 0) -> Metric:
    """Steps after which held-back rows are half as likely as they were, or as rows are that were shown: the mean over
    seeds. If a seed does not get there, its number is not known, and neither is the mean.

    Args:
        runs: a curve of the held-back rows for each seed.
        whole: their probability in the initial model; without one, that which the relearned rows reach.

    Example:
        >>> steps_to_half([[(0, 0.1), (2, 0.4), (4, 0.6)], [(0, 0.1), (2, 0.3), (4, 0.4)]], whole=0.8).value
        3.0
    """
    reached = {seed: steps_to_reach(curve, whole / 2) for seed, curve in enumerate(runs, start=first_seed)}
    steps = {seed: float(step) for seed, step in reached.items() if step is not None}
    last, missing = runs[0][-1][0], len(runs) - len(steps)
    if not missing:
        return metric_over_seeds([*steps.values()], first_seed, num_rows, most=last)
    if not steps:
        return unavailable(f"not reached in {last} steps", num_skipped=num_rows)
    reason = f"not reached in {last} steps by {missing} of {len(runs)} seeds"
    return unavailable(reason, num_skipped=num_rows, seeds=steps)


def _runs(target: Target, settings: list[Setting], pools: dict[str, list[int]], seed: int) -> dict[str, Curve]:
    """The curves of one seed, by name; `pools` are the retain rows of each kind."""
    options, rows, retain = replace(target.options, seed=seed), target.forget, target.sets["retain"]
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    held_back = sorted(order[max(each.size for each in settings) :])
    others = target.tokenized([rows[i] for i in held_back], "forget set", held_back)
    found: dict[str, Curve] = {}
    for setting in settings:
        shown = sorted(order[: setting.size])
        few = target.tokenized([rows[i] for i in shown], "forget set", shown)
        learned: dict[str, RowDataset] = {HELD_BACK: few}
        for kind, pool in pools.items():
            chosen = [pool[i] for i in sample_rows(setting.size, len(pool), seed)]
            if chosen:
                learned[kind] = target.tokenized([retain[i] for i in chosen], "retain set", chosen)
        for kind, train_rows in learned.items():
            measured = {kind: others, RELEARNED: few} if kind == HELD_BACK else {kind: others}
            title = options.title(_TITLES[kind])
            curves = _curves(target.model, target.tokenizer, train_rows, measured, setting.rate, options, title)
            found |= {f"{name}{setting.suffix}": curve for name, curve in curves.items()}
    return found


def _numbers(name: str, runs: list[Curve], first_seed: int, num_rows: int, end_alone: bool) -> dict[str, Metric]:
    """Numbers of the runs that differ in their seeds alone."""
    if not runs:
        return {f"{name}_end": unavailable("two retain rows are needed, one nearer to the forget rows than the other")}
    parts = {"end": [curve[-1][1] for curve in runs]}
    if not end_alone:
        speeds = [relearning_speed(curve) for curve in runs]
        parts = {"start": [curve[0][1] for curve in runs], **parts, "speed": speeds}
    return {f"{name}_{part}": metric_over_seeds(values, first_seed, num_rows) for part, values in parts.items()}


def _curves(
    model: nn.Module,
    tokenizer: Any,
    train_rows: RowDataset,
    measured: Mapping[str, RowDataset],
    learning_rate: float,
    options: AuditOptions,
    description: str | None,
) -> dict[str, Curve]:
    """A curve for each of the measured row sets, all from one run."""
    from tqdm.auto import tqdm

    learner, steps = _learner(model, options.seed), options.relearn_steps
    weights = [weight for weight in learner.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    reader, collator, device = AnswerReader(learner), RowCollator(tokenizer), device_of(learner, None)

    def read() -> dict[str, float]:
        return {
            name: score_rows(learner, reader, rows, collator, batch_size=options.batch_size).probability
            for name, rows in measured.items()
        }

    points = {0: read()}
    order = _batches(len(train_rows), min(options.relearn_batch_size, len(train_rows)), steps, options.seed)
    for step, ids in enumerate(tqdm(order, description, steps, leave=False, disable=description is None), start=1):
        rows = collator([train_rows[i] for i in ids.tolist()])
        batch: dict[str, Any] = {name: value.to(device) for name, value in rows.items()}
        optimizer.zero_grad()
        reader(learner, **batch, with_features=False).mean_nll.mean().backward()
        optimizer.step()
        if step % options.relearn_every == 0 or step == steps:
            points[step] = read()
    return {name: [(step, values[name]) for step, values in points.items()] for name in measured}


def _batches(num_rows: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices of each step's rows, shape (B,)."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(left) < batch_size:
            left = torch.cat([left, torch.randperm(num_rows, generator=generator)])
        ids, left = left.split([batch_size, len(left) - batch_size])
        yield ids


def _learner(model: nn.Module, seed: int) -> Any:
    """A copy whose trainable weights may learn, in evaluation mode: without dropout."""
    if not is_quantized(model):
        return merged_copy(model).float().requires_grad_(True)
    from peft import LoraConfig, PeftModel

    twin: Any = copy.deepcopy(model)
    keep_gradients_of_4bit_layers(twin)
    if isinstance(twin, PeftModel):
        for name, weight in twin.named_parameters():
            weight.requires_grad_(any(f".{adapter}." in f".{name}." for adapter in twin.active_adapters))
        return twin.eval()
    with torch.random.fork_rng():  # a fresh adapter has random weights; the caller's random state is not touched
        torch.manual_seed(seed)
        lora = LoraConfig(r=_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        return add_adapter(twin, lora).eval()
