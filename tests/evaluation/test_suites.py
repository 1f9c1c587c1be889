"""The suites: which rows, written how, generated how, and every metric by its name, of the set that it names."""

import hashlib
import json
import re
from dataclasses import replace

import datasets
import numpy as np
import pytest
from conftest import SHARED, qa_rows
from fixtures_evaluation import chat_tokenizer, question, taught_model
from fixtures_muse import EXAMPLES, SHOTS, muse_records, write_muse

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.memorization import RougeForm, rouge_score
from egup_trainer.evaluation.rows import Generation, RowSet, texts_of
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.evaluation.suites.muse import MuseCorpus, muse_suite
from egup_trainer.evaluation.suites.tofu import tofu_suite

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it
TOFU_DIR = SHARED / "data" / "tofu"
QUIET = ScoringOptions(progress=False)
ATTACKS = ["mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "mia_reference"]
FLUENCY = ["fluency_perplexity", "fluency_distinct_2", "fluency_repetition"]
ENTANGLEMENT = [
    "entanglement_variance_ratio",
    "entanglement_probe_auc",
    "entanglement_overlap",
    "entanglement_retain_cka",
    "entanglement_retain_shift",
]


def knowledge(name):
    parts = ("probability", "rouge", "truth_ratio", "truth_probability", "exact_memorization", "extraction_strength")
    return [f"{name}_{part}" for part in parts]


def limited(suite, rows=6, new_tokens=16):
    """The suite on a few rows, with short generations."""
    sets = [
        replace(
            each,
            rows=each.rows[:rows],
            generation=each.generation and replace(each.generation, max_new_tokens=new_tokens),
        )
        for each in suite.row_sets
    ]
    return replace(suite, row_sets=sets)


def without_value(evaluation):
    """Reasons by metric."""
    return {name: metric.reason for name, metric in evaluation.metrics.items() if metric.value is None}


def error_of(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def model(tokenizer):
    return taught_model(tokenizer, positions=2048)


def recite(model, tokenizer, prompts, *args, **kwargs):
    """Stands in for what a model writes."""
    return [f"The author {number} lives in Aren with two cats." for number in range(len(prompts))]


# TOFU


@pytest.fixture(scope="module")
def tofu_run(model, tokenizer):
    """The TOFU suite on six rows a set, its evaluation, and the scores behind it."""
    if not (TOFU_DIR / "forget01_perturbed.json").is_file():
        pytest.skip(f"the TOFU rows are not at {TOFU_DIR}")
    suite = limited(tofu_suite("forget01", TOFU_DIR, holdout="tofu:forget05"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("egup_trainer.evaluation.scoring.generate", recite)
        return (
            suite,
            evaluate_model(model, tokenizer, suite, QUIET),
            score_sets(model, tokenizer, suite.row_sets, QUIET),
        )


def test_tofu_has_every_metric_of_the_paper_and_more(tofu_run):
    suite, evaluation, _ = tofu_run
    assert (evaluation.suite, evaluation.split, suite.name) == ("tofu", "forget01", "tofu")
    chosen = [
        f"{name}_{part}"
        for name in ("real_authors", "world_facts")
        for part in ("probability", "rouge", "truth_ratio", "truth_probability")
    ]
    assert list(evaluation.metrics) == [
        *knowledge("forget"),
        "forget_quality",
        *knowledge("retain"),
        *chosen,
        "model_utility",
        *ATTACKS,
        "privleak",
        "holdout_probability",
        *FLUENCY,
        *ENTANGLEMENT,
    ]
    assert without_value(evaluation) == {
        "forget_quality": "no results of a retrained model",
        "mia_gradnorm": "gradient norms cost a backward pass a row, and were not asked for",
        "mia_reference": "no results of a reference model",
        "privleak": "no results of a retrained model",
        "fluency_perplexity": "no generation was read by the model before unlearning",
        "entanglement_retain_cka": "no features of the model before unlearning",
        "entanglement_retain_shift": "no features of the model before unlearning",
    }


def test_tofu_rows_are_those_of_the_perturbed_files(tofu):
    suite = tofu_suite("forget01", TOFU_DIR) if tofu("forget01_perturbed") else None
    assert {each.name: len(each.rows) for each in suite.row_sets} == {
        "forget": 40,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    for row_set, perturbed in zip(suite.row_sets, (5, 5, 3, 3), strict=True):
        assert {len(row.perturbed) for row in row_set.rows} == {perturbed}
        assert all((row.paraphrase is not None) == (perturbed == 5) for row in row_set.rows)
        assert row_set.generation == Generation(200, ())
        assert (row_set.max_length, row_set.template) == (2048, Template())
        assert row_set.with_features is (perturbed == 5)
        assert not row_set.with_membership
    assert suite.row_sets[0].rows[0].answer.endswith("is Basil Mahfouz Al-Kuwaiti.")


def test_tofus_options_reach_every_set(tofu):
    tofu("forget01_perturbed")
    template = Template("U", "A")
    suite = tofu_suite("forget01", str(TOFU_DIR), "tofu:forget05", template, max_length=77, max_new_tokens=9)
    assert {each.name: len(each.rows) for each in suite.row_sets}["holdout"] == 200
    assert {(each.template, each.max_length) for each in suite.row_sets} == {(template, 77)}
    assert [each.generation for each in suite.row_sets] == [Generation(9)] * 4 + [None]
    assert [each.with_membership for each in suite.row_sets] == [True, False, False, False, True]


def test_tofus_metrics_are_those_of_the_sets_they_name(tofu_run):
    _, evaluation, scores = tofu_run
    for name, metric in evaluation.metrics.items():
        for set_name in ("forget", "retain", "real_authors", "world_facts"):
            if name.startswith(f"{set_name}_") and metric.value is not None:
                assert set(metric.values) == {set_name}
    value = evaluation.values

    def mean(numbers):
        return pytest.approx(np.mean(list(numbers)), rel=1e-6)

    def ratios(name):
        for row in scores[name].samples.values():
            right = row.answers[0] if row.paraphrase is None else row.paraphrase
            wrong = np.exp(-np.mean([text.mean_nll for text in row.perturbed]))
            yield wrong / (np.exp(-right.mean_nll) + 1e-10)

    for name in ("forget", "retain"):
        assert value[f"{name}_probability"] == mean(row.answers[0].probability for row in scores[name].samples.values())
    for name in ("real_authors", "world_facts"):
        shares = []
        for row in scores[name].samples.values():
            right = row.answers[0].probability
            shares.append(right / (right + sum(text.probability for text in row.perturbed) + 1e-10))
        assert value[f"{name}_probability"] == mean(shares)
    assert value["forget_truth_ratio"] == mean(min(ratio, 1 / (ratio + 1e-10)) for ratio in ratios("forget"))
    for name in ("retain", "real_authors", "world_facts"):
        assert value[f"{name}_truth_ratio"] == mean(max(0, 1 - ratio) for ratio in ratios(name))
        recalls = [
            rouge_score(row.references[0], row.generation, RougeForm("rougeL", "recall", use_stemmer=True))
            for row in scores[name].samples.values()
        ]
        assert value[f"{name}_rouge"] == mean(recalls)
    utility = [
        value[f"{s}_{p}"]
        for s in ("retain", "real_authors", "world_facts")
        for p in ("probability", "rouge", "truth_ratio")
    ]
    expected = 0 if 0 in utility else 9 / sum(1 / part for part in utility)
    assert value["model_utility"] == pytest.approx(expected, rel=1e-6)


def test_a_split_that_tofu_has_not_is_refused():
    assert error_of(ConfigError, tofu_suite, "forget20", TOFU_DIR) == (
        "Got forget_split=forget20, but expected one of forget01, forget05, forget10. Did you mean forget10?"
    )


def test_tofu_without_its_files_says_which_one_is_missing(tmp_path):
    for name in ("forget01_perturbed", "retain_perturbed"):
        (tmp_path / f"{name}.json").write_text(json.dumps(qa_rows(0, 1)[0]))
    assert error_of(DataError, tofu_suite, "forget01", tmp_path) == (
        f"Got tofu:real_authors_perturbed, for which {tmp_path} has no file, but "
        "expected one of: forget01_perturbed, retain_perturbed. Check --data_dir."
    )


# MUSE


@pytest.fixture
def muse_folder(tmp_path):
    return write_muse(tmp_path / "muse")


def test_muse_prompts_are_ten_answered_questions_and_then_the_rows_own(muse_folder):
    suite = muse_suite(MuseCorpus.NEWS, muse_folder)
    sets = {each.name: each for each in suite.row_sets}
    assert (suite.name, suite.split) == ("muse", "news")
    for number, row in enumerate(sets["forget_knowmem"].rows):
        assert row.prompt == (Message("user", f"{SHOTS}Question: Where is cat {number}?\nAnswer: "),)
        assert row.answer == f"In Aren {number}"
    shots = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in EXAMPLES[:1:-1])
    assert sets["retain_knowmem"].rows[0].prompt[0].content == f"{shots}Question: Where is cat 20?\nAnswer: "
    assert sets["forget_verbmem"].rows[2] == Row(
        (Message("user", "Chapter 2. Ada Lorn "),), "went to Bryle with 2 cats."
    )
    assert sets["holdout"].rows[1] == Row((), "31 Bo Quill lives.")
    assert {name: len(each.rows) for name, each in sets.items()} == {
        "forget_knowmem": 6,
        "retain_knowmem": 5,
        "forget_verbmem": 4,
        "forget": 6,
        "retain": 9,
        "holdout": 3,
    }


def test_muse_sets_are_run_as_the_benchmark_does(muse_folder):
    suite = muse_suite(MuseCorpus.BOOKS, str(muse_folder), max_length=512)
    knowing, reciting = Generation(32, ("\n\n", "\nQuestion", "Question:")), Generation(128)
    assert [each.generation for each in suite.row_sets] == [knowing, knowing, reciting, None, None, None]
    assert [each.with_features for each in suite.row_sets] == [False, False, False, True, True, False]
    assert [each.with_membership for each in suite.row_sets] == [False, False, False, True, False, True]
    assert {each.max_length for each in suite.row_sets} == {512}
    assert suite.split == "books"


def test_muse_texts_are_written_out_even_where_there_is_a_chat_template(muse_folder, tokenizer):
    sets = {each.name: replace(each, rows=each.rows[:1]) for each in muse_suite(MuseCorpus.NEWS, muse_folder).row_sets}
    for name, text in (
        ("forget_knowmem", f"{SHOTS}Question: Where is cat 0?\nAnswer: In Aren 0"),
        ("forget_verbmem", "Chapter 0. Ada Lorn went to Bryle with 2 cats."),
        ("forget", "0 Ada Lorn lives in Corvo with 3 cats."),
    ):
        dataset = texts_of([sets[name]], chat_tokenizer(tokenizer), False).dataset
        assert tokenizer.decode(dataset.rows[0].input_ids) == text
    dataset = texts_of([sets["forget_knowmem"]], chat_tokenizer(tokenizer), False).dataset
    assert tokenizer.decode(dataset.rows[0].labels[dataset.rows[0].is_scored]).strip() == "In Aren 0"


def test_muse_rows_are_the_same_from_the_hubs_parquet_files(muse_folder, tmp_path):
    parquet = write_muse(tmp_path / "parquet", "parquet")
    assert (parquet / "knowmem" / "forget_qa-00000-of-00001.parquet").is_file()
    first, second = (muse_suite(MuseCorpus.NEWS, folder).row_sets for folder in (muse_folder, parquet))
    assert [(each.name, each.fingerprint) for each in first] == [(each.name, each.fingerprint) for each in second]


def test_muse_without_a_folder_reads_the_hubs_data_sets(monkeypatch):
    records, asked = muse_records(), []

    def load_dataset(path, name=None, *, split=None):
        asked.append((path, name, split))
        return datasets.Dataset.from_list(records[f"{name}/{split}"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    muse_suite(MuseCorpus.BOOKS)
    assert asked == [
        ("muse-bench/MUSE-Books", config, split)
        for config, split in (
            ("knowmem", "forget_qa"),
            ("knowmem", "forget_qa_icl"),
            ("knowmem", "retain_qa"),
            ("knowmem", "retain_qa_icl"),
            ("verbmem", "forget"),
            ("privleak", "forget"),
            ("privleak", "retain"),
            ("privleak", "holdout"),
        )
    ]
    assert MuseCorpus.NEWS.hub_id == "muse-bench/MUSE-News"


def test_muse_answers_may_be_several(tmp_path):
    rows = [{"question": "Who?", "answer": ["Ada", "Ada Lorn"]}]
    suite = muse_suite(MuseCorpus.NEWS, write_muse(tmp_path, knowmem__forget_qa=rows))
    assert (suite.row_sets[0].rows[0].answer, suite.row_sets[0].rows[0].alternatives) == ("Ada", ("Ada Lorn",))


def test_muse_has_every_metric(muse_folder, model, tokenizer):
    suite = limited(muse_suite(MuseCorpus.NEWS, muse_folder, max_length=1024), rows=9)
    evaluation = evaluate_model(model, tokenizer, suite, ScoringOptions(progress=False, with_gradient_norms=True))
    assert list(evaluation.metrics) == [
        "forget_knowmem_rouge",
        "forget_verbmem_rouge",
        "forget_verbmem_exact_memorization",
        "forget_verbmem_extraction_strength",
        "retain_knowmem_rouge",
        "forget_probability",
        "retain_probability",
        *ATTACKS,
        "privleak",
        "holdout_probability",
        *FLUENCY,
        *ENTANGLEMENT,
    ]
    assert without_value(evaluation) == {
        "mia_reference": "no results of a reference model",
        "privleak": "no results of a retrained model",
        "fluency_perplexity": "no generation was read by the model before unlearning",
        "entanglement_retain_cka": "no features of the model before unlearning",
        "entanglement_retain_shift": "no features of the model before unlearning",
    }
    sets = {
        name: {key: len(part) for key, part in metric.values.items()} for name, metric in evaluation.metrics.items()
    }
    assert sets["forget_knowmem_rouge"] == {"forget_knowmem": 6}
    assert sets["retain_knowmem_rouge"] == {"retain_knowmem": 5}
    assert sets["forget_verbmem_rouge"] == sets["forget_verbmem_exact_memorization"] == {"forget_verbmem": 4}
    assert sets["forget_probability"] == {"forget": 6}
    assert sets["mia_gradnorm"] == sets["mia_min_k"] == {"forget": 6, "holdout": 3}


def test_muse_rouge_is_the_f_measure_without_a_stemmer(muse_folder, model, tokenizer, monkeypatch):
    """Against "In Aren 0": "in arens 7" has one word of three, both ways; two of six words are two of three."""
    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", lambda *a, **k: ["in arens 7"] * len(a[2]))
    suite = limited(muse_suite(MuseCorpus.NEWS, muse_folder), rows=1)
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert evaluation.values["forget_knowmem_rouge"] == pytest.approx(1 / 3)
    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", lambda *a, **k: ["in aren 7 7 7 7"] * len(a[2]))
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert evaluation.values["forget_knowmem_rouge"] == pytest.approx(2 * (2 / 6 * 2 / 3) / (2 / 6 + 2 / 3))


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_fewer_than_ten_examples_are_refused(tmp_path, name):
    folder = write_muse(tmp_path, **{f"knowmem__{name}_qa_icl": EXAMPLES[:9]})
    assert error_of(DataError, muse_suite, MuseCorpus.NEWS, folder) == (
        f"Got 9 rows in {name}_qa_icl, but expected at least 10 examples for the prompts. Give the whole file."
    )


def test_a_missing_file_of_muse_is_named(muse_folder):
    (muse_folder / "verbmem" / "forget.jsonl").unlink()
    assert error_of(DataError, muse_suite, MuseCorpus.NEWS, muse_folder) == (
        f"Got no forget in {muse_folder}/verbmem, but expected forget.jsonl, .json, .parquet or .csv. Check --data_dir."
    )


@pytest.mark.parametrize(
    "name", ["knowmem__forget_qa", "knowmem__retain_qa_icl", "verbmem__forget", "privleak__holdout"]
)
def test_a_file_of_muse_of_another_layout_is_refused(tmp_path, name):
    """Such as plain texts where questions should stand."""
    records = [{"text" if "privleak" not in name else "reply": SECRET}] * 12
    message = error_of(DataError, muse_suite, MuseCorpus.NEWS, write_muse(tmp_path, **{name: records}))
    assert re.match("Got .*row 0 of ", message)


@pytest.mark.parametrize("name", ["knowmem__forget_qa", "verbmem__forget", "privleak__holdout", "privleak__retain"])
def test_an_empty_file_of_muse_is_refused(tmp_path, name):
    message = error_of(DataError, muse_suite, MuseCorpus.NEWS, write_muse(tmp_path, **{name: []}))
    assert message.startswith("Got no rows in ")


# Custom


@pytest.fixture
def forget():
    """Six rows: with a prompt, without one, with wrong answers."""
    rows = load_rows(qa_rows(0, 4))
    return [
        *rows,
        Row((), "A plain text."),
        question("Who?", "Ada.", paraphrase="It is Ada.", perturbed=("Bo.", "Jon.")),
    ]


def test_a_forget_set_alone_has_what_needs_no_other_rows(forget, model, tokenizer):
    suite = custom_suite(forget, max_new_tokens=16)
    assert [(each.name, each.with_membership) for each in suite.row_sets] == [("forget", False)]
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert list(evaluation.metrics) == [
        *knowledge("forget"),
        "forget_quality",
        "model_utility",
        *ATTACKS,
        "privleak",
        *FLUENCY,
        *ENTANGLEMENT,
    ]
    no_holdout = "no holdout rows (rows of the same kind that the model never saw)"
    assert without_value(evaluation) == {
        "forget_quality": "no results of a retrained model",
        "model_utility": "no retain_probability, retain_rouge, retain_truth_ratio",
        **dict.fromkeys(ATTACKS[:-1], no_holdout),
        "mia_reference": "no results of a reference model",
        "privleak": no_holdout,
        "fluency_perplexity": "no generation was read by the model before unlearning",
        "entanglement_variance_ratio": "features were not read for both forget and retain rows",
        "entanglement_probe_auc": "features were not read for both forget and retain rows",
        "entanglement_overlap": "features were not read for both forget and retain rows",
        "entanglement_retain_cka": "features were not read for both forget and retain rows",
        "entanglement_retain_shift": "features were not read for both forget and retain rows",
    }
    counts = {
        name: (each.num_samples, each.num_skipped)
        for name, each in evaluation.metrics.items()
        if each.value is not None
    }
    assert counts["forget_probability"] == counts["forget_exact_memorization"] == (6, 0)
    assert counts["forget_rouge"] == (5, 1)  # a plain text has no prompt
    assert counts["forget_truth_ratio"] == (1, 5)


def test_all_sets_together_have_all_metrics(forget, model, tokenizer):
    retain, holdout = load_rows(qa_rows(20, 26)), load_rows(qa_rows(40, 45))
    retain = [replace(row, perturbed=(forget[0].answer,)) for row in retain]
    suite = custom_suite(forget, retain, holdout, max_new_tokens=16)
    assert [each.with_membership for each in suite.row_sets] == [True, False, True]
    assert [each.with_features for each in suite.row_sets] == [True, True, False]
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert [*without_value(evaluation)] == [
        "forget_quality",
        "mia_gradnorm",
        "mia_reference",
        "privleak",
        "fluency_perplexity",
        "entanglement_retain_cka",
        "entanglement_retain_shift",
    ]
    value = evaluation.values
    parts = [value[f"retain_{part}"] for part in ("probability", "rouge", "truth_ratio")]
    expected = 0 if 0 in parts else 3 / sum(1 / part for part in parts)
    assert value["model_utility"] == pytest.approx(expected)
    assert value["holdout_probability"] > 0


def test_a_custom_suites_options_reach_every_set(forget):
    template = Template("U", "A")
    suite = custom_suite(forget, forget, forget, template, max_length=50, max_new_tokens=7)
    assert {(each.template, each.max_length) for each in suite.row_sets} == {(template, 50)}
    assert [each.generation for each in suite.row_sets] == [Generation(7), Generation(7), None]
    assert [each.template for each in custom_suite(forget).row_sets] == [Template()]


def test_holdout_rows_without_retain_rows_serve(forget, model, tokenizer):
    suite = custom_suite(forget, holdout=load_rows(qa_rows(40, 43)), max_new_tokens=16)
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert evaluation.metrics["mia_loss"].num_samples == 9
    assert [name for name in evaluation.metrics if name.startswith("retain")] == []


# Fingerprints


def test_a_fingerprint_tells_of_every_text_and_of_nothing_else():
    row = question("q", "a", paraphrase="p", perturbed=("w",), alternatives=("b",))
    base = RowSet("forget", [row, question("q2", "a2")])
    assert re.fullmatch("[0-9a-f]{16}", base.fingerprint)
    changed = [
        replace(row, answer="A"),
        replace(row, paraphrase=None),
        replace(row, perturbed=("w", "w")),
        replace(row, perturbed=("b",), alternatives=("w",)),
        replace(row, prompt=(Message("system", "q"),)),
        replace(row, prompt=(Message("user", "q"), Message("user", ""))),
        replace(row, prompt=()),
    ]
    others = [replace(base, rows=[each, base.rows[1]]) for each in changed]
    others += [replace(base, rows=base.rows[::-1]), replace(base, rows=base.rows[:1])]
    assert len({each.fingerprint for each in (base, *others)}) == len(others) + 1
    same = replace(
        base, name="x", template=Template("U", "A"), max_length=7, generation=Generation(3), with_features=True
    )
    assert same.fingerprint == base.fingerprint
    # Kept results are compared by it: it must not change from version to version.
    written = b'[[["user", "q"]], "a", "p", ["w"], ["b"]]\n[[["user", "q2"]], "a2", null, [], []]\n'
    assert base.fingerprint == hashlib.sha256(written).hexdigest()[:16]
