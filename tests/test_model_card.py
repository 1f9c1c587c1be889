"""The card of an unlearned model: its text and metadata from a record, and new results in an old card."""

import json
from copy import deepcopy

import pytest
from huggingface_hub import ModelCard

from egup_trainer.errors import DataError
from egup_trainer.model_card import CardFacts, model_card, read_record, update_metrics, write_model_card

RECORD = {
    "schema_version": 1,
    "date": "2026-03-04",
    "author": "Ada Lorn",
    "model": {"name": "owner/base", "is_local": False},
    "adapter": None,
    "trainer": "EGUPTrainer",
    "objective": "npo",
    "retain_loss": "nll",
    "egup": {"inter_entanglement": True, "intra_entanglement": False, "proxy_constraint": True},
    "clreg_weight": 0.25,
    "options": {"learning_rate": 1e-05, "proxy_form": "penalty", "user_marker": "Q:\n"},
    "steps": 7,
    "rows": {"forget": {"rows": 2, "fingerprint": "0123456789abcdef"}, "retain": {"rows": 3, "fingerprint": "f" * 16}},
    "versions": {"python": "3.11", "torch": "2.13"},
}
METRICS = {"forget.probability": 0.0123456, "privacy.auc": None, "kept|loss": 2.0}
TABLE = (
    "## Results\n\n| metric | value |\n| --- | ---: |\n| `forget.probability` | 0.01235 |\n"
    "| `privacy.auc` | not available |\n| `kept\\|loss` | 2 |\n\n## Limits\n"
)


def record(**changes) -> dict:
    return {**deepcopy(RECORD), **changes}


def save(folder, card=None, **changes):
    folder.mkdir()
    (folder / "unlearning.json").write_text(json.dumps(record(**changes)), encoding="utf-8")
    if card is not None:
        write_model_card(folder, card)
    return folder


def test_the_text_says_what_was_unlearned_by_whom_and_how():
    text = model_card(RECORD, None, "forgetful").text
    assert text.startswith("""
# forgetful

This is [owner/base](https://huggingface.co/owner/base) after unlearning with `egup_trainer` (rows to forget: 2, to keep: 3).

## What was unlearned

| set | rows | fingerprint |
| --- | ---: | --- |
| forget | 2 | `0123456789abcdef` |
| retain | 3 | `ffffffffffffffff` |

Unlearned by Ada Lorn on 2026-03-04. The trainer publishes none of the rows. A fingerprint is a digest of
the tokenized rows in their order, keyed by a secret that the publisher keeps: who has the rows and the secret can check
with it that they were these.

## How

`EGUPTrainer` trained all weights for 7 steps:

- forget objective `npo`, retain loss `nll`
- EGUP ([arXiv 2508.20443](https://arxiv.org/abs/2508.20443)): inter-sample entanglement, proxy constraint
- CLReg ([arXiv 2601.22028](https://arxiv.org/abs/2601.22028)): weight 0.25
- `learning_rate`: `1e-05`
- `proxy_form`: `"penalty"`
- `user_marker`: `"Q:\\n"`

All other options of the method had their defaults. Versions: python 3.11, torch 2.13.

## Results

Not evaluated. To measure what the model still says, on rows of your own:

    egup evaluate --model_name_or_path THIS_MODEL --suite custom \\
        --forget forget.jsonl --retain retain.jsonl --output results.json

## Limits

**Approximate unlearning: no formal guarantee.** """)  # noqa: E501
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == ["## What was unlearned", "## How", "## Results", "## Limits", "## How to cite"]
    assert "  eprint        = {2508.20443},\n" in text
    assert "  eprint        = {2601.22028},\n" in text


def test_the_metadata_of_a_run_without_egup_and_clreg_of_a_local_model():
    off = dict.fromkeys(RECORD["egup"], False)
    rows = {"forget": RECORD["rows"]["forget"]}
    changed = record(egup=off, clreg_weight=0.0, author=None, model={"name": "base", "is_local": True}, rows=rows)
    card = model_card(changed, {}, "out")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "egup_trainer", "npo"],
        "model_name": "out",
    }
    assert "This is `base` after unlearning with `egup_trainer` (rows to forget: 2).\n" in card.text
    assert "abs/2508.20443)): not used\n" in card.text
    assert "abs/2601.22028)): not used\n" in card.text
    assert "\nUnlearned on 2026-03-04. The" in card.text


def test_an_adapter_is_loaded_with_peft_and_says_so():
    card = model_card(record(adapter={"type": "LORA", "r": 8, "lora_alpha": 16}), None, "out")
    assert card.data.library_name == "peft"
    assert card.data.base_model == "owner/base"
    assert card.data.tags == ["unlearning", "egup_trainer", "npo", "egup", "clreg", "lora"]
    assert "This is an adapter for [owner/base](" in card.text
    assert "`EGUPTrainer` trained an adapter (type LORA, r 8, lora_alpha 16) for 7 steps:" in card.text


def test_a_model_that_was_made_in_memory_has_no_name():
    card = model_card(record(model={"name": None, "is_local": True}), None, "out")
    assert "This is a causal language model without a name after unlearning" in card.text
    assert card.data.base_model is None


def test_results_are_a_table_and_a_model_index_of_finite_numbers(tmp_path):
    path = write_model_card(tmp_path, model_card(RECORD, {**METRICS, "broken": float("nan")}, "out"))
    card = ModelCard.load(path)
    assert path.name == "README.md"
    assert TABLE.replace("\n\n## Limits", "\n| `broken` | nan |\n\n## Limits") in card.text
    assert card.data.model_name == "out"
    (first, second) = card.data.eval_results
    assert (first.task_type, first.dataset_type, first.dataset_name) == (
        "text-generation",
        "custom",
        "rows of the evaluation",
    )
    assert (first.metric_type, first.metric_name, first.metric_value) == ("forget.probability",) * 2 + (0.0123456,)
    assert (second.metric_type, second.metric_value) == ("kept|loss", 2.0)


def test_what_the_publisher_says_is_honoured():
    facts = CardFacts(
        language=["en", "de"],
        license="mit",
        tags=["mine", "npo"],
        finetuned_from="other/base",
        tasks="text2text-generation",
        dataset_tags=["a/rows", "b/rows"],
        dataset=["Rows A", "Rows B"],
        dataset_args="split1",
    )
    card = model_card(record(model={"name": "base", "is_local": True}), {"loss": 1.5}, "out", facts)
    data = card.data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "language": ["en", "de"],
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation",
        "base_model": "other/base",
        "datasets": ["a/rows", "b/rows"],
        "tags": ["unlearning", "egup_trainer", "npo", "egup", "clreg", "mine"],
    }
    task, metrics = {"type": "text2text-generation"}, [{"type": "loss", "value": 1.5, "name": "loss"}]
    rows_a = {"name": "Rows A", "type": "a/rows", "args": "split1"}
    assert index == [
        {
            "name": "out",
            "results": [
                {"task": task, "dataset": rows_a, "metrics": metrics},
                {"task": task, "dataset": {"name": "Rows B", "type": "b/rows"}, "metrics": metrics},
            ],
        }
    ]
    assert "This is [other/base](https://huggingface.co/other/base) after" in card.text
    assert "Data sets, as the publisher names them: Rows A, Rows B." in card.text


def test_new_results_leave_the_rest_of_a_card_as_it_is(tmp_path):
    facts = CardFacts(license="mit", tags="mine", language="en", tasks="question-answering")
    card = model_card(RECORD, {"eval_loss": 3.0}, "my name", facts)
    card.text = card.text.replace("## Limits\n", "## Limits\n\nWritten by hand: \\1.\n")
    folder = save(tmp_path / "model", card)
    update_metrics(folder, METRICS)
    once = (folder / "README.md").read_text()
    update_metrics(folder, METRICS)
    assert (folder / "README.md").read_text() == once
    new = ModelCard.load(folder / "README.md")
    assert new.text == card.text.replace(
        "| `eval_loss` | 3 |\n", TABLE.split("---: |\n")[1].removesuffix("\n## Limits\n")
    )
    assert (new.data.license, new.data.language, new.data.tags[-1]) == ("mit", "en", "mine")
    assert new.data.model_name == "my name"
    assert [(row.task_type, row.metric_type, row.metric_value) for row in new.data.eval_results] == [
        ("question-answering", "forget.probability", 0.0123456),
        ("question-answering", "kept|loss", 2.0),
    ]


def test_results_take_the_place_of_the_advice_to_evaluate(tmp_path):
    folder = save(tmp_path / "model", model_card(RECORD, None, "my name"))
    update_metrics(folder, {**METRICS, r"odd\1": 1.0})
    card = ModelCard.load(folder / "README.md")
    assert TABLE.replace("\n\n## Limits", "\n| `odd\\1` | 1 |\n\n## Limits") in card.text
    assert "Not evaluated" not in card.text
    assert card.data.model_name == "my name"


def test_a_card_with_the_line_ends_of_windows_is_not_replaced(tmp_path):
    folder = save(tmp_path / "model", model_card(RECORD, None, "out"))
    path = folder / "README.md"
    path.write_bytes(path.read_bytes().replace(b"to keep: 3", b"edited").replace(b"\n", b"\r\n"))
    update_metrics(folder, METRICS)
    text = path.read_text()
    assert "edited" in text
    assert "| `kept\\|loss` | 2 |" in text
    assert text.count("## Results") == 1


@pytest.mark.parametrize("old", [None, ModelCard("---\nlibrary_name: peft\n---\n# Model Card for Model ID\n")])
def test_without_a_card_of_ours_a_new_one_is_written(tmp_path, old):
    folder = save(tmp_path / "model", old)
    update_metrics(folder, METRICS)
    assert (folder / "README.md").read_text() == str(model_card(RECORD, METRICS, "model"))


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(DataError) as error:
        update_metrics(tmp_path, METRICS)
    assert str(error.value) == (
        f"got no unlearning.json in {tmp_path}; expected the folder of a model that a trainer of this package saved; "
        "check the folder"
    )
    assert read_record(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{broken", "[1]", '{"schema_version": 2}', "{}"])
def test_a_file_that_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "unlearning.json").write_text(content)
    with pytest.raises(DataError) as error:
        read_record(tmp_path)
    assert str(error.value) == (
        f"got {tmp_path / 'unlearning.json'}, which is no record of an unlearning run in schema 1; expected the file "
        "as this version of the trainer writes it; save the model again"
    )


@pytest.mark.parametrize("block", ["---\n[1]\n---\n", "---\na: b: c\n---\n"])
def test_a_card_whose_metadata_cannot_be_read_is_refused_and_stays(tmp_path, block):
    folder = save(tmp_path / "model")
    (folder / "README.md").write_text(block)
    with pytest.raises(DataError) as error:
        update_metrics(folder, METRICS)
    assert str(error.value) == (
        f"got {folder / 'README.md'}, whose metadata cannot be read; expected a block of YAML between two lines of "
        "---; repair or remove the file"
    )
    assert (folder / "README.md").read_text() == block
