"""Relearning: how soon a forget answer comes back when the model is fine-tuned on a few other rows.

A model that only hides its forget rows recovers them within a few steps, even rows that it is not shown (Hu et al.
2024, arXiv 2406.13356; Deeb and Roger 2024, arXiv 2410.08827, who hold rows back for the same reason). A model that
never saw them learns the rows it is shown and, of the others, little more than their style.
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.audit.attack import (
    FEWEST_ROWS,
    Curve,
    Finding,
    Target,
    given_and_held_back,
    is_quantised,
    merged_copy,
    too_few,
)
from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.evaluation.metric import NOT_FINITE, Metric, finite, unavailable
from egup_trainer.modeling.batches import device_of
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import add_adapter, keep_gradients_of_4bit_layers
from egup_trainer.modeling.scan import score_rows

_HELD_BACK, _RETAIN, _RELEARNED = "forget", "retain", "relearned"
_RANK = 8  # of the adapter that is trained instead of quantised weights


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
    rows, without dropout. All weights of the copy are trained, with adapters merged, in float32. If they are quantised,
    the model's adapter is trained instead, or a fresh one (LoRA of rank 8 on all linear layers).

    Args:
        model: the model; it is not changed.
        tokenizer: gives the padding id.
        train_rows: rows to train on; epochs follow each other without a gap, each in an order sampled by the seed.
        measured_rows: rows to measure.
        steps: optimizer steps.
        learning_rate: of AdamW.
        batch_size: rows per step, at most as many as there are, and per forward pass.
        seed: of the order, and of a fresh adapter.
        every: steps between two points.
        description: title of the progress bar, or None for no bar.

    Returns:
        (step, mean over the measured rows of exp(-l_i)) before the first step, after every `every` steps, and after the
        last. A long text counts once for each of its pieces.

    Raises:
        ModelError: weights of four bits have run in evaluation mode on a CPU that repacks them.

    Example:
        >>> # curve = relearning_curve(model, tokenizer, few, others, 20, 1e-4, 4, seed=0, every=2)
    """
    options = AuditOptions(
        seed=seed,
        relearn_steps=steps,
        relearn_learning_rate=learning_rate,
        relearn_batch_size=batch_size,
        relearn_every=every,
        batch_size=batch_size,
    )
    return _curves(model, tokenizer, train_rows, {"": measured_rows}, options, description)[""]


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
    """Relearns a few forget rows, or learns retain rows alone, and measures the forget rows that were held back."""
    options, rows = target.options, target.forget
    if len(rows) <= FEWEST_ROWS:
        return Finding(reason=too_few(len(rows)))
    shown, held_back = given_and_held_back(options, len(rows))
    few, others = (
        target.tokenized([rows[i] for i in numbers], "forget set", numbers) for numbers in (shown, held_back)
    )
    retain = target.tokenized(target.sets["retain"], "retain set")
    curves: dict[str, Curve] = {}
    for train_rows, measured, title in (
        (few, {_HELD_BACK: others, _RELEARNED: few}, "Relearning forget rows"),
        (retain, {_RETAIN: others}, "Learning retain rows"),
    ):
        curves |= _curves(target.model, target.tokenizer, train_rows, measured, options, options.title(title))
    metrics: dict[str, Metric] = {}
    for name, curve in curves.items():
        num_rows = len(few) if name == _RELEARNED else len(others)
        for part, value in {"start": curve[0][1], "end": curve[-1][1], "speed": relearning_speed(curve)}.items():
            is_finite = bool(finite({0: value}))
            metrics[f"{name}_{part}"] = (
                Metric(value, num_samples=num_rows) if is_finite else unavailable(NOT_FINITE, num_skipped=num_rows)
            )
    before = target.before.get("relearning", Finding()).curves
    for name in (_HELD_BACK, _RETAIN):
        metrics[f"{name}_steps_to_half"] = steps_to_half(curves[name], before.get(name))
    return Finding(metrics, curves)


def steps_to_half(curve: Curve, before: Curve | None) -> Metric:
    """Steps after which held-back rows are half as likely as in the initial model.

    Args:
        curve: of the model under attack.
        before: the curve of the initial model, if it was attacked.

    Example:
        >>> steps_to_half([(0, 0.1), (2, 0.4), (4, 0.6)], before=[(0, 0.8), (4, 0.9)]).value
        2.0
    """
    if not before:
        return unavailable("needs the model before unlearning (--model_before)")
    step = steps_to_reach(curve, before[0][1] / 2)
    return unavailable(f"not reached in {curve[-1][0]} steps") if step is None else Metric(float(step))


def _curves(
    model: nn.Module,
    tokenizer: Any,
    train_rows: RowDataset,
    measured: Mapping[str, RowDataset],
    options: AuditOptions,
    description: str | None,
) -> dict[str, Curve]:
    """A curve for each of the measured row sets, all from one run."""
    from tqdm.auto import tqdm

    learner, steps = _learner(model, options.seed), options.relearn_steps
    weights = [weight for weight in learner.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.relearn_learning_rate)
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
    if not is_quantised(model):
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
