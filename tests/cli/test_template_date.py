"""A chat template that writes today's date, a system prompt and variables: those of a run stay on every later day."""

import copy
import json

import pytest
from fixtures_audit import wide_model
from fixtures_cli import egup, save, unlearn, write_rows

DATED = (
    "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}"
    "{% for m in messages %}{{ m.role + ': ' + m.content }}<eos>{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
SPANS = {"forget": (0, 6), "retain": (20, 28), "proxy": (40, 44)}


@pytest.fixture
def on(monkeypatch):
    """on("2026-11-28"): sets the day on which commands run."""

    def set_day(day):
        monkeypatch.setattr("egup_trainer.data.rendering.today", lambda: day)

    return set_day


@pytest.fixture
def folder(tmp_path, tokenizer):
    write_rows(tmp_path, **SPANS)
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = DATED
    save(wide_model(tokenizer), chat, tmp_path / "model")
    return tmp_path


def run_unlearn(folder, **flags):
    paths = {name: folder / f"{name}.jsonl" for name in SPANS}
    flags = {"learning_rate": 1e-2, "max_steps": 2, "save_strategy": "steps", "save_steps": 1, **flags}
    return unlearn(folder / "model", folder / "out", **paths, **flags)


def evaluate(folder, model, output, **flags):
    flags = {"suite": "custom", "max_new_tokens": 2, "use_cpu": True, "disable_tqdm": True, **flags}
    paths = {name: folder / f"{name}.jsonl" for name in ("forget", "retain")}
    code = egup("evaluate", model_name_or_path=folder / model, output=folder / output, **paths, **flags)
    results = json.loads((folder / output).read_text(encoding="utf-8")) if code == 0 else {"writing": {}}
    return code, results["writing"].get("template_date"), results


def test_the_date_of_a_run_is_recorded_and_used_again(folder, on, capsys):
    on("2026-11-28")
    assert run_unlearn(folder) == 0
    record = json.loads((folder / "out" / "unlearning.json").read_text(encoding="utf-8"))
    assert record["options"]["template_date"] == "2026-11-28"
    on("2031-01-05")
    assert run_unlearn(folder, resume_from_checkpoint=folder / "out" / "checkpoint-1") == 0
    again = json.loads((folder / "out" / "unlearning.json").read_text(encoding="utf-8"))
    assert again["options"] == record["options"]
    assert egup("verify", folder / "out/_run.json", model=folder / "out", use_cpu=True) == 0
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
    code, date, after = evaluate(folder, "model", "after.json", before=folder / "before.json")
    assert (code, date) == (0, "2026-11-28")
    assert after["metrics"]["forget_probability"] == before["metrics"]["forget_probability"]
    assert egup("compare", folder / "before.json", folder / "other.json", output="r.html") == 2
    says = capsys.readouterr().err
    assert "forget rows written with template_date 2031-01-05" in says
    # The remedy that the message names works.
    assert evaluate(folder, "model", "other.json", template_date="2026-11-28")[2]["sets"] == before["sets"]


def test_a_date_is_refused_where_no_template_writes_it(folder, tokenizer, capsys):
    tokenizer.save_pretrained(folder / "model")  # without a chat template
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    assert run_unlearn(folder, template_date="2026-11-28") == 2
    assert "Got template_date=2026-11-28 for a tokenizer whose chat template writes no date" in capsys.readouterr().err


KIND, CROSS = "Be kind.", '{"mood": "cross"}'


def with_mood(folder, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% if mood is defined %}[{{ mood }}]{% endif %}" + DATED.partition("\n' }}")[2]
    tokenizer.save_pretrained(folder / "model")


def test_system_prompt_and_variables_of_a_run_are_recorded_and_used_again(folder, tokenizer, capsys):
    with_mood(folder, tokenizer)
    assert run_unlearn(folder, system_prompt=KIND, template_kwargs=CROSS) == 0
    record = json.loads((folder / "out" / "unlearning.json").read_text(encoding="utf-8"))
    assert record["options"]["system_prompt"] == KIND
    assert record["options"]["template_kwargs"] == {"mood": "cross"}
    assert egup("verify", folder / "out/_run.json", model=folder / "out", use_cpu=True) == 0
    _, _, before = evaluate(folder, "model", "before.json", system_prompt=KIND, template_kwargs=CROSS)
    code, _, after = evaluate(folder, "out", "after.json", before=folder / "before.json")
    assert (code, after["writing"]["system_prompt"]) == (0, KIND)
    assert after["writing"]["template_kwargs"] == {"mood": "cross"}
    assert after["sets"] == before["sets"]
    capsys.readouterr()
    for flags, says in (
        ({"system_prompt": ""}, "forget rows written with system_prompt 'Be kind.'"),
        ({"template_kwargs": '{"mood": "calm"}'}, 'forget rows written with template_kwargs {"mood": "cross"}'),
    ):
        assert evaluate(folder, "out", "other.json", before=folder / "before.json", **flags)[0] == 2
        assert says in capsys.readouterr().err


def test_a_run_that_replaces_another_takes_nothing_from_its_checkpoints(folder, tokenizer):
    with_mood(folder, tokenizer)
    assert run_unlearn(folder, system_prompt=KIND, template_kwargs=CROSS) == 0
    assert run_unlearn(folder, overwrite_output_dir=True) == 0
    options = json.loads((folder / "out" / "unlearning.json").read_text(encoding="utf-8"))["options"]
    assert (options.get("system_prompt"), options.get("template_kwargs")) == (None, None)


@pytest.mark.parametrize("flags", [{"template_date": "2026-11-28"}, {"system_prompt": KIND, "template_kwargs": CROSS}])
def test_a_report_reads_both_models_as_the_run_did(folder, tokenizer, on, flags):
    """The model before has no record of what the run gave to the chat template."""
    on("2031-01-05")
    written = {**flags, **({"template_kwargs": {"mood": "cross"}} if "template_kwargs" in flags else {})}
    if "template_kwargs" in flags:
        with_mood(folder, tokenizer)
    assert run_unlearn(folder, report=folder / "report.html", max_new_tokens=2, **flags) == 0
    for name in ("before", "after"):
        results = json.loads((folder / "out" / "_evaluation" / f"{name}.json").read_text(encoding="utf-8"))
        assert {each: results["writing"][each] for each in written} == written
