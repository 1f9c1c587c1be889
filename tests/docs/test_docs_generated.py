"""What the site takes from the code: tables of options and flags."""

from dataclasses import dataclass, field, fields

import hooks
import pytest
from generate.commands import commands_page
from generate.configuration import options_table, own_options
from generate.parsers import parser_of

from egup_trainer.audit.options import AuditOptions
from egup_trainer.cli.main import COMMANDS
from egup_trainer.proxies.settings import ProxySettings
from egup_trainer.trainer.config import EGUPConfig, UnlearnConfig


def test_an_option_is_shown_with_type_default_and_help():
    table = options_table(EGUPConfig)
    assert (
        "| `proxy_form` | `effort or penalty` | `effort` | "
        "How the boundary acts: on a sample's effort, or as a penalty. |"
    ) in table
    assert "| `cache_dim` | `int or none` | `none` | Project cached features" in table
    assert r"| `assistant_marker` | `str` | `'\nAnswer: '` | Text before the answer" in options_table(UnlearnConfig)


@pytest.mark.parametrize("config", [ProxySettings, AuditOptions], ids=lambda each: each.__name__)
def test_every_field_has_its_line(config):
    assert [option.name for option in own_options(config)] == [each.name for each in fields(config)]


def test_the_text_of_a_field_without_metadata_is_that_of_the_docstring():
    (option,) = [each for each in own_options(AuditOptions) if each.name == "num_samples"]
    assert (option.type, option.default, option.help) == ("int", "8", "Generations drawn for each row.")


def test_fields_of_two_configurations_are_all_that_a_trainer_adds():
    own = {option.name for config in (UnlearnConfig, EGUPConfig) for option in own_options(config)}
    added = {each.name for each in fields(EGUPConfig)} - {each.name for each in fields(UnlearnConfig.__mro__[1])}
    assert added <= own
    assert own - added == {"learning_rate", "num_train_epochs", "logging_steps", "bf16", "remove_unused_columns"}


def test_a_field_without_a_text_is_refused():
    @dataclass
    class Silent:
        told: int = field(default=1, metadata={"help": "Something."})
        untold: int = 2

    with pytest.raises(ValueError, match="fields of Silent without a help text: untold"):
        own_options(Silent)


def test_every_command_and_flag_is_on_the_page():
    page = commands_page()
    assert [line for line in page.splitlines() if line.startswith("### ")] == [f"### egup {name}" for name in COMMANDS]
    for name in COMMANDS:
        section = page.split(f"### egup {name}\n")[1].split("\n### ")[0]
        parser = parser_of(name)
        flags = [] if parser is None else [action.option_strings for action in parser._actions]
        for spellings in flags:
            assert not spellings or "--help" in spellings or any(f"`{flag}" in section for flag in spellings), spellings


def test_flags_of_libraries_are_folded_and_own_ones_stand_open():
    section = commands_page().split("### egup proxy\n")[1].split("\n### ")[0]
    own, folded = section.split("??? note", maxsplit=1)
    assert "| `--num_rows` | `64` | Proxies to write. |" in own
    assert "`--load_in_4bit`" in folded
    assert "flags of trl.ModelConfig" in folded


def test_executed_notebooks_are_shown_before_their_sources_and_the_quickstart_first(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert hooks.notebooks() == {}
    for path in ("notebooks/audit.ipynb", "notebooks/quickstart.ipynb", "build/notebooks/audit.ipynb"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}", encoding="utf-8")
    assert list(hooks.notebooks().items()) == [
        ("quickstart", tmp_path / "notebooks/quickstart.ipynb"),
        ("audit", tmp_path / "build/notebooks/audit.ipynb"),
    ]


def test_pictures_and_scripts_from_elsewhere_are_left_out():
    page = '<script src="https://a/b.js"></script><script>1</script>'
    page += '<a href="https://a"><img alt="Open" src="https://b/c.svg" /></a><img src="images/own.png" alt="own">'
    expected = '<script>1</script><a href="https://a">Open</a><img src="images/own.png" alt="own">'
    assert hooks.on_page_content(page, None, None, None) == expected
