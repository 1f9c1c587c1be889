"""The picture of the first screen: every row a dot, by model and kind, beside where unknown rows lie."""

import base64
from dataclasses import replace
from itertools import pairwise

import pytest
from fixtures_report import make_evaluation, make_evaluations
from matplotlib.figure import Figure

from egup_trainer.report.comparison import Comparison
from egup_trainer.report.plots import known_rows as module
from egup_trainer.report.plots.known_rows import known_rows

BEFORE, AFTER, RETRAINED = (make_evaluation(name) for name in ("before", "egup_clreg", "retrained"))


@pytest.fixture
def drawn(monkeypatch):
    """drawn(evaluations, retrained): the axes, and the plot."""

    def draw_on_axes(evaluations, retrained=None):
        kept = []
        monkeypatch.setattr(module, "draw", lambda title, alt, paint, *more: kept.append(paint) or alt)
        known_rows(Comparison.of(evaluations, retrained))
        axes = Figure().add_subplot()
        kept[0](axes)
        return axes

    return draw_on_axes


def headings(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_every_row_is_a_dot_on_one_axis(drawn):
    axes = drawn([BEFORE, AFTER])
    assert headings(axes) == ["before unlearning", "after unlearning"]
    x = [sorted(strip.get_offsets()[:, 0].tolist()) for strip in axes.collections]
    assert x == [
        pytest.approx(sorted(model.values_of(f"{kind}_probability", kind).values()))
        for model in (BEFORE, AFTER)
        for kind in ("forget", "holdout")
    ]
    y = [(strip.get_offsets()[:, 1].min(), strip.get_offsets()[:, 1].max()) for strip in axes.collections]
    assert all(above[0] > below[1] for above, below in pairwise(y))
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["rows to forget", "rows never seen"]


def test_the_band_is_where_rows_never_seen_lie_or_the_retrained_models_forget_rows(drawn):
    def band(axes):
        return axes.patches[0].get_x(), axes.patches[0].get_x() + axes.patches[0].get_width()

    unseen = sorted(AFTER.values_of("holdout_probability", "holdout").values())
    low, high = band(drawn([BEFORE, AFTER]))
    assert unseen[2] <= low <= unseen[3]
    assert unseen[-4] <= high <= unseen[-3]
    aim = sorted(RETRAINED.values_of("forget_probability", "forget").values())
    axes = drawn([BEFORE, AFTER], RETRAINED)
    assert aim[2] <= band(axes)[0] <= aim[3]
    assert headings(axes)[-1] == "retrained without the rows to forget"
    assert len(axes.collections) == 5


def test_several_methods_are_named_and_rows_that_are_not_there_not_drawn(drawn):
    evaluations, _ = make_evaluations()
    without = [
        replace(each, metrics={"forget_probability": each.metrics["forget_probability"]}) for each in evaluations
    ]
    axes = drawn(without)
    assert headings(axes) == ["before unlearning", "gradient_difference", "egup_clreg"]
    assert (len(axes.collections), len(axes.patches)) == (3, 0)


def test_the_picture_is_the_same_each_time_and_said_in_words():
    first, again = (known_rows(Comparison.of([BEFORE, AFTER], RETRAINED)).plots[0] for _ in range(2))
    assert first == again
    assert first.alt.startswith("Probability of each answer, medians. before unlearning: rows to forget 0.9")
    assert (
        first.remark
        == "A dot is a row. The band is where nine of ten of these rows lie in a model that never saw them."
    )
    assert b"<svg" in base64.b64decode(first.image.partition(",")[2])
