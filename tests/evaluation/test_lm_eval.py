"""lm-evaluation-harness on a task of one's own: accuracies by hand, what is printed, what is refused."""

import logging
import sys
from functools import partial

import pytest
import torch
from fixtures_lm_eval import CHOICES, choice_log_probabilities, needs_harness, write_task

from egup_trainer.errors import ConfigError
from egup_trainer.evaluation.metric import Metric
from egup_trainer.evaluation.metrics.lm_eval import _metrics, lm_eval_metrics, load_tasks


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def best(model, tokenizer):
    """Per question, the likeliest choice, and the likeliest per character."""
    log_probabilities = choice_log_probabilities(model, tokenizer)
    lengths = torch.tensor([len(choice) for choice in CHOICES])
    return log_probabilities.argmax(1).tolist(), (log_probabilities / lengths).argmax(1).tolist()


@pytest.fixture
def tasks(tmp_path, best):
    """Folder with the task "towns": 4 of its 6 right answers are likeliest, 1 other is likeliest per character."""
    likeliest, per_character = best
    assert all(one != other for one, other in zip(likeliest, per_character, strict=True))
    neither = 3 - likeliest[5] - per_character[5]
    write_task(tmp_path / "tasks", [*likeliest[:4], per_character[4], neither])
    return tmp_path / "tasks"


@pytest.fixture
def own_tasks_only(monkeypatch):
    """The harness as if it had no tasks of its own, which take it 20 s to read."""
    from lm_eval.tasks import TaskManager

    def manager(include_path=None, include_defaults=True):
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)


@pytest.fixture
def harness_logger():
    """The harness's logger, which lets its many warnings through before and after."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield logger
    logger.setLevel(before)


def interval(value, num_samples):
    """value +- 1.96 standard errors of the mean of zeros and ones."""
    margin = 1.96 * (value * (1 - value) / (num_samples - 1)) ** 0.5
    return pytest.approx((value - margin, value + margin))


@needs_harness
def test_accuracies_are_those_of_the_models_own_log_probabilities(model, tokenizer, tasks):
    found = lm_eval_metrics(model, tokenizer, ["towns"], include_path=tasks, progress=False)
    expected = {"lm_eval_towns_acc": 4 / 6, "lm_eval_towns_acc_norm": 1 / 6}
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(expected)
    for name, metric in found.items():
        assert metric.interval == interval(expected[name], 6)
        assert (metric.higher_is_better, metric.num_samples, metric.num_skipped) == (True, 6, 0)


@needs_harness
def test_a_filter_stands_in_the_name(model, tokenizer, tmp_path, best):
    more = "filter_list:\n  - name: strict\n    filter:\n      - function: take_first"
    write_task(tmp_path / "tasks", best[0], more=more)
    found = lm_eval_metrics(model, tokenizer, ["towns"], include_path=tmp_path / "tasks", progress=False)
    assert {name: metric.value for name, metric in found.items()} == {
        "lm_eval_towns_acc_strict": 1.0,
        "lm_eval_towns_acc_norm_strict": 0.0,
    }


@needs_harness
@pytest.mark.usefixtures("own_tasks_only")
def test_a_group_has_its_own_metric_beside_those_of_its_tasks(model, tokenizer, tasks, best):
    write_task(tasks, best[0], name="right")
    (tasks / "group.yaml").write_text(
        "group: places\ntask: [towns, right]\naggregate_metric_list:\n  - metric: acc\n", encoding="utf-8"
    )
    found = lm_eval_metrics(model, tokenizer, ["places"], include_path=tasks, progress=False)
    assert {name: (metric.value, metric.num_samples) for name, metric in found.items()} == {
        "lm_eval_towns_acc": (pytest.approx(4 / 6), 6),
        "lm_eval_towns_acc_norm": (pytest.approx(1 / 6), 6),
        "lm_eval_right_acc": (1.0, 6),
        "lm_eval_right_acc_norm": (0.0, 6),
        "lm_eval_places_acc": (pytest.approx(10 / 12), 12),
    }
    assert found["lm_eval_places_acc"].higher_is_better is True


@needs_harness
@pytest.mark.usefixtures("own_tasks_only")
def test_a_tag_stands_for_its_tasks(tasks, best):
    write_task(tasks, best[0], name="right", more="tag: places")
    write_task(tasks, best[0], name="again", more="tag: places")
    assert sorted(task.config.task for task in load_tasks(["places"], tasks, progress=False)) == ["again", "right"]


@needs_harness
def test_the_forward_pass_is_autocast_where_asked(model, tokenizer, tasks):
    seen = []
    model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.logits.dtype))
    run = partial(lm_eval_metrics, model, tokenizer, ["towns"], include_path=tasks, progress=False)
    run()
    assert set(seen) == {torch.float32}
    seen.clear()
    run(mixed_precision_dtype="bfloat16")
    assert set(seen) == {torch.bfloat16}


@needs_harness
def test_only_progress_is_shown_and_all_is_as_before(
    model, tokenizer, tmp_path, best, monkeypatch, capfd, caplog, harness_logger
):
    write_task(tmp_path / "tasks", best[0], more="process_docs: !function loud.loud")
    (tmp_path / "tasks" / "loud.py").write_text(
        "def loud(docs):\n    print('loud')\n    return docs\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)  # outside a repository: git would complain
    run = partial(lm_eval_metrics, model.train(), tokenizer, ["towns"], include_path=tmp_path / "tasks")
    run(progress=False)
    assert capfd.readouterr() == ("", "")
    run(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Running loglikelihood requests: 100%" in err
    assert "fatal" not in err
    assert caplog.records == []
    assert harness_logger.level == logging.WARNING
    assert model.training
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]


def test_numbers_are_read_as_the_harness_writes_them():
    results = {
        "results": {
            "talk": {
                "name": "talk",
                "alias": "talk",
                "sample_len": 4,
                "word_perplexity,none": 12.5,
                "word_perplexity_stderr,none": "N/A",
                "exact_match,flexible-extract": 0.5,
                "exact_match_stderr,flexible-extract": 0.25,
                "f1,none": float("nan"),
                "f1_stderr,none": 0.5,
            },
            "empty group": {"name": "empty group", "alias": "empty group"},
        },
        "higher_is_better": {"talk": {"word_perplexity": False, "exact_match": True}},
    }
    assert _metrics(results) == {
        "lm_eval_talk_word_perplexity": Metric(12.5, False, num_samples=4),
        "lm_eval_talk_exact_match_flexible-extract": Metric(
            0.5, True, num_samples=4, interval=(0.5 - 1.96 * 0.25, 0.5 + 1.96 * 0.25)
        ),
        "lm_eval_talk_f1": Metric(None, None, reason="lm-evaluation-harness gave no finite number"),
    }


def refused(*arguments):
    with pytest.raises(ConfigError) as error:
        load_tasks(*arguments, progress=False)
    return error.value


def test_without_the_harness_the_extra_is_named(model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert "egup-trainer[lm-eval]" in refused(["arc_easy"]).fix
    with pytest.raises(ConfigError):
        lm_eval_metrics(model, tokenizer, ["arc_easy"])


@needs_harness
@pytest.mark.usefixtures("own_tasks_only")
def test_tasks_that_cannot_be_run_are_refused(tasks, tmp_path, best):
    unknown = refused(["towns", "twons"], tasks)
    assert (unknown.got, unknown.fix) == ("the unknown lm-eval task twons", "did you mean towns?")
    assert refused(["xyzzy"], tasks).got == "the unknown lm-eval task xyzzy"
    assert refused(["towns"], tmp_path / "no").got == f"no folder at {tmp_path / 'no'}"
    assert refused([]).got == "no lm-eval task"
    write_task(tmp_path / "unsafe", best[0], more="unsafe_code: true")
    assert (
        refused(["towns"], tmp_path / "unsafe").got == "the lm-eval task towns, which runs code that the model writes"
    )
