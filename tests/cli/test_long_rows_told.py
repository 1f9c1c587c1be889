"""Rows longer than max_length: a run and the evaluation of its model agree, and cut rows are told everywhere."""

import json

import pytest
from conftest import qa_rows
from fixtures_audit import wide_model

from egup_trainer.cli.main import main

LONG = {"question": "Where does Ada Lorn live?", "answer": " ".join(f"Ada Lorn lives in Aren {n}." for n in range(9))}
ROWS = {"forget": [LONG, *qa_rows(0, 3)], "retain": qa_rows(20, 24), "proxy": qa_rows(40, 44)}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    wide_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def run(folder, how):
    """A run and an evaluation of what it made: the record, the results, and what both said."""
    flags = ["--max_length", "64", "--on_long_row", how, "--use_cpu", "--disable_tqdm", "true"]
    words = ["unlearn", "--model_name_or_path", str(folder / "model"), "--output_dir", str(folder / how)]
    words += [word for name in ROWS for word in (f"--{name}", str(folder / f"{name}.jsonl"))]
    assert main([*words, "--report_to", "none", "--max_steps", "1", "--save_strategy", "no", *flags]) == 0
    words = ["evaluate", "--model_name_or_path", str(folder / how), "--suite", "custom", "--max_new_tokens", "2"]
    words += ["--forget", str(folder / "forget.jsonl"), "--output", str(folder / f"{how}.json"), *flags]
    assert main(words) == 0
    files = (folder / how / "unlearning.json", folder / f"{how}.json")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize(("how", "count"), [("window", "in_windows"), ("cut", "cut")])
def test_a_run_and_its_evaluation_agree_on_long_rows_and_count_them(folder, capsys, how, count):
    record, results = run(folder, how)
    says = capsys.readouterr().out
    found = results["metrics"]["forget_probability"]
    assert record["probability"]["after"]["forget"] == pytest.approx(found["value"], rel=1e-5)
    assert record["rows"]["forget"][count] == results["sets"]["forget"][count] == 1
    assert count not in record["rows"]["retain"]
    told = "and are read in windows" if how == "window" else "and were cut"
    assert says.count(f"forget: 1 of 4 rows are longer than max_length=64 tokens {told}") == 2
    assert main(["verify", str(folder / how / "_run.json"), "--model", str(folder / how), "--use_cpu"]) == 0
    assert main(["compare", str(folder / f"{how}.json"), "--output", str(folder / f"report_{how}.html")]) == 0
    (verdict,) = json.loads((folder / f"report_{how}.json").read_text(encoding="utf-8"))["summary"].values()
    lacks = "1 of 4 forget rows were cut at max_length: what was cut off was not"
    assert (f" {lacks} measured. {lacks} trained on." in verdict) == (how == "cut")


def test_a_long_row_may_be_refused(folder, capsys):
    words = ["evaluate", "--model_name_or_path", str(folder / "model"), "--suite", "custom", "--use_cpu"]
    words += ["--forget", str(folder / "forget.jsonl"), "--output", str(folder / "x.json"), "--max_length", "64"]
    assert main([*words, "--on_long_row", "error"]) == 2
    says = capsys.readouterr().err
    assert "tokens in row 0 of the forget set, but expected at most max_length=64" in says
    assert "Aren" not in says
    assert main([*words, "--on_long_row", "wndow"]) == 2
    assert "window" in capsys.readouterr().err
