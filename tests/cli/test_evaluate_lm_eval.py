"""`egup evaluate --lm_eval_tasks`: benchmark numbers among the others, and what is refused before a model is run."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
from fixtures_cli import egup, save, write_rows
from fixtures_lm_eval import choice_log_probabilities, needs_harness, write_task

from egup_trainer.cli.evaluate import EvaluateArguments, _lm_eval_tasks
from egup_trainer.errors import ConfigError


@pytest.fixture
def evaluate(make_model, tokenizer, tmp_path):
    """evaluate(*flags): exit code of `egup evaluate` on a saved tiny model and own rows, in this process."""
    model = save(make_model(), tokenizer, tmp_path / "model")
    flags = {**write_rows(tmp_path, forget=(0, 4), retain=(20, 24)), "output": tmp_path / "results.json"}
    flags |= {"suite": "custom", "use_cpu": True, "max_new_tokens": 8, "disable_tqdm": True}
    return partial(egup, "evaluate", model_name_or_path=model, **flags)


@needs_harness
def test_the_results_hold_the_tasks_numbers_beside_the_suites(evaluate, make_model, tokenizer, tmp_path, capsys):
    likeliest = choice_log_probabilities(make_model(), tokenizer).argmax(1).tolist()
    wrong = [(choice + 1) % 3 for choice in likeliest]
    write_task(tmp_path / "tasks", [*likeliest[:4], *wrong[4:]], name="towns")
    write_task(tmp_path / "tasks", [*likeliest[:1], *wrong[1:]], name="streets")
    flags = ("--lm_eval_tasks", "towns, streets", "--lm_eval_include_path", str(tmp_path / "tasks"))
    assert evaluate(*flags) == 0
    metrics = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["lm_eval_towns_acc"]["value"] == pytest.approx(4 / 6)
    assert metrics["lm_eval_streets_acc"]["value"] == pytest.approx(1 / 6)
    assert metrics["lm_eval_towns_acc"]["num_samples"] == 6
    assert 0 < metrics["forget_probability"]["value"] < 1
    out, err = capsys.readouterr()
    assert "lm_eval_towns_acc" in out
    assert not any(bar in err for bar in ("Generating test split", "Running loglikelihood"))  # --disable_tqdm


@needs_harness
def test_an_unknown_task_ends_in_one_line_before_the_model_is_run(evaluate, tmp_path, capsys):
    assert evaluate("--lm_eval_tasks", "hellaswg") == 2
    line = capsys.readouterr().err.strip()
    assert "hellaswg" in line
    assert "Did you mean hellaswag" in line
    assert len(line) < 300  # not all 14,000
    assert not (tmp_path / "results.json").exists()


def test_several_processes_are_refused():
    with pytest.raises(ConfigError, match="--lm_eval_tasks on 2 processes"):
        _lm_eval_tasks(EvaluateArguments(lm_eval_tasks="towns"), SimpleNamespace(num_processes=2))
    assert _lm_eval_tasks(EvaluateArguments(), SimpleNamespace(num_processes=2)) == []
