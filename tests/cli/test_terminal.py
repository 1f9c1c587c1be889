"""What others wrote is text in the terminal: neither markup nor escape sequences."""

from types import SimpleNamespace

from rich.table import Table
from rich.text import Text

from egup_trainer.cli import main as cli
from egup_trainer.cli.terminal import terminal
from egup_trainer.errors import DataError

HOSTILE = "[/x] \x1b]0;owned\x9c \x1b[2J \u202egnp [red]b[/red] :smile:"
SHOWN = r"[/x] \x1b]0;owned\x9c \x1b[2J \u202egnp [red]b[/red] :smile:"


def test_what_others_wrote_is_printed_as_it_stands_and_obeyed_by_no_terminal(capsys):
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_column("as rich text")
    table.add_row(HOSTILE, Text(HOSTILE))
    console = terminal()
    console.width = 300
    console.print(table)
    console.print(HOSTILE)
    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 4  # the rich text is cut to the width that it seemed to have
    assert all(mark.isprintable() or mark == "\n" for mark in printed)


def test_an_error_line_shows_what_others_wrote_and_obeys_none_of_it(monkeypatch, capsys):
    def fail(argv):
        raise DataError(got=HOSTILE, expected="a name", fix="check it")

    monkeypatch.setattr(cli, "load_command", lambda name: SimpleNamespace(main=fail))
    assert cli.main(["env"]) == 2
    assert capsys.readouterr().err == f"egup env: error: Got {SHOWN}, but expected a name. Check it.\n"
