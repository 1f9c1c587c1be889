"""A suite during training: what is logged, what may choose the best checkpoint, and what is refused."""

import json

import pytest
from conftest import qa_rows

from egup_trainer.cli.main import main
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.callback import SuiteCallback
from egup_trainer.evaluation.evaluation import read_evaluation
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite

QUIET = ScoringOptions(batch_size=4, progress=False)


def suite(first=0):
    return custom_suite(load_rows(qa_rows(first, 10)), load_rows(qa_rows(20, 26)), max_new_tokens=2)


@pytest.fixture
def trainer_with(make_trainer, tokenizer):
    """trainer_with(retrained=None, **options): a trainer that evaluates each epoch, and its callback."""

    def make(retrained=None, eval_dataset=None, **options):
        options = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3} | options
        trainer = make_trainer(**options, eval_dataset=eval_dataset or qa_rows(20, 22))
        callback = SuiteCallback(trainer, suite(), QUIET, retrained)
        trainer.add_callback(callback)
        return trainer, callback

    return make


@pytest.fixture
def retrained(make_model, tokenizer):
    """Results of another model on the same rows."""
    return evaluate_model(make_model(seed=5), tokenizer, suite(), QUIET, name="retrained")


def evaluations(trainer):
    return [row for row in trainer.state.log_history if "eval_forget_probability" in row]


def test_each_evaluation_logs_the_numbers_of_the_model_as_it_then_is(trainer_with, tokenizer):
    trainer, callback = trainer_with()
    trainer.train()
    logged = evaluations(trainer)
    assert [row["step"] for row in logged] == [3, 6, 9]
    values = [row["eval_forget_probability"] for row in logged]
    assert len(set(values)) == 3
    now = evaluate_model(trainer.model, tokenizer, suite(), QUIET).values
    assert values[-1] == pytest.approx(now["forget_probability"], rel=1e-6)
    assert callback.last.values.keys() == now.keys()
    assert "eval_forget_truth_ratio" in logged[0]  # with the answers of other rows as wrong ones
    assert "eval_forget_quality" not in logged[0]  # there is no retrained model


def test_training_is_the_same_with_a_suite(trainer_with, make_trainer):
    watched, _ = trainer_with()
    alone = make_trainer(num_train_epochs=3)
    watched.train()
    alone.train()
    pairs = zip(watched.model.parameters(), alone.model.parameters(), strict=True)
    assert all((first == second).all() for first, second in pairs)


@pytest.mark.parametrize(
    ("metric", "greater", "best"),
    [
        ("forget_probability", False, min),
        ("retain_probability", True, max),
        ("forget_probability_distance", False, min),
        ("entanglement_variance_ratio", True, max),  # it has no good side of its own: the user decides
    ],
)
def test_any_metric_may_choose_the_best_checkpoint(trainer_with, retrained, metric, greater, best):
    trainer, _ = trainer_with(
        retrained, metric_for_best_model=metric, greater_is_better=greater, load_best_model_at_end=True
    )
    trainer.train()
    values = {row["step"]: row[f"eval_{metric}"] for row in evaluations(trainer)}
    assert len(set(values.values())) == 3
    assert trainer.state.best_metric == pytest.approx(best(values.values()))
    assert trainer.state.best_global_step == best(values, key=values.get)


def test_the_distance_is_that_to_the_retrained_model(trainer_with, retrained):
    trainer, callback = trainer_with(retrained)
    trainer.train()
    row, aim = evaluations(trainer)[-1], retrained.values["retain_probability"]
    assert row["eval_retain_probability_distance"] == pytest.approx(abs(row["eval_retain_probability"] - aim))
    assert not any("distance" in name for name in callback.last.values)


def test_a_trainer_with_two_evaluation_sets_runs_the_suite_once_a_step(trainer_with, monkeypatch):
    trainer, callback = trainer_with(eval_dataset={"a": qa_rows(20, 22), "b": qa_rows(22, 24)})
    runs, run = [], callback._evaluate
    monkeypatch.setattr(callback, "_evaluate", lambda name: runs.append(name) or run(name))
    trainer.train()
    assert runs == ["step 3", "step 6", "step 9"]
    assert trainer.evaluate()["eval_a_loss"] > 0
    assert runs == ["step 3", "step 6", "step 9", "step 9"]  # after training the weights may be others


def test_the_wrong_side_is_refused(trainer_with):
    trainer, _ = trainer_with(metric_for_best_model="eval_forget_rouge", greater_is_better=True)
    with pytest.raises(ConfigError) as error:
        trainer.train()
    assert error.value.got == "metric_for_best_model=forget_rouge with greater_is_better=True"
    assert error.value.fix == "set --greater_is_better false"


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("forget_quality_by_holdout", "no holdout rows (rows of the same kind that the model never saw)"),
        ("forget_rouge_distance", "no retrained model"),
    ],
)
def test_a_metric_without_a_value_cannot_choose(trainer_with, metric, reason):
    trainer, _ = trainer_with(metric_for_best_model=metric, greater_is_better=False)
    with pytest.raises(ConfigError) as error:
        trainer.train()
    assert error.value.got == f"metric_for_best_model={metric}, which has no value: {reason}"


def test_a_retrained_model_of_other_rows_is_refused_before_training(make_trainer, make_model, tokenizer):
    other = evaluate_model(make_model(), tokenizer, suite(first=1), QUIET, name="other")
    with pytest.raises(DataError, match="Got --retrained with forget rows of fingerprint"):
        SuiteCallback(make_trainer(), suite(), QUIET, other)


@pytest.fixture
def words(make_model, tokenizer, tmp_path):
    """Flags of `egup unlearn` on a tiny model and invented rows."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["unlearn", "--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]
    for name, (start, stop) in {"forget": (0, 8), "retain": (20, 26)}.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in qa_rows(start, stop)), encoding="utf-8")
        flags += [f"--{name}", str(path)]
    return [
        *flags,
        "--no_verdict",
        "--use_cpu",
        "--disable_tqdm",
        "true",
        "--max_new_tokens",
        "2",
        "--num_train_epochs",
        "2",
    ]


def test_the_command_evaluates_logs_and_keeps_the_best(words, tmp_path):
    suite_flags = ["--eval_suite", "custom", "--eval_strategy", "epoch", "--save_strategy", "epoch"]
    best = ["--load_best_model_at_end", "--metric_for_best_model", "forget_probability", "--greater_is_better", "false"]
    assert main([*words, *suite_flags, *best]) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert len([row for row in history if "eval_forget_probability" in row]) == 2
    assert "forget_probability" in (tmp_path / "out" / "README.md").read_text()
    results = ["evaluate", "--model_name_or_path", str(tmp_path / "out"), "--suite", "custom", "--use_cpu"]
    rows = ["--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl")]
    output = ["--output", str(tmp_path / "r.json"), "--max_new_tokens", "2", "--disable_tqdm", "--update_model_card"]
    assert main([*results, *rows, *output]) == 0
    evaluation = read_evaluation(tmp_path / "r.json")
    assert evaluation.training == history
    assert evaluation.run["unlearning"]["rows"]["forget"]["rows"] == 8
    value = min(row["eval_forget_probability"] for row in history if "eval_forget_probability" in row)
    assert evaluation.values["forget_probability"] == pytest.approx(value, rel=1e-5)
    assert "entanglement_variance_ratio" in (tmp_path / "out" / "README.md").read_text()


def test_results_made_by_the_command_serve_in_training(words, tmp_path):
    """With the defaults of both commands, which must not differ in what makes results comparable."""
    place = words.index("--forget")
    rows, output = words[place : place + 4], str(tmp_path / "retrained.json")
    evaluate = ["evaluate", *words[1:3], "--suite", "custom", *rows, "--output", output, "--use_cpu", "--disable_tqdm"]
    assert main([*evaluate, "--max_new_tokens", "2"]) == 0
    flags = ["--eval_suite", "custom", "--eval_strategy", "epoch", "--retrained", output]
    assert main([*words, *flags]) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert len([row for row in history if "eval_forget_probability_distance" in row]) == 2


@pytest.mark.parametrize(
    ("flags", "got"),
    [
        (["--eval_suite", "custom"], "eval_suite=custom with eval_strategy=no"),
        (["--eval_suite", "tofus", "--eval_strategy", "epoch"], "eval_suite='tofus'"),
        (["--holdout", "h.jsonl"], "--holdout without --eval_suite"),
        (["--eval_suite", "tofu", "--eval_strategy", "epoch"], "suite tofu without --forget_split"),
        (
            ["--eval_suite", "muse", "--muse_corpus", "news", "--holdout", "h", "--eval_strategy", "epoch"],
            "--holdout with",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(words, capsys, flags, got):
    words = [word for word in words if word not in ("--max_new_tokens",)]
    words.remove("2")
    assert main([*words, *flags]) == 2
    assert f"Got {got}" in capsys.readouterr().err
