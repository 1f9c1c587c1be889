"""An evaluation that was killed goes on: scores that were kept are the same, and count only for the same evaluation."""

import copy
import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from fixtures_evaluation import invented_sets, lively_model, numbers_by_name, with_adapter

from egup_trainer.evaluation import kept_scores
from egup_trainer.evaluation.kept_scores import KeptScores, model_fingerprint, read_scores, write_scores
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets

OPTIONS = ScoringOptions(progress=False)


def killed_after(monkeypatch, count):
    """Lets so many row sets be scored; the process ends at the next one."""
    scored = []

    def score(model, tokenizer, row_sets, *args):
        if len(scored) == count:
            raise KeyboardInterrupt
        scored.append(row_sets[0].name)
        return score_sets(model, tokenizer, row_sets, *args)

    monkeypatch.setattr(kept_scores, "score_sets", score)
    return scored


def test_scores_are_read_back_to_the_last_digit(model, tokenizer, tmp_path):
    row_sets = invented_sets()
    scores = score_sets(model, tokenizer, row_sets, replace(OPTIONS, with_gradient_norms=True))
    path = tmp_path / "scores.json"
    for row_set in row_sets:
        write_scores(path, "key", scores[row_set.name])
        found = read_scores(path, "key", row_set)
        expected = numbers_by_name({row_set.name: scores[row_set.name]})
        read = numbers_by_name({row_set.name: found})
        assert read.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(read[name], values)
        for sample, row in scores[row_set.name].samples.items():
            again = found.samples[sample]
            assert (again.references, again.generation, again.zlib_bytes) == (
                row.references,
                row.generation,
                row.zlib_bytes,
            )
            assert [text.is_closed for text in again.answers] == [text.is_closed for text in row.answers]
        assert found.use == row_set.use
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_scores(path, "another key", row_sets[-1]) is None
    assert read_scores(tmp_path / "absent.json", "key", row_sets[-1]) is None
    path.write_text("{")
    assert read_scores(path, "key", row_sets[-1]) is None


def test_scores_of_another_results_file_whose_name_begins_alike_stay(tmp_path):
    for name in ("npo.forget.unfinished.json", "npo.1e-5.forget.unfinished.json", "npo.json"):
        (tmp_path / name).touch()
    KeptScores(tmp_path / "npo.json").remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["npo.1e-5.forget.unfinished.json", "npo.json"]


def test_what_was_scored_before_the_end_is_not_scored_again(model, tokenizer, tmp_path, monkeypatch):
    row_sets, output = invented_sets(), tmp_path / "r.json"
    expected = KeptScores(tmp_path / "other.json").score(model, tokenizer, row_sets, OPTIONS)
    KeptScores(tmp_path / "other.json").remove()
    scored = killed_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        KeptScores(output).score(model, tokenizer, row_sets, OPTIONS)
    assert scored == ["forget", "holdout"]
    files = ["r.forget.unfinished.json", "r.holdout.unfinished.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    texts = [row.answer for row_set in row_sets for row in row_set.rows if len(row.answer) > 12]
    kept_texts = "".join((tmp_path / name).read_text() for name in files)
    assert len(texts) == 8
    assert not any(text in kept_texts for text in texts)

    scored = killed_after(monkeypatch, 1)
    kept = KeptScores(output)
    found = kept.score(model, tokenizer, row_sets, OPTIONS)
    assert (scored, kept.found) == (["retain"], ["forget", "holdout"])
    for name, values in numbers_by_name(expected).items():
        np.testing.assert_array_equal(numbers_by_name(found)[name], values)
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_only_files_of_these_results_are_removed(tmp_path):
    for name in ("r.forget.unfinished.json", "r2.forget.unfinished.json", "r.json", "r.features.safetensors"):
        (tmp_path / name).touch()
    KeptScores(tmp_path / "r.json").remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "r.features.safetensors",
        "r.json",
        "r2.forget.unfinished.json",
    ]


def changed_sets(**changes):
    return [replace(invented_sets()[0], **changes)]


@pytest.mark.parametrize(
    "change", ["rows", "settings", "features", "layer", "weights", "generation config", "tokens", "version", "nothing"]
)
def test_scores_of_another_evaluation_do_not_count(model, tokenizer, tmp_path, change):
    first, output, options = invented_sets()[:1], tmp_path / "r.json", OPTIONS
    KeptScores(output).score(model, tokenizer, first, options)
    other, row_sets = copy.deepcopy(model), first
    if change == "rows":
        row_sets = changed_sets(rows=[*first[0].rows[1:], first[0].rows[0]])
    elif change == "settings":
        row_sets = changed_sets(generation=replace(first[0].generation, max_new_tokens=3))
    elif change == "features":
        row_sets = changed_sets(with_features=False)
    elif change == "layer":
        options = replace(options, feature_layer=0)
    elif change == "weights":
        next(iter(other.parameters())).data[0, 0] += 1e-6
    elif change == "generation config":
        other.generation_config.repetition_penalty = 1.5
    elif change == "tokens":
        row_sets = changed_sets(template=replace(first[0].template, user="Q: "))
    kept = KeptScores(output, "2" if change == "version" else "")
    kept.score(other, tokenizer, row_sets, options)
    assert kept.found == (["forget"] if change == "nothing" else [])


def test_an_adapter_counts_with_its_settings_in_the_same_way_in_each_process(tokenizer):
    adapted = with_adapter(lively_model(tokenizer))
    first = model_fingerprint(adapted)
    assert first == model_fingerprint(with_adapter(lively_model(tokenizer)))
    config = adapted.peft_config["default"]
    config.lora_alpha *= 2
    assert model_fingerprint(adapted) != first


def test_nothing_is_kept_by_several_processes(model, tokenizer, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(kept_scores, "score_sets", lambda *args: seen.append(args) or {})
    accelerator = type("Several", (), {"num_processes": 2})()
    assert KeptScores(tmp_path / "r.json").score(model, tokenizer, invented_sets(), OPTIONS, accelerator, "texts") == {}
    assert seen[0][4:] == (accelerator, "texts")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_plain_json(model, tokenizer, tmp_path):
    KeptScores(tmp_path / "r.json").score(model, tokenizer, invented_sets()[:1], OPTIONS)
    document = json.loads((tmp_path / "r.forget.unfinished.json").read_text())
    assert set(document) == {"key", "samples", "features"}
