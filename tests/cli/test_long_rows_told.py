"""Rows longer than max_length: a run and the evaluation of its model agree, and cut rows are told everywhere."""

import json

import pytest
from conftest import qa_rows
from fixtures_audit import wide_model
from fixtures_cli import egup, save, unlearn, write_rows

LONG = {"question": "Where does Ada Lorn live?", "answer": " ".join(f"Ada Lorn lives in Aren {n}." for n in range(9))}
ROWS = {"forget": [LONG, *qa_rows(0, 3)], "retain": qa_rows(20, 24), "proxy": qa_rows(40, 44)}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    write_rows(folder, **ROWS)
    save(wide_model(tokenizer), tokenizer, folder / "model")
    return folder


def evaluate(folder, model, output, **flags):
    flags = {"suite": "custom", "forget": folder / "forget.jsonl", "max_length": 64, "use_cpu": True, **flags}
    return egup("evaluate", model_name_or_path=folder / model, output=folder / output, **flags)


def run(folder, how):
    """A run and an evaluation of what it made: the record, the results, and what both said."""
    flags = {"max_length": 64, "on_long_row": how}
    paths = {name: folder / f"{name}.jsonl" for name in ROWS}
    assert unlearn(folder / "model", folder / how, **paths, **flags, max_steps=1) == 0
    assert evaluate(folder, how, f"{how}.json", **flags, max_new_tokens=2, disable_tqdm=True) == 0
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
    assert egup("verify", folder / how / "_run.json", model=folder / how, use_cpu=True) == 0
    assert egup("compare", folder / f"{how}.json", output=folder / f"report_{how}.html") == 0
    remarks = json.loads((folder / f"report_{how}.json").read_text(encoding="utf-8"))["remarks"]
    lacks = "1 of 4 forget rows were cut at max_length: what was cut off was not"
    told = [remark for remark in remarks.get(how, []) if "cut" in remark]
    assert told == ([f"{lacks} measured.", f"{lacks} trained on."] if how == "cut" else [])
