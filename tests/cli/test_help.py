"""`egup COMMAND --help`: the flags that people need on one screen, in groups; `--help_all`: every flag once."""

import re
from pathlib import Path

import pytest

from egup_trainer.cli.command import COMMANDS, Command, load_command
from egup_trainer.cli.flags import Arguments, dataclass, flag, positional
from egup_trainer.cli.help import HelpAll
from egup_trainer.cli.main import main

SCREEN = 65
"""Lines of a terminal of 80 columns that the first screen of `egup unlearn` may take."""
WITH_TWO_SCREENS = [name for name in COMMANDS if load_command(name).shown]


@dataclass
class MadeArguments(Arguments):
    """Flags of every kind."""

    path: str = positional("What to read.", metavar="FILE")
    steps: int = flag("Number of steps. The second sentence is only on the second screen.", 3)
    warm: bool = flag("Keep warm.", True)
    dry_run: bool = flag(f"Write nothing, {'really ' * 20}nothing: no file; no folder.", False)
    output_dir: str | None = flag("Where it goes.")
    hidden_rate: float = flag("Rate.", 0.5)


@dataclass
class CoolArguments(Arguments):
    """Flags of another group."""

    help_title = "Cooling"

    cold: bool = flag("Keep cold.", False)


def made(**options) -> Command:
    kinds = [MadeArguments, CoolArguments]
    return Command("made", "make things", print, options=lambda: kinds, required=("output_dir",), **options)


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def named(text: str) -> list[str]:
    """The flags that a help lists, in its order, each as often as it is there."""
    lines = re.findall(r"^  (-.+?)(?:  |$)", text, re.MULTILINE)
    return [flag for line in lines for flag in re.findall(r"--\w+", line)]


def groups(text: str) -> list[str]:
    return re.findall(r"^(\w.*):$", text, re.MULTILINE)


def test_the_first_screen_of_a_command_is_this():
    shown = ("steps", "warm", "dry_run", "cold")
    assert made(shown=shown).parser().format_help() == (
        "usage: egup made FILE --output_dir DIR [flags]\n"
        "\n"
        "Make things.\n"
        "\n"
        "Flags:\n"
        "  FILE               What to read.\n"
        "  --steps N          Number of steps. (default: 3)\n"
        "  --warm, --no_warm  Keep warm. (default: True)\n"
        "  --dry_run          Write nothing, really really really really really really\n"
        "                     really really really really really really really really\n"
        "                     really really really really really really nothing.\n"
        "  --output_dir DIR   Where it goes. Required.\n"
        "\n"
        "Cooling:\n"
        "  --cold             Keep cold.\n"
        "\n"
        "Help:\n"
        "  -h, --help         show this help message and exit\n"
        "  --help_all         show all flags, and their whole help texts, and exit\n"
        "\n"
        "--config FILE.yaml reads flags from a file; those that are typed win.\n"
    )


def test_a_command_without_a_short_list_shows_everything_and_has_no_second_screen():
    parser = made().parser()
    text = parser.format_help()
    assert named(text) == [
        *("--steps", "--warm", "--no_warm", "--dry_run", "--output_dir", "--hidden_rate", "--cold", "--help")
    ]
    assert "The second sentence" in text
    assert not any(isinstance(action, HelpAll) for action in parser._actions)


@pytest.mark.parametrize("command", WITH_TWO_SCREENS)
def test_the_first_screen_lists_the_short_list_and_what_is_required_once_each(command, capsys):
    declared = load_command(command)
    positives = [name for name in named(printed(capsys, command, "--help")) if not name.startswith("--no_")]
    expected = {*declared.shown, *declared.required, "help", "help_all"}
    assert sorted(positives) == sorted(f"--{name}" for name in expected)


@pytest.mark.parametrize("command", COMMANDS)
def test_all_flags_are_listed_once_and_by_one_name(command, capsys):
    text = printed(capsys, command, "--help_all" if command in WITH_TWO_SCREENS else "--help")
    parser = load_command(command).parser()
    expected = [
        action.option_strings[-1 if action.dest == "help" else 0] for action in parser._actions if action.option_strings
    ]
    assert sorted(named(text)) == sorted(expected)
    assert not re.search(r"^  --\w+-", text, re.MULTILINE)


def test_unlearning_fits_on_a_screen_with_the_trainers_own_flags_last(capsys):
    text = printed(capsys, "unlearn", "--help")
    assert text.startswith("usage: egup unlearn --model_name_or_path PATH --forget FORGET [flags]\n")
    assert len(text.splitlines()) <= SCREEN
    assert groups(text) == ["Data", "Evaluation", "Model and LoRA", "Method", "Trainer", "Help"]
    whole = printed(capsys, "unlearn", "--help_all")
    assert groups(whole)[-2:] == ["Trainer", "Help"]
    assert set(groups(text)) < set(groups(whole))
    trainer = whole.partition("\nTrainer:\n")[2]
    assert ("--weight_decay" in named(trainer), "--npo_beta" in named(trainer)) == (True, False)
    assert "--learning_rate" not in named(trainer)  # whose default is ours


def test_a_flag_stands_in_the_group_of_the_class_that_declares_it(capsys):
    text = printed(capsys, "unlearn", "--help_all")
    parts = re.split(r"^(\w.*):\n", text, flags=re.MULTILINE)
    group_of = {flag: title for title, part in zip(parts[1::2], parts[2::2], strict=True) for flag in named(part)}
    expected = {"stop_retain_rise": "Stopping", "clreg_weight": "CLReg", "columns": "Data", "lora_r": "Model and LoRA"}
    expected |= {"proxy_lambda": "EGUP", "npo_beta": "Method", "merge": "Model and LoRA", "eval_suite": "Evaluation"}
    assert {flag: group_of[f"--{flag}"] for flag in expected} == expected


def test_values_of_choices_are_shown_as_they_are_typed(capsys):
    assert "(default: balanced)" in " ".join(printed(capsys, "unlearn", "--help").split())


def test_the_parser_still_takes_every_spelling():
    words = ["unlearn", "--model-name-or-path", "m", "--forget", "f", "--output_dir", "o", "--no_verdict", "--use_cpu"]
    rows, config, model = load_command("unlearn").parser().parse(words[1:])
    assert (rows.forget, config.verdict, model.model_name_or_path) == ("f", False, "m")


def test_every_flag_that_takes_a_truth_value_is_a_switch():
    for words, value in (([], True), (["true"], True), (["false"], False)):
        _, config, _ = load_command("unlearn").parser().parse(["--use_cpu", "--disable_tqdm", *words, "--auto", *words])
        assert (config.disable_tqdm, config.auto) == (value, value)


def test_the_first_screen_has_what_the_readme_names_and_no_sentence_ends_twice(capsys):
    shown = printed(capsys, "unlearn", "--help")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"egup unlearn\b.+?(?:`|\n\n)", readme, re.DOTALL)
    flags = {flag for command in commands for flag in re.findall(r"--\w+", command)} | {"--proxy_model"}
    assert {"--report", "--audit", "--proxy_model"} <= flags <= set(named(shown))
    for command in COMMANDS:
        assert ".." not in printed(capsys, command, "--help").replace("...", "")
