"""What a reader must not miss about a run: what it did not do, and what quantization brings back."""

from dataclasses import replace

import pytest
from fixtures_report import make_evaluation

from egup_trainer.evaluation.evaluation import SetFacts
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.page import render_page
from egup_trainer.report.remarks import remarks

IN_4_BITS = "Quantized: forget probability 0.300 in 4 bits, 0.100 before quantization"


def said_of(training=(), probability=None):
    run = {} if probability is None else {"unlearning": {"probability": probability}}
    evaluation = replace(make_evaluation("egup_clreg", rows=4), name="it", training=list(training), run=run)
    return remarks(Comparison.of([evaluation], None)).get("it", [])


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.934, ["Training did not change 93.4% of the trainable weights: almost nothing changed."]),
        (0.9, []),
        (0.0, []),
        ("nan", []),
    ],
)
def test_a_run_in_which_almost_nothing_moved(share, said):
    assert said_of([{"loss": 1.0}, {"weights_unmoved": share}]) == said


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            {"before": {"forget": 0.9}, "merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.3}},
            [f"{IN_4_BITS}; 25% of what unlearning removed is back."],
        ),
        (
            {"before": {"forget": 0.9}, "merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.05}},
            [f"{IN_4_BITS.replace('0.300', '0.050')}; 0% of what unlearning removed is back."],
        ),
        ({"merged": {"forget": 0.1}, "merged, in 4 bits": {"forget": 0.3}}, [f"{IN_4_BITS}."]),  # a resumed run
        (
            {"merged": {"forget": 0.1}, "merged, in 4 bits": "no kernel"},
            ["Whether quantization to 4 bits brings back what was forgotten is not known (no kernel)."],
        ),
        ({"before": {"forget": 0.9}, "after": {"forget": 0.1}}, []),  # not merged
        ({"at the checkpoint": {"retain": 0.9}, "after": {"retain": 0.1}}, []),
    ],
)
def test_how_much_4_bits_bring_back(measured, said):
    assert said_of(probability=measured) == said


def test_a_remark_is_escaped_on_the_page():
    found = {"merged": {"forget": 0.1}, "merged, in 4 bits": "<script>"}
    evaluation = replace(make_evaluation("egup_clreg"), run={"unlearning": {"probability": found}})
    page = render_page(Comparison.of([evaluation], None), {}, show_examples=False, title="x")
    assert "is not known (&lt;script&gt;)." in page


def test_rows_that_were_cut():
    evaluation = replace(make_evaluation("egup_clreg", rows=4), name="it", training=[])
    cut = replace(
        evaluation,
        sets={"forget": SetFacts(4, "f" * 16, cut=1)},
        run={"unlearning": {"rows": {"retain": {"cut": 2, "rows": 9}, "proxy": {"cut": 0, "rows": 9}}}},
    )
    assert remarks(Comparison.of([cut], None)) == {
        "it": [
            "1 of 4 forget rows were cut at max_length: what was cut off was not measured.",
            "2 of 9 retain rows were cut at max_length: what was cut off was not trained on.",
        ]
    }
    assert remarks(Comparison.of([evaluation], None)) == {}
