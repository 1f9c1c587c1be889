"""Sampling, probe and membership inference: against plain ways to their numbers."""

import numpy as np
import pytest
from fixtures_audit import FORGET, HOLDOUT, dataset, target, taught

from egup_trainer.audit import attack as module
from egup_trainer.audit.attack import NO_ROOM, Finding
from egup_trainer.audit.membership import membership
from egup_trainer.audit.probe import probe
from egup_trainer.audit.sampling import sampling
from egup_trainer.data.schema import Message, Row
from egup_trainer.evaluation.metric import area_under_curve
from egup_trainer.evaluation.metrics.rouge import rouge_score
from egup_trainer.modeling.generation import Sampling, generate


@pytest.fixture(scope="module")
def knowing(tokenizer):
    return taught(tokenizer, FORGET)


def test_best_and_mean_are_those_of_each_rows_draws(make_model, tokenizer):
    model = make_model()
    found = sampling(target(model, tokenizer)).metrics
    sample = 5
    row = dataset(FORGET, tokenizer).rows[sample]
    prompt = row.input_ids[: int((row.labels != -100).argmax())]
    options = {"max_new_tokens": 12, "batch_size": 1}
    texts = generate(
        model, tokenizer, [prompt] * 3, sampling=Sampling([[0, sample, draw] for draw in range(3)]), **options
    )
    scores = [rouge_score(FORGET[sample].answer, text) for text in texts]
    assert found["best_rouge"].values["forget"][sample] == pytest.approx(max(scores))
    assert found["mean_rouge"].values["forget"][sample] == pytest.approx(np.mean(scores))
    (greedy,) = generate(model, tokenizer, [prompt], **options)
    assert found["greedy_rouge"].values["forget"][sample] == rouge_score(FORGET[sample].answer, greedy)


def test_best_is_at_least_greedy_where_greedy_is_among_the_draws(make_model, tokenizer, monkeypatch):
    def draw_greedily_once(model, tokenizer, prompts, *, sampling=None, **options):
        drawn = generate(model, tokenizer, prompts, sampling=sampling, **options)
        greedy = generate(model, tokenizer, prompts, **options)
        return [greedy[i] if sampling is None or sampling.seeds[i][-1] == 0 else text for i, text in enumerate(drawn)]

    monkeypatch.setattr(module, "generate", draw_greedily_once)
    found = {
        name: metric.values["forget"] for name, metric in sampling(target(make_model(), tokenizer)).metrics.items()
    }
    for sample in range(len(FORGET)):
        assert found["best_rouge"][sample] >= found["greedy_rouge"][sample]
        assert found["best_rouge"][sample] >= found["mean_rouge"][sample]


def test_who_knows_says_so_in_each_draw(knowing, tokenizer):
    found = sampling(target(knowing, tokenizer)).metrics
    assert found["greedy_rouge"].value > 0.9
    assert found["best_rouge"].value > 0.9
    assert found["mean_rouge"].value > 0.6


def test_an_answer_that_is_no_longer_the_first_is_found_among_several(make_model, knowing, tokenizer, monkeypatch):
    """A model whose greedy generations are suppressed, beside one that never saw the answers."""

    def suppressed(model, tokenizer, prompts, *, sampling=None, **options):
        found = generate(model, tokenizer, prompts, sampling=sampling, **options)
        return found if sampling else ["I do not know that."] * len(prompts)

    monkeypatch.setattr(module, "generate", suppressed)
    hiding, never = (sampling(target(each, tokenizer)).metrics for each in (knowing, make_model()))
    assert hiding["greedy_rouge"].value == never["greedy_rouge"].value == 0
    assert hiding["best_rouge"].value > 0.9
    assert never["best_rouge"].value < 0.3


def test_texts_without_a_question_are_not_sampled(make_model, tokenizer):
    text = Row((), "Ada Lorn lives in Aren.")
    assert sampling(target(make_model(), tokenizer, forget=[text])) == Finding(reason="no forget row has a question")
    found = sampling(target(make_model(), tokenizer, forget=[text, *FORGET[:2]])).metrics["best_rouge"]
    assert (list(found.values["forget"]), found.num_skipped) == ([1, 2], 1)


def test_the_probe_reads_several_layers_and_holdout_rows(knowing, tokenizer):
    found = probe(target(knowing, tokenizer)).metrics
    assert list(found) == [
        "layer_0_auc",
        "layer_1_auc",
        "layer_2_auc",
    ]  # of three: a half is layer 1, 3/4 and the last 2
    for metric in found.values():
        forget, holdout = (np.array(list(metric.values[name].values())) for name in ("forget", "holdout"))
        assert (len(forget), len(holdout)) == (len(FORGET), len(HOLDOUT))
        assert metric.value == pytest.approx(float(area_under_curve(forget, holdout)))


def test_too_few_rows_leave_the_probe_without_a_value(make_model, tokenizer):
    found = probe(target(make_model(), tokenizer, holdout=HOLDOUT[:4])).metrics["layer_0_auc"]
    assert (found.value, found.reason, found.values) == (None, "a set has fewer than 5 rows, one for each fold", {})


def test_membership_tells_known_rows_from_others(knowing, tokenizer):
    found = membership(target(knowing, tokenizer)).metrics
    assert list(found) == ["loss", "zlib", "min_k", "min_k_plus_plus"]
    assert found["loss"].value == 1.0
    values = found["loss"].values
    assert max(values["forget"].values()) < min(values["holdout"].values())


def test_membership_of_rows_that_are_the_same_is_chance(knowing, tokenizer):
    found = membership(target(knowing, tokenizer, holdout=FORGET)).metrics
    assert [metric.value for metric in found.values()] == [0.5] * 4


def test_rows_without_room_for_an_answer_are_left_out(tokenizer):
    model = taught(tokenizer, FORGET, positions=60)

    def lacks_room(row):
        return not target(model, tokenizer, forget=[row]).have_room([row])[0]

    rows = (Row((Message("user", "where " * words),), "Aren.") for words in range(1, 60))
    long = next(filter(lacks_room, rows))
    found = sampling(target(model, tokenizer, forget=[*FORGET, long])).metrics["best_rouge"]
    assert (found.num_samples, found.num_skipped) == (len(FORGET), 1)
    assert sampling(target(model, tokenizer, forget=[long])).reason == NO_ROOM
