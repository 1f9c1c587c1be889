"""Results of OpenUnlearning: which of its numbers become which of ours, what is left out, and what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures_cli import assert_refused
from fixtures_open_unlearning import attack, losses, muse_document, scores, tofu_document, write_document
from fixtures_report import ROWS, make_evaluation
from scipy.stats import ks_2samp

from egup_trainer.cli.compare import COMMAND
from egup_trainer.errors import DataError
from egup_trainer.evaluation.definitions import Definitions, why_not_comparable
from egup_trainer.evaluation.evaluation import check_same_rows, read_evaluation, write_evaluation
from egup_trainer.evaluation.relative import with_relations
from egup_trainer.report.remarks import named_by_number

THEIRS = Definitions.OPEN_UNLEARNING


@pytest.fixture
def read(tmp_path):
    """read(document, definitions): the results in a file of that content."""

    def read(document, definitions=Definitions.OURS, name="TOFU_EVAL.json"):
        return read_evaluation(write_document(tmp_path / "retain90" / name, document), definitions)

    return read


def test_tofu_metrics_have_our_names_and_their_numbers(read):
    found = read(tofu_document())
    assert (found.name, found.suite, found.split, found.run["framework"]) == (
        "retain90",
        "tofu",
        None,
        "OpenUnlearning",
    )
    assert {name: facts.num_rows for name, facts in found.sets.items()} == {
        **dict.fromkeys(("forget", "retain", "real_authors", "world_facts"), 4),
        "holdout": 3,
    }
    expected = np.exp(-(1 + np.arange(4) / 10))
    for name in ("forget", "retain"):
        assert list(found.values_of(f"{name}_probability", name).values()) == pytest.approx(expected)
    assert found.values["forget_probability"] == pytest.approx(expected.mean())
    assert found.values["real_authors_probability"] == 0.5  # among options
    assert {found.values[f"{name}_rouge"] for name in ("forget", "retain", "world_facts")} == {0.75}
    assert found.values["forget_exact_memorization"] == 0.25
    assert (found.values["model_utility"], found.metrics["model_utility"].num_samples) == (0.6, 12)
    # W / C = exp(-(loss + 1)) / exp(-loss) in each row.
    raw = [math.exp(-loss - 1) / (math.exp(-loss) + 1e-10) for loss in 1 + np.arange(4) / 10]
    assert list(found.values_of("forget_quality", "forget").values()) == pytest.approx(raw, rel=1e-9)
    assert found.values["forget_truth_ratio"] == pytest.approx(math.exp(-1), rel=1e-6)
    assert found.values["retain_truth_ratio"] == pytest.approx(1 - math.exp(-1), rel=1e-6)
    assert found.values["retain_truth_probability"] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-6)
    assert (found.values["mia_loss"], found.values["mia_min_k"]) == (1.0, 1.0)
    assert found.metrics["forget_probability"].higher_is_better is False
    assert found.metrics["retain_probability"].higher_is_better is True


def test_truth_ratios_rest_on_losses_whatever_the_file_calls_a_ratio(read):
    document = tofu_document()
    document["forget_truth_ratio"] = scores([0.9] * 4)  # C / (C + W), as one version of the code has it
    assert read(document).values["forget_truth_ratio"] == pytest.approx(math.exp(-1), rel=1e-6)
    del document["forget_Q_A_PERT_Prob"]
    assert read(document).values["forget_truth_ratio"] == pytest.approx(0.9)


def test_wrong_answers_may_be_lists_of_entries(read):
    document = tofu_document(rows=2)
    entries = document["forget_Q_A_PERT_Prob"]["value_by_index"]
    for row, each in entries.items():
        entries[row] = [{"prob": prob, "avg_loss": loss} for prob, loss in zip(*each.values(), strict=True)]
    assert read(document).values["forget_truth_ratio"] == pytest.approx(math.exp(-1), rel=1e-6)


@pytest.mark.parametrize("name", ["forget_extraction_strength", "mia_zlib", "mia_gradnorm"])
def test_what_they_define_in_another_way_is_left_out_unless_all_is_theirs(read, name):
    ours, theirs = read(tofu_document()).metrics[name], read(tofu_document(), THEIRS).metrics[name]
    assert (ours.value, ours.values) == (None, {})
    assert ours.reason == why_not_comparable(name, "tofu")
    assert theirs.value is not None
    assert theirs.values


def test_muse_is_read_without_a_stemmer_and_without_what_ignores_the_last_token(read):
    found = read(muse_document(), name="MUSE_EVAL.json")
    assert (found.suite, found.values["forget_knowmem_rouge"]) == ("muse", 0.0)  # "breads" is not "bread"
    assert found.values["mia_loss"] == 1.0
    for name in ("forget_verbmem_exact_memorization", "mia_min_k", "privleak"):
        assert "last token" in str(found.metrics[name].reason)
    theirs = read(muse_document(), THEIRS, name="MUSE_EVAL.json")
    assert (theirs.values["forget_knowmem_rouge"], theirs.values["mia_min_k"]) == (1.0, 1.0)
    document = muse_document()
    for each in document["forget_knowmem_ROUGE"]["value_by_index"].values():
        each.pop("generation", None)
    found = read(document, name="MUSE_EVAL.json").metrics["forget_knowmem_rouge"]
    assert (found.value, "generations" in str(found.reason)) == (None, True)


def test_rows_without_a_number_are_skipped_and_counted(read):
    document = tofu_document()
    rows = document["forget_Q_A_Prob"]["value_by_index"]
    rows["0"], rows["1"]["prob"] = None, math.nan
    found = read(document).metrics["forget_probability"]
    assert (found.num_samples, found.num_skipped, sorted(found.values["forget"])) == (2, 2, [2, 3])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["forget_Q_A_Prob"].pop("value_by_index"), "no value_by_index in forget_Q_A_Prob"),
        (lambda d: d["forget_Q_A_Prob"].update(value_by_index={}), "no value_by_index in forget_Q_A_Prob"),
        (lambda d: d["mia_loss"].pop("holdout"), "no value_by_index in mia_loss"),
        (lambda d: d["forget_Q_A_Prob"]["value_by_index"].pop("1"), "indices in forget_Q_A_Prob that are not 0 to 2"),
        (lambda d: d.update(forget_Q_A_ROUGE=losses([1.0])), "1 rows in forget_Q_A_ROUGE"),
        (lambda d: d.update(mia_min_k=attack([1.0] * 4, [1.0])), "1 rows in mia_min_k"),
    ],
)
def test_a_file_whose_rows_do_not_fit_each_other_is_refused(read, change, says):
    document = tofu_document()
    change(document)
    with pytest.raises(DataError) as error:
        read(document)
    assert says in error.value.got


@pytest.mark.parametrize("document", [{}, {"forget_Q_A_Prob": 0.5}, {"results": {"agg_value": 1}}, [1], "text"])
def test_a_file_that_is_neither_is_refused_as_before(tmp_path, document):
    path = tmp_path / "TOFU_SUMMARY.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_evaluation(path)
    assert error.value.got == f"{path}, which holds something else"


# Beside our own results


@pytest.fixture
def retrained(read):
    """The results of a retrained model on as many rows as the invented models have."""
    return read(tofu_document(rows=ROWS, holdout=ROWS))


def test_numbers_of_rows_and_suites_are_compared(read, retrained):
    ours = make_evaluation("egup_clreg")
    check_same_rows(ours, retrained, "--retrained")
    check_same_rows(retrained, ours, "ours")
    for other, fact in (
        (read(tofu_document(rows=40)), "forget rows, in number 40"),
        (replace(retrained, suite="muse"), "suite muse"),
        (read(tofu_document(rows=ROWS, holdout=ROWS), THEIRS), "definitions open-unlearning"),
    ):
        with pytest.raises(DataError) as error:
            check_same_rows(ours, other, "--retrained")
        assert error.value.got == f"--retrained with {fact}"


def test_forget_quality_is_computed_with_their_truth_ratios(retrained):
    ours = make_evaluation("egup_clreg")
    found = with_relations(ours, retrained=retrained)
    ratios, theirs = (list(each.values_of("forget_quality", "forget").values()) for each in (ours, retrained))
    assert found.values["forget_quality"] == pytest.approx(ks_2samp(ratios, theirs).pvalue)


def test_a_report_says_that_rows_were_not_checked_and_what_is_left_out(tmp_path, capsys):
    files = []
    for name in ("before", "egup_clreg"):
        files.append(tmp_path / f"{name}.json")
        write_evaluation(files[-1], replace(make_evaluation(name), training=[]))
    theirs = write_document(tmp_path / "retain90" / "TOFU_EVAL.json", tofu_document(rows=ROWS, holdout=ROWS))
    output = tmp_path / "report.html"
    COMMAND.main([*map(str, files), "--retrained", str(theirs), "--output", str(output)])
    document = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    [rows, left_out] = document["remarks"]["retain90"]
    assert "names no rows" in rows
    assert f"{ROWS} forget" in rows
    assert all(name in left_out for name in ("forget_extraction_strength", "mia_zlib", "mia_gradnorm"))
    assert document["metrics"]["forget_probability"]["retain90"]["value"] is not None
    assert f"retain90: {rows}" in " ".join(capsys.readouterr().out.split("\n"))
    assert "names no rows" in output.read_text(encoding="utf-8")
    few = write_document(tmp_path / "other" / "TOFU_EVAL.json", tofu_document(rows=5))
    words = ["compare", *map(str, files), "--retrained", str(few), "--output", str(tmp_path / "new" / "r.html")]
    assert_refused(words, tmp_path, capsys, "in number", error=DataError)


def test_files_of_theirs_alone_are_compared_by_their_definitions(tmp_path):
    files = [
        write_document(tmp_path / name / "TOFU_EVAL.json", tofu_document(shift=shift))
        for name, shift in (("full", 0.0), ("npo", 2.0))
    ]
    output = tmp_path / "report.html"
    COMMAND.main([*map(str, files), "--output", str(output)])
    document = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert [model["name"] for model in document["models"]] == ["full", "npo"]
    assert document["metrics"]["mia_zlib"]["npo"]["value"] is not None
    assert len(document["remarks"]["npo"]) == 1


def test_our_results_need_no_such_remark():
    assert named_by_number(make_evaluation("before")) == []
