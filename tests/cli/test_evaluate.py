"""`egup evaluate`: the results it writes and shows, of models, adapters and 4-bit weights, and what it refuses."""

import json
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from conftest import SHARED, qa_rows
from fixtures_audit import wide_model
from fixtures_evaluation import lively_model, with_adapter
from fixtures_muse import EXAMPLES, write_muse
from fixtures_records import RECORD

from egup_trainer.cli import evaluate
from egup_trainer.cli.main import main
from egup_trainer.data.rendering import Template
from egup_trainer.data.sources import load_rows
from egup_trainer.evaluation.evaluation import read_evaluation
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.loading import load_model
from egup_trainer.records.schema import RECORD_NAME

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it
ROWS = {"forget": qa_rows(0, 5), "retain": qa_rows(20, 27), "holdout": qa_rows(40, 44)}


@pytest.fixture(autouse=True)
def fresh_state():
    """The state of accelerate is shared by all; a run in a process of its own has a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def save(model, tokenizer, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Folder of a saved model."""
    return save(lively_model(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def adapter(folder, tokenizer, tmp_path_factory):
    """Folder of a saved adapter of that model."""
    model = with_adapter(load_model(folder))
    return save(model, tokenizer, tmp_path_factory.mktemp("adapters") / "unlearned")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Paths of forget.jsonl, retain.jsonl and holdout.jsonl."""
    below = tmp_path_factory.mktemp("rows")
    for name, records in ROWS.items():
        (below / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return {name: str(below / f"{name}.jsonl") for name in ROWS}


def run(folder, rows, output, *flags, without=()):
    """Exit code of `egup evaluate` on the custom suite."""
    sources = [word for name, path in rows.items() if name not in without for word in (f"--{name}", path)]
    words = ["--suite", "custom", "--output", str(output), "--max_new_tokens", "8", "--use_cpu"]
    return main(["evaluate", "--model_name_or_path", str(folder), *words, *sources, *flags])


def values_of(path) -> dict:
    return read_evaluation(path).values


# Results


def test_results_are_those_of_a_call_in_python(folder, rows, tokenizer, tmp_path, capsys):
    output = tmp_path / "below" / "results.json"
    flags = (
        "--gradient_norms",
        "--per_device_eval_batch_size",
        "3",
        "--user_marker",
        "Q: ",
        "--assistant_marker",
        " A: ",
    )
    assert run(folder, rows, output, *flags, "--feature_layer", "0", "--max_length", "100") == 0
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
    assert (found.run["model"], found.run["processes"]) == (folder, 1)
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
    assert "No value for forget_truth_ratio, forget_truth_probability: no row has perturbed answers" in printed.out
    assert f"Written to {output}" in printed.out
    assert not any(row[key] in printed.out + printed.err for row in ROWS["forget"] for key in row)


def test_texts_are_kept_if_they_are_asked_for(folder, rows, tmp_path):
    assert run(folder, rows, tmp_path / "r.json", "--show_examples", "2") == 0
    examples = read_evaluation(tmp_path / "r.json").examples
    assert {name: [each.sample for each in part] for name, part in examples.items()} == {
        "forget": [0, 1],
        "retain": [0, 1],
    }
    assert examples["forget"][1].answer == ROWS["forget"][1]["answer"]
    assert run(folder, rows, tmp_path / "none.json") == 0
    assert ROWS["forget"][1]["answer"] not in (tmp_path / "none.json").read_text()


def test_what_training_left_beside_the_model_is_kept_with_the_results(folder, rows, tokenizer, tmp_path):
    unlearned = Path(save(lively_model(tokenizer), tokenizer, tmp_path / "model"))
    (unlearned / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 0.5, "step": 1}], "epoch": 1}))
    (unlearned / RECORD_NAME).write_text(json.dumps(RECORD))
    assert run(unlearned, rows, tmp_path / "r.json", without=("retain", "holdout")) == 0
    found = read_evaluation(tmp_path / "r.json")
    assert found.training == [{"loss": 0.5, "step": 1}]
    assert found.run["unlearning"] == RECORD


@pytest.mark.parametrize("text", ["{", "[]", '{"epoch": 1}', '{"log_history": 3}'])
def test_a_broken_trainer_state_is_refused_before_a_model_is_loaded(rows, tmp_path, capsys, text):
    (tmp_path / "trainer_state.json").write_text(text)
    assert run(tmp_path, rows, tmp_path / "r.json") == 2
    assert errors(capsys) == [
        f"egup evaluate: error: Got {tmp_path}/trainer_state.json, which is no trainer state, but expected a file as a "
        "Trainer saves it. Delete or repair it."
    ]


def test_flags_may_stand_in_a_file(folder, rows, tmp_path):
    config = tmp_path / "run.yaml"
    lines = {"suite": "custom", "forget": rows["forget"], "output": str(tmp_path / "r.json"), "max_new_tokens": 2}
    lines |= {"model_name_or_path": folder, "use_cpu": True, "show_examples": 1}
    config.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    assert main(["evaluate", "--config", str(config), "--name", "by flag"]) == 0
    found = read_evaluation(tmp_path / "r.json")
    assert (found.name, len(found.examples["forget"])) == ("by flag", 1)


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
    (tmp_path / "written.jsonl").write_text("\n".join(map(json.dumps, written)))
    assert run(folder, {"forget": str(tmp_path / "written.jsonl")}, tmp_path / "w.json") == 0
    likely = read_evaluation(tmp_path / "w.json").metrics["forget_probability"].values["forget"]
    expected = np.exp(np.mean([-np.log(value) for value in likely.values()]))
    assert found.values["fluency_perplexity"] == pytest.approx(expected, rel=1e-4)


def test_the_model_before_may_be_named(adapter, folder, rows, tmp_path):
    assert run(folder, rows, tmp_path / "r.json", "--model_before", adapter) == 0
    assert values_of(tmp_path / "r.json")["fluency_perplexity"] > 1


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_4_bit_weights_are_evaluated_on_the_cpu(kind, tokenizer, rows, tmp_path):
    pytest.importorskip("bitsandbytes")
    chosen = save(wide_model(tokenizer), tokenizer, tmp_path / "model")
    if kind == "adapter":
        chosen = save(with_adapter(load_model(chosen)), tokenizer, tmp_path / "adapter")
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
    words = ["--suite", "muse", "--muse_corpus", "books", "--data_dir", str(write_muse(tmp_path / "muse"))]
    words += ["--output", str(tmp_path / "r.json"), "--use_cpu", "--disable_tqdm"]
    assert main(["evaluate", "--model_name_or_path", model, *words]) == 0
    found = read_evaluation(tmp_path / "r.json")
    assert (found.suite, found.split) == ("muse", "books")
    assert {name: facts.num_rows for name, facts in found.sets.items()}["forget_verbmem"] == 4
    assert 0 <= found.values["forget_verbmem_exact_memorization"] <= 1
    printed = capsys.readouterr()
    assert printed.out.startswith("model: muse books")
    assert not any(title in printed.err for title in ("Scoring", "Generating", "Computing"))


def test_tofu_from_a_folder(tokenizer, tmp_path):
    """On the first rows of each file."""
    names = ("forget05_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed")
    for name in names:
        path = SHARED / "data" / "tofu" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"the TOFU rows are not at {path.parent}")
        (tmp_path / path.name).write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:3]))
    model = save(lively_model(tokenizer, positions=1024), tokenizer, tmp_path / "model")
    words = ["--suite", "tofu", "--forget_split", "forget05", "--data_dir", str(tmp_path), "--max_new_tokens", "4"]
    words += ["--holdout", "tofu:retain_perturbed", "--output", str(tmp_path / "r.json"), "--use_cpu"]
    assert main(["evaluate", "--model_name_or_path", model, *words]) == 0
    found = read_evaluation(tmp_path / "r.json")
    assert (found.suite, found.split) == ("tofu", "forget05")
    assert {name: facts.num_rows for name, facts in found.sets.items()} == dict.fromkeys(
        ("forget", "retain", "real_authors", "world_facts", "holdout"), 3
    )
    assert found.values["model_utility"] is not None
    assert found.values["mia_loss"] is not None


# Other models' results


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory):
    """Paths of rows with wrong answers."""
    below = tmp_path_factory.mktemp("perturbed")
    for name, records in ROWS.items():
        changed = [record | {"perturbed_answer": [f"Nobody {n}.", "In Denna."]} for n, record in enumerate(records)]
        (below / f"{name}.jsonl").write_text("\n".join(map(json.dumps, changed)))
    return {name: str(below / f"{name}.jsonl") for name in ROWS}


def test_other_models_results_give_the_metrics_that_need_them(folder, perturbed, tokenizer, tmp_path):
    other = save(lively_model(tokenizer, seed=5), tokenizer, tmp_path / "other")
    assert run(other, perturbed, tmp_path / "other.json") == 0
    assert run(folder, perturbed, tmp_path / "alone.json") == 0
    results = str(tmp_path / "other.json")
    assert (
        run(folder, perturbed, tmp_path / "r.json", "--retrained", results, "--before", results, "--reference", results)
        == 0
    )
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


def test_results_of_the_model_itself_show_no_difference(folder, perturbed, tmp_path):
    assert run(folder, perturbed, tmp_path / "first.json") == 0
    results = str(tmp_path / "first.json")
    assert (
        run(folder, perturbed, tmp_path / "r.json", "--retrained", results, "--before", results, "--reference", results)
        == 0
    )
    found = values_of(tmp_path / "r.json")
    assert (found["forget_quality"], found["privleak"], found["mia_reference"]) == (1.0, 0.0, 0.5)
    assert found["entanglement_retain_shift"] == pytest.approx(0, abs=1e-6)
    assert found["entanglement_retain_cka"] == pytest.approx(1)


@pytest.mark.parametrize("role", ["retrained", "before", "reference"])
def test_results_of_other_rows_are_refused_before_a_model_is_loaded(folder, rows, tmp_path, capsys, monkeypatch, role):
    flags = ("--forget", rows["holdout"])
    assert run(folder, rows, tmp_path / "other.json", *flags, without=("forget", "holdout")) == 0
    capsys.readouterr()
    monkeypatch.setattr(evaluate, "load_on_device", lambda *args: pytest.fail("a model was loaded"))
    theirs = read_evaluation(tmp_path / "other.json").sets["forget"].fingerprint
    ours = custom_suite(load_rows(ROWS["forget"])).row_sets[0].fingerprint
    assert run(folder, rows, tmp_path / "r.json", f"--{role}", str(tmp_path / "other.json")) == 2
    assert errors(capsys) == [
        f"egup evaluate: error: Got --{role} with forget rows of fingerprint {theirs}, but expected forget rows of "
        f"fingerprint {ours}, that of mine. Evaluate both models on the same suite, split and rows."
    ]
    assert not (tmp_path / "r.json").exists()


# What is refused


def errors(capsys) -> list[str]:
    """The lines on stderr, without bars."""
    streams = capsys.readouterr()
    assert SECRET not in streams.out + streams.err
    assert "Traceback" not in streams.err
    lines = streams.err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith("egup") or "rror" in line]


NEEDED = "expected it to be given"


def usage_errors(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """name -> (flags, the message)."""
    muse, short, bad = (tmp_path / name for name in ("muse", "short", "bad.jsonl"))
    bad.write_text(json.dumps({"question": SECRET, "answer": " "}))
    write_muse(muse)
    write_muse(short, knowmem__forget_qa_icl=EXAMPLES[:3])
    (tmp_path / "old.json").write_text(json.dumps({"kind": "egup_trainer evaluation", "schema_version": 0}))
    model, output = ["--model_name_or_path", str(tmp_path / "absent")], ["--output", str(tmp_path / "r.json")]
    custom, both = ["--suite", "custom"], [*model, *output]
    rows = ["--forget", str(tmp_path / "forget.jsonl")]
    (tmp_path / "forget.jsonl").write_text(json.dumps(qa_rows(0, 1)[0]))
    results = "results as `egup evaluate` writes them"
    return {
        "no model": ([*custom, *output], f"Got no --model_name_or_path, but {NEEDED}. See `egup evaluate --help`."),
        "no suite": (both, f"Got no --suite, but {NEEDED}. See `egup evaluate --help`."),
        "no output": ([*model, *custom], f"Got no --output, but {NEEDED}. See `egup evaluate --help`."),
        "no json": (
            [*model, *custom, "--output", "r.html"],
            "Got --output r.html, but expected a name that ends in .json. Rename it.",
        ),
        "unknown suite": (
            [*both, "--suite", "tofuu"],
            "Got suite='tofuu', but expected one of tofu, muse, custom. Did you mean tofu?",
        ),
        "unknown flag": (
            [*both, *custom, "--holdouts", "x"],
            "Got the unknown flag --holdouts, but expected a flag of `egup evaluate --help`. Did you mean --holdout?",
        ),
        "bad number": (
            [*both, *custom, "--max_new_tokens", "many"],
            "Got argument --max_new_tokens/--max-new-tokens: invalid int value: 'many', but expected flags as shown by "
            "--help. See `egup evaluate --help`.",
        ),
        "lora flags": (
            [*both, *custom, *rows, "--use_peft"],
            "Got --use_peft, but expected an adapter's folder as --model_name_or_path: it knows its own settings. "
            "Leave "
            "out --use_peft.",
        ),
        "lora rank": (
            [*both, *custom, *rows, "--lora_r", "4"],
            "Got --lora_r, but expected an adapter's folder as --model_name_or_path: it knows its own settings. Leave "
            "out --lora_r.",
        ),
        "tofu without split": (
            [*both, "--suite", "tofu"],
            f"Got suite tofu without --forget_split, but {NEEDED}. Set --forget_split.",
        ),
        "muse without corpus": (
            [*both, "--suite", "muse"],
            f"Got suite muse without --muse_corpus, but {NEEDED}. Set --muse_corpus.",
        ),
        "custom without rows": ([*both, *custom], f"Got suite custom without --forget, but {NEEDED}. Set --forget."),
        "split with muse": (
            [*both, "--suite", "muse", "--muse_corpus", "news", "--forget_split", "forget01"],
            "Got --forget_split with suite muse, which does not read it, but expected its own flags: --muse_corpus. "
            "Leave out --forget_split.",
        ),
        "corpus with custom": (
            [*both, *custom, *rows, "--muse_corpus", "news"],
            "Got --muse_corpus with suite custom, which does not read it, but expected its own flags: --forget, "
            "--retain, "
            "--holdout, --max_new_tokens. Leave out --muse_corpus.",
        ),
        "unknown split": (
            [*both, "--suite", "tofu", "--forget_split", "forget50", "--data_dir", str(tmp_path)],
            "Got forget_split=forget50, but expected one of forget01, forget05, forget10. Did you mean forget10?",
        ),
        "unknown corpus": (
            [*both, "--suite", "muse", "--muse_corpus", "films", "--data_dir", str(muse)],
            "Got muse_corpus='films', but expected one of news, books. Set --muse_corpus.",
        ),
        "few examples": (
            [*both, "--suite", "muse", "--muse_corpus", "news", "--data_dir", str(short)],
            "Got 3 rows in forget_qa_icl, but expected at least 10 examples for the prompts. Give the whole file.",
        ),
        "no such folder": (
            [*both, "--suite", "muse", "--muse_corpus", "news", "--data_dir", str(tmp_path / "no")],
            f"Got no forget_qa in {tmp_path}/no/knowmem, but expected forget_qa.jsonl, .json, .parquet or .csv. Check "
            "--data_dir.",
        ),
        "bad row": (
            [*both, *custom, "--forget", str(bad)],
            f"Got an empty answer in row 0 of {bad}, but expected text. Fill in or remove that row.",
        ),
        "no rows": (
            [*both, *custom, "--forget", str(tmp_path / "no.jsonl")],
            f"Got no readable file at {tmp_path}/no.jsonl (No such file or directory), but expected .json, .jsonl, "
            ".csv, "
            ".parquet, or a folder written by datasets' save_to_disk. Check the path and its permissions.",
        ),
        "no results": (
            [*both, *custom, *rows, "--retrained", str(tmp_path / "no.json")],
            f"Got no readable file at {tmp_path}/no.json, but expected {results}. Check the path.",
        ),
        "other file": (
            [*both, *custom, *rows, "--before", str(tmp_path / "forget.jsonl")],
            f"Got {tmp_path}/forget.jsonl, which holds something else, but expected {results}. Name such a file.",
        ),
        "old results": (
            [*both, *custom, *rows, "--reference", str(tmp_path / "old.json")],
            f"Got {tmp_path}/old.json of schema version 0, but expected version 2. Evaluate the model again with this "
            "version of egup_trainer.",
        ),
        "no such model": (
            [*both, *custom, *rows],
            f"Got no folder at {tmp_path}/absent, but expected a saved tokenizer. Check the path.",
        ),
    }


@pytest.mark.parametrize("name", usage_errors(Path(tempfile.mkdtemp())))
def test_a_usage_error_ends_in_one_line_with_code_2(tmp_path, capsys, name):
    flags, message = usage_errors(tmp_path)[name]
    assert main(["evaluate", *flags]) == 2
    assert errors(capsys) == [f"egup evaluate: error: {message}"]
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--max_new_tokens", "125"],
            "Got 147 tokens of prompt and new tokens for a model of 128 positions, but expected at most 128 tokens. "
            "Lower "
            "--max_new_tokens or shorten the prompts.",
        ),
        (
            ["--feature_layer", "3"],
            "Got feature_layer=3 for a model of 3 layers, but expected a fraction between 0 and 1, or an index from "
            "-3 to "
            "2. Set --feature_layer.",
        ),
        (
            ["--max_length", "12", "--on_long_row", "cut"],
            "Got no answer token in row 0 of the forget set, of whose 34 tokens 12 are kept, but expected at least one "
            "answer token. Raise --max_length or shorten the prompt.",
        ),
    ],
)
def test_what_the_model_cannot_do_ends_in_one_line_with_code_2(folder, rows, tmp_path, capsys, flags, message):
    assert run(folder, rows, tmp_path / "r.json", *flags, "--disable_tqdm") == 2
    assert errors(capsys) == [f"egup evaluate: error: {message}"]


def test_flags_that_a_suite_does_not_read_are_refused(rows, tmp_path, capsys):
    """Whoever gives them believes that they count."""
    words = ["evaluate", "--model_name_or_path", str(tmp_path / "absent"), "--output", str(tmp_path / "r.json")]
    muse = ["--suite", "muse", "--muse_corpus", "news", "--data_dir", str(write_muse(tmp_path / "muse"))]
    tofu = ["--suite", "tofu", "--forget_split", "forget01", "--data_dir", str(SHARED / "data" / "tofu")]
    for suite, flag in ((tofu, "forget"), (tofu, "retain"), (muse, "forget"), (muse, "retain"), (muse, "holdout")):
        assert main([*words, *suite, f"--{flag}", rows["forget"]]) == 2
        (line,) = errors(capsys)
        assert f"Got --{flag} with suite {suite[1]}" in line
    assert main([*words, *muse, "--max_new_tokens", "3"]) == 2
    assert "Got --max_new_tokens with suite muse" in errors(capsys)[0]


@pytest.mark.parametrize(
    ("flag", "value"),
    [("max_new_tokens", "0"), ("show_examples", "-1"), ("per_device_eval_batch_size", "0")],
)
def test_numbers_out_of_range_are_refused_by_their_flag(folder, rows, tmp_path, capsys, flag, value):
    assert run(folder, rows, tmp_path / "r.json", f"--{flag}", value, "--disable_tqdm") == 2
    (line,) = errors(capsys)
    assert line.startswith(f"egup evaluate: error: Got {flag}={value}, but expected ")


def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    folder, rows, tmp_path, capsys, monkeypatch
):
    """Or hours of work would end in nothing."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    monkeypatch.setattr(evaluate, "load_on_device", lambda *args: pytest.fail("a model was loaded"))
    for output in (tmp_path / "file" / "r.json", tmp_path / "folder.json"):
        assert run(folder, rows, output, "--disable_tqdm") == 2
        (line,) = errors(capsys)
        assert str(output) in line


def test_results_that_are_read_are_not_overwritten(folder, rows, tmp_path, capsys):
    assert run(folder, rows, tmp_path / "r.json") == 0
    before = (tmp_path / "r.json").read_bytes()
    capsys.readouterr()
    assert run(folder, rows, tmp_path / "r.json", "--retrained", str(tmp_path / "r.json")) == 2
    (line,) = errors(capsys)
    assert "--output" in line
    assert (tmp_path / "r.json").read_bytes() == before
