"""Evaluates a model on a suite: computes the scores once, then every metric from them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from egup_trainer.data.schema import OnLongRow, Row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.errors import EgupError, first_line
from egup_trainer.evaluation.definitions import Definitions
from egup_trainer.evaluation.evaluation import Evaluation, Example, SetFacts
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.rows import RowSet, Texts, texts_of
from egup_trainer.evaluation.scores import SetScores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.suite import Scores, Suite
from egup_trainer.extras import require_extra
from egup_trainer.modeling.batches import is_first
from egup_trainer.modeling.reference import adapters_off


def evaluate_model(
    model: nn.Module,
    tokenizer: Any,
    suite: Suite,
    options: ScoringOptions | None = None,
    *,
    name: str = "model",
    accelerator: Any = None,
    model_before: nn.Module | None = None,
    show_examples: int = 0,
    texts: Texts | None = None,
    score: Callable[..., dict[str, SetScores]] = score_sets,
) -> Evaluation:
    """Runs a model on a suite's rows and computes every metric that does not need another model's results.

    Args:
        model: the model, possibly wrapped for training; its adapters, if any, are switched on.
        tokenizer: the model's tokenizer.
        suite: rows and metrics.
        options: batch size and the like.
        name: of the model, for tables.
        accelerator: the `Accelerator` of a run on several processes, or None for one process.
        model_before: the initial model, which reads the generations for their perplexity. By default the model itself
            with its adapters switched off, if it has any.
        show_examples: number of rows per set whose texts and generations are kept; 0 by default because the texts may
            be what is to be forgotten.
        texts: of the suite's row sets from `texts_of`, if you have them.
        score: takes the arguments of `score_sets`, and gives the same.

    Raises:
        DataError, ModelError: rows or model cannot be used.

    Example:
        >>> # evaluation = evaluate_model(model, tokenizer, custom_suite(load_rows("forget.jsonl")))
        >>> # evaluation.values["forget_probability"]
    """
    require_extra("evaluation", "an evaluation")
    options = options or ScoringOptions()
    texts = texts or texts_of(suite.row_sets, tokenizer, options.progress and is_first(accelerator))
    scores = score(model, tokenizer, suite.row_sets, options, accelerator, texts)
    bare = accelerator.unwrap_model(model) if accelerator else model
    if model_before is not None:
        scores = _with_generation_nlls(scores, suite, model_before, tokenizer, options, accelerator)
    elif hasattr(bare, "disable_adapter"):
        with adapters_off(bare):
            scores = _with_generation_nlls(scores, suite, bare, tokenizer, options, accelerator)
    return replace(
        plan_of(suite, options, name, texts),
        metrics=compute(suite, scores, options.progress and is_first(accelerator)),
        examples=_examples(suite.row_sets, scores, show_examples),
        features={name: each.features for name, each in scores.items() if each.features is not None},
        feature_ids={name: list(each.samples) for name, each in scores.items() if each.features is not None},
    )


def plan_of(suite: Suite, options: ScoringOptions, name: str, texts: Texts) -> Evaluation:
    """An evaluation without results yet: what the model `name` will be evaluated on, and how."""
    require_extra("evaluation", "an evaluation")
    facts = {
        each.name: SetFacts(
            len(each.rows), each.fingerprint, texts.fingerprint(each.name), **texts.long_rows(each.name)
        )
        for each in suite.row_sets
    }
    settings = {f"{each.name} {key}": value for each in suite.row_sets for key, value in each.settings.items()}
    settings["feature_layer"] = options.feature_layer
    return Evaluation(name, suite.name, suite.split, facts, metrics={}, settings=settings, writing=texts.writing)


def compute(suite: Suite, scores: Scores, progress: bool = False) -> dict[str, Metric]:
    """The suite's metrics by key: pure functions of the scores. One that fails has no value, with the error."""
    from tqdm.auto import tqdm

    metrics: dict[str, Metric] = {}
    plan = suite.plan(scores)
    for name, number in tqdm(plan.items(), desc="Computing metrics", unit="metric", disable=not progress, leave=False):
        try:
            metrics[name] = number(metrics)
        except EgupError:  # says what to do, such as to install an extra
            raise
        except Exception as error:  # of a metric of the user's own, after hours of scoring
            metrics[name] = unavailable(f"failed: {type(error).__name__}: {first_line(error)}")
    return metrics


def _with_generation_nlls(
    scores: Scores,
    suite: Suite,
    model: nn.Module,
    tokenizer: Any,
    options: ScoringOptions,
    accelerator: Any,
) -> dict[str, SetScores]:
    """The scores with avg of each generation under `model`, for the sets that fluency is measured on."""
    found = dict(scores)
    for row_set in suite.row_sets:
        written = {sample: row.generation for sample, row in scores[row_set.name].samples.items() if row.generation}
        if not (row_set.use.fluency and row_set.use.perplexity and written):
            continue
        rows = {sample: Row(row_set.rows[sample].prompt, text) for sample, text in written.items()}
        rows = {sample: row for sample, row in rows.items() if _can_be_rendered(row, row_set, tokenizer)}
        if not rows:
            continue
        generated = replace(
            row_set,
            rows=list(rows.values()),
            generation=None,
            with_features=False,
            with_membership=False,
            on_long_row=OnLongRow.WINDOW,
            use=replace(row_set.use, definitions=Definitions.OURS),  # which has no perplexity of generations
        )
        read = score_sets(model, tokenizer, [generated], options, accelerator)[row_set.name]
        nlls = {sample: read.samples[index].answers[0].mean_nll for index, sample in enumerate(rows)}
        samples = {
            sample: replace(row, generation_nll=nlls.get(sample))
            for sample, row in scores[row_set.name].samples.items()
        }
        found[row_set.name] = replace(scores[row_set.name], samples=samples)
    return found


def _can_be_rendered(row: Row, row_set: RowSet, tokenizer: Any) -> bool:
    """Whether the tokenizer's template accepts a generation as an answer: some drop what looks like a thought."""
    try:
        tokenize([row], tokenizer, name=row_set.name, max_length=row_set.max_length, template=row_set.template)
    except EgupError:
        return False
    return True


def _examples(row_sets: list[RowSet], scores: Scores, count: int) -> dict[str, list[Example]]:
    return {
        row_set.name: [
            Example(sample, "\n".join(turn.content for turn in row_set.rows[sample].prompt), row.references[0], text)
            for sample, row in list(scores[row_set.name].samples.items())[:count]
            if (text := row.generation) is not None
        ]
        for row_set in row_sets
        if count and row_set.generation is not None
    }
