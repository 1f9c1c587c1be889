"""A chat template that writes today's date: the date of a run stays its date on every later day."""

import copy
import json

import pytest
from conftest import qa_rows
from fixtures_audit import wide_model

from egup_trainer.cli.main import main

DATED = (
    "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}"
    "{% for m in messages %}{{ m.role + ': ' + m.content }}<eos>{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
SPANS = {"forget": (0, 6), "retain": (20, 28), "proxy": (40, 44)}


@pytest.fixture
def on(monkeypatch):
    """on("2026-11-28"): sets the day on which commands run."""

    def set_day(day):
        for module in ("data.rendering", "trainer.config"):
            monkeypatch.setattr(f"egup_trainer.{module}.today", lambda: day)

    return set_day


@pytest.fixture
def folder(tmp_path, tokenizer):
    for name, span in SPANS.items():
        lines = "".join(json.dumps(record) + "\n" for record in qa_rows(*span))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = DATED
    wide_model(tokenizer).save_pretrained(tmp_path / "model")
    chat.save_pretrained(tmp_path / "model")
    return tmp_path


def unlearn(folder, *flags):
    words = ["unlearn", "--model_name_or_path", str(folder / "model"), "--output_dir", str(folder / "out")]
    words += ["--use_cpu", "--report_to", "none", "--disable_tqdm", "true", "--learning_rate", "1e-2"]
    words += [word for name in SPANS for word in (f"--{name}", str(folder / f"{name}.jsonl"))]
    return main([*words, "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", *flags])


def evaluate(folder, model, output, *flags):
    words = ["evaluate", "--model_name_or_path", str(folder / model), "--suite", "custom", "--max_new_tokens", "2"]
    words += [word for name in ("forget", "retain") for word in (f"--{name}", str(folder / f"{name}.jsonl"))]
    code = main([*words, "--output", str(folder / output), "--use_cpu", "--disable_tqdm", "true", *flags])
    results = json.loads((folder / output).read_text(encoding="utf-8")) if code == 0 else {"writing": {}}
    return code, results["writing"].get("template_date"), results


def test_the_date_of_a_run_is_recorded_and_used_again(folder, on, capsys):
    on("2026-11-28")
    assert unlearn(folder) == 0
    record = json.loads((folder / "out" / "unlearning.json").read_text(encoding="utf-8"))
    assert record["options"]["template_date"] == "2026-11-28"
    on("2031-01-05")
    assert unlearn(folder, "--resume_from_checkpoint", str(folder / "out" / "checkpoint-1")) == 0
    again = json.loads((folder / "out" / "unlearning.json").read_text(encoding="utf-8"))
    assert again["options"] == record["options"]
    assert main(["verify", str(folder / "out/_run.json"), "--model", str(folder / "out"), "--use_cpu"]) == 0
    code, date, _ = evaluate(folder, "out", "after.json")
    assert (code, date) == (0, "2026-11-28")


def test_results_are_compared_on_one_date(folder, on, capsys):
    on("2026-11-28")
    code, date, before = evaluate(folder, "model", "before.json")
    assert (code, date) == (0, "2026-11-28")
    on("2031-01-05")
    _, date, other = evaluate(folder, "model", "other.json")
    assert date == "2031-01-05"
    assert other["metrics"]["forget_probability"]["value"] != before["metrics"]["forget_probability"]["value"]
    code, date, after = evaluate(folder, "model", "after.json", "--before", str(folder / "before.json"))
    assert (code, date) == (0, "2026-11-28")
    assert after["metrics"]["forget_probability"] == before["metrics"]["forget_probability"]
    assert main(["compare", str(folder / "before.json"), str(folder / "other.json"), "--output", "r.html"]) == 2
    says = capsys.readouterr().err
    assert "forget rows written with template_date 2031-01-05" in says
    # The remedy that the message names works.
    flags = ("--template_date", "2026-11-28")
    assert evaluate(folder, "model", "other.json", *flags)[2]["sets"] == before["sets"]


def test_a_date_is_refused_where_no_template_writes_it(folder, tokenizer, capsys):
    tokenizer.save_pretrained(folder / "model")  # without a chat template
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    assert unlearn(folder, "--template_date", "2026-11-28") == 2
    assert "Got template_date=2026-11-28 for a tokenizer whose chat template writes no date" in capsys.readouterr().err
