"""The suites: which rows, rendered and generated how, and every metric by its key, of the set that it names."""

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
from scipy.stats import ks_2samp

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.errors import ConfigError, DataError
from egup_trainer.evaluation.metrics.rouge import rouge_score
from egup_trainer.evaluation.metrics.truth_ratio import raw_truth_ratios
from egup_trainer.evaluation.rows import Generation, RowSet, texts_of
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.evaluation.suites import SUITES
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.evaluation.suites.muse import MuseCorpus, muse_suite
from egup_trainer.evaluation.suites.suite import metric_names
from egup_trainer.evaluation.suites.tofu import tofu_suite

SECRET = "XYZZYSECRET"  # stands in rows only: no message may repeat it
TOFU_DIR = SHARED / "data" / "tofu"
QUIET = ScoringOptions(progress=False)
ATTACKS = ["mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "mia_reference", "privleak"]
ENTANGLEMENT = ["variance_ratio", "probe_auc", "overlap", "retain_cka", "retain_shift"]
FLUENCY = ["fluency_perplexity", "fluency_distinct_2", "fluency_repetition"]
BY_HOLDOUT = "forget_quality_by_holdout"
SUITE_METRICS = [BY_HOLDOUT, *ATTACKS, *(f"entanglement_{name}" for name in ENTANGLEMENT), *FLUENCY]
SUMMARY = ["model_utility", "forget_quality"]
NO_BEFORE = "no features of the model before unlearning"
LATER = {  # reasons of what needs another model
    "forget_quality": "no results of a retrained model",
    "privleak": "no results of a retrained model",
    "mia_reference": "no results of a reference model",
    "fluency_perplexity": "no generation was read by the model before unlearning",
    "entanglement_retain_cka": NO_BEFORE,
    "entanglement_retain_shift": NO_BEFORE,
}
CHOICE_PARTS = ("probability", "rouge", "truth_ratio", "truth_probability")
PARTS = (*CHOICE_PARTS, "exact_memorization", "extraction_strength")


def of(name, parts=PARTS):
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
    return caught.value


def harmonic(parts):
    return pytest.approx(0 if 0 in parts else len(parts) / sum(1 / part for part in parts), rel=1e-6)


@pytest.fixture(scope="module")
def model(tokenizer):
    return taught_model(tokenizer, positions=2048)


def recite(model, tokenizer, prompts, *args, **kwargs):
    """Stands in for what a model writes."""
    return [f"The author {number} lives in Aren with two cats." for number in range(len(prompts))]


def test_the_flags_of_a_suite_are_the_parameters_of_the_function_that_makes_it():
    assert {name: suite.required for name, suite in SUITES.items()} == {
        "tofu": ["forget_split"],
        "muse": ["muse_corpus"],
        "wmdp": ["wmdp_subject"],
        "rwku": [],
        "custom": ["forget"],
    }
    parameters = {flag: each.name for flag, each in SUITES["muse"].parameters.items()}
    assert parameters == {"muse_corpus": "corpus", "data_dir": "data_dir", "max_length": "max_length"}


# TOFU


@pytest.fixture(scope="module")
def tofu_run(model, tokenizer):
    """The TOFU suite on six rows a set, its evaluation, and the scores behind it."""
    if not (TOFU_DIR / "forget01_perturbed.json").is_file():
        pytest.skip(f"the TOFU rows are not at {TOFU_DIR}")
    suite = limited(tofu_suite("forget01", TOFU_DIR, holdout="tofu:forget05"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("egup_trainer.evaluation.scoring.generate", recite)
        evaluation = evaluate_model(model, tokenizer, suite, QUIET)
        return suite, evaluation, score_sets(model, tokenizer, suite.row_sets, QUIET)


def test_tofu_has_every_metric_of_the_paper_and_more(tofu_run):
    suite, evaluation, _ = tofu_run
    assert (evaluation.suite, evaluation.split, suite.name) == ("tofu", "forget01", "tofu")
    sets = [*of("forget"), *of("retain"), *of("real_authors", CHOICE_PARTS), *of("world_facts", CHOICE_PARTS)]
    assert list(evaluation.metrics) == [*sets, "holdout_probability", *SUMMARY, *SUITE_METRICS] == metric_names(suite)
    assert {
        name: reason for name, reason in without_value(evaluation).items() if name not in ("mia_gradnorm", BY_HOLDOUT)
    } == LATER
    for name in sets:
        assert name.removeprefix(*evaluation.metrics[name].values) in [f"_{part}" for part in PARTS]


def test_tofu_rows_are_those_of_the_perturbed_files(tofu):
    tofu("forget01_perturbed")
    suite = tofu_suite("forget01", TOFU_DIR)
    sizes = {"forget": 40, "retain": 400, "real_authors": 100, "world_facts": 117}
    assert {each.name: len(each.rows) for each in suite.row_sets} == sizes
    for row_set, perturbed in zip(suite.row_sets, (5, 5, 3, 3), strict=True):
        assert {len(row.perturbed) for row in row_set.rows} == {perturbed}
        assert all((row.paraphrase is not None) == (perturbed == 5) for row in row_set.rows)
        assert (row_set.generation, row_set.max_length, row_set.template) == (Generation(200, ()), 2048, Template())
        assert (row_set.with_features, row_set.with_membership) == (perturbed == 5, False)
    assert suite.row_sets[0].rows[0].answer.endswith("is Basil Mahfouz Al-Kuwaiti.")


def test_tofus_options_reach_every_set(tofu):
    tofu("forget01_perturbed")
    template = Template("U", "A")
    suite = tofu_suite("forget01", str(TOFU_DIR), "tofu:forget05", template, max_length=77, max_new_tokens=9)
    assert {each.name: len(each.rows) for each in suite.row_sets}["holdout"] == 200
    assert {(each.template, each.max_length) for each in suite.row_sets} == {(template, 77)}
    assert [each.generation for each in suite.row_sets] == [Generation(9)] * 4 + [None]
    assert [each.with_membership for each in suite.row_sets] == [True, False, False, False, True]


def test_tofus_values_by_hand(tofu_run):
    _, evaluation, scores = tofu_run
    value = evaluation.values

    def mean(numbers):
        return pytest.approx(np.mean(list(numbers)), rel=1e-6)

    for name, row_set in scores.items():
        rows, ratios = row_set.samples.values(), []
        probabilities = [row.answers[0].probability for row in rows]
        if name == "holdout":
            assert value["holdout_probability"] == mean(probabilities)
            continue
        if name in ("real_authors", "world_facts"):
            wrong = [sum(text.probability for text in row.perturbed) for row in rows]
            probabilities = [p / (p + w + 1e-10) for p, w in zip(probabilities, wrong, strict=True)]
        for row in rows:
            right = row.answers[0] if row.paraphrase is None else row.paraphrase
            wrong = np.exp(-np.mean([text.mean_nll for text in row.perturbed]))
            ratios.append(wrong / (np.exp(-right.mean_nll) + 1e-10))
        kept = [min(r, 1 / (r + 1e-10)) if name == "forget" else max(0, 1 - r) for r in ratios]
        assert value[f"{name}_probability"] == mean(probabilities)
        assert value[f"{name}_truth_ratio"] == mean(kept)
        assert value[f"{name}_rouge"] == mean(rouge_score(row.references[0], row.generation) for row in rows)
    utility = ("probability", "rouge", "truth_ratio")
    parts = [value[key] for name in ("retain", "real_authors", "world_facts") for key in of(name, utility)]
    assert value["model_utility"] == harmonic(parts)


def test_tofu_without_a_split_or_its_files_is_refused(tmp_path):
    error = error_of(ConfigError, tofu_suite, "forget20", TOFU_DIR)
    assert (error.got, error.fix) == ("forget_split=forget20", "did you mean forget10?")
    for name in ("forget01_perturbed", "retain_perturbed"):
        (tmp_path / f"{name}.json").write_text(json.dumps(qa_rows(0, 1)[0]))
    assert "tofu:real_authors_perturbed" in error_of(DataError, tofu_suite, "forget01", tmp_path).got


# MUSE


@pytest.fixture
def muse_folder(tmp_path):
    return write_muse(tmp_path / "muse")


def test_muse_prompts_are_ten_answered_questions_and_then_the_rows_own(muse_folder):
    suite = muse_suite("news", muse_folder)
    sets = {each.name: each for each in suite.row_sets}
    assert (suite.name, suite.split) == ("muse", "news")
    for number, row in enumerate(sets["forget_knowmem"].rows):
        assert row.prompt == (Message("user", f"{SHOTS}Question: Where is cat {number}?\nAnswer: "),)
        assert row.answer == f"In Aren {number}"
    shots = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in EXAMPLES[:1:-1])
    assert sets["retain_knowmem"].rows[0].prompt[0].content == f"{shots}Question: Where is cat 20?\nAnswer: "
    recited = Row((Message("user", "Chapter 2. Ada Lorn "),), "went to Bryle with 2 cats.")
    assert sets["forget_verbmem"].rows[2] == recited
    assert sets["holdout"].rows[1] == Row((), "31 Bo Quill lives.")
    sizes = {"forget_knowmem": 6, "retain_knowmem": 5, "forget_verbmem": 4, "forget": 6, "retain": 9, "holdout": 3}
    assert {name: len(each.rows) for name, each in sets.items()} == sizes


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
        (row,) = texts_of([sets[name]], chat_tokenizer(tokenizer), False).dataset.rows
        assert tokenizer.decode(row.input_ids) == text
        if name == "forget_knowmem":
            assert tokenizer.decode(row.labels[row.is_scored]).strip() == "In Aren 0"


def test_muse_rows_are_the_same_from_parquet_files_and_from_the_hub(muse_folder, tmp_path, monkeypatch):
    records, asked = muse_records(), []

    def load_dataset(path, name=None, *, split=None):
        asked.append((path, name, split))
        return datasets.Dataset.from_list(records[f"{name}/{split}"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    parquet = write_muse(tmp_path / "parquet", "parquet")
    assert (parquet / "knowmem" / "forget_qa-00000-of-00001.parquet").is_file()
    prints = [
        [(each.name, each.fingerprint) for each in muse_suite(MuseCorpus.BOOKS, folder).row_sets]
        for folder in (muse_folder, parquet, None)
    ]
    assert prints[0] == prints[1] == prints[2]
    assert set(asked) == {("muse-bench/MUSE-Books", *name.split("/")) for name in records}


def test_muse_answers_may_be_several(tmp_path):
    rows = [{"question": "Who?", "answer": ["Ada", "Ada Lorn"]}]
    suite = muse_suite(MuseCorpus.NEWS, write_muse(tmp_path, knowmem__forget_qa=rows))
    assert (suite.row_sets[0].rows[0].answer, suite.row_sets[0].rows[0].alternatives) == ("Ada", ("Ada Lorn",))


def test_muse_has_every_metric(muse_folder, model, tokenizer):
    suite = limited(muse_suite(MuseCorpus.NEWS, muse_folder, max_length=1024), rows=9)
    evaluation = evaluate_model(model, tokenizer, suite, ScoringOptions(progress=False, with_gradient_norms=True))
    recited = ("rouge", "exact_memorization", "extraction_strength")
    sets = ["forget_knowmem_rouge", "retain_knowmem_rouge", *of("forget_verbmem", recited)]
    sets += ["forget_probability", "retain_probability", "holdout_probability"]
    assert list(evaluation.metrics) == [*sets, *SUITE_METRICS]
    without = {name: why for name, why in LATER.items() if name != "forget_quality"}
    assert without_value(evaluation) == {**without, BY_HOLDOUT: "no forget row has perturbed answers"}
    counts = {
        name: {key: len(part) for key, part in metric.values.items()} for name, metric in evaluation.metrics.items()
    }
    assert counts["forget_knowmem_rouge"] == {"forget_knowmem": 6}
    assert counts["forget_verbmem_rouge"] == counts["forget_verbmem_exact_memorization"] == {"forget_verbmem": 4}
    assert counts["fluency_repetition"].keys() == {"forget_verbmem"}
    assert counts["mia_gradnorm"] == counts["mia_min_k"] == {"forget": 6, "holdout": 3}
    assert evaluation.metrics["forget_knowmem_rouge"].higher_is_better is False
    assert evaluation.metrics["retain_knowmem_rouge"].higher_is_better is True


@pytest.mark.parametrize(
    ("text", "expected"), [("in arens 7", 1 / 3), ("in aren 7 7 7 7", 2 * (2 / 6 * 2 / 3) / (2 / 6 + 2 / 3))]
)
def test_muse_rouge_is_the_f_measure_without_a_stemmer(muse_folder, model, tokenizer, monkeypatch, text, expected):
    """Against "In Aren 0"."""
    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", lambda *a, **k: [text] * len(a[2]))
    suite = limited(muse_suite(MuseCorpus.NEWS, muse_folder), rows=1)
    assert evaluate_model(model, tokenizer, suite, QUIET).values["forget_knowmem_rouge"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "records", "got"),
    [
        ("knowmem__forget_qa_icl", EXAMPLES[:9], "9 rows in forget_qa_icl"),
        ("knowmem__retain_qa_icl", EXAMPLES[:9], "9 rows in retain_qa_icl"),
        ("knowmem__forget_qa", [], "no rows in "),
        ("verbmem__forget", [], "no rows in "),
        ("privleak__holdout", [], "no rows in "),
        ("knowmem__forget_qa", [{"text": SECRET}] * 12, "row 0 of "),  # another layout
        ("knowmem__retain_qa_icl", [{"text": SECRET}] * 12, "row 0 of "),
        ("verbmem__forget", [{"text": SECRET}] * 12, "row 0 of "),
        ("privleak__holdout", [{"reply": SECRET}] * 12, "row 0 of "),
    ],
)
def test_files_of_muse_that_do_not_fit_are_refused(tmp_path, name, records, got):
    assert got in error_of(DataError, muse_suite, MuseCorpus.NEWS, write_muse(tmp_path, **{name: records})).got


def test_a_missing_file_of_muse_is_named(muse_folder):
    (muse_folder / "verbmem" / "forget.jsonl").unlink()
    error = error_of(DataError, muse_suite, MuseCorpus.NEWS, muse_folder)
    assert error.got == f"no forget in {muse_folder}/verbmem"


# Custom


@pytest.fixture
def forget():
    """Six rows: with a prompt, without one, with wrong answers."""
    perturbed = question("Who?", "Ada.", paraphrase="It is Ada.", perturbed=("Bo.", "Jon."))
    return [*load_rows(qa_rows(0, 4)), Row((), "A plain text."), perturbed]


def test_a_forget_set_alone_has_what_needs_no_other_rows(forget, model, tokenizer):
    suite = custom_suite(forget, max_new_tokens=16)
    assert [(each.name, each.with_membership) for each in suite.row_sets] == [("forget", False)]
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert list(evaluation.metrics) == [*of("forget"), *SUMMARY, *SUITE_METRICS]
    no_holdout = "no holdout rows (rows of the same kind that the model never saw)"
    no_features = "features were not read for both forget and retain rows"
    assert without_value(evaluation) == {
        **dict.fromkeys([BY_HOLDOUT, *ATTACKS], no_holdout),
        "mia_reference": LATER["mia_reference"],
        "forget_quality": LATER["forget_quality"],
        "fluency_perplexity": LATER["fluency_perplexity"],
        "model_utility": "no retain_probability, retain_rouge, retain_truth_ratio",
        **{f"entanglement_{name}": no_features for name in ENTANGLEMENT},
    }
    counts = {name: (each.num_samples, each.num_skipped) for name, each in evaluation.metrics.items()}
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
    assert without_value(evaluation).keys() == {*LATER, "mia_gradnorm", BY_HOLDOUT}
    assert evaluation.metrics[BY_HOLDOUT].reason == "no holdout row has wrong answers"
    value = evaluation.values
    assert value["model_utility"] == harmonic([value[key] for key in of("retain", PARTS[:3])])
    assert value["holdout_probability"] > 0
    assert (evaluation.metrics["mia_loss"].num_samples, evaluation.metrics["mia_loss"].higher_is_better) == (11, None)


def test_rows_without_wrong_answers_get_those_of_other_rows(model, tokenizer):
    sets = [load_rows(qa_rows(*which)) for which in ((0, 6), (20, 26), (40, 45))]
    suite = custom_suite(*sets, max_new_tokens=4)
    assert [len(row.perturbed) for each in suite.row_sets for row in each.rows] == [3] * 17
    evaluation = evaluate_model(model, tokenizer, suite, QUIET)
    assert evaluation.settings["forget wrong_answers"] == "exchanged"
    assert without_value(evaluation).keys() == {*LATER, "mia_gradnorm"}
    assert evaluation.metrics["forget_truth_ratio"].num_samples == 6
    scores = score_sets(model, tokenizer, suite.row_sets, QUIET)
    ratios = [list(raw_truth_ratios(scores[name]).values()) for name in ("forget", "holdout")]
    assert evaluation.values[BY_HOLDOUT] == pytest.approx(ks_2samp(*ratios).pvalue)
    assert evaluation.values["model_utility"] > 0
    untouched = custom_suite([replace(sets[0][0], perturbed=("Bo.",)), *sets[0][1:]], *sets[1:])
    assert [len(row.perturbed) for each in untouched.row_sets for row in each.rows] == [1] + [0] * 16
    assert "wrong_answers" not in untouched.row_sets[0].settings


def test_neighbors_have_metrics_of_their_own_and_do_not_count_in_utility(forget, model, tokenizer):
    retain, neighbor = load_rows(qa_rows(20, 26)), load_rows(qa_rows(40, 43))
    retain = [replace(row, perturbed=(forget[0].answer,)) for row in retain]
    suite = custom_suite(forget, retain, neighbor=neighbor, max_new_tokens=4)
    found = evaluate_model(model, tokenizer, suite, QUIET)
    assert [name for name in found.metrics if name.startswith("neighbor")] == of("neighbor", PARTS[:3])
    assert found.metrics["neighbor_rouge"].higher_is_better is True
    assert found.values["model_utility"] == harmonic([found.values[key] for key in of("retain", PARTS[:3])])


def test_a_custom_suites_options_reach_every_set(forget):
    template = Template("U", "A")
    suite = custom_suite(forget, forget, forget, template, max_length=50, max_new_tokens=7)
    assert {(each.template, each.max_length) for each in suite.row_sets} == {(template, 50)}
    assert [each.generation for each in suite.row_sets] == [Generation(7)] * 3
    assert [each.template for each in custom_suite(forget).row_sets] == [Template()]


# Fingerprints


def test_a_fingerprint_depends_on_every_text_and_on_nothing_else():
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
    others += [
        replace(base, rows=base.rows[::-1]),
        replace(base, rows=base.rows[:1]),
        replace(base, rows=2 * base.rows),
    ]
    assert len({each.fingerprint for each in (base, *others)}) == len(others) + 1
    how = {"template": Template("U", "A"), "max_length": 7, "generation": Generation(3), "with_features": True}
    assert replace(base, name="x", **how).fingerprint == base.fingerprint
    # Kept results are compared by it: it must not change from version to version.
    written = b'[[["user", "q"]], "a", "p", ["w"], ["b"]]\n[[["user", "q2"]], "a2", null, [], []]\n'
    assert base.fingerprint == hashlib.sha256(written).hexdigest()[:16]
