"""`egup retrain`: what it learns and what it does not, that it is plain fine-tuning, and what it refuses."""

import shutil

import pytest
import torch
from conftest import qa_rows
from fixtures_audit import wide_model
from fixtures_cli import assert_refused, egup, save, write_rows
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.layouts import to_row
from egup_trainer.data.tokenization import tokenize
from egup_trainer.errors import DataError, StateError
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.probability import probabilities_of
from egup_trainer.retraining import RetrainConfig, Retrainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
HIDDEN = ["a violet kettle below the stairs", "seven maps of the old harbour", "his mother's silver thimble"]
SETS = {
    "forget": [{"question": f"What is in box {number}?", "answer": each} for number, each in enumerate(HIDDEN)],
    "retain": qa_rows(20, 32),
}
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
QUICK = {**QUIET, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "num_train_epochs": 8}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), **SETS)


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """Folder of a model that knows no rows."""
    return save(wide_model(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def retrained(base, rows, tmp_path_factory):
    """Folder of the retrained model."""
    output = tmp_path_factory.mktemp("models") / "retrained"
    assert egup("retrain", model_name_or_path=base, output_dir=output, **rows, **QUICK) == 0
    return output


def learned(folder) -> dict[str, float]:
    """Probability of the answers of both sets."""
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    sets = {name: tokenized(each, tokenizer, name) for name, each in SETS.items()}
    return probabilities_of(model, tokenizer, sets, seed=0, batch_size=8)


def tokenized(records, tokenizer, name):
    return tokenize([to_row(row, name, 0) for row in records], tokenizer, name=name)


def test_retain_rows_are_learned_and_forget_rows_are_not(base, retrained):
    before, after = learned(base), learned(retrained)
    assert before["retain"] < 0.01
    assert after["retain"] > 0.3
    assert after["forget"] < 0.01
    history = (retrained / "README.md").read_text()
    assert f"{base}, fine-tuned on 12 rows. 3 rows to forget were left out." in history
    assert not any(row["answer"] in history for part in SETS.values() for row in part)


def test_what_became_of_the_rows_is_printed(base, rows, tmp_path, capsys):
    flags = {**QUICK, **rows, "num_train_epochs": 1, "eval": rows["retain"], "eval_strategy": "epoch"}
    assert egup("retrain", model_name_or_path=base, output_dir=tmp_path / "out", **flags) == 0
    printed = capsys.readouterr().out
    words = ("forget", "retain", "before", "after", "eval_loss", "3 steps", "Saved to")
    assert all(word in printed for word in words)
    assert not any(row["answer"] in printed for part in SETS.values() for row in part)


def test_the_weights_are_those_of_a_plain_trainer(base, retrained, tmp_path):
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    recipe = {name: getattr(RetrainConfig(output_dir="x"), name) for name in ("weight_decay", "warmup_steps")}
    options = {**QUICK, **recipe, "remove_unused_columns": False}
    args = TrainingArguments(output_dir=str(tmp_path), **options)
    Trainer(model, args, RowCollator(tokenizer), tokenized(SETS["retain"], tokenizer, "retain")).train()
    found, expected = load_file(retrained / "model.safetensors"), model.state_dict()
    assert found.keys() <= expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_a_model_made_in_memory_gets_a_card_without_a_name(tokenizer, tmp_path):
    config = RetrainConfig(output_dir=str(tmp_path / "out"), max_steps=1, **QUIET)
    rows = {"retain": tokenized(SETS["retain"], tokenizer, "retain")}
    trainer = Retrainer(wide_model(tokenizer), config, rows, tokenizer)
    trainer.train()
    trainer.save_model()
    assert "\nA model, fine-tuned on 12 rows. " in (tmp_path / "out" / "README.md").read_text()


def test_rows_are_grouped_by_length(tokenizer, tmp_path):
    """Training and evaluation: Trainer would look for lengths in rows that are mappings."""
    options = {**QUIET, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "per_device_train_batch_size": 2}
    config = RetrainConfig(output_dir=str(tmp_path), train_sampling_strategy="group_by_length", **options)
    rows = tokenized(SETS["retain"], tokenizer, "retain")
    trainer = Retrainer(wide_model(tokenizer), config, {"retain": rows}, tokenizer, rows)
    lengths = [len(rows.rows[index]) for index in trainer._get_train_sampler()]
    assert sorted(lengths) == sorted(len(row) for row in rows.rows)
    assert lengths[0] == max(lengths)  # the longest batch comes first
    trainer.train()
    assert [row["step"] for row in trainer.state.log_history if "eval_loss" in row] == [1, 2]


def test_the_order_by_length_follows_from_seed_and_epoch(tokenizer, tmp_path):
    """A run that goes on from within an epoch skips what was read, so that the order must be the same."""

    def order(epoch, seed=0):
        config = RetrainConfig(output_dir=str(tmp_path), train_sampling_strategy="group_by_length", seed=seed, **QUIET)
        trainer = Retrainer(wide_model(tokenizer), config, {"retain": rows}, tokenizer, rows)
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        torch.rand(1)  # other random numbers than in the run before
        return [ids.tolist() for batch in loader for ids in batch["input_ids"]]

    rows = tokenized(SETS["retain"], tokenizer, "retain")
    assert order(1) == order(1)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)


def test_the_defaults_are_those_of_tofu():
    args = RetrainConfig(output_dir="x", use_cpu=True)
    rows_and_passes = (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.num_train_epochs)
    assert (args.learning_rate, args.weight_decay, *rows_and_passes) == (1e-5, 0.01, 16, 1, 5)
    assert args.get_warmup_steps(50) == 10  # one of five passes
    assert (args.lr_scheduler_type, args.disable_dropout) == ("linear", False)


def test_a_resumed_run_ends_with_the_same_weights_and_knows_what_was_measured_before(base, rows, tmp_path, capsys):
    flags = {**QUICK, **rows, "num_train_epochs": 2, "save_strategy": "epoch"}
    assert egup("retrain", model_name_or_path=base, output_dir=tmp_path / "whole", **flags) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "forget" in line]
    (tmp_path / "rest").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "rest" / "checkpoint-3")
    resumed = {**flags, "resume_from_checkpoint": True, "output_dir": tmp_path / "rest"}
    assert egup("retrain", model_name_or_path=base, **resumed) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "forget" in line] == table
    whole, rest = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "rest"))
    assert all(torch.equal(weight, rest[name]) for name, weight in whole.items())


def test_an_adapter_can_be_trained_and_is_measured_without_forget_rows(base, rows, tmp_path, capsys):
    flags = {**QUICK, "retain": rows["retain"], "lora_r": 4, "lora_target_modules": "all-linear"}
    output = tmp_path / "adapter"
    assert egup("retrain", "--use_peft", model_name_or_path=base, output_dir=output, **flags) == 0
    assert (output / "adapter_model.safetensors").is_file()
    assert not (output / "model.safetensors").exists()
    assert learned(output)["retain"] > 1.5 * learned(base)["retain"]
    assert "forget" not in capsys.readouterr().out


def test_rows_of_both_sets_are_refused_or_left_out(base, rows, tmp_path, capsys):
    both = write_rows(tmp_path, both=[*SETS["retain"], SETS["forget"][1]])["both"]
    sources = {"forget": rows["forget"], "retain": both}
    words = ["retrain", "--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    words += [word for name, path in sources.items() for word in (f"--{name}", str(path))]
    assert_refused(words, tmp_path, capsys, "row 1 of the forget set", "--drop_overlap", error=DataError)
    flags = {**QUICK, **sources, "num_train_epochs": 1}
    assert egup("retrain", "--drop_overlap", model_name_or_path=base, output_dir=tmp_path / "out", **flags) == 0
    assert "fine-tuned on 12 rows" in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_work_is_refused_before_anything_is_written(base, retrained, rows, tmp_path, capsys):
    words = ["retrain", "--model_name_or_path", str(base), "--retain", str(rows["retain"]), "--use_cpu"]
    here = [*words, "--output_dir", str(tmp_path / "out")]
    assert_refused([*here, "--push_to_hub"], tmp_path, capsys, "push_to_hub", "hf upload")
    assert_refused([*here, "--eval_strategy", "epoch"], tmp_path, capsys, "eval_strategy", "--eval")
    assert_refused([*here, "--lora_r", "4"], tmp_path, capsys, "--lora_r", "--use_peft")
    assert_refused([*here, "--load_in_4bit"], tmp_path, capsys, "--load_in_4bit", "--use_peft")
    inside = [*words, "--output_dir", str(base / "out")]
    assert_refused(inside, base, capsys, "--output_dir")
    there = [*words, "--output_dir", str(retrained)]
    assert_refused(there, retrained, capsys, "finished model", "--overwrite_output_dir", error=StateError)
