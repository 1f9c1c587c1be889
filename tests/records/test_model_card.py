"""The card of an unlearned model: its text and metadata from a record, and new results in an old card."""

import json

import pytest
from fixtures_records import RECORD
from huggingface_hub import ModelCard

from egup_trainer.errors import DataError
from egup_trainer.records.card import CardFacts, model_card, update_metrics, write_model_card
from egup_trainer.records.io import read_record

METRICS = {"forget.probability": 0.0123456, "privacy.auc": None, "kept|loss": 2.0}
TABLE = (
    "## Results\n\n| metric | value |\n| --- | ---: |\n| `forget.probability` | 0.01235 |\n"
    "| `privacy.auc` | not available |\n| `kept\\|loss` | 2 |\n\n## Limits\n"
)
OFF = dict.fromkeys(RECORD["egup"], False)
LOCAL = {"name": "base", "is_local": True}


@pytest.fixture
def saved(tmp_path):
    """Makes the folder of a saved model with the record, and with a card if one is given."""

    def save(card=None):
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "unlearning.json").write_text(json.dumps(RECORD), encoding="utf-8")
        if card is not None:
            write_model_card(folder, card)
        return folder

    return save


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

Unlearned by Ada Lorn on 2026-03-04. The trainer publishes none of the rows. A fingerprint is a digest of the
tokenized rows in their order, keyed by a secret that the publisher keeps. Anyone who has both the rows and the secret
can check that these were the rows.

## How

`EGUPTrainer` trained all weights for 7 steps:

- forget objective `npo`, retain loss `nll`
- EGUP ([arXiv 2508.20443](https://arxiv.org/abs/2508.20443)): inter-sample entanglement, proxy constraint
- CLReg ([arXiv 2601.22028](https://arxiv.org/abs/2601.22028)): weight 0.25
- `learning_rate`: `1e-05`
- `proxy_form`: `"penalty"`
- `user_marker`: `"Q:\\n"`

All other options of the method had their default values. Versions: python 3.11, torch 2.13.

## Results

Not evaluated. To measure what the model still says, on rows of your own:

    egup evaluate --model_name_or_path THIS_MODEL --suite custom \\
        --forget forget.jsonl --retain retain.jsonl --output results.json

## Limits

**Approximate unlearning: no formal guarantee.** """)  # noqa: E501
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == ["## What was unlearned", "## How", "## Results", "## Limits", "## How to cite"]


@pytest.mark.parametrize(
    ("changes", "says", "library", "base", "tags"),
    [
        (
            {"egup": OFF, "clreg_weight": 0.0, "author": None, "model": LOCAL},
            ["This is `base` after", "2508.20443)): not used\n", "2601.22028)): not used\n", "\nUnlearned on 2026"],
            "transformers",
            None,
            [],
        ),
        (
            {"adapter": {"type": "LORA", "r": 8, "lora_alpha": 16}},
            ["This is an adapter for [owner/base](", "trained an adapter (type LORA, r 8, lora_alpha 16) for 7 steps"],
            "peft",
            "owner/base",
            ["egup", "clreg", "lora"],
        ),
        (
            {"adapter": {"type": "LORA", "r": 8}, "is_merged": True},
            ["This is an adapter merged into [owner/base]("],
            "transformers",
            "owner/base",
            ["egup", "clreg", "lora"],
        ),
        (
            {"model": {"name": None, "is_local": True}, "rows": {"forget": RECORD["rows"]["forget"]}},
            ["This is a causal language model without a name after", "(rows to forget: 2).\n"],
            "transformers",
            None,
            ["egup", "clreg"],
        ),
    ],
    ids=["local without EGUP", "adapter", "merged", "made in memory without retain rows"],
)
def test_text_and_metadata_depend_on_the_model(changes, says, library, base, tags):
    card = model_card({**RECORD, **changes}, {}, "out")
    assert [text for text in says if text not in card.text] == []
    assert (card.data.library_name, card.data.base_model) == (library, base)
    assert card.data.tags == ["unlearning", "egup_trainer", "npo", *tags]


HUB = {"name": "owner/old", "is_local": False}


@pytest.mark.parametrize(
    ("model", "ranked", "says"),
    [
        (None, True, "estimated from the outputs for the proxies and from the answers of retain rows and proxies; how"),
        (LOCAL, False, "those of `base`, as a model that never saw the rows to forget\n"),
        (
            LOCAL,
            True,
            "those of `base`, as a model that never saw the rows to forget; how likely the answer tokens are",
        ),
        (HUB, False, "those of [owner/old](https://huggingface.co/owner/old), as"),
        ({"name": "adapter_off", "is_local": True}, False, "those of the model below the adapter\n"),
    ],
)
def test_the_text_says_how_expected_outputs_were_estimated(model, ranked, says):
    facts = {"proxy_model": model, "ranked_by_proxies": ranked}
    text = model_card({**RECORD, "expected_outputs": facts}, None, "out").text
    assert f"\n- expected outputs: {says}" in text
    assert "expected outputs" not in model_card(RECORD, None, "out").text


def test_results_are_a_table_and_a_model_index_of_finite_numbers(tmp_path):
    path = write_model_card(tmp_path, model_card(RECORD, {**METRICS, "broken": float("nan")}, "out"))
    card = ModelCard.load(path)
    assert path.name == "README.md"
    assert TABLE.replace("\n\n## Limits", "\n| `broken` | nan |\n\n## Limits") in card.text
    assert card.data.model_name == "out"
    assert [
        (row.task_type, row.dataset_type, row.metric_type, row.metric_name, row.metric_value)
        for row in card.data.eval_results
    ] == [
        ("text-generation", "custom", "forget.probability", "forget.probability", 0.0123456),
        ("text-generation", "custom", "kept|loss", "kept|loss", 2.0),
    ]


def test_the_facts_of_the_publisher_are_used():
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
    card = model_card({**RECORD, "model": LOCAL}, {"loss": 1.5}, "out", facts)
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


def test_new_results_leave_the_rest_of_a_card_as_it_is(saved):
    facts = CardFacts(license="mit", tags="mine", language="en", tasks="question-answering")
    card = model_card(RECORD, {"eval_loss": 3.0}, "my name", facts)
    card.text = card.text.replace("## Limits\n", "## Limits\n\nWritten by hand: \\1.\n")
    folder = saved(card)
    for _ in range(2):
        update_metrics(folder, METRICS)
        new = ModelCard.load(folder / "README.md")
        assert new.text == card.text.replace(
            "| `eval_loss` | 3 |\n", TABLE.split("---: |\n")[1].removesuffix("\n## Limits\n")
        )
    assert (new.data.license, new.data.language, new.data.tags[-1]) == ("mit", "en", "mine")
    assert new.data.model_name == "my name"
    assert [(row.task_type, row.metric_value) for row in new.data.eval_results] == [
        ("question-answering", 0.0123456),
        ("question-answering", 2.0),
    ]


def test_results_replace_the_advice_to_evaluate(saved):
    folder = saved(model_card(RECORD, None, "my name"))
    update_metrics(folder, {**METRICS, r"odd\1": 1.0})
    card = ModelCard.load(folder / "README.md")
    assert TABLE.replace("\n\n## Limits", "\n| `odd\\1` | 1 |\n\n## Limits") in card.text
    assert "Not evaluated" not in card.text


def test_a_card_with_the_line_ends_of_windows_is_not_replaced(saved):
    folder = saved(model_card(RECORD, None, "out"))
    path = folder / "README.md"
    path.write_bytes(path.read_bytes().replace(b"to keep: 3", b"edited").replace(b"\n", b"\r\n"))
    update_metrics(folder, METRICS)
    text = path.read_text()
    assert "edited" in text
    assert "| `kept\\|loss` | 2 |" in text
    assert text.count("## Results") == 1


@pytest.mark.parametrize("old", [None, ModelCard("---\nlibrary_name: peft\n---\n# Model Card for Model ID\n")])
def test_without_a_card_of_ours_a_new_one_is_written(saved, old):
    folder = saved(old)
    update_metrics(folder, METRICS)
    assert (folder / "README.md").read_text() == str(model_card(RECORD, METRICS, "model"))


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(DataError) as error:
        update_metrics(tmp_path, METRICS)
    assert error.value.got == f"no unlearning.json in {tmp_path}"
    assert read_record(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{broken", "complete JSON file"),
        ("[1]", "JSON object"),
        ("{}", "schema_version"),
        (json.dumps({**RECORD, "schema_version": 2}), "schema_version"),
        (json.dumps({**RECORD, "steps": "7"}), "steps"),
    ],
)
def test_a_file_that_is_not_a_record_is_refused(tmp_path, content, what):
    (tmp_path / "unlearning.json").write_text(content)
    with pytest.raises(DataError) as error:
        read_record(tmp_path)
    assert str(tmp_path / "unlearning.json") in error.value.got
    assert what in error.value.got


@pytest.mark.parametrize("block", ["---\n[1]\n---\n", "---\na: b: c\n---\n"])
def test_a_card_whose_metadata_cannot_be_read_is_refused_and_stays(saved, block):
    folder = saved()
    (folder / "README.md").write_text(block)
    with pytest.raises(DataError) as error:
        update_metrics(folder, METRICS)
    assert str(folder / "README.md") in error.value.got
    assert (folder / "README.md").read_text() == block
