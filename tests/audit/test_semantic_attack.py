"""Judging meaning: embeddings and entailment by hand, other words for the same fact, and judges that cannot judge."""

from dataclasses import replace

import pytest
import torch
from conftest import qa_rows
from fixtures_audit import FORGET, QUICK, target, taught
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from egup_trainer.audit.attack import Finding
from egup_trainer.audit.audit import plan_audit
from egup_trainer.audit.judge import Judge
from egup_trainer.audit.semantic import semantic
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ModelError

SYNONYMS = {"lives": "resides", "with": "beside", "cats": "felines", "number": "no"}


def in_other_words(text):
    return " ".join(SYNONYMS.get(word, word) for word in text.removesuffix(".").split()) + "."


def save_judge(folder, kind=BertModel, **changes):
    """A judge without layers for whom synonyms are the same word, and its tokenizer."""
    words = sorted({word for row in qa_rows(0, 60) for text in row.values() for word in text.rstrip(".?").split()})
    words = ["[PAD]", "[UNK]", *words, *SYNONYMS.values(), ".", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=0,
        num_attention_heads=2,
        intermediate_size=8,
        **changes,
    )
    model = kind(config)
    embeddings = (model if kind is BertModel else model.bert).embeddings
    with torch.no_grad():
        for weight in (embeddings.position_embeddings, embeddings.token_type_embeddings):
            weight.weight.zero_()
        embeddings.word_embeddings.weight.normal_()
        for word, other in SYNONYMS.items():
            embeddings.word_embeddings.weight[words.index(other)] = embeddings.word_embeddings.weight[words.index(word)]
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    return save_judge(tmp_path_factory.mktemp("embedding"))


def attack(model, tokenizer, judge, rows=FORGET):
    given = target(model, tokenizer, forget=rows)
    return semantic(replace(given, options=replace(QUICK, judge_model=judge, max_new_tokens=30)))


def test_embeddings_are_compared_by_the_cosine_of_their_means(embedding):
    judge = Judge(embedding, batch_size=2)
    answers = ["Ada lives in Aren", "Bo", "Cleo", "Dov"]
    texts = ["Ada resides in Aren", "Ada", " ", "Dov"]
    found = judge(["", "", "", ""], answers, texts)
    model, tokenizer = BertModel.from_pretrained(embedding), Judge(embedding)._tokenizer
    with torch.no_grad():
        first, second = (
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in ("Bo", "Ada")
        )
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=0).item()
    assert found == pytest.approx([1.0, max(cosine, 0.0), 0.0, 1.0], abs=1e-5)


def test_other_words_for_the_same_fact_count_where_rouge_sees_little(embedding, tokenizer):
    """A model that unlearned the wording alone, beside one that never saw the rows."""
    reworded = [Row(row.prompt, in_other_words(row.answer)) for row in FORGET]
    strangers = [Row(row.prompt, "I do not know that person.") for row in FORGET]
    models = {"reworded": taught(tokenizer, reworded), "never": taught(tokenizer, strangers)}
    found = {name: attack(model, tokenizer, embedding).metrics for name, model in models.items()}
    similarity = {name: each["similarity"].value for name, each in found.items()}
    assert similarity["reworded"] > 0.9
    assert found["reworded"]["rouge"].value < 0.75
    assert similarity["never"] < 0.6
    assert found["reworded"]["similarity"].num_samples == len(FORGET)
    assert found["reworded"]["similarity"].interval is not None


def test_a_classifier_judges_by_entailment_after_the_question(tmp_path):
    labels = {0: "contradiction", 1: "ENTAILMENT", 2: "neutral"}
    folder = save_judge(tmp_path, BertForSequenceClassification, id2label=labels, num_labels=3)
    found = Judge(folder)(["Where does Ada live?"] * 2, ["Aren", "Bryle"], ["in Aren", ""])
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder).eval(), Judge(folder)._tokenizer
    with torch.no_grad():
        logits = model(**tokenizer("Where does Ada live? in Aren", "Aren", return_tensors="pt")).logits
    assert found == pytest.approx([logits.softmax(-1)[0, 1].item(), 0.0], rel=1e-4)


def test_judges_that_cannot_judge_are_refused_before_an_attack(tmp_path, embedding):
    rows = {"forget": FORGET, "retain": load_rows(qa_rows(20, 24)), "name": "mine", "attacks": ["semantic"]}
    sentiment = save_judge(tmp_path / "s", BertForSequenceClassification, id2label={0: "bad", 1: "good"}, num_labels=2)
    for judge, got in ((sentiment, "labels bad, good"), (str(tmp_path / "no"), "no folder at")):
        with pytest.raises(ModelError) as error:
            plan_audit(**rows, options=replace(QUICK, judge_model=judge))
        assert got in error.value.got
    assert plan_audit(**rows, options=replace(QUICK, judge_model=embedding)).findings == {"semantic": Finding()}


def test_without_a_judge_or_a_question_it_is_not_run(make_model, tokenizer, embedding):
    assert semantic(target(make_model(), tokenizer)) == Finding(
        reason="needs a model that judges texts (--judge_model)"
    )
    text = [Row((), "Ada Lorn lives in Aren.")]
    assert attack(make_model(), tokenizer, embedding, text) == Finding(reason="no forget row has a question")
