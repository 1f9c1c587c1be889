"""`egup completion SHELL`: a script that completes commands, flags, choices and files at the tab key."""

import argparse
from dataclasses import dataclass

import shtab

from egup_trainer.cli.command import COMMANDS, Command, load_command
from egup_trainer.cli.flags import Arguments, positional


@dataclass
class CompletionArguments(Arguments):
    """The shell."""

    shell: str = positional("The shell.", choices=shtab.SUPPORTED_SHELLS)


def run(args: CompletionArguments) -> None:
    """Prints the script."""
    whole = argparse.ArgumentParser(prog="egup", description="Unlearning for language models.")
    whole.add_argument("--version", action="store_true", help="Print the version.")
    subparsers = whole.add_subparsers(dest="command")
    for name in COMMANDS:
        command = load_command(name)
        parser = subparsers.add_parser(name, help=command.summary)
        parser.add_argument("--config", help="YAML file with flags.").complete = shtab.FILE  # type: ignore[attr-defined]
        for action in command.parser()._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            if action.choices is None and action.nargs != 0:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            parser._add_action(action)
    print(shtab.complete(whole, args.shell))


COMMAND = Command(
    "completion",
    "print a script that completes commands and flags in a shell",
    run,
    options=lambda: [CompletionArguments],
    description="Prints a completion script. bash: egup completion bash >> ~/.bash_completion; zsh: egup completion "
    "zsh > _egup in a folder of $fpath.",
)
