"""What makes the default method harder to undo: `python -m benchmarks.resistance --work_dir resist_work`.

Each variant adds one thing from the literature to the default method, in the world of the study and on its tuning
seeds. It is measured how soon the forget rows come back when a few of them are relearned, how deep unlearning reaches,
and what the variant costs. It may be stopped at any time: what is done is not done again. `--report` writes the table
in docs/auditing.md.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import markdown, tables
from benchmarks.runner import Piece, run_first_piece
from benchmarks.study import runs, world
from benchmarks.study.methods import SECOND, options_of
from benchmarks.study.plan import TUNING_SEEDS, Record
from benchmarks.study.work import SETS, Place, do_base
from benchmarks.tables import Line
from benchmarks.tofu import add_data_dir
from egup_trainer.audit.depth import depth_scores, layer_drops
from egup_trainer.audit.relearning import relearning_speed
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.components.forget import ForgetObjective
from egup_trainer.components.retain import RetainObjective
from egup_trainer.components.step import Collected, Step
from egup_trainer.data.collator import Part, RowCollator, parts_of
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.egup import EGUPTrainer
from egup_trainer.modeling.forward import decoder_layers
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.records.facts import run_facts

TABLE = tables.RESULTS / "resistance.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "auditing.md"
LEARNING_RATE = 1e-3
"""What the tuning seeds of the study choose for the default method."""

NUM_OTHERS = 3
"""Of `world.BASE_AUTHORS`: what the base model knows of them no retain row holds in place."""

RESTORING = {"learning_rate": 1e-3, "batch_size": 8, "warmup_steps": 10}
"""How a model with noise learns its own outputs again."""


class SplitTrainer(EGUPTrainer):
    """Reads forget and retain rows apart, so that a subclass can combine their gradients in its own way.

    It is for objectives without other components, on one device, without accumulation. As it is, the step is that of
    `EGUPTrainer`, up to rounding, and takes as long.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        self.batch, self.counts = self._prepare_inputs(inputs), num_items_in_batch.counts
        forget, retain = self.gradients(Part.FORGET), self.gradients(Part.RETAIN)
        for weight, gradient in zip(self.weights, self.combine(forget, retain), strict=True):
            weight.grad = gradient
        return torch.zeros(())  # nothing is logged

    def gradients(self, part: Part) -> list[Tensor]:
        """Of the forget or the retain term, at the weights as they are, one for each of `weights`."""
        rows = parts_of(self.batch)[part]
        read = {name: self.batch[name][rows] for name in ("input_ids", "attention_mask", "labels")}
        outputs = self.reader(self.model, **read, with_features=False, keep_logits=self.needs.logits)
        step = Step(self.batch, {part: outputs}, Collected(self.counts), self.reference.read)
        objective = self.component(ForgetObjective if part is Part.FORGET else RetainObjective)
        (term,) = objective.terms(step).values()
        return list(torch.autograd.grad(term, self.weights))

    def combine(self, forget: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        """The gradients of the step."""
        return [one + other for one, other in zip(forget, retain, strict=True)]


class SharpnessAware(SplitTrainer):
    """The gradient of the forget term is that at the worst weights within a ball of radius rho.

    Foret et al. 2021, arXiv 2010.01412, for the forget term alone as in Fan et al. 2025, arXiv 2502.05374: with
    g = grad forget(w), the step takes grad forget(w + rho g / |g|) + grad retain(w).

    Args:
        rho: radius, in the norm over all weights.
    """

    def __init__(self, *args: Any, rho: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rho = rho

    def combine(self, forget: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        with moved(self.weights, forget, self.rho):
            worst = self.gradients(Part.FORGET)
        return super().combine(worst, retain)


class TwoStates(SplitTrainer):
    """Forget and retain gradients each have an AdamW with moments of its own (DualOptim, arXiv 2504.15827).

    Args:
        share: learning rate of the forget gradients, as a share of that of the retain gradients.
    """

    def __init__(self, *args: Any, share: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.share = share

    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = self.of_two = TwoStatesAdamW(self.weights, self.args.learning_rate, self.share)
        return self.optimizer

    def combine(self, forget: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        self.of_two.others = retain
        return forget


class TwoStatesAdamW(torch.optim.AdamW):
    """Takes a step for the gradients of the weights, and then one for other gradients, with moments of their own.

    Args:
        weights: the weights.
        learning_rate: of the other gradients.
        share: what it is multiplied by for the gradients of the weights.

    Attributes:
        others: the other gradients, one for each weight; they are clipped to a norm of 1.
    """

    others: Sequence[Tensor] = ()

    def __init__(self, weights: Sequence[Tensor], learning_rate: float, share: float):
        super().__init__(weights, lr=share * learning_rate, weight_decay=0.0)
        self.share, self.second = share, torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        group = self.param_groups[0]
        for weight, gradient in zip(group["params"], self.others, strict=True):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.second.param_groups[0]["lr"] = group["lr"] / self.share
        self.second.step()


class Masked(SplitTrainer):
    """The forget gradient acts only on weights where retain rows pull the same way.

    The disruption masking of Sondej et al. 2025 (MUDMAN, arXiv 2506.12484): entries whose sign is not that of the
    running mean of the retain gradients are 0. What is left gets the length that the forget gradient had.

    Args:
        decay: of the running mean.
    """

    def __init__(self, *args: Any, decay: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.decay, self.means = decay, [torch.zeros_like(weight) for weight in self.weights]

    def combine(self, forget: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        for mean, gradient in zip(self.means, retain, strict=True):
            mean.lerp_(gradient, 1 - self.decay)
        return super().combine(masked(forget, self.means), retain)


class Selective(SplitTrainer):
    """The forget gradient spares the directions that retain rows share.

    After the collapse of irrelevant representations (Sondej and Yang 2025, arXiv 2509.11816): of the gradient of each
    linear layer's weight, the projections onto the `rank` main directions of its inputs, and of the gradients of its
    outputs, are removed. Both are found on retain rows before the first step. All other weights, such as the
    embeddings, have no forget gradient.

    Args:
        rank: directions on each side.
    """

    def __init__(self, *args: Any, rank: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rank = rank

    def begin_training(self) -> None:
        super().begin_training()
        batch = self.data_collator([self.retain_rows[index] for index in range(min(64, len(self.retain_rows)))])
        sides = shared_directions(self.model, batch, self.rank)
        self.sides = [sides.get(id(weight)) for weight in self.weights]
        self.model.zero_grad()

    def combine(self, forget: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        pairs = zip(forget, self.sides, strict=True)
        spared = [torch.zeros_like(each) if sides is None else without(each, *sides) for each, sides in pairs]
        return super().combine(spared, retain)


class Guaranteed(SplitTrainer):
    """No step raises the retain loss of its rows to first order: what AdamW would do is projected.

    A-GEM projects gradients in this way (Chaudhry et al. 2019, arXiv 1812.00420). AdamW makes other steps of them, so
    here the step itself is projected (ours).
    """

    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = self.projected = GuaranteedAdamW(self.weights, lr=self.args.learning_rate, weight_decay=0.0)
        return self.optimizer

    def combine(self, forget: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        self.projected.held = retain
        return super().combine(forget, retain)


class GuaranteedAdamW(torch.optim.AdamW):
    """AdamW whose step d is replaced by d - max(0, <d, g>) g / |g|^2 for the gradient g of a loss to be held.

    Attributes:
        held: g, one tensor for each weight.
    """

    held: Sequence[Tensor] = ()

    def step(self, closure: Any = None) -> None:
        weights = self.param_groups[0]["params"]
        before = [weight.detach().clone() for weight in weights]
        super().step(closure)
        with torch.no_grad():
            rise = sum(((w - old) * g).sum() for w, old, g in zip(weights, before, self.held, strict=True))
            scale = max(float(rise), 0.0) / max(float(sum((g**2).sum() for g in self.held)), 1e-30)
            for weight, gradient in zip(weights, self.held, strict=True):
                weight.sub_(scale * gradient)


@contextmanager
def moved(weights: Sequence[Tensor], direction: Sequence[Tensor], length: float) -> Iterator[None]:
    """The weights are moved by `length` in a direction, and afterwards are bit by bit what they were."""
    before = [weight.detach().clone() for weight in weights]
    norm = torch.stack([(each**2).sum() for each in direction]).sum().sqrt().clamp_min(1e-12)
    with torch.no_grad():
        for weight, each in zip(weights, direction, strict=True):
            weight.add_(each * (length / norm))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, each in zip(weights, before, strict=True):
                weight.copy_(each)


def masked(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
    """The forget gradients where their sign is that of the retain gradients, made as long as they were.

    Example:
        >>> masked([torch.tensor([3.0, 4.0])], [torch.tensor([-1.0, 2.0])])
        [tensor([0., 5.])]
    """
    kept = [each * (each * other > 0) for each, other in zip(forget, retain, strict=True)]
    was, now = (torch.stack([(each**2).sum() for each in side]).sum().sqrt() for side in (forget, kept))
    return [each * (was / now.clamp_min(1e-12)) for each in kept]


def without(gradient: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """(I - V V^T) G (I - U U^T).

    Args:
        gradient: G, of a linear layer's weight, shape (o, i).
        outputs: V, orthonormal columns, shape (o, k).
        inputs: U, alike, shape (i, k).

    Example:
        >>> first = torch.tensor([[1.0], [0.0]])
        >>> without(torch.ones(2, 2), first, first)
        tensor([[0., 0.],
                [0., 1.]])
    """
    gradient = gradient - outputs @ (outputs.T @ gradient)
    return gradient - (gradient @ inputs) @ inputs.T


def shared_directions(model: Any, batch: dict[str, Tensor], rank: int) -> dict[int, tuple[Tensor, Tensor]]:
    """The main directions of each linear layer's output gradients and inputs over a batch, by the id of its weight."""
    real, seen, hooks = batch["attention_mask"].bool(), {}, []

    def keep(module: nn.Linear, args: Any, output: Tensor) -> None:
        inputs = args[0].detach()[real]
        output.register_hook(lambda gradient: seen.update({id(module.weight): (gradient[real], inputs)}))

    for module in decoder_layers(model).modules():
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(keep))
    model(**batch).loss.backward()
    for hook in hooks:
        hook.remove()
    return {name: tuple(_main_directions(side, rank) for side in sides) for name, sides in seen.items()}


def _main_directions(vectors: Tensor, rank: int) -> Tensor:
    """Orthonormal columns (d, rank) that hold most of the squares of vectors (n, d)."""
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -rank:]


@dataclass(frozen=True)
class Noise:
    """Weights mixed with noise, then distilled from the model as it was (UNDO, Lee et al. 2025, arXiv 2506.06278).

    Args:
        share: alpha: w becomes (1 - alpha) w + alpha w', with w' the weights of a new model of the same shape.
        steps: of AdamW on the divergence KL(outputs as they were || outputs now), averaged over all tokens of a batch.
        sets: names of the rows that it reads.
    """

    share: float
    steps: int
    sets: tuple[str, ...] = ("retain", "proxy")

    def apply(self, model: Any, tokenizer: Any, rows: world.Rows, seed: int) -> Any:
        """A new model."""
        datasets = world.tokenized(rows, tokenizer)
        data = RowDataset([row for name in self.sets for row in datasets[name].rows])
        with torch.no_grad():
            targets = [_outputs(model.eval(), RowCollator(tokenizer)([row])) for row in data]
        student = self.mixed(model, seed)
        optimizer = torch.optim.AdamW(student.parameters(), lr=RESTORING["learning_rate"], weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        size, order = int(RESTORING["batch_size"]), torch.empty(0, dtype=torch.long)
        for _ in range(self.steps):
            if len(order) < size:
                order = torch.cat([order, torch.randperm(len(data))])
            ids, order = order[:size].tolist(), order[size:]
            ours = _outputs(student, RowCollator(tokenizer)([data[index] for index in ids]))
            target = torch.cat([targets[index] for index in ids])
            optimizer.zero_grad()
            nn.functional.kl_div(ours, target, log_target=True, reduction="batchmean").backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        return student.eval()

    def mixed(self, model: Any, seed: int) -> Any:
        """A copy of the model with the noise."""
        torch.manual_seed(seed)
        student, fresh = copy.deepcopy(model), type(model)(model.config)
        with torch.no_grad():
            for weight, noise in zip(student.parameters(), fresh.parameters(), strict=True):
                weight.lerp_(noise, self.share)
        return student

    def rate(self, step: int) -> float:
        """Linear up to 1 over the warm-up, then linear to 0."""
        warmup = RESTORING["warmup_steps"]
        return min((step + 1) / warmup, (self.steps - step) / max(self.steps - warmup, 1))


def _outputs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Log-probabilities after each token of a batch, row by row, shape (tokens, V)."""
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    return logits[batch["attention_mask"].bool()].log_softmax(dim=-1)


@dataclass(frozen=True)
class Variant:
    """The default method with one thing added.

    Args:
        title: what it is, in the table.
        trainer: makes its trainer.
        options: of the configuration, beside those of the default method.
        finish: what is done to the model of the default method instead of another run.
    """

    title: str
    trainer: Callable[..., EGUPTrainer] = EGUPTrainer
    options: dict[str, Any] = field(default_factory=dict)
    finish: Noise | None = None

    def settings(self) -> dict[str, Any]:
        """What it differs in from the default, for the record."""
        made = self.trainer
        return {
            "trainer": getattr(made, "func", made).__name__,
            "arguments": getattr(made, "keywords", {}),
            "options": self.options,
            "finish": None if self.finish is None else {**vars(self.finish), **RESTORING},
        }


_AUTO = {"learning_rate": None, "num_train_epochs": None, "warmup_steps": 0}
"""The method chooses its learning rate, and has 200 steps, 14 passes, where their number is not given."""

DEFAULT = "default"
VARIANTS = {
    DEFAULT: Variant("default"),
    "twice": Variant("20 epochs instead of 10", options={"num_train_epochs": 20}),
    "thrice": Variant("30 epochs instead of 10", options={"num_train_epochs": 30}),
    "twice retain1": Variant("20 epochs, retain weight 1", options={"num_train_epochs": 20, "retain_weight": 1.0}),
    "retain2": Variant("retain weight 2 instead of 3", options={"retain_weight": 2.0}),
    "retain1": Variant("retain weight 1 instead of 3", options={"retain_weight": 1.0}),
    "sharp.1": Variant("sharpness-aware, rho .1", partial(SharpnessAware, rho=0.1)),
    "sharp.2": Variant("sharpness-aware, rho .2", partial(SharpnessAware, rho=0.2)),
    "sharp.5": Variant("sharpness-aware, rho .5", partial(SharpnessAware, rho=0.5)),
    "sharp.5 retain9": Variant(
        "sharpness-aware, .5, retain 9", partial(SharpnessAware, rho=0.5), {"retain_weight": 9.0}
    ),
    **{
        f"sharp{rho:g} {name}".replace("0.", "."): Variant(
            f"sharpness-aware, {rho:g}, {10 * times} epochs",
            partial(SharpnessAware, rho=rho),
            {"num_train_epochs": 10 * times},
        )
        for rho, name, times in ((0.2, "twice", 2), (0.5, "twice", 2), (1.0, "twice", 2), (0.5, "thrice", 3))
    },
    "sharp.5 twice retain1": Variant(
        "sharpness-aware, .5, 20, retain 1",
        partial(SharpnessAware, rho=0.5),
        {"num_train_epochs": 20, "retain_weight": 1.0},
    ),
    **{
        f"{name} {times}0 epochs": Variant(
            f"forget_sharpness {share:g}, {times}0 epochs",
            options={"forget_sharpness": share, "num_train_epochs": 10 * times},
        )
        for name, share, times in (("near", 0.1, 2), ("joint", 0.2, 2), ("far", 0.4, 2), ("joint", 0.2, 1))
    },
    "auto": Variant("auto", options=_AUTO),
    "auto joint": Variant("auto, forget_sharpness 0.2", options={**_AUTO, "forget_sharpness": 0.2}),
    "auto joint twice": Variant(
        "auto, thorough, sharp, 28 epochs",
        options={**_AUTO, "strength": "thorough", "num_train_epochs": 28, "forget_sharpness": 0.2},
    ),
    "two.5": Variant("two optimizer states, forget rate halved", partial(TwoStates, share=0.5)),
    "two1": Variant("two optimizer states", partial(TwoStates, share=1.0)),
    "masked": Variant("forget gradient masked", partial(Masked, decay=0.95)),
    "selective8": Variant("shared directions spared, 8 a side", partial(Selective, rank=8)),
    "selective32": Variant("shared directions spared, 32 a side", partial(Selective, rank=32)),
    "guaranteed": Variant("steps projected, retain weight 3", Guaranteed),
    "guaranteed1": Variant("steps projected, retain weight 1", Guaranteed, {"retain_weight": 1.0}),
    "noise.2": Variant("noise .2, 200 steps of distillation", finish=Noise(0.2, 200)),
    "noise.4": Variant("noise .4, 200 steps of distillation", finish=Noise(0.4, 200)),
    "noise.4 forget": Variant(
        "noise .4, 200 steps, forget rows as well", finish=Noise(0.4, 200, ("retain", "proxy", "forget"))
    ),
}
MODELS = ("before", "retrained")


@dataclass(frozen=True)
class Column:
    """A number of the table.

    Args:
        head: its title.
        form: its format.
        with_change: whether the difference to the default on the same seeds stands beside it.
    """

    head: str
    form: str
    with_change: bool = False


COLUMNS = {
    "relearning": Column("relearning", ".2f", with_change=True),
    "depth": Column("depth", ".2f", with_change=True),
    "l_forget": Column("forget l", "+.2f"),
    "boundary_distance": Column("KS", ".2f"),
    "retain_rise": Column("retain rise", "+.3f"),
    "holdout_rise": Column("unseen rise", "+.2f"),
    "other_rise": Column("others rise", "+.2f"),
}
"""The columns of the table by the names of `of_seed`."""


def line_of(name: str, seed: int) -> Line:
    """The results of a variant, or of one of `MODELS`."""
    return Line(TABLE, f"{name}_seed{seed}")


def do_model(place: Place, name: str, seed: int) -> None:
    """Trains and measures one of `MODELS`."""
    folder, rows = place.model(name, seed), place.rows(seed)
    if not folder.is_dir():
        world.make_model_of(place.base, SETS[name], rows, seed, folder)
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    if name == "before":
        place.nlls(seed).write_text(json.dumps(runs.nlls(model, tokenizer, rows)), encoding="utf-8")
    else:
        drops = _drops(place, model, tokenizer, seed).tolist()
        _drops_file(place, seed).write_text(json.dumps(drops), encoding="utf-8")
    values, curve = measure(place, model, tokenizer, seed)
    experiment = {"model": name, "seed": seed, "world": world.settings(), "relearning": runs.RELEARNING}
    Record(experiment, values, run_facts(), curve).write(line_of(name, seed))


def do_variant(place: Place, name: str, seed: int) -> None:
    """Unlearns with a variant, and measures the model; that of the default is kept, for what is done to it after."""
    variant, rows, folder = VARIANTS[name], place.rows(seed), place.model("before", seed)
    tokenizer, kept = load_tokenizer(str(folder)), place.model(DEFAULT, seed)
    start = time.perf_counter()
    if variant.finish is not None:
        model = variant.finish.apply(load_model(str(kept)), tokenizer, rows, seed)
    else:
        options = {**options_of(SECOND), **variant.options}
        scans = place.work_dir / f"scan{seed}"
        model = runs.unlearn(folder, options, LEARNING_RATE, seed, rows, scans, variant.trainer).model
    seconds = round(time.perf_counter() - start, 1)
    if name == DEFAULT and not kept.is_dir():
        world.save(model, tokenizer, kept)
    values, curve = measure(place, model, tokenizer, seed)
    experiment = {
        "variant": name,
        "seed": seed,
        **variant.settings(),
        "learning_rate": LEARNING_RATE,
        "unlearning": runs.UNLEARNING,
        "relearning": runs.RELEARNING,
    }
    Record(experiment, {**values, "seconds": seconds}, run_facts(), curve).write(line_of(name, seed))


def measure(place: Place, model: Any, tokenizer: Any, seed: int) -> tuple[dict[str, float | None], Any]:
    """What decides about a model, and its relearning curve."""
    rows = place.rows(seed)
    now, before = runs.nlls(model, tokenizer, rows), json.loads(place.nlls(seed).read_text(encoding="utf-8"))
    curve = runs.relearn(model, tokenizer, rows, seed)
    values: dict[str, float | None] = {
        **{f"l_{name}": statistics.fmean(each) for name, each in now.items()},
        "l_other": _mean_nll(model, _others(place), tokenizer),
        "l_holdout": _mean_nll(model, rows.holdout, tokenizer),
        "retain_rise": statistics.fmean(now["retain"]) - statistics.fmean(before["retain"]),
        "boundary_distance": runs.distance(now["forget"], now["proxy"]),
        "relearning_start": curve[0][1],
        "relearning_speed": relearning_speed(curve),
        "depth": None,
    }
    if _drops_file(place, seed).is_file():
        theirs = np.array(json.loads(_drops_file(place, seed).read_text(encoding="utf-8")))
        values["depth"] = float(np.nanmean(depth_scores(_drops(place, model, tokenizer, seed), theirs)))
    return values, curve


def _others(place: Place) -> list[Row]:
    """Rows that the base model was trained on, and that no run reads."""
    full, size = load_rows("tofu:full", place.data_dir), world.ROWS_AN_AUTHOR
    authors = world.BASE_AUTHORS[:NUM_OTHERS]
    return [row for author in authors for row in full[size * author : size * (author + 1)]]


def _mean_nll(model: Any, rows: list[Row], tokenizer: Any) -> float:
    return float(runs.nll(model, tokenize(rows, tokenizer, name="rows"), tokenizer).mean())


def _drops_file(place: Place, seed: int) -> Path:
    """What each layer of the retrained model costs the forget rows."""
    return place.work_dir / f"drops{seed}.json"


def _drops(place: Place, model: Any, tokenizer: Any, seed: int) -> np.ndarray:
    """Of every second forget row, what each of the model's layers costs it: see `layer_drops`."""
    forget = RowDataset(world.tokenized(place.rows(seed), tokenizer)["forget"].rows[::2])
    return layer_drops(model, load_model(str(place.model("before", seed))), tokenizer, forget, batch_size=32)


def pieces(place: Place, names: Sequence[str], seeds: Sequence[int]) -> list[Piece]:
    """Models before variants, the default first, one seed after the other."""
    todo = [(do_model, name, seed) for seed in seeds for name in MODELS]
    todo += [(do_variant, name, seed) for seed in seeds for name in dict.fromkeys((DEFAULT, *names))]
    return [
        Piece(f"{name} {seed}", (line_of(name, seed),), partial(do, place, name, seed))
        for do, name, seed in sorted(todo, key=lambda each: each[2])
    ]


def seeds_of(name: str) -> list[int]:
    """The seeds on which a variant, or one of `MODELS`, has results beside all that it is compared with."""
    compared = (name, DEFAULT, *MODELS)
    return [seed for seed in TUNING_SEEDS if all(line_of(each, seed).exists() for each in compared)]


def of_seed(name: str, seed: int) -> dict[str, float]:
    """What is told of a variant, or of one of `MODELS`, on a seed."""
    own, before, retrained = (_values(each, seed) for each in (name, *MODELS))
    return {
        "relearning": own["relearning_speed"] / retrained["relearning_speed"],
        "depth": own["depth"] or 0.0,  # that of the model before unlearning is not measured
        "l_forget": own["l_forget"] - retrained["l_forget"],
        "boundary_distance": own["boundary_distance"],
        "retain_rise": own["retain_rise"],
        "holdout_rise": own["l_holdout"] - before["l_holdout"],
        "other_rise": own["l_other"] - before["l_other"],
    }


def _values(name: str, seed: int) -> dict[str, Any]:
    return Record.read(line_of(name, seed)).values


def table() -> str:
    """All variants that have results, and the models that they are compared with.

    A change is the mean difference to the default on the same seeds, with the standard deviation of the differences.
    """
    heads = [[each.head, "change"] if each.with_change else [each.head] for each in COLUMNS.values()]
    rows = []
    for name in (*MODELS, *VARIANTS):
        seeds = seeds_of(name)
        found, default = [[of_seed(each, seed) for seed in seeds] for each in (name, DEFAULT)]
        if found:
            rows.append([VARIANTS[name].title if name in VARIANTS else name, str(len(found))])
            for key, column in COLUMNS.items():
                rows[-1].append(_spread([each[key] for each in found], column.form))
                if column.with_change:
                    changes = [each[key] - other[key] for each, other in zip(found, default, strict=True)]
                    rows[-1].append("" if name == DEFAULT else _spread(changes, "+.2f"))
    return markdown.table(["variant", "seeds", *chain(*heads)], rows)


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation (n - 1) over seeds; the value of a single seed alone.

    Example:
        >>> _spread([1.0, 2.0], "+.1f")
        '+1.5 ± 0.7'
    """
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form.lstrip('+')}}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what has no results yet, or writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resistance", description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--work_dir", type=Path, default=Path("resist_work"), help="Where models are kept.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Tuning seeds of the study.")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="By default all.")
    parser.add_argument("--report", action="store_true", help="Write docs/auditing.md's table, and do no more.")
    options = parser.parse_args(argv)
    if options.report:
        page = markdown.put(PAGE.read_text(encoding="utf-8"), "resistance", table())
        PAGE.write_text(page, encoding="utf-8")
    else:
        _run(options)
    print(table())


def _run(options: argparse.Namespace) -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    place = Place(options.data_dir, options.work_dir)
    do_base(place)
    while run_first_piece(pieces(place, options.variants, options.seeds)):
        pass


if __name__ == "__main__":
    main()
