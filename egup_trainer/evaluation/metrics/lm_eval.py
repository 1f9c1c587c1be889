"""General ability by lm-evaluation-harness (Gao et al., EleutherAI), an optional extra of this package.

Tasks, prompts and scores are those of the harness, with its default seeds and without a chat template, so that the
numbers are comparable with published ones.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.evaluation.metric_registry import Section, declare_family
from egup_trainer.extras import require_extra
from egup_trainer.modeling.batches import evaluation_mode

declare_family("lm_eval_", Section.BENCHMARKS, "A task of lm-evaluation-harness.")
_NORMAL_95 = 1.96  # standard errors on either side of a 95% interval
_UNFIT = {"UNSAFE_CODE": "runs code that the model writes", "MULTIMODAL": "shows the model more than text"}


def lm_eval_metrics(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[Any],
    *,
    include_path: str | Path | None = None,
    batch_size: int = 16,
    limit: int | float | None = None,
    mixed_precision_dtype: str | None = None,
    progress: bool = True,
) -> dict[str, Metric]:
    """Runs a model, in this process, on tasks of lm-evaluation-harness, which seeds random, numpy and torch.

    Args:
        model: a causal language model on its device, with or without adapters.
        tasks: names of tasks, groups and tags, or the tasks that `load_tasks` returned for them.
        include_path: folder with your own tasks, for names.
        batch_size: requests in a forward pass.
        limit: maximum number of documents per task, or a share of them if below 1.
        mixed_precision_dtype: autocast the forward pass to it, such as "bfloat16"; log-softmax stays in float32.

    Returns:
        Metrics by name: `lm_eval_TASK_METRIC`, followed by `_FILTER` if the task filters the model's output. A group
        has a metric of its own beside those of its tasks. The interval is value +- 1.96 standard errors, a normal
        approximation, if the harness gives a standard error. Samples are documents.

    Raises:
        ConfigError: the harness is not installed, or a task cannot be run; see `load_tasks`.

    Example:
        >>> # lm_eval_metrics(model, tokenizer, ["arc_easy"])["lm_eval_arc_easy_acc"].value
    """
    if all(isinstance(task, str) for task in tasks):
        tasks = load_tasks(tasks, include_path, progress=progress)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with _quiet(progress), evaluation_mode(model):
        harness_model = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            mixed_precision_dtype=mixed_precision_dtype,
            softmax_dtype="float32",
        )
        no_index = TaskManager(include_defaults=False)  # the tasks are loaded
        results = simple_evaluate(
            harness_model, tasks=list(tasks), limit=limit, log_samples=False, task_manager=no_index
        )
    return _metrics(results)


def load_tasks(names: Sequence[str], include_path: str | Path | None = None, *, progress: bool = True) -> list[Any]:
    """Tasks and groups of lm-evaluation-harness with their data, which is downloaded if necessary.

    Python code in a task is executed.

    Args:
        names: of tasks, groups and tags.
        include_path: folder with your own tasks, as YAML files; they take precedence over those of the harness.

    Raises:
        ConfigError: the harness is not installed, the folder does not exist, a name is unknown, or a task would run
            code that the model writes, or needs more than text.

    Example:
        >>> # load_tasks(["arc_easy", "my_task"], "my_tasks")
    """
    require_extra("lm-eval", "lm-eval tasks")
    if not names:
        raise ConfigError(got="no lm-eval task", expected="at least one", fix="name one, such as arc_easy")
    if include_path is not None and not Path(include_path).is_dir():
        raise ConfigError(
            got=f"no folder at {include_path}", expected="a folder with lm-eval tasks", fix="check the path"
        )
    loaded: list[Any] = []
    with _quiet(progress):
        manager = _task_manager(names, include_path)
        for name in names:
            found = manager.load(name)
            for task_name, task in found["tasks"].items():
                _check_fit(task_name, task)
            groups = found["groups"]
            loaded += [groups[name]] if name in groups else found["tasks"].values()  # a tag: each of its tasks
    return loaded


def _task_manager(names: Sequence[str], include_path: str | Path | None) -> Any:
    """The harness's index of tasks, which contains all the names."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:  # if possible, without the harness's own 14,000 tasks, which take 20 s to read
        own = TaskManager(include_path=include_path, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    manager = TaskManager(include_path=include_path)
    unknown = [name for name in dict.fromkeys(names) if name not in manager.task_index]
    if unknown:
        close = [match for name in unknown for match in get_close_matches(name, manager.all_tasks, n=3)]
        raise ConfigError(
            got=f"the unknown lm-eval task {', '.join(unknown)}",
            expected="tasks, groups or tags of lm-evaluation-harness or of --lm_eval_include_path",
            fix=f"did you mean {', '.join(close)}?" if close else "see `lm-eval ls tasks`",
        )
    return manager


def _check_fit(name: str, task: Any) -> None:
    for attribute, what in _UNFIT.items():
        if getattr(task, attribute, False):
            raise ConfigError(
                got=f"the lm-eval task {name}, which {what}", expected="a task that does not", fix="leave it out"
            )


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Silences the harness, except its progress bars if `progress` is set."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    # These are for a report that is not kept: they take 4 s, and git complains outside a repository.
    facts: dict[str, Any] = {"add_env_info": lambda results: None, "get_git_commit_hash": lambda: None}
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        nullcontext() if progress else redirect_stderr(nowhere),
        patch.multiple("lm_eval.evaluator", create=True, **facts),
    ):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _metrics(results: Mapping[str, Any]) -> dict[str, Metric]:
    metrics = {}
    for task, numbers in results["results"].items():
        for key, value in numbers.items():
            metric, has_filter, filter_name = key.partition(",")
            if not has_filter or metric.endswith("_stderr"):
                continue
            name = "_".join(["lm_eval", task, metric, *([] if filter_name == "none" else [filter_name])])
            better = results["higher_is_better"].get(task, {}).get(metric)
            error = numbers.get(f"{metric}_stderr,{filter_name}")
            metrics[name] = _metric(value, error, better, numbers["sample_len"])
    return metrics


def _metric(value: Any, error: Any, higher_is_better: bool | None, num_samples: int) -> Metric:
    if not _is_finite(value):
        return unavailable("lm-evaluation-harness gave no finite number", higher_is_better)
    margin = _NORMAL_95 * error if _is_finite(error) else None  # "N/A" if there is none
    return Metric(
        value=float(value),
        higher_is_better=higher_is_better,
        num_samples=num_samples,
        interval=None if margin is None else (float(value - margin), float(value + margin)),
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
