"""The record of a run: what it holds, what it never holds, and what a fingerprint depends on."""

import hashlib
import hmac
from dataclasses import fields
from datetime import date, timedelta
from pathlib import Path

import pytest
from conftest import qa_rows
from peft import LoraConfig
from transformers import TrainingArguments

from egup_trainer import EGUPConfig, UnlearnConfig, UnlearnTrainer, load_rows
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import tokenize
from egup_trainer.records.facts import fingerprint, make_record, saved_step
from egup_trainer.records.io import read_record


def test_the_record_of_a_run(make_trainer, base):
    trainer = make_trainer(
        str(base),
        card_author="Ada Lorn",
        retain_loss="kl",
        clreg_weight=0.5,
        proxy_form="penalty",
        inter_entanglement=False,
        gradient_accumulation_steps=2,
        user_marker="Q: ",
        model_init_kwargs={"cache_dir": "/somewhere/private"},
    )
    trainer.train()
    record = make_record(trainer)
    assert abs(date.fromisoformat(record.pop("date")) - date.today()) <= timedelta(days=1)  # it is in UTC
    assert {"python", "torch", "transformers"} <= record.pop("versions").keys()
    rows = record.pop("rows")
    assert {name: part["rows"] for name, part in rows.items()} == {"forget": 10, "retain": 13, "proxy": 6}
    sets = (trainer.forget_rows, trainer.retain_rows, trainer.proxy_rows)
    assert [part["fingerprint"] for part in rows.values()] == [fingerprint(each, trainer.secrets[0]) for each in sets]
    assert record == {
        "schema_version": 1,
        "author": "Ada Lorn",
        "model": {"name": "base", "is_local": True},
        "adapter": None,
        "trainer": "EGUPTrainer",
        "objective": "npo",
        "retain_loss": "kl",
        "reference": "likely_tokens",
        "egup": {"inter_entanglement": False, "intra_entanglement": True, "proxy_constraint": True},
        "clreg_weight": 0.5,
        "options": {
            "learning_rate": 1e-2,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "world_size": 1,
            "seed": 42,
            "user_marker": "Q: ",
            "retain_weight": 1.0,
            "proxy_form": "penalty",
            "proxy_lambda": 2.0,  # the objective's own default
        },
        "steps": 4,
    }


@pytest.mark.parametrize(
    ("proxy_model", "proxies", "name", "is_local"),
    [
        ("base", True, "base", True),
        ("owner/name", False, "owner/name", False),
        ("adapter_off", False, "adapter_off", True),
    ],
)
def test_where_expected_outputs_came_from(make_trainer, base, proxy_model, proxies, name, is_local):
    path = str(base) if proxy_model == "base" else proxy_model
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    options = {"proxy_model": path, "peft_config": lora, **({} if proxies else {"proxies": False})}
    record = make_record(make_trainer(objective="proxy_kl", **options))
    facts = {"proxy_model": {"name": name, "is_local": is_local}, "ranked_by_proxies": proxies}
    assert record["expected_outputs"] == facts
    assert str(base.parent) not in str(record)


def test_the_record_of_an_adapter_without_proxies(make_trainer):
    lora = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    record = make_record(make_trainer(proxies=False, peft_config=lora))
    assert record["adapter"] == {"type": "LORA", "r": 4, "lora_alpha": 6}
    assert record["egup"]["proxy_constraint"] is False
    assert record["rows"].keys() == {"forget", "retain"}
    assert (record["author"], record["model"], record["steps"]) == (None, {"name": None, "is_local": True}, 0)


def test_the_record_of_a_plain_trainer_without_retain_rows(make_model, tokenizer, config):
    args = config(UnlearnConfig, objective="grad_ascent", max_steps=3, max_length=16)
    long_text = {"text": " ".join(row["answer"] for row in qa_rows(0, 9))}
    trainer = UnlearnTrainer(make_model(), args, [long_text], processing_class=tokenizer)
    record = make_record(trainer)
    assert record["trainer"] == "UnlearnTrainer"
    assert record["egup"] == {"inter_entanglement": False, "intra_entanglement": False, "proxy_constraint": False}
    assert (record["clreg_weight"], record["retain_loss"], record["rows"].keys()) == (0.0, "none", {"forget"})
    assert record["options"]["max_steps"] == 3
    assert len(trainer.forget_rows) > 5
    assert record["rows"]["forget"]["rows"] == 1  # a long text counts once


def test_every_option_of_the_method_is_recorded_once_it_is_changed(make_trainer):
    trainer = make_trainer()
    own = {option.name for option in fields(EGUPConfig)} - {option.name for option in fields(TrainingArguments)}
    for name in own:
        setattr(trainer.args, name, "changed")
    record = make_record(trainer)
    under_other_keys = {"objective", "retain_loss", "clreg_weight", *record["egup"]}
    may_name_folders = {"card_author", "idk_answers", "scan_cache_dir", "model_init_kwargs", "overwrite_output_dir"}
    may_name_folders |= {"verdict"}  # under a key of its own
    assert own - record["options"].keys() == under_other_keys | may_name_folders | {"proxy_model"}
    assert {"clreg_temperature", "clreg_positives"} <= record["options"].keys()


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("owner/model", None, {"name": "owner/model", "is_local": False}),
        ("owner/model", "owner/model", {"name": "model", "is_local": True}),
        ("gpt2", None, {"name": "gpt2", "is_local": False}),
        ("/home/me/models/mine/", None, {"name": "mine", "is_local": True}),
        ("../models/mine", None, {"name": "mine", "is_local": True}),
        ("", None, {"name": None, "is_local": True}),
    ],
)
def test_a_local_folder_is_named_by_its_last_part_alone(make_trainer, tmp_path, monkeypatch, name, folder, expected):
    trainer = make_trainer()
    trainer.model.config._name_or_path = name
    if folder is not None:  # a folder that looks like a hub id
        (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
    assert make_record(trainer)["model"] == expected


def test_every_saved_model_has_a_record_without_texts_and_paths(make_trainer, base, tmp_path):
    trainer = make_trainer(str(base), save_strategy="steps", save_steps=4, scan_cache_dir=str(tmp_path / "scans"))
    trainer.train()
    trainer.save_model()
    out = Path(trainer.args.output_dir)
    assert [read_record(folder)["steps"] for folder in (out / "checkpoint-4", out)] == [4, 6]
    assert read_record(out) == make_record(trainer)
    for folder in (out / "checkpoint-4", out):
        text = (folder / "unlearning.json").read_text()
        assert str(tmp_path) not in text
        assert not any(value in text for row in qa_rows(0, 46) for value in row.values())


def test_processes_that_save_no_model_write_no_record(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(type(trainer.args), "should_save", property(lambda self: False))
    trainer.save_model(str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_the_step_of_the_best_model_counts_only_once_it_is_back(make_trainer):
    trainer = make_trainer()
    trainer.state.global_step, trainer.state.best_global_step = 6, 2
    assert saved_step(trainer) == 6
    trainer.args.load_best_model_at_end = True
    assert saved_step(trainer) == 2
    trainer.is_in_train = True
    assert saved_step(trainer) == 6


def rows(tokenizer, records, **options):
    return tokenize(load_rows(records), tokenizer, name="set", **options)


def test_a_fingerprint_tells_rows_and_their_order(tokenizer):
    first, again = (fingerprint(rows(tokenizer, qa_rows(0, 5)), "s") for _ in range(2))
    assert first == again
    assert len(first) == 16
    assert set(first) <= set("0123456789abcdef")
    changed = qa_rows(0, 5)
    changed[3]["answer"] += "!"
    others = [changed, qa_rows(0, 4), qa_rows(0, 6), list(reversed(qa_rows(0, 5))), [*qa_rows(0, 5), *qa_rows(0, 1)]]
    assert len({first, *(fingerprint(rows(tokenizer, each), "s") for each in others)}) == 6


def test_a_fingerprint_is_keyed_by_the_secret(tokenizer):
    one = rows(tokenizer, qa_rows(0, 1))
    message = one.rows[0].source.key
    assert fingerprint(one, "s") == hmac.new(b"s", message, "sha256").hexdigest()[:16]
    assert fingerprint(one, "s") != fingerprint(one, "t")
    assert hashlib.sha256(message).hexdigest()[:16] not in {fingerprint(one, ""), fingerprint(one, "s")}


def test_a_fingerprint_depends_neither_on_padding_nor_on_where_rows_are_cut(tokenizer):
    texts = [{"text": " ".join(row["answer"] for row in qa_rows(0, 9))}, {"text": "Short."}]
    whole, cut = rows(tokenizer, texts), rows(tokenizer, texts, max_length=16)
    assert len(cut) > len(whole) == 2
    before = fingerprint(whole, "s")
    RowCollator(tokenizer)([whole[0], whole[1]])
    assert before == fingerprint(whole, "s") == fingerprint(cut, "s")
