"""Pages that take something from the code: options, flags, notebooks and logged keys."""

import re
from dataclasses import dataclass, field, fields

import hooks
import pytest
from conftest import qa_rows
from fixtures_docs import ROOT
from generate.commands import commands_page
from generate.configuration import options_table, own_options
from generate.declared import DOCS, TABLES, updated
from generate.parsers import parser_of
from generate.tables import for_phones
from mkdocs.config import load_config
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from transformers import TrainingArguments

from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.cli.main import COMMANDS
from egup_trainer.config import EGUPConfig, UnlearnConfig
from egup_trainer.proxies.settings import ProxySettings

TRAINER_KEYS = {"epoch", "grad_norm", "learning_rate", "step", "total_flos", "train_loss", "train_runtime"}
TRAINER_KEYS |= {"train_samples_per_second", "train_steps_per_second"}
"""Keys that every `transformers.Trainer` logs."""


def test_an_option_is_shown_with_type_default_and_help():
    table = options_table(EGUPConfig)
    assert "| `proxy_form` | `effort or penalty` | `effort` | How the boundary acts" in table
    assert "| `cache_dim` | `int or none` | `none` | Project cached features" in table
    assert r"| `assistant_marker` | `str or none` | `none` | Text before the answer" in options_table(UnlearnConfig)


@pytest.mark.parametrize("config", [ProxySettings, AuditOptions], ids=lambda each: each.__name__)
def test_every_field_has_its_line_with_the_help_from_the_docstring(config):
    options = own_options(config)
    assert [option.name for option in options] == [each.name for each in fields(config)]
    assert all(option.help for option in options)


def test_the_two_configurations_show_every_field_that_they_add():
    shown = {option.name for option in (*own_options(UnlearnConfig), *own_options(EGUPConfig, UnlearnConfig))}
    added = {each.name for each in fields(EGUPConfig)} - {each.name for each in fields(TrainingArguments)}
    assert added <= shown
    assert shown - added == {"learning_rate", "num_train_epochs", "logging_steps", "bf16", "remove_unused_columns"}
    assert not {option.name for option in own_options(EGUPConfig, UnlearnConfig)} & {"npo_beta"}


def test_a_field_without_a_help_text_is_refused():
    @dataclass
    class Silent:
        told: int = field(default=1, metadata={"help": "Something."})
        untold: int = 2

    with pytest.raises(ValueError, match="Silent without a help text: untold"):
        own_options(Silent)


def test_every_command_and_flag_is_on_the_page_and_flags_of_libraries_are_folded():
    page = commands_page()
    sections = {part.split("\n")[0]: part for part in page.split("### egup ")[1:]}
    assert list(sections) == list(COMMANDS)
    for name, section in sections.items():
        parser = parser_of(name)
        for action in [] if parser is None else parser._actions:
            flags = action.option_strings
            assert not flags or {"--help", "--help_all"} & {*flags} or any(f"`{flag}" in section for flag in flags), (
                flags
            )
    own, folded = sections["proxy"].split("??? note", maxsplit=1)
    assert "| `--num_rows` | `64` |" in own
    assert "`--load_in_4bit`" in folded
    assert "flags of trl.ModelConfig" in folded


@pytest.mark.parametrize("page", TABLES)
def test_a_page_shows_what_the_code_declares(page):
    assert (DOCS / page).read_text(encoding="utf-8") == updated(page), "run PYTHONPATH=docs python -m generate.declared"


def test_executed_notebooks_replace_their_sources_and_the_quickstart_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert hooks.notebooks() == {}
    for path in ("notebooks/audit.ipynb", "notebooks/quickstart.ipynb", "build/notebooks/audit.ipynb"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}", encoding="utf-8")
    assert list(hooks.notebooks().items()) == [
        ("quickstart", tmp_path / "notebooks/quickstart.ipynb"),
        ("audit", tmp_path / "build/notebooks/audit.ipynb"),
    ]


def test_the_readme_is_the_first_page_with_links_that_work_there():
    readme = "![r](docs/images/report.png) [data](docs/data.md#a) [cite](CITATION.cff) [paper](https://arxiv.org)"
    expected = "![r](images/report.png) [data](data.md#a) [cite](../CITATION.cff) [paper](https://arxiv.org)"
    assert hooks.home(readme) == expected


def test_the_picture_of_the_report_leads_to_the_report_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("![a report](docs/images/report.png)", encoding="utf-8")
    config = load_config(str(ROOT / "mkdocs.yml"))
    monkeypatch.setattr(config.plugins, "_current_plugin", "hooks", raising=False)  # as while hooks are called
    for has_report in (False, True):
        if has_report:
            (tmp_path / "demo_output").mkdir()
            (tmp_path / "demo_output/report.html").write_text("<html>", encoding="utf-8")
        files = hooks.on_files(Files([]), config)
        assert (files.get_file_from_path("demo/report.html") is not None) == has_report
        first = files.get_file_from_path("index.md")
        page = hooks.on_page_markdown(first.content_string, Page(None, first, config), config, files)
        assert page.startswith("[![a report](images/report.png)](demo/report.html)" if has_report else "![a report]")


def test_links_of_copied_files_lead_into_the_site_or_else_to_the_repository(tmp_path):
    sources = ("data.md", "repository/benchmarks/README.md", "repository/CONTRIBUTING.md")
    files = Files([File(source, str(tmp_path), str(tmp_path), False) for source in sources])
    page = Page(
        None, files.get_file_from_path("repository/benchmarks/README.md"), load_config(str(ROOT / "mkdocs.yml"))
    )
    links = "[a](../docs/data.md#rows) [b](../CONTRIBUTING.md) [c](../setup.py) [d](#here) [e](https://arxiv.org)"
    expected = "[a](../../data.md#rows) [b](../CONTRIBUTING.md) "
    expected += f"[c]({hooks.REPOSITORY}/blob/main/setup.py) [d](#here) [e](https://arxiv.org)"
    assert hooks.on_page_markdown(links, page, None, files) == expected


def test_tables_of_numbers_scroll_and_others_stack():
    row = "<tr>\n<td>a</td>\n<td>{}</td>\n<td></td>\n</tr>"
    heads = "<thead><tr><th>name</th><th><code>value</code></th><th>note</th></tr></thead>"
    numbers = f"<table>\n{heads}<tbody>{row.format('-0.5 ± 1')}{row.format('.3')}{row.format('none')}</tbody></table>"
    words = f"<table>\n{heads}<tbody>{row.format('3')}{row.format('no')}{row.format('none')}</tbody></table>"
    assert for_phones(numbers).startswith('<div class="numbers"><table>')
    stacked = for_phones(f"before {words} after")
    assert stacked.startswith('before <div class="stacked"><table>')
    assert stacked.endswith("</table></div> after")
    assert stacked.count('<td data-label="value">') == stacked.count('<td data-label="note">') == 3
    assert stacked.count("<td>a</td>") == 3


def test_links_between_notebooks_lead_to_pages():
    links = '<a href="{}">own</a> <a href="https://colab.google.com/own.ipynb">Colab</a>'
    assert hooks.on_page_content(links.format("own.ipynb#a"), None, None, None) == links.format("own.html#a")


def test_images_and_scripts_from_other_sites_are_removed():
    page = '<script src="https://a/b.js"></script><script>1</script>'
    page += '<a href="https://a"><img alt="Open" src="https://b/c.svg" /></a><img src="images/own.png" alt="own">'
    expected = '<script>1</script><a href="https://a">Open</a><img src="images/own.png" alt="own">'
    assert hooks.on_page_content(page, None, None, None) == expected


def test_the_reference_names_exactly_the_keys_that_runs_log(make_trainer, taught):
    preferences = [{**row, "alternate_answer": "Nobody knows."} for row in qa_rows(0, 4)]
    runs = [
        {"clreg_weight": 0.1, "proxy_form": "penalty", "stop_at_boundary": True},
        {"objective": "altpo", "forget": preferences},
        {"objective": "pdu"},
        {"objective": "proxy_kl", "auto": True, "model": taught()},  # which expects tokens of all kinds
    ]
    logged = set()
    for options in runs:
        trainer = make_trainer(**options)
        trainer.train()
        logged |= {key for entry in trainer.state.log_history for key in entry}
    section = (ROOT / "docs/reference.md").read_text(encoding="utf-8").split("\n## Logged keys\n")[1]
    rows = re.findall(r"^\| (`.*?) \|", section.split("### What to watch")[0], re.MULTILINE)
    assert logged >= TRAINER_KEYS
    assert logged - TRAINER_KEYS == {key for row in rows for key in re.findall(r"`(\w+)`", row)}
