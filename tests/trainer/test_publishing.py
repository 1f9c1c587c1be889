"""What goes with a saved model: its card, from a real run, and what a push to the hub would upload."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import qa_rows
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig
from transformers import Trainer

from egup_trainer import EGUPTrainer, UnlearnTrainer
from egup_trainer.cli.main import main
from egup_trainer.publishing import metrics_of
from egup_trainer.records.card import CardFacts, model_card, update_metrics
from egup_trainer.records.facts import make_record

LORA = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
TEXTS = [value.encode() for row in qa_rows(0, 46) for value in row.values()]


@pytest.fixture
def hub(monkeypatch):
    """A hub that keeps what would be uploaded: `hub.files` (bytes by name), `hub.repository`."""
    hub = SimpleNamespace(files={}, repository=None)

    def create_repo(name, **options):
        hub.repository = name
        return SimpleNamespace(repo_id=f"somebody/{name}")

    def upload_folder(repo_id, folder_path, ignore_patterns=None, **options):
        found = (path for path in Path(folder_path).rglob("*") if path.is_file())
        names = (path.relative_to(folder_path).as_posix() for path in found)
        kept = filter_repo_objects(names, ignore_patterns=ignore_patterns)
        hub.files = {name: (Path(folder_path) / name).read_bytes() for name in kept}
        return SimpleNamespace(done=lambda: True) if options.get("run_as_future") else repo_id

    hub.create_repo, hub.upload_folder = create_repo, upload_folder
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def card_of(trainer) -> ModelCard:
    return ModelCard.load(Path(trainer.args.output_dir) / "README.md")


@pytest.mark.parametrize("lora", [False, True])
def test_the_card_of_a_real_run(base, tokenizer, config, lora, tmp_path):
    trainer = EGUPTrainer(
        str(base),
        config(clreg_weight=0.1, eval_strategy="epoch", card_author="Ada Lorn"),
        qa_rows(0, 10),
        qa_rows(20, 33),
        qa_rows(40, 46),
        eval_dataset={"kept": qa_rows(20, 24), "new": qa_rows(60, 64)},
        peft_config=LoraConfig(**LORA) if lora else None,
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = card_of(trainer)
    assert card.data.library_name == ("peft" if lora else "transformers")
    assert card.data.tags == ["unlearning", "egup_trainer", "npo", "egup", "clreg", *(["lora"] if lora else [])]
    assert card.data.base_model is None  # a folder of this machine is nothing on the hub
    kind = "an adapter for " if lora else ""
    assert (
        f"This is {kind}`base` after unlearning with `egup_trainer` (rows to forget: 10, to keep: 13).\n" in card.text
    )
    weights = "an adapter (type LORA, r 4, lora_alpha 6)" if lora else "all weights"
    assert f"`EGUPTrainer` trained {weights} for 6 steps:\n\n- forget objective `npo`, retain loss `nll`\n" in card.text
    assert "\nUnlearned by Ada Lorn on " in card.text
    assert "- `learning_rate`: `0.01`\n" in card.text
    assert "**Approximate unlearning: no formal guarantee.**" in card.text
    assert "2508.20443" in card.text
    assert "2601.22028" in card.text
    for name, rows in (("forget", trainer.forget_rows), ("proxy", trainer.proxy_rows)):
        print_ = make_record(trainer)["rows"][name]["fingerprint"]
        assert f"| {name} | {len(rows)} | `{print_}` |\n" in card.text
    last = {name: value for row in trainer.state.log_history[-4:] for name, value in row.items() if "_loss" in name}
    values = {f"eval_{name}_loss": last[f"eval_{name}_loss"] for name in ("kept", "new")}
    table = "".join(f"| `{name}` | {value:.4g} |\n" for name, value in values.items())
    assert f"## Results\n\n| metric | value |\n| --- | ---: |\n{table}\n## Limits\n" in card.text
    assert {row.metric_type: row.metric_value for row in card.data.eval_results} == values
    assert card.data.model_name == "out"
    assert not any(text in str(card).encode() for text in TEXTS)
    assert str(tmp_path) not in str(card)


def test_new_results_go_into_the_card_of_a_saved_model(make_trainer):
    trainer = make_trainer()
    trainer.save_model()
    assert card_of(trainer).data.library_name == "transformers"  # beside whole weights, too
    trainer.create_model_card(license="mit")
    assert "Not evaluated." in card_of(trainer).text
    update_metrics(trainer.args.output_dir, {"forget.probability": 0.5})
    assert "| `forget.probability` | 0.5 |\n" in card_of(trainer).text
    assert card_of(trainer).data.license == "mit"


def test_the_arguments_are_those_of_trainer_and_are_honored(make_trainer):
    own, theirs = (inspect.signature(kind.create_model_card) for kind in (UnlearnTrainer, Trainer))
    assert list(own.parameters) == list(theirs.parameters)
    trainer = make_trainer()
    Path(trainer.args.output_dir).mkdir(exist_ok=True)
    facts = {
        "language": "en",
        "license": "mit",
        "tags": "mine",
        "finetuned_from": "owner/base",
        "tasks": "question-answering",
        "dataset_tags": "owner/rows",
        "dataset": "The rows",
        "dataset_args": "split",
    }
    trainer.create_model_card(model_name="forgetful", **facts)
    expected = model_card(make_record(trainer), None, "forgetful", CardFacts(**facts))
    assert str(card_of(trainer)) == str(expected)
    assert expected.data.to_dict()["base_model"] == "owner/base"


def test_the_hub_reads_its_metadata_from_the_card(make_trainer, hub, base):
    trainer = make_trainer(str(base), eval_dataset=qa_rows(20, 24), max_steps=1)
    trainer.train()
    value = trainer.evaluate()["eval_loss"]
    trainer.push_to_hub(finetuned_from="owner/base", dataset_tags=["owner/rows"], license="mit", tags="mine")
    card = ModelCard(hub.files["README.md"].decode())
    shown = card.data.to_dict()
    assert (shown["base_model"], shown["datasets"], shown["license"]) == ("owner/base", ["owner/rows"], "mit")
    assert (shown["library_name"], shown["pipeline_tag"]) == ("transformers", "text-generation")
    assert shown["tags"][:3] == ["unlearning", "egup_trainer", "npo"]
    (model,) = shown["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["dataset"]["type"], result["task"]["type"]) == (
        "out",
        "owner/rows",
        "text-generation",
    )
    assert result["metrics"] == [{"name": "eval_loss", "type": "eval_loss", "value": value}]
    assert model_index_to_eval_results(shown["model-index"]) == ("out", card.data.eval_results)


def test_only_the_first_process_writes_the_card(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    trainer.create_model_card()
    assert not Path(trainer.args.output_dir, "README.md").exists()
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: True)
    trainer.create_model_card()
    assert card_of(trainer).data.model_name == "out"


@pytest.mark.parametrize(
    ("history", "step", "best", "expected"),
    [
        ([], 4, None, {}),
        ([{"loss": 2.0, "step": 4}], 4, None, {}),
        (
            [{"eval_loss": 3.0, "step": 2}, {"eval_loss": 1.0, "eval_runtime": 9, "step": 4}],
            4,
            None,
            {"eval_loss": 1.0},
        ),
        # The last step was not evaluated: what an earlier one said is of another model.
        ([{"eval_loss": 3.0, "step": 2}], 4, None, {}),
        # The best model was put back at the end, and evaluated again.
        ([{"eval_loss": 1.0, "step": 2}, {"eval_loss": 3.0, "step": 4}], 4, 2, {"eval_loss": 1.0}),
        (
            [
                {"eval_loss": 1.0, "step": 2},
                {"eval_loss": 3.0, "eval_old": 1, "step": 4},
                {"train_runtime": 5, "step": 4},
                {"eval_loss": 1.5, "eval_a_steps_per_second": 1, "step": 4},
            ],
            4,
            2,
            {"eval_loss": 1.5},
        ),
        (
            [
                {"eval_a_loss": 1.0, "epoch": 1, "step": 4},
                {"eval_b_loss": 2.0, "eval_b_samples_per_second": 3, "step": 4},
            ],
            4,
            None,
            {"eval_a_loss": 1.0, "eval_b_loss": 2.0},
        ),
    ],
)
def test_results_are_those_of_the_model_as_it_is_saved(history, step, best, expected):
    state = SimpleNamespace(log_history=history, global_step=step, best_global_step=best)
    args = SimpleNamespace(load_best_model_at_end=best is not None)
    assert metrics_of(SimpleNamespace(state=state, args=args, is_in_train=False)) == expected


@pytest.mark.parametrize("lora", [False, True])
def test_a_push_uploads_the_card_and_nothing_of_the_rows(make_trainer, base, hub, lora):
    trainer = make_trainer(
        str(base), peft_config=LoraConfig(**LORA) if lora else None, save_strategy="steps", save_steps=3
    )
    trainer.train()
    trainer.save_state()
    out = Path(trainer.args.output_dir)
    assert not (out / "_scan").exists()  # what is known of forget rows goes when the run ends
    assert (out / "checkpoint-6" / "egup_state.safetensors").is_file()
    assert trainer.push_to_hub(license="mit", tags="mine") == "somebody/out"
    weights = {"adapter_config.json", "adapter_model.safetensors"} if lora else {"model.safetensors", "config.json"}
    always = {
        "README.md",
        "unlearning.json",
        "egup_ledger.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_args.bin",
    }
    assert set(hub.files) - {"generation_config.json"} == weights | always | {"trainer_state.json"}
    card = ModelCard(hub.files["README.md"].decode())
    assert card.text.startswith("\n# out\n")
    assert "## What was unlearned" in card.text
    assert card.data.license == "mit"
    assert card.data.tags[-1] == "mine"
    assert not [name for name, content in hub.files.items() if any(text in content for text in TEXTS)]


def test_saving_with_push_to_hub_pushes_card_and_record_under_the_hub_name(make_trainer, hub):
    trainer = make_trainer(push_to_hub=True, hub_model_id="forgetful")
    trainer.save_model()
    assert hub.repository == "forgetful"
    assert hub.files["README.md"].decode().count("\n# forgetful\n") == 1
    assert b'"trainer": "EGUPTrainer"' in hub.files["unlearning.json"]
    trainer.create_model_card()
    assert card_of(trainer).data.model_name == "forgetful"


def test_the_command_leaves_a_card_with_its_author(base, tmp_path):
    flags = ["--output_dir", str(tmp_path / "out"), "--use_cpu", "--report_to", "none", "--save_strategy", "no"]
    for name, records in (("forget", qa_rows(0, 4)), ("retain", qa_rows(20, 24)), ("proxy", qa_rows(40, 44))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        flags += [f"--{name}", str(path)]
    flags += ["--max_steps", "1", "--dataloader_pin_memory", "false", "--card_author", "Ada Lorn"]
    assert main(["unlearn", "--model_name_or_path", str(base), "--no_verdict", *flags]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "This is `base` after unlearning" in text
    assert "Unlearned by Ada Lorn on" in text
    assert "- `max_steps`: `1`\n" in text
