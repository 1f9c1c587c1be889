"""`egup evaluate`: the results it writes and shows, of models, adapters and 4-bit weights, and what it refuses."""

import json
import stat

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from conftest import qa_rows
from fixtures_audit import wide_model
from fixtures_cli import assert_refused, egup, save, write_rows
from fixtures_evaluation import lively_model, with_adapter
from fixtures_muse import write_muse
from fixtures_records import RECORD

from egup_trainer.cli import evaluate
from egup_trainer.data.rendering import Template
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.errors import DataError, StateError
from egup_trainer.evaluation.evaluation import read_evaluation
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.loading import load_model
from egup_trainer.records.facts import facts_of_rows
from egup_trainer.records.schema import RECORD_NAME

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
ROWS = {"forget": qa_rows(0, 5), "retain": qa_rows(20, 27), "holdout": qa_rows(40, 44)}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Folder of a saved model."""
    return save(lively_model(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def adapter(folder, tokenizer, tmp_path_factory):
    """Folder of a saved adapter of that model."""
    model = with_adapter(load_model(str(folder)))
    return save(model, tokenizer, tmp_path_factory.mktemp("adapters") / "unlearned")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Paths of forget.jsonl, retain.jsonl and holdout.jsonl."""
    return write_rows(tmp_path_factory.mktemp("rows"), **ROWS)


def run(folder, rows, output, *words, without=(), **flags):
    """Exit code of `egup evaluate` on the custom suite."""
    flags = {"suite": "custom", "output": output, "max_new_tokens": 8, "use_cpu": True, **flags}
    sources = {name: path for name, path in rows.items() if name not in without}
    return egup("evaluate", *words, model_name_or_path=folder, **flags, **sources)


def values_of(path) -> dict:
    return read_evaluation(path).values


# Results


def test_results_are_those_of_a_call_in_python(folder, rows, tokenizer, tmp_path, capsys):
    output = tmp_path / "below" / "results.json"
    flags = {"gradient_norms": True, "per_device_eval_batch_size": 3, "feature_layer": 0, "max_length": 100}
    assert run(folder, rows, output, **flags, user_marker="Q: ", assistant_marker=" A: ") == 0
    suite = custom_suite(
        *(load_rows(ROWS[name]) for name in ("forget", "retain", "holdout")),
        template=Template("Q: ", " A: "),
        max_length=100,
        max_new_tokens=8,
    )
    options = ScoringOptions(batch_size=1, feature_layer=0, with_gradient_norms=True, progress=False)
    expected = evaluate_model(lively_model(tokenizer), tokenizer, suite, options)
    found = read_evaluation(output)
    assert list(found.metrics) == list(expected.metrics)
    for name, value in expected.values.items():
        assert found.values[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6))
        assert found.metrics[name].reason == expected.metrics[name].reason
    assert found.sets == expected.sets
    for name, features in expected.features.items():
        np.testing.assert_allclose(found.features[name], features, atol=1e-5)
    assert (found.name, found.suite, found.split, found.examples, found.training) == ("mine", "custom", None, {}, [])


def test_the_run_is_told_and_the_files_are_the_users_alone(folder, rows, tmp_path):
    output = tmp_path / "r.json"
    assert run(folder, rows, output, "--name", "first try", without=("retain", "holdout")) == 0
    found = read_evaluation(output)
    assert found.name == "first try"
    assert found.run["command"].startswith(f"egup evaluate --model_name_or_path {folder} --suite custom --output ")
    assert (found.run["model"], found.run["processes"]) == (str(folder), 1)
    assert found.run["seconds"] > 0
    assert {"python", "torch", "transformers"} <= set(found.run["versions"])
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "r.json": 0o600,
        "r.features.safetensors": 0o600,
    }


def test_the_table_has_every_metric_or_the_reason_why_not(folder, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = tmp_path / "r.json"
    assert run(folder, rows, output, without=("retain",)) == 0
    printed = capsys.readouterr()
    evaluation = read_evaluation(output)
    lines = printed.out.splitlines()
    assert lines[0].strip() == "mine: custom"
    table = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for line in lines
        if len(cells := line.strip("│").split("│")) == 4
    }
    for name, metric in evaluation.metrics.items():
        if metric.value is not None:
            interval = "" if metric.interval is None else f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g}"
            assert table[name] == [f"{metric.value:.4g}", interval, str(metric.num_samples)]
        else:
            assert name not in table
    assert "No value for forget_quality, privleak: no results of a retrained model" in printed.out
    assert f"Written to {output}" in printed.out
    assert not any(row[key] in printed.out + printed.err for row in ROWS["forget"] for key in row)


def test_texts_are_kept_if_they_are_asked_for(folder, rows, tmp_path):
    assert run(folder, rows, tmp_path / "r.json", "--show_examples", "2") == 0
    examples = read_evaluation(tmp_path / "r.json").examples
    assert {name: [each.sample for each in part] for name, part in examples.items()} == {
        "forget": [0, 1],
        "retain": [0, 1],
        "holdout": [0, 1],
    }
    assert examples["forget"][1].answer == ROWS["forget"][1]["answer"]
    assert run(folder, rows, tmp_path / "none.json") == 0
    assert ROWS["forget"][1]["answer"] not in (tmp_path / "none.json").read_text()


def test_what_training_left_beside_the_model_is_kept_with_the_results(folder, rows, tokenizer, tmp_path):
    unlearned = save(lively_model(tokenizer), tokenizer, tmp_path / "model")
    (unlearned / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 0.5, "step": 1}], "epoch": 1}))
    (unlearned / RECORD_NAME).write_text(json.dumps(RECORD))
    assert run(unlearned, rows, tmp_path / "r.json", without=("retain", "holdout")) == 0
    found = read_evaluation(tmp_path / "r.json")
    assert found.training == [{"loss": 0.5, "step": 1}]
    assert found.run["unlearning"] == RECORD


# Kinds of models


def test_an_adapter_is_judged_with_and_read_without_itself(adapter, folder, rows, tmp_path):
    """The perplexity of what the adapted model writes is that under the model below it."""
    assert run(adapter, rows, tmp_path / "adapter.json", "--show_examples", "5") == 0
    found = read_evaluation(tmp_path / "adapter.json")
    assert found.name == "unlearned"
    assert run(folder, rows, tmp_path / "base.json", "--show_examples", "5") == 0
    base = read_evaluation(tmp_path / "base.json")
    with_it, without_it = (each.metrics["forget_probability"].values["forget"] for each in (found, base))
    assert all(with_it[sample] != pytest.approx(without_it[sample], rel=0.01) for sample in with_it)
    assert base.metrics["fluency_perplexity"].reason == "no generation was read by the model before unlearning"
    written = [
        {"question": row["question"], "answer": example.generation}
        for row, example in zip(ROWS["forget"], found.examples["forget"], strict=True)
    ]
    assert run(folder, write_rows(tmp_path, forget=written), tmp_path / "w.json") == 0
    likely = read_evaluation(tmp_path / "w.json").metrics["forget_probability"].values["forget"]
    expected = np.exp(np.mean([-np.log(value) for value in likely.values()]))
    assert found.values["fluency_perplexity"] == pytest.approx(expected, rel=1e-4)


def test_the_model_before_may_be_named(adapter, folder, rows, tmp_path):
    assert run(folder, rows, tmp_path / "r.json", model_before=adapter) == 0
    assert values_of(tmp_path / "r.json")["fluency_perplexity"] > 1


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_4_bit_weights_are_evaluated_on_the_cpu(kind, tokenizer, rows, tmp_path):
    pytest.importorskip("bitsandbytes")
    chosen = save(wide_model(tokenizer), tokenizer, tmp_path / "model")
    if kind == "adapter":
        chosen = save(with_adapter(load_model(str(chosen))), tokenizer, tmp_path / "adapter")
    flags = ("--load_in_4bit", "--gradient_norms")
    assert run(chosen, rows, tmp_path / "four.json", *flags) == 0
    four = values_of(tmp_path / "four.json")
    assert run(chosen, rows, tmp_path / "whole.json", "--gradient_norms") == 0
    whole = values_of(tmp_path / "whole.json")
    assert four["forget_probability"] != whole["forget_probability"]
    assert np.log(four["forget_probability"]) == pytest.approx(np.log(whole["forget_probability"]), abs=1)
    assert 0 <= four["mia_gradnorm"] <= 1
    assert (four["fluency_perplexity"] is None) == (kind == "model")


def test_bfloat16_autocast_stays_near(folder, rows, tmp_path):
    assert run(folder, rows, tmp_path / "whole.json") == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run(folder, rows, tmp_path / "half.json", "--bf16") == 0
    whole, half = (np.log(values_of(tmp_path / name)["forget_probability"]) for name in ("whole.json", "half.json"))
    assert half != whole
    assert half == pytest.approx(whole, abs=0.05)


# Other suites


def test_muse_from_a_folder(folder, tokenizer, tmp_path, capsys):
    model = save(lively_model(tokenizer, positions=2048), tokenizer, tmp_path / "model")
    flags = {"suite": "muse", "muse_corpus": "books", "data_dir": write_muse(tmp_path / "muse"), "disable_tqdm": True}
    assert run(model, {}, tmp_path / "r.json", **flags, max_new_tokens=None) == 0
    found = read_evaluation(tmp_path / "r.json")
    assert (found.suite, found.split) == ("muse", "books")
    assert {name: facts.num_rows for name, facts in found.sets.items()}["forget_verbmem"] == 4
    assert 0 <= found.values["forget_verbmem_exact_memorization"] <= 1
    printed = capsys.readouterr()
    assert printed.out.startswith("model: muse books")
    assert not any(title in printed.err for title in ("Scoring", "Generating", "Computing"))


# Other models' results


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory):
    """Paths of rows with wrong answers."""
    sets = {
        name: [record | {"perturbed_answer": [f"Nobody {n}.", "In Denna."]} for n, record in enumerate(records)]
        for name, records in ROWS.items()
    }
    return write_rows(tmp_path_factory.mktemp("perturbed"), **sets)


def test_other_models_results_give_the_metrics_that_need_them(folder, perturbed, tokenizer, tmp_path):
    other = save(lively_model(tokenizer, seed=5), tokenizer, tmp_path / "other")
    assert run(other, perturbed, tmp_path / "other.json") == 0
    assert run(folder, perturbed, tmp_path / "alone.json") == 0
    results = dict.fromkeys(("retrained", "before", "reference"), tmp_path / "other.json")
    assert run(folder, perturbed, tmp_path / "r.json", **results) == 0
    alone, found, theirs = (values_of(tmp_path / f"{name}.json") for name in ("alone", "r", "other"))
    needed = ["forget_quality", "mia_reference", "privleak", "entanglement_retain_cka", "entanglement_retain_shift"]
    assert [name for name in found if found[name] is not None and alone[name] is None] == needed
    assert {name: value for name, value in found.items() if name not in needed} == {
        name: value for name, value in alone.items() if name not in needed
    }
    assert 0 < found["forget_quality"] <= 1
    ours, retrained = 1 - found["mia_min_k"], 1 - theirs["mia_min_k"]
    assert found["privleak"] == pytest.approx(100 * (ours - retrained) / (retrained + 1e-10))
    assert 0 < found["entanglement_retain_shift"] < 2


# A part of the metrics


def test_chosen_metrics_alone_are_computed_and_written(folder, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", lambda *args, **kwargs: pytest.fail("it wrote"))
    assert run(folder, rows, tmp_path / "r.json", metrics="privleak, forget_probability") == 0
    assert list(values_of(tmp_path / "r.json")) == ["forget_probability", "mia_min_k", "privleak"]
    assert {path.name for path in tmp_path.iterdir()} == {"r.json"}
    assert "retain_probability" not in capsys.readouterr().out


def test_results_of_some_metrics_can_be_compared_with_those_of_all(folder, rows, tmp_path):
    assert run(folder, rows, tmp_path / "all.json") == 0
    some, results = {"metrics": "forget_probability,mia_loss"}, {"retrained": tmp_path / "all.json"}
    assert run(folder, rows, tmp_path / "some.json", **some, **results) == 0
    whole, part = (read_evaluation(tmp_path / f"{name}.json") for name in ("all", "some"))
    assert (part.sets, part.settings) == (whole.sets, whole.settings)
    assert part.values == {name: pytest.approx(whole.values[name], rel=1e-4) for name in part.values}
    flags = {"retrained": tmp_path / "some.json", "metrics": "privleak,forget_quality"}
    assert run(folder, rows, tmp_path / "r.json", **flags) == 0
    found = read_evaluation(tmp_path / "r.json").metrics
    assert found["privleak"].reason == "the results of --retrained lack mia_min_k"
    assert found["forget_quality"].reason == "the results of --retrained lack forget_quality"


def test_generations_can_be_skipped(folder, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", lambda *args, **kwargs: pytest.fail("it wrote"))
    assert run(folder, rows, tmp_path / "r.json", "--skip_generation") == 0
    found = values_of(tmp_path / "r.json")
    assert "retain_probability" in found
    assert not [name for name in found if "rouge" in name or "fluency" in name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--skip_generation", "--show_examples", "2"], "--show_examples, which none of the chosen metrics uses"),
        (["--metrics", "mia_loss", "--gradient_norms"], "--gradient_norms, which none of the chosen metrics uses"),
        (["--skip_generation", "--model_before", "m"], "--model_before, which none of the chosen metrics uses"),
    ],
)
def test_a_choice_without_effect_is_refused_before_a_model_is_loaded(
    no_weights, rows, tmp_path, capsys, words, message
):
    base = ["evaluate", "--model_name_or_path", str(no_weights), "--suite", "custom"]
    base += [word for name, path in rows.items() for word in (f"--{name}", str(path))]
    assert_refused([*base, "--output", str(tmp_path / "r.json"), *words], tmp_path, capsys, message)


def test_a_killed_evaluation_goes_on_and_gives_the_same_results(folder, rows, tmp_path, capsys, monkeypatch):
    assert run(folder, rows, tmp_path / "whole.json") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("egup_trainer.evaluation.run.compute", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(folder, rows, tmp_path / "r.json") == 130
    kept = {f"r.{name}.unfinished.json" for name in ROWS}
    assert {path.name for path in tmp_path.iterdir()} - {"whole.json", "whole.features.safetensors"} == kept
    with monkeypatch.context() as patch:
        patch.setattr("egup_trainer.evaluation.kept_scores.score_sets", lambda *args: pytest.fail("scored again"))
        assert run(folder, rows, tmp_path / "r.json") == 0
    printed = capsys.readouterr().out
    assert "Scores of forget, retain, holdout rows are those of the same evaluation, which was interrupted" in printed
    assert values_of(tmp_path / "r.json") == values_of(tmp_path / "whole.json")
    assert not kept & {path.name for path in tmp_path.iterdir()}


# Other rows than those of the model's record


SECRET, RECORDED = "5" * 64, load_rows(qa_rows(0, 6))


@pytest.mark.parametrize(
    ("rows", "has_secret", "said"),
    [
        (RECORDED[:4], True, None),
        (RECORDED[:3], False, "4 forget rows, but 3 were evaluated"),
        (RECORDED[2:], True, "their fingerprints differ"),
        (RECORDED[2:], False, None),  # without the secret, as many rows cannot be told apart
    ],
)
def test_other_rows_are_told_by_their_number_or_their_fingerprint(tokenizer, tmp_path, rows, has_secret, said):
    if has_secret:
        (tmp_path / "_run.json").write_text(json.dumps({"secrets": [SECRET]}))
    facts = facts_of_rows(tokenize(RECORDED[:4], tokenizer, name="rows"), SECRET)
    found = evaluate._other_rows(custom_suite(rows), tokenizer, str(tmp_path), {"rows": {"forget": facts}})
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")


# What is refused


@pytest.mark.parametrize("text", ["{", "[]", '{"epoch": 1}', '{"log_history": 3}'])
def test_a_broken_trainer_state_is_refused_before_a_model_is_loaded(rows, tmp_path, capsys, text):
    (tmp_path / "trainer_state.json").write_text(text)
    words = ["evaluate", "--model_name_or_path", str(tmp_path), "--suite", "custom", "--forget", str(rows["forget"])]
    words += ["--output", str(tmp_path / "r.json")]
    assert_refused(words, tmp_path, capsys, tmp_path / "trainer_state.json", error=DataError)


@pytest.mark.parametrize("output", ["file/r.json", "folder.json"])
def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    folder, rows, tmp_path, capsys, monkeypatch, output
):
    """Or hours of work would end in nothing."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    monkeypatch.setattr(evaluate, "load_on_device", lambda *args: pytest.fail("a model was loaded"))
    words = ["evaluate", "--model_name_or_path", str(folder), "--suite", "custom", "--forget", str(rows["forget"])]
    assert_refused([*words, "--output", str(tmp_path / output)], tmp_path, capsys, output, error=StateError)
