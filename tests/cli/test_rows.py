"""`--columns` on every command that reads rows, `--drop_overlap`, and how many rows `egup inspect` reads."""

import json
import re

import datasets
import pytest
from fixtures_cli import ROWS, assert_refused, json_lines, source_flags, unlearn_words, write

from egup_trainer.cli.main import main
from egup_trainer.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
NAMED = ["--columns", "question=q,answer=a"]


def renamed(folder, **others):
    """Flags for the sources of `ROWS`, whose columns have other names."""
    sets = {name: [{"q": row["question"], "a": row["answer"]} for row in rows] for name, rows in ROWS.items()}
    return source_flags(
        folder, **{name: write(folder / f"{name}.jsonl", json_lines(rows)) for name, rows in sets.items()}, **others
    )


def words_of(command, model, folder, sources):
    if command in ("unlearn", "plan"):
        plan = ["--measure_steps", "0"] if command == "plan" else []
        return [command, *unlearn_words(model, folder / "out")[1:], *sources, "--objective", "grad_diff", *plan]
    which = {"inspect": ("forget",), "proxy": ("forget", "retain")}.get(command, ("forget", "retain"))
    flags = [word for name in which for word in (f"--{name}", sources[sources.index(f"--{name}") + 1])]
    more = {
        "inspect": [],
        "evaluate": ["--suite", "custom", "--output", str(folder / "o.json"), "--max_new_tokens", "2", "--use_cpu"],
        "audit": ["--output", str(folder / "o.json"), "--attacks", "prompts", "--max_new_tokens", "2", "--use_cpu"],
        "proxy": ["--output", str(folder / "o.jsonl"), "--use_cpu"],
    }[command]
    return [command, "--model_name_or_path", str(model), *flags, *more]


@pytest.mark.parametrize("command", ["inspect", "plan", "evaluate", "audit", "unlearn"])
def test_columns_of_other_names_are_read(good_model, tmp_path, capsys, command):
    words = words_of(command, good_model, tmp_path, renamed(tmp_path))
    assert main([*words, *NAMED]) == 0
    capsys.readouterr()
    if command == "unlearn":  # the record tells how the rows were read
        record = str(tmp_path / "out" / "_run.json")
        assert main(["verify", record, "--model", str(tmp_path / "out"), "--use_cpu", "--disable_tqdm"]) == 0


@pytest.mark.parametrize("command", ["inspect", "plan", "evaluate", "audit", "unlearn", "proxy"])
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("question=nosuch,answer=a", "column nosuch"),
        ("qestion=q", "name qestion"),
    ],
)
def test_a_column_that_is_not_there_is_refused(no_weights, tmp_path, capsys, command, columns, says):
    words = words_of(command, no_weights, tmp_path, renamed(tmp_path))
    error = DataError if says == "column nosuch" else ConfigError
    assert_refused([*words, "--columns", columns], tmp_path, capsys, says, error=error)


def overlapping(folder, **sets):
    return {
        name: write(folder / f"{name}.jsonl", json_lines(ROWS["forget"][2:4] + rows)) for name, rows in sets.items()
    }


@pytest.mark.parametrize("command", ["plan", "unlearn"])
def test_rows_that_are_forget_rows_too_can_be_left_out(good_model, tmp_path, capsys, caplog, command):
    sources = source_flags(tmp_path, **overlapping(tmp_path, retain=ROWS["retain"], proxy=ROWS["proxy"]))
    words = words_of(command, good_model, tmp_path, sources)
    assert_refused(words, tmp_path, capsys, "proxy set", "--drop_overlap", error=DataError)
    caplog.clear()
    assert main([*words, "--drop_overlap"]) == 0
    told = ["2 of 14 rows of the retain set are left out: they are in the forget set, too."]
    told += ["2 of 8 rows of the proxy set are left out: they are in the forget set, too."]
    assert [message for message in caplog.messages if "left out" in message] == told[::-1]
    if command == "unlearn":
        record = tmp_path / "out" / "_run.json"
        assert json.loads(record.read_text())["rows"]["retain"]["rows"] == 12
        assert main(["verify", str(record), "--model", str(tmp_path / "out"), "--use_cpu", "--disable_tqdm"]) == 0


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_what_measures_can_leave_them_out_too(good_model, tmp_path, capsys, caplog, command):
    sources = source_flags(tmp_path, **overlapping(tmp_path, retain=ROWS["retain"]))
    words = words_of(command, good_model, tmp_path, sources)
    assert_refused(words, tmp_path, capsys, "retain set", "--drop_overlap", error=DataError)
    caplog.clear()
    assert main([*words, "--drop_overlap"]) == 0
    assert caplog.messages == ["2 of 14 rows of the retain set are left out: they are in the forget set, too."]


def test_a_set_of_which_nothing_is_left_is_refused(no_weights, tmp_path, capsys):
    sources = source_flags(tmp_path, **overlapping(tmp_path, retain=[]))
    words = [*words_of("unlearn", no_weights, tmp_path, sources), "--drop_overlap"]
    assert_refused(words, tmp_path, capsys, "retain set", error=DataError)


def test_inspect_reads_no_more_rows_than_it_is_to_show(good_model, tmp_path, capsys):
    path = tmp_path / "many.parquet"
    datasets.Dataset.from_dict({"question": ["Who?"] * 200_000, "answer": ["Ada."] * 200_000}).to_parquet(path)
    words = ["inspect", "--model_name_or_path", str(good_model), "--forget", str(path)]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("rows: the first 1000 (see --max_rows)   samples: 1000   rows cut: 0")
    assert main([*words, "--max_rows", "3", "--index", "2"]) == 0
    assert re.match(r"rows: the first 3 .*\n(.*\n){5}sample 2", capsys.readouterr().out)
    assert_refused(
        [*words, "--max_rows", "3", "--index", "3"], tmp_path, capsys, "index=3", "from 0 to 2", "--max_rows"
    )
