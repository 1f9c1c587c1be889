"""Access tokens are in no file that a run writes, in nothing that would be pushed, and in no log."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from conftest import qa_rows
from test_publishing import hub  # noqa: F401
from transformers.integrations import is_tensorboard_available

from egup_trainer import EGUPConfig
from egup_trainer.cli.main import main

TOKEN, NESTED, OF_SHELL = "hf_topsecret", "hf_nestedsecret", "key_ofshell"
SECRETS = [secret.encode() for secret in (TOKEN, NESTED, OF_SHELL)]


@pytest.fixture
def config(config):
    return lambda *args, **options: config(
        *args, **{"hub_token": TOKEN, "model_init_kwargs": {"token": NESTED, "revision": "main"}, **options}
    )


def leaks(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in SECRETS)]


def test_nothing_that_a_trainer_writes_or_pushes_holds_a_token(make_trainer, hub, tmp_path):  # noqa: F811
    trackers = ["tensorboard"] if is_tensorboard_available() else "none"
    trainer = make_trainer(push_to_hub=True, save_strategy="steps", save_steps=3, report_to=trackers)
    assert trainer.args.hub_token == TOKEN  # it is still at hand
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.push_to_hub()
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"training_args.bin", "egup_state.safetensors", "trainer_state.json", "unlearning.json"} <= names
    assert leaks(tmp_path) == []
    assert "training_args.bin" in hub.files
    assert not [name for name, content in hub.files.items() if any(secret in content for secret in SECRETS)]


@pytest.mark.parametrize("kind", ["flags", "flags with =", "config file"])
def test_nothing_that_the_command_writes_or_prints_holds_a_token(base, tmp_path, capsys, caplog, monkeypatch, kind):
    monkeypatch.delenv("SOME_API_KEY", raising=False)
    options = {"hub_token": TOKEN, "model_init_kwargs": json.dumps({"token": NESTED, "revision": "main"})}
    if kind == "flags":
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    elif kind == "flags with =":
        flags = [f"--{name}={value}" for name, value in options.items()]
    else:
        nested = {"model_init_kwargs": {"token": NESTED, "revision": "main"}}
        (tmp_path / "run.yaml").write_text(yaml.dump({**options, **nested, "env": {"SOME_API_KEY": OF_SHELL}}))
        flags = ["--config", str(tmp_path / "run.yaml")]
    for name, span in (("forget", (0, 4)), ("retain", (20, 24))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, qa_rows(*span))), encoding="utf-8")
        flags += [f"--{name}", str(tmp_path / f"{name}.jsonl")]
    flags += ["--use_cpu", "--report_to", "none", "--max_steps", "1", "--save_steps", "1", "--output_dir"]
    assert main(["unlearn", "--model_name_or_path", str(base), "--no_verdict", *flags, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "_run.json").is_file()
    assert leaks(tmp_path / "out") == []
    said = capsys.readouterr()
    assert not [each for each in SECRETS if each.decode() in said.out + said.err + caplog.text]


def test_a_configuration_shows_no_token_and_copies_keep_it(config):
    args = config(EGUPConfig)
    for text in (repr(args), str(args), json.dumps(args.to_dict(), default=str), args.to_json_string()):
        assert TOKEN not in text
        assert NESTED not in text
    copies = [copy.copy(args), copy.deepcopy(args), dataclasses.replace(args)]
    assert [each.hub_token for each in copies] == [TOKEN] * 3
    assert [each.model_init_kwargs["token"] for each in copies] == [NESTED] * 3
    back = pickle.loads(pickle.dumps(args))
    assert (back.hub_token, back.model_init_kwargs) == (None, {"token": None, "revision": "main"})
    assert back.learning_rate == args.learning_rate
    assert args.hub_token == TOKEN


def test_what_is_pickled_can_be_loaded_as_before(config, tmp_path):
    torch.save(config(EGUPConfig, clreg_weight=0.5), tmp_path / "training_args.bin")
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).clreg_weight == 0.5
