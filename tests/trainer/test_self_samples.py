"""The model's own answers to the forget questions: which are kept, that they are forgotten, and that runs agree."""

import math

import numpy as np
import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import furthest, weights_of
from peft import LoraConfig
from test_trainer import LORA, StopAt

from egup_trainer import Component, UnlearnConfig, UnlearnTrainer
from egup_trainer.components import self_samples
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.components.self_samples import own_answers
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ConfigError, DataError, StateError
from egup_trainer.losses.base import Guidance
from egup_trainer.modeling.generation import Continuation
from egup_trainer.records.card import model_card
from egup_trainer.records.facts import make_record

PLAIN = {"inter_entanglement": False, "intra_entanglement": False}
SAMPLED = {"self_samples": 3, "objective": "grad_diff"}


def answers_of(trainer) -> list[TokenizedRow]:
    return trainer.train_dataset.forget.rows[len(trainer.forget_rows) :]


def keys_of(trainer) -> list[bytes]:
    return [row.key() for row in trainer.train_dataset.forget.rows]


class Words:
    """A tokenizer of which each id is a word; 0 ends a text."""

    def decode(self, tokens, skip_special_tokens):
        return " ".join(["", "Ada", "ada", "Bo", "cats", "."][token] for token in tokens if token)


def row(prompt, answer, is_closed=True, **others):
    ids, labels = [*prompt, *answer], [*[IGNORE_INDEX] * len(prompt), *answer]
    return TokenizedRow(np.array(ids, np.int32), np.array(labels, np.int32), is_closed=is_closed, **others)


def test_answers_in_known_words_are_left_out():
    first, second = row([7, 8], [1, 4, 0]), row([7, 9], [3, 0])
    asked = [first, first, first, first, first, second, second]
    written = [
        Continuation([2, 4, 5], 0),  # the row's own words: "ada cats ." and "Ada cats"
        Continuation([3, 4], 0),
        Continuation([3, 4, 5], 0),  # the words of the one before
        Continuation([], 0),
        Continuation([3, 3]),  # cut off: it has no end
        Continuation([3, 4], 0),  # known, but as an answer to another question
        Continuation([3, 5], 0),
    ]
    found = own_answers(asked, written, Words())
    assert [(each.input_ids.tolist(), each.labels.tolist(), each.is_closed) for each in found] == [
        ([7, 8, 3, 4, 0], [-100, -100, 3, 4, 0], True),
        ([7, 8, 3, 3], [-100, -100, 3, 3], False),
        ([7, 9, 3, 4, 0], [-100, -100, 3, 4, 0], True),
    ]


def test_an_answer_is_closed_only_if_the_rows_are_and_keeps_what_belongs_to_the_question():
    other = row([7, 8], [3])
    (found,) = own_answers([row([7, 8], [1], is_closed=False, paraphrase=other)], [Continuation([4], 0)], Words())
    assert (found.input_ids.tolist(), found.is_closed, found.paraphrase) == ([7, 8, 4], False, other)


def test_own_answers_follow_the_rows_and_are_new(make_trainer, taught, tokenizer):
    trainer = make_trainer(taught(), **SAMPLED)
    answers = answers_of(trainer)
    assert 5 < len(answers) == trainer.own_answers <= 30
    assert len(trainer.forget_rows) == 10
    assert len(set(keys_of(trainer))) == 10 + len(answers)
    questions = {tuple(each.prompt) for each in trainer.forget_rows.rows}
    assert {tuple(each.prompt) for each in answers} <= questions
    longest = max(each.is_scored.sum() for each in trainer.forget_rows.rows)
    assert all(0 < each.is_scored.sum() <= longest for each in answers)
    closed = [each for each in answers if each.is_closed]
    assert closed
    assert all(each.labels[-1] == tokenizer.eos_token_id for each in closed)
    # A model that knows its rows says something like them.
    likely = trainer.score(RowDataset(answers)).mean_nll.mean()
    assert likely < trainer.score(trainer.proxy_rows).mean_nll.mean() / 2


def test_what_is_sampled_depends_on_the_seed_alone(make_trainer, taught, tmp_path):
    scans = {name: str(tmp_path / name) for name in "abc"}
    first = make_trainer(taught(), scan_cache_dir=scans["a"], **SAMPLED)
    one = make_trainer(taught(), scan_cache_dir=scans["b"], per_device_eval_batch_size=1, **SAMPLED)
    other = make_trainer(taught(), scan_cache_dir=scans["c"], seed=7, **SAMPLED)
    assert keys_of(first) == keys_of(one)
    assert keys_of(first)[:10] == keys_of(other)[:10]
    assert keys_of(first) != keys_of(other)


def test_more_answers_begin_with_the_fewer(make_trainer, taught):
    one, three = (make_trainer(taught(), **{**SAMPLED, "self_samples": count}) for count in (1, 3))
    assert {each.key() for each in answers_of(one)} <= {each.key() for each in answers_of(three)}


class OwnAlone(Component):
    """Weighs the given rows by 0."""

    name = "own_alone"
    acts_by = frozenset({Guidance.WEIGHTS})

    def weights(self, step):
        return (step.forget_ids >= len(self.run.forget_rows) - self.run.own_answers).float()


def test_own_answers_are_forgotten_too(taught, tokenizer, config):
    args = config(UnlearnConfig, self_samples=3, objective="grad_ascent", learning_rate=3e-3)
    own = {"processing_class": tokenizer, "components": [OwnAlone()]}
    trainer = UnlearnTrainer(taught(), args, qa_rows(0, 10), **own)
    answers = RowDataset(answers_of(trainer))
    before = trainer.score(answers).mean_nll.mean()
    trainer.train()
    assert trainer.score(answers).mean_nll.mean() > before + 1


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_resumed_run_has_the_same_answers_without_sampling_again(make_trainer, taught, tmp_path, monkeypatch, lora):
    options = {**SAMPLED, "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    adapter = {"peft_config": LoraConfig(**LORA)} if lora else {}
    whole = make_trainer(taught(), output_dir=str(tmp_path / "whole"), **options, **adapter)
    assert whole.own_answers > 5
    whole.train()
    assert whole.state.global_step == -(-len(whole.train_dataset) // 4)
    cut = make_trainer(taught(), output_dir=str(tmp_path / "cut"), callbacks=[StopAt(2)], **options, **adapter)
    # A run that is interrupted leaves its scan behind; one that ends does not.
    monkeypatch.setattr("egup_trainer.callbacks.step_hooks.shutil.rmtree", lambda *a, **k: None)
    cut.train()
    monkeypatch.undo()
    monkeypatch.setattr(self_samples, "continuations", lambda *a, **k: pytest.fail("they are on the disk"))
    resumed = make_trainer(taught(), output_dir=str(tmp_path / "cut"), **options, **adapter)
    assert keys_of(resumed) == keys_of(whole)
    resumed.train(resume_from_checkpoint=True)
    assert furthest(weights_of(whole), weights_of(resumed)) == 0


def test_a_run_with_other_answers_is_not_resumed(make_trainer, taught):
    options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    make_trainer(taught(), **SAMPLED, **options).train()
    with pytest.raises(StateError) as caught:
        make_trainer(taught(), **{**SAMPLED, "self_samples": 2}, **options).train(resume_from_checkpoint=True)
    assert "self_samples 2 (then 3)" in caught.value.got


def test_each_own_answer_has_expected_outputs_of_its_own(make_trainer, taught):
    trainer = make_trainer(taught(), self_samples=2, objective="proxy_kl", max_steps=3)
    trainer.train()
    tokens = sum(int(each.is_scored.sum()) for each in trainer.train_dataset.forget.rows)
    assert len(trainer.component(ExpectedOutputs).table.ids) == tokens
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_own_answers_take_no_ranks_from_the_given_rows(make_trainer, taught):
    """The given rows are expected to be as likely with own answers beside them as without."""
    tables = []
    for count in (0, 2):
        trainer = make_trainer(taught(), self_samples=count, objective="proxy_kl", padding_free=False, max_steps=1)
        trainer.begin_training()
        tables.append(trainer.component(ExpectedOutputs).table.logps)
    given, both = tables
    assert len(both) > len(given)
    torch.testing.assert_close(both[: len(given), 0], given[:, 0], rtol=1e-4, atol=1e-4)


def test_stopping_and_the_record_see_the_given_rows(make_trainer, taught, monkeypatch):
    trainer = make_trainer(taught(), self_samples=2, stop_at_boundary=True)
    trainer.begin_training()
    seen = []
    plain = trainer.score
    stop = next(each for each in trainer.components if each.name == "stop_at_boundary")
    object.__setattr__(stop.run, "score", lambda rows, ids=None: seen.append((rows, ids)) or plain(rows, ids))
    stop.measure_sides()
    assert seen[0][0] is trainer.train_dataset.forget
    assert torch.equal(seen[0][1], torch.arange(10))
    record = make_record(trainer)
    assert record["rows"]["forget"]["rows"] == 10
    assert record["own_answers"] == trainer.own_answers > 0
    assert record["options"]["self_samples"] == 2
    assert f"10, with {trainer.own_answers} answers of the model's own" in " ".join(
        str(model_card(record, None, "mine")).split()
    )


def test_plain_texts_have_no_questions(make_trainer):
    texts = [{"text": each["answer"]} for each in qa_rows(0, 4)]
    with pytest.raises(DataError) as caught:
        make_trainer(forget=texts, **SAMPLED)
    assert "self_samples" in caught.value.got
    assert "--self_samples" in caught.value.fix


def test_weights_that_are_not_here_are_refused(make_trainer):
    trainer = make_trainer()
    trainer.is_fsdp_enabled = True
    with pytest.raises(ConfigError) as caught:
        self_samples.sample_answers(trainer)
    assert "FSDP" in caught.value.got
    assert "--self_samples" in caught.value.fix


def test_a_run_whose_length_is_chosen_counts_its_steps_with_them(make_trainer, taught):
    options = {"learning_rate": None, "num_train_epochs": None, "objective": "proxy_kl", "max_steps": 1}
    trainer = make_trainer(model=taught(), self_samples=3, **PLAIN, **options)
    steps_an_epoch = math.ceil((10 + trainer.own_answers) / 4)
    assert trainer.own_answers > 2
    assert trainer.args.num_train_epochs == math.ceil(200 / steps_an_epoch)
