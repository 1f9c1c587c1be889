"""A YAML file for `--config` is held to what the flags are held to."""

import pytest
from fixtures_cli import assert_refused, whole_words, write

from egup_trainer.cli.command import load_command
from egup_trainer.cli.parser import Parser
from egup_trainer.config import EGUPConfig
from egup_trainer.errors import DataError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

REFUSED = [  # content, and what the message names
    ("objectiv: npo", "objectiv", "did you mean objective?"),
    ("zzzzzz: 1", "zzzzzz", "remove it"),
    ("help_titel: Rows", "the unknown key help_titel", "without --; remove it"),  # no flag, but a class attribute
    ("help_title: Rows", "the unknown key help_title", "without --; remove it"),
    ("_VALID_DICT_FIELD: 1", "the unknown key _VALID_DICT_FIELD", "without --; remove it"),
    ("--objective: npo", "--objective"),
    ("no_proxy_constraint: true", "no_proxy_constraint", "did you mean proxy_constraint?"),
    ("objective: npoo", "objective='npoo'"),
    ("proxy_form: penality", "proxy_form='penality'", "did you mean penalty?"),
    ("clreg_weight: much", "'much'"),
    ("clreg_weight: true", "'True'"),
    ("bank_size: 1.5", "'1.5'"),
    ("simnpo_beta: -1", "simnpo_beta=-1.0"),
    ("simnpo_beta: .nan", "simnpo_beta=nan"),
    ("simnpo_beta:", "nothing for simnpo_beta"),
    ("inter_entanglement: 7", "--inter_entanglement"),
    ("simnpo_beta: [1, 2]", "list for simnpo_beta"),
    ("eval: [a.jsonl, b.jsonl]", "list for eval"),
    ("objective: {npo: 1}", "dict for objective"),
    ("- objective", "YAML mapping"),
    ("objective npo", "YAML mapping"),
    ("", "YAML mapping"),
    ("objective: [npo", "not YAML (line 1)"),
    ("a: 1\nobjective: npo: 2", "not YAML (line 2)"),
    ("objective: \x00npo", "not YAML"),
    ("user_marker: Zoë".encode("latin-1"), "not UTF-8"),
    ("env: A=1", "`env` field"),
    ("1: 2", "keywords must be strings"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: repr(case[0])[:40])
def test_a_file_that_cannot_be_used_is_refused(no_weights, tmp_path, capsys, case):
    path = write(tmp_path / "run.yaml", case[0])
    words = whole_words(no_weights, tmp_path, "--config", str(path))
    assert_refused(words, tmp_path, capsys, *case[1:])


def test_a_file_that_is_not_there_is_refused(no_weights, tmp_path, capsys):
    words = whole_words(no_weights, tmp_path, "--config")
    assert_refused(words, tmp_path, capsys, "--config without a file")
    assert_refused([*words, str(tmp_path / "no.yaml")], tmp_path, capsys, f"--config {tmp_path / 'no.yaml'}, which")
    assert_refused(
        [*words, str(tmp_path)], tmp_path, capsys, "cannot be read (Is a directory); a YAML file", "the path"
    )
    config = write(tmp_path / "run.yaml", "eval: 3")
    assert_refused([*words, str(config)], tmp_path, capsys, "no readable file at 3", error=DataError)


def test_what_yaml_reads_as_another_type_is_read_as_the_flag_would(tmp_path):
    """YAML takes 1e-3 for a text, 5 for a number, and knows mappings and lists."""
    lines = ["learning_rate: 1e-3", "num_train_epochs: 2", "card_author: 5", "npo_beta: 0.2", "use_cpu: yes"]
    lines += ["model_init_kwargs: {dtype: bfloat16}", "label_names: [a, b]", "cache_dim: null", "proxy_constraint: off"]
    path = write(tmp_path / "run.yaml", "\n".join(lines))
    words = [f"--config={path}", "--output_dir", str(tmp_path), "--bank_size", "7"]
    (found,) = Parser([EGUPConfig]).parse(words)
    assert (found.learning_rate, found.num_train_epochs, found.card_author, found.npo_beta) == (1e-3, 2.0, "5", 0.2)
    assert (found.model_init_kwargs, found.label_names) == ({"dtype": "bfloat16"}, ["a", "b"])
    assert (found.cache_dim, found.proxy_constraint, found.use_cpu, found.bank_size) == (None, False, True, 7)


def test_a_date_and_a_mapping_are_read_as_flags_have_them(tmp_path):
    """YAML reads 2026-11-28 as a date, and braces as a mapping."""
    file = write(tmp_path / "run.yaml", "template_date: 2026-11-28\ntemplate_kwargs: {enable_thinking: false}\n")
    words = ["--config", str(file), "--output_dir", "2026-11-28", "--use_cpu"]
    _, config, _ = load_command("unlearn").parser().parse(words)
    assert (config.template_date, config.template_kwargs) == ("2026-11-28", {"enable_thinking": False})
    arguments, _ = load_command("evaluate").parser().parse(["--config", str(file), "--output", "r.json"])
    assert (arguments.template_date, arguments.template_kwargs) == ("2026-11-28", {"enable_thinking": False})
    file.write_text('model_init_kwargs: {device_map: "auto"}\n')
    arguments, _ = load_command("evaluate").parser().parse(["--config", str(file), "--output", "r.json"])
    assert arguments.loading == {"device_map": "auto"}
