"""`egup completion`: the script, sourced by a real bash, completes commands, flags and choices."""

import shutil
import subprocess

import pytest

from egup_trainer.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "egup.bash"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda text="", **_: lines.append(text))
        assert main(["completion", "bash"]) == 0
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def completed(script, *words):
    """What bash offers for the last of the words."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    quoted = " ".join(f"'{word}'" for word in ("egup", *words))
    call = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _shtab_egup; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    line = f"source {script}; {call}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()


def test_commands(script):
    assert set(COMMANDS) <= set(completed(script, ""))
    assert completed(script, "ver") == ["verify"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("unlearn", "--npo_b"), ["--npo_beta"]),
        (("unlearn", "--proxy_form", ""), ["effort", "penalty"]),
        (("verify", "--toler"), ["--tolerance"]),
        (("compare", "--retr"), ["--retrained"]),
        (("unlearn", "--conf"), ["--config"]),
    ],
)
def test_flags_and_choices(script, words, expected):
    assert completed(script, *words) == expected


def test_another_shell(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef egup\n")
