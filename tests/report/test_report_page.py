"""The report's files: every section, texts escaped, nothing from elsewhere, whole or not at all."""

import json
import re
import stat
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup
from fixtures_report import HOSTILE, SECTIONS, examples_of, make_evaluation, make_evaluations

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.metric import Metric
from egup_trainer.report.audits import audit_section
from egup_trainer.report.comparison import Comparison, fact_groups
from egup_trainer.report.page import render_page, write_report
from egup_trainer.report.table import table_parts


class Page:
    """What a parser makes of the HTML: elements, addresses, and the text of each section."""

    def __init__(self, html: str):
        elements = BeautifulSoup(html, "html.parser").find_all()
        self.tags = {each.name for each in elements}
        linking = ("src", "href", "srcset", "action", "data")
        self.addresses = [each[name] for each in elements for name in linking if each.has_attr(name)]
        self.images = [each for each in elements if each.name == "img"]
        self.sections = {each["id"]: each.get_text() for each in elements if each.name == "section"}
        self.bold = [each.get_text() for each in elements if each.name == "strong" and each.get("class") == ["best"]]


def render(evaluations, retrained=None, show_examples=False, title="Title", audits=()) -> str:
    comparison = Comparison.of(evaluations, retrained)
    audit = audit_section(audits, comparison)
    return render_page(comparison, table_parts(comparison), audit, show_examples=show_examples, title=title)


def with_examples(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, examples=examples_of(evaluation.name))


@pytest.fixture(scope="module")
def html():
    """The report on the invented models, with examples."""
    evaluations, retrained = make_evaluations()
    return render(list(map(with_examples, evaluations)), with_examples(retrained), show_examples=True)


@pytest.fixture(scope="module")
def read(html):
    """The same as a `Page`."""
    return Page(html)


@pytest.fixture
def small():
    """Two models with one metric each: quick to write."""
    return [Evaluation(name, "custom", None, {}, {"forget_rouge": Metric(0.5, False)}) for name in ("x", "y")]


def test_every_section_is_there_and_in_the_contents(read):
    assert list(read.sections) == SECTIONS
    assert [address for address in read.addresses if address.startswith("#") and "note" not in address] == [
        f"#{name}" for name in SECTIONS[3:]
    ]
    assert all(text.strip() for text in read.sections.values())


def test_nothing_comes_from_elsewhere_and_nothing_runs(html, read):
    assert all(address.startswith(("data:", "#")) for address in read.addresses)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & read.tags
    assert read.tags >= {"html", "style", "table", "img"}
    without_images = re.sub(r'src="data:[^"]*"', "", html)
    assert "http" not in without_images
    assert "url(" not in without_images
    assert "@import" not in without_images


def test_texts_of_rows_stay_text(html, read):
    assert "<script" not in html
    assert f"Q {HOSTILE}" in read.sections["examples"]
    assert f"A {HOSTILE}" in read.sections["examples"]
    assert read.sections["examples"].count(f"G {HOSTILE}") == 4
    assert "b" not in read.tags


def test_all_that_comes_from_results_is_escaped():
    evaluation = Evaluation(
        f"name {HOSTILE}",
        f"suite {HOSTILE}",
        f"split {HOSTILE}",
        {},
        {f"metric {HOSTILE}": Metric(None, True, reason=f"reason {HOSTILE}"), "retain_rouge": Metric(0.5, True)},
        training=[{"step": 1, f"term {HOSTILE}": 1.0}],
        run={f"fact {HOSTILE}": f"value {HOSTILE}"},
    )
    html = render([evaluation], title=f"title {HOSTILE}")
    assert "<script" not in html
    assert "<b>" not in html
    for word in ("name", "suite", "split", "metric", "reason", "term", "fact", "value", "title"):
        assert f"{word} &lt;script&gt;" in html


def test_every_picture_is_there_and_said_in_words(read):
    # Three of the whole, one a method, one a model, one a logged term.
    assert len(read.images) == 3 + 2 + 4 + 18
    for image in read.images:
        assert image["src"].startswith("data:image/svg+xml;base64,")
        assert len(image["alt"]) > 20


def test_the_best_is_bold_and_no_number_of_the_other_models_is(read):
    forget = make_evaluation("egup_clreg").values["forget_probability"]
    assert f"{forget:.3f}" in read.bold
    assert "1.000" not in read.bold  # forget quality of the retrained model
    assert "0.938" not in read.bold


def test_values_stand_with_interval_distance_rows_and_reasons(read):
    table = " ".join(read.sections["table"].split())
    metric = make_evaluation("egup_clreg").metrics["forget_probability"]
    low, high = metric.interval
    distance = abs(metric.value - make_evaluation("retrained").values["forget_probability"])
    assert f"{metric.value:.3f}[{low:.3f}, {high:.3f}]Δ {distance:.3f}" in table
    assert "≈ Truth ratio56 of 60 rows" in table
    assert "n/a 1" in table
    assert "gradient norms were not asked for" in table
    assert "ProbabilityHow likely the answer is: exp of its mean token log-likelihood." in table


def test_the_page_opens_with_the_verdicts_and_that_nothing_is_guaranteed(html, read):
    said = " ".join(read.sections["verdict"].split())
    assert said.startswith("MODEL HARMED gradient_difference The model was damaged: it has lost more than the rows to")
    assert "FORGOTTEN egup_clreg The model treats the rows to forget as it treats rows that it has never seen." in said
    assert "the same rows under the retrained model: probability 0.045, before 0.94;" in said
    assert html.index('id="verdict"') < html.index('id="known-rows"') < html.index("<details") < html.index("<table")
    assert html.count("Approximate unlearning: no formal guarantee.") == 2


def test_where_there_are_no_texts_the_page_says_how_to_get_them():
    evaluations = [make_evaluation("before"), make_evaluation("egup_clreg")]
    assert "Texts of rows are not in a report unless you ask for them" in render(evaluations)
    assert "The result files contain no texts." in render(evaluations, show_examples=True)


def test_sections_without_numbers_say_why_and_what_to_do():
    page = Page(render([Evaluation("alone", "custom", None, {}, {})]))
    for name in SECTIONS[:-1]:
        assert re.search(r"[Ee]valuate", page.sections[name])
    assert page.images == []


def test_facts_in_common_stand_once():
    evaluations, retrained = make_evaluations()
    groups = fact_groups(Comparison.of(evaluations, retrained))
    assert list(groups) == ["run", "rows", "versions", "machine"]
    values = {name: set(by_model.values()) for facts in groups.values() for name, by_model in facts.items()}
    common = {"suite": {"tofu"}, "forget": {"60"}, "torch": {"2.13.0"}, "seed": {"0"}}
    assert {name: values[name] for name in common} == common
    assert len(values["command"]) == 4
    other = replace(retrained, name="other", run={"seed": None, "machine": {"gpus": {"first": "A"}, "flags": ["x", 1]}})
    groups = fact_groups(Comparison.of([retrained], other))
    by_name = {name: by_model for facts in groups.values() for name, by_model in facts.items()}
    assert by_name["seed"] == {"retrained": "0", "other": "-"}
    assert by_name["gpus: first"] == {"retrained": "-", "other": "A"}
    assert by_name["flags"] == {"retrained": "-", "other": "x 1"}


def test_three_files_are_written_whole_into_a_new_folder(small, tmp_path):
    path = tmp_path / "new" / "report.html"
    written = write_report(path, small, show_examples=False, title="My title")
    assert sorted(tmp_path.rglob("*.*")) == sorted(written)
    assert [each.name for each in written] == ["report.html", "report.json", "report.csv"]
    assert "<title>My title</title>" in path.read_text(encoding="utf-8")
    assert json.loads(written[1].read_text(encoding="utf-8"))["metrics"]["forget_rouge"]["y"]["value"] == 0.5
    assert written[2].read_text(encoding="utf-8").splitlines()[1] == "x,forget_rouge,0.5,,,0,0,,,False"
    assert {stat.S_IMODE(each.stat().st_mode) for each in written} == {0o600}


def test_no_file_says_where_things_lie(small, tmp_path):
    """Command lines and the model's path stood in them whole."""
    run = {
        "command": "egup evaluate --model_name_or_path /home/ada/secret/m --forget='../my rows/f.jsonl' --suite custom",
        "model": "/home/ada/secret folder/m",
        "unlearning": {"options": {"idk": "C:\\ada\\secret\\idk.txt"}},
    }
    path, *others = write_report(tmp_path / "report.html", [replace(small[0], run=run), *small[1:]])
    for text in [each.read_text(encoding="utf-8") for each in (path, *others)]:
        assert not any(part in text for part in ("/home", "secret", "my rows"))
    document = json.loads(others[0].read_text(encoding="utf-8"))
    assert document["models"][0]["run"] == {
        "command": "egup evaluate --model_name_or_path m --forget=f.jsonl --suite custom",
        "model": "m",
        "unlearning": {"options": {"idk": "idk.txt"}},
    }
