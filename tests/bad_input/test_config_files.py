"""A YAML file for `--config` is held to what the flags are held to."""

import pytest
from fixtures_bad_input import assert_refused, source_flags, unlearn_words, write

from egup_trainer.cli.common import parse
from egup_trainer.trainer.config import EGUPConfig

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

REFUSED = {
    "unknown key": (
        "objectiv: npo",
        "Got the unknown key objectiv in the --config file, but expected the names of flags, "
        "without --. Did you mean objective?",
    ),
    "far key": (
        "zzzzzz: 1",
        "Got the unknown key zzzzzz in the --config file, but expected the names of flags, without --. Remove it.",
    ),
    "key as a flag": ("--objective: npo", "Got the unknown key --objective in the --config file"),
    "negated key": (
        "no_proxy_constraint: true",
        "Got the unknown key no_proxy_constraint in the --config file, but expected the names of flags, "
        "without --. Did you mean proxy_constraint?",
    ),
    "unknown objective": ("objective: npoo", "Got objective='npoo', but expected one of"),
    "unknown choice": (
        "proxy_form: penality",
        "Got proxy_form='penality', but expected one of effort, penalty. Did you mean penalty?",
    ),
    "text for a number": ("clreg_weight: much", "invalid float value: 'much'"),
    "switch for a number": ("clreg_weight: true", "invalid float value: 'True'"),
    "fraction for a count": ("bank_size: 1.5", "invalid int value: '1.5'"),
    "number out of range": (
        "simnpo_beta: -1",
        "Got simnpo_beta=-1.0, but expected a number above 0. Set --simnpo_beta.",
    ),
    "NaN": ("simnpo_beta: .nan", "Got simnpo_beta=nan, but expected a number above 0. Set --simnpo_beta."),
    "nothing for a number": ("simnpo_beta:", "Got nothing for simnpo_beta in the --config file"),
    "number for a switch": ("inter_entanglement: 7", "Got argument --inter_entanglement"),
    "list for a number": (
        "simnpo_beta: [1, 2]",
        "Got a list for simnpo_beta in the --config file, but expected one value",
    ),
    "list of sources": ("eval: [a.jsonl, b.jsonl]", "Got a list for eval in the --config file"),
    "mapping for a text": ("objective: {npo: 1}", "Got a dict for objective in the --config file"),
    "number for a source": ("eval: 3", "Got no readable file at 3 (No such file or directory)"),
    "a list": ("- objective", "must contain a YAML mapping"),
    "a text": ("objective npo", "must contain a YAML mapping"),
    "nothing": ("", "must contain a YAML mapping"),
    "not YAML": ("objective: [npo", "Got a --config file that is not YAML (line 1), but expected lines such as"),
    "two values": ("a: 1\nobjective: npo: 2", "Got a --config file that is not YAML (line 2)"),
    "control characters": ("objective: \x00npo", "Got a --config file that is not YAML, but expected lines"),
    "latin-1": ("user_marker: Zoë".encode("latin-1"), "Got options that cannot be used ("),
    "environment as a text": ("env: A=1", "Got options that cannot be used (`env` field should be a dict"),
    "number for a key": ("1: 2", "Got options that cannot be used (keywords must be strings)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused(no_weights, tmp_path, capsys, name):
    content, says = REFUSED[name]
    path = write(tmp_path / "run.yaml", content)
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path), "--config", str(path)]
    assert_refused(words, tmp_path, capsys, says)


def test_a_file_that_is_not_there_is_refused(no_weights, tmp_path, capsys):
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path), "--config"]
    assert_refused(
        words, tmp_path, capsys, "Got --config without a file, but expected --config FILE.yaml. Name the file."
    )
    assert_refused([*words, str(tmp_path / "no.yaml")], tmp_path, capsys, "No such file or directory")
    assert_refused([*words, str(tmp_path)], tmp_path, capsys, "Is a directory")


def test_what_yaml_reads_as_another_type_is_read_as_the_flag_would(tmp_path):
    """YAML takes 1e-3 for a text, 5 for a number, and knows mappings and lists."""
    lines = ["learning_rate: 1e-3", "num_train_epochs: 2", "card_author: 5", "npo_beta: 0.2", "use_cpu: yes"]
    lines += ["model_init_kwargs: {dtype: bfloat16}", "label_names: [a, b]", "cache_dim: null", "proxy_constraint: off"]
    path = write(tmp_path / "run.yaml", "\n".join(lines))
    (found,) = parse("unlearn", [EGUPConfig], [f"--config={path}", "--output_dir", str(tmp_path), "--bank_size", "7"])
    assert (found.learning_rate, found.num_train_epochs, found.card_author, found.npo_beta) == (1e-3, 2.0, "5", 0.2)
    assert (found.model_init_kwargs, found.label_names) == ({"dtype": "bfloat16"}, ["a", "b"])
    assert (found.cache_dim, found.proxy_constraint, found.use_cpu, found.bank_size) == (None, False, True, 7)
