"""What plots draw: points, curves, orders, and looks that are the same in all of them."""

import base64
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from fixtures_report import make_evaluation, make_evaluations
from matplotlib.axes import Axes

from egup_trainer.evaluation.evaluation import Evaluation
from egup_trainer.evaluation.metric import Metric, unavailable
from egup_trainer.report.comparison import Comparison
from egup_trainer.report.numbers import format_number
from egup_trainer.report.plots.curves import Curve, read_curves, training_curves
from egup_trainer.report.plots.drawing import Look, draw, looks
from egup_trainer.report.plots.known_rows import known_rows
from egup_trainer.report.plots.outcome import forget_rows, tradeoff, truth_ratios, write_picture
from egup_trainer.report.plots.projections import projections

SVG = "data:image/svg+xml;base64,"


def model(name: str, features: dict | None = None, training: list | None = None, **metrics: Metric) -> Evaluation:
    return Evaluation(name, "custom", None, {}, metrics, features=features or {}, training=training or [])


def decoded(plot) -> str:
    return base64.b64decode(plot.image.removeprefix(SVG)).decode()


@pytest.fixture
def drawn(monkeypatch):
    """All that was drawn: ("scatter" | "plot" | "ecdf", its positional arguments as lists, options)."""
    calls = []

    def watch(name):
        plain = getattr(Axes, name)

        def call(self, *arguments, **options):
            calls.append((name, [np.asarray(argument).tolist() for argument in arguments], options))
            return plain(self, *arguments, **options)

        monkeypatch.setattr(Axes, name, call)

    for name in ("scatter", "plot", "ecdf"):
        watch(name)
    return calls


def test_a_model_looks_the_same_everywhere_and_no_two_alike():
    names = [f"method {place}" for place in range(11)]
    comparison = Comparison.of([model("before"), *map(model, names)], model("twin"))
    found = looks(comparison)
    assert found["twin"] == Look("#000000", "*", "--")
    assert found["before"] == Look("#E69F00", "s", "-")
    assert len({(look.color, look.line) for look in found.values()}) == 13
    assert len({found[name].color for name in names[:5]}) == 5


def test_quality_is_drawn_against_utility_down_to_the_floor(drawn):
    evaluations = [
        model("before", forget_quality=Metric(1e-45, True), model_utility=Metric(0.5, True)),
        model("a", forget_quality=Metric(0.25, True), model_utility=Metric(0.625, True)),
        model("b", forget_quality=Metric(0.25, True)),
    ]
    twin = model("twin", forget_quality=Metric(1.0, True), model_utility=Metric(0.75, True))
    gallery = tradeoff(Comparison.of(evaluations, twin))
    assert [(call[1], call[2]["marker"]) for call in drawn if call[0] == "scatter"] == [
        ([[0.5], [1e-20]], "s"),
        ([[0.625], [0.25]], "o"),
        ([[0.75], [1.0]], "*"),
    ]
    (plot,) = gallery.plots
    assert plot.alt == (
        "Forget quality (p-value) against model utility: before 1.0e-45 at 0.500; a 0.250 at 0.625; twin 1.000 at 0.750"
    )
    assert gallery.caption.endswith("The aim is the star on the dashed lines.")


def test_probabilities_or_rouge_stand_in_for_quality_and_utility_and_the_caption_says_so(drawn):
    by_probability = [
        model("a", forget_quality=unavailable("x", True), model_utility=Metric(0.5, True)),
        model("b", forget_probability=Metric(0.25, False), retain_probability=Metric(0.75, True)),
    ]
    caption = tradeoff(Comparison.of(by_probability, None)).caption
    assert caption.startswith("No model has both forget quality and model utility, so probabilities are shown instead.")
    assert "star" not in caption
    by_rouge = model("a", forget_verbmem_rouge=Metric(0.0, False), retain_knowmem_rouge=Metric(0.5, True))
    assert "MUSE's ROUGE is shown instead" in tradeoff(Comparison.of([by_rouge], None)).caption
    assert [call[1] for call in drawn] == [[[0.75], [0.25]], [[0.5], [0.0]]]


def test_truth_ratios_are_drawn_as_they_are_even_where_there_is_no_quality(drawn):
    kept = unavailable("no retrained model", True, forget={0: 0.5, 1: 2.0, 2: 0.0})
    gallery = truth_ratios(Comparison.of([model("a", forget_quality=kept), model("b")], None))
    assert [call[1] for call in drawn if call[0] == "ecdf"] == [[[0.5, 2.0]]]
    assert gallery.plots[0].alt == "Cumulative distributions: a median 1.250"
    assert "dashed" not in gallery.caption


def test_forget_rows_stand_in_the_order_of_the_retrained_model(drawn):
    def scored(name, *values):
        return model(name, forget_probability=Metric(0.5, False, values={"forget": dict(enumerate(values))}))

    evaluations = [scored("before", 0.9, 0.8, 0.7), scored("a", 0.5, 1e-12, 0.25)]
    gallery = forget_rows(Comparison.of(evaluations, scored("twin", 0.3, 0.1, 0.2)))
    # Ranks of samples 0, 1, 2 under the twin: 3, 1, 2.
    assert [(call[0], call[1]) for call in drawn] == [
        ("scatter", [[1, 2, 3], [0.8, 0.7, 0.9]]),
        ("plot", [[1, 2, 3], [0.1, 0.2, 0.3]]),
        ("scatter", [[1, 2, 3], [1e-8, 0.25, 0.5]]),
    ]
    assert [plot.title for plot in gallery.plots] == ["a"]
    assert gallery.plots[0].alt == "Probability of each forget answer; medians: before 0.800, twin 0.200, a 0.250"
    without = forget_rows(Comparison.of([scored("before", 0.1, 0.9), scored("a", 0.5, 0.4)], None))
    assert "ordered by its probability under before." in without.caption
    assert "dashed" not in without.caption


def test_features_share_the_axes_of_the_model_before(drawn):
    # Spread of 4 along the first feature and 1 along the second: these are the components.
    forget, retain = np.array([[4.0, 0, 7], [-4, 0, 7]]), np.array([[0.0, 1, 7], [0, -1, 7]])
    before = model("before", {"forget": forget, "retain": retain})
    after = model("a", {"forget": forget + np.array([0, 0, 5]), "retain": 8 * retain})
    gallery = projections(Comparison.of([before, after], None))
    (retain_before, forget_before, retain_after, forget_after) = [call[1] for call in drawn]
    assert np.abs(forget_before) == pytest.approx(np.array([[4, 4], [0, 0]]), abs=1e-6)
    assert np.abs(retain_before) == pytest.approx(np.array([[0, 0], [1, 1]]), abs=1e-6)
    assert forget_after == pytest.approx(np.array(forget_before), abs=1e-6)  # a shift that the plane does not see
    assert retain_after == pytest.approx(8 * np.array(retain_before), abs=1e-6)  # no axis turns
    assert gallery.caption.endswith("the axes of before, which hold 100% of the variance of its features.")
    assert [plot.title for plot in gallery.plots] == ["before", "a"]


def test_hidden_sizes_that_differ_get_axes_of_their_own_and_the_caption_says_so():
    comparison = Comparison.of([make_evaluation("before"), make_evaluation("egup_clreg", size=16)], None)
    gallery = projections(comparison)
    assert len(gallery.plots) == 2
    assert gallery.caption.endswith("so each plot has its own axes and distances cannot be compared.")


def test_rows_with_features_that_are_not_finite_are_left_out():
    evaluation = make_evaluation("egup_clreg")
    evaluation.features["forget"][3, 2] = np.inf
    (plot,) = projections(Comparison.of([evaluation], None)).plots
    assert plot.alt.startswith("Features of egup_clreg in two dimensions: 59 forget and 60 retain rows")


def test_curves_have_gaps_and_bands_and_leave_out_what_is_no_term():
    history = [
        {"step": 1, "epoch": 0.5, "loss": 2.0, "weight_mean": 1.0, "weight_min": 0.5, "weight_max": 2.0},
        {"step": 2, "epoch": 1.0, "loss": "nan", "drift": 0.1, "drift_p10": 0.0, "drift_p90": "inf"},
        {"step": 2, "note": "text", "broken": "inf"},
        {"step": 2, "eval_loss": 0.5},
        {"step": 3, "loss": 1.0, "drift": 0.2, "drift_p10": 0.1, "drift_p90": 0.3, "lonely_p10": 0.25},
        {"step": 3, "train_runtime": 9.0, "total_flos": 1e9, "weights_unmoved": 0.1},
        {"loss": 7.0},
    ]
    curves = read_curves(history)
    assert list(curves) == ["loss", "weight_mean", "drift", "eval_loss", "lonely_p10"]
    assert curves["loss"].steps == [1, 2, 3]
    assert curves["loss"].values == pytest.approx([2.0, math.nan, 1.0], nan_ok=True)
    assert curves["weight_mean"] == Curve([1], [1.0], {"weight_min": [0.5], "weight_max": [2.0]})
    assert curves["drift"].band["drift_p10"] == [0.0, 0.1]
    assert curves["drift"].band["drift_p90"] == pytest.approx([math.nan, 0.3], nan_ok=True)
    assert curves["lonely_p10"] == Curve([3], [0.25])


def test_every_logged_term_has_a_curve_in_the_colour_of_its_model(drawn):
    evaluations, retrained = make_evaluations()
    comparison = Comparison.of(evaluations, retrained)
    galleries = training_curves(comparison)
    assert [gallery.title for gallery in galleries] == [
        "Loss and its terms",
        "Loss of the answers",
        "Weights, drift and boundary",
        "Optimizer",
        "Evaluation during training",
        "Machine",
    ]
    terms = [read_curves(evaluation.training) for evaluation in evaluations]
    assert sum(len(gallery.plots) for gallery in galleries) == len({term for found in terms for term in found})
    assert sum(call[0] == "plot" for call in drawn) == sum(map(len, terms))
    methods = ("gradient_difference", "egup_clreg")
    assert {call[2]["color"] for call in drawn} == {looks(comparison)[name].color for name in methods}
    weight = next(plot for gallery in galleries for plot in gallery.plots if plot.title == "Weight per sample")
    assert weight.remark == "weight_mean, band: _min to _max"


def test_fine_tuning_of_the_models_beside_has_plots_of_its_own():
    history = [{"step": step, "loss": 1.0 / step} for step in (1, 1000)]
    comparison = Comparison.of([model("before", training=history), model("a", training=history[:1])], None)
    galleries = training_curves(comparison)
    assert [gallery.title for gallery in galleries] == [
        "Loss and its terms",
        "Fine-tuning of the other models: Loss and its terms",
    ]
    assert [gallery.plots[0].alt for gallery in galleries] == [
        "Loss by optimizer step: a from 1.000 to 1.000",
        "Loss by optimizer step: before from 1.000 to 0.0010",
    ]


def test_what_cannot_be_drawn_says_why_and_what_to_do():
    nothing = Comparison.of([model("a")], None)
    for draws in (tradeoff, truth_ratios, forget_rows, projections, known_rows):
        gallery = draws(nothing)
        assert gallery.plots == ()
        assert gallery.caption.startswith("No ")
        assert "valuate" in gallery.caption
    assert training_curves(nothing) == []


def test_names_are_drawn_as_they_are_written():
    names = [r"_a$x^$", r"$\frac{$", "with_a_name_that_is_far_too_long_for_a_legend", "<&>"]
    comparison = Comparison.of([replace(make_evaluation("egup_clreg"), name=name) for name in names], None)
    (plot,) = tradeoff(comparison).plots
    assert decoded(plot).rstrip().endswith("</svg>")
    assert (plot,) == tradeoff(comparison).plots  # the same numbers make the same file
    assert [plot.title for plot in projections(comparison).plots] == names


def test_many_points_are_drawn_as_pixels():
    def size(rows):
        features = np.random.default_rng(0).normal(size=(rows, 4))
        gallery = projections(Comparison.of([model("a", {"forget": features, "retain": features})], None))
        return len(gallery.plots[0].image), "<image" in decoded(gallery.plots[0])

    assert size(300)[1] is False
    length, has_pixels = size(20_000)
    assert has_pixels
    assert length < 400_000


def test_no_state_of_the_process_is_touched(monkeypatch):
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 33.0)
    sizes = []
    draw("title", "alt", lambda axes: sizes.append(axes.xaxis.label.get_size()))
    assert sizes == [11.0]
    assert matplotlib.rcParams["font.size"] == 33.0


def test_a_gallery_shows_itself_in_a_notebook_with_titles_escaped():
    (before, method, *_), retrained = make_evaluations()
    gallery = forget_rows(Comparison.of([before, replace(method, name="<b>mine")], retrained))
    html = gallery._repr_html_()
    assert html.count("<img") == len(gallery.plots) == 1
    assert gallery.plots[0].image in html
    assert "<b>&lt;b&gt;mine</b>" in html
    assert "<b>mine" not in html
    assert gallery.caption.split(".")[0] in html
    assert "base64" not in repr(gallery)  # what a terminal shows


def test_the_picture_has_a_point_for_each_model(drawn, tmp_path):
    numbers = {"before": (0.9, 0.95), "gradient_difference": (1e-12, 0.4), "twin": (0.02, 0.97)}
    *others, twin = (
        model(name, forget_probability=Metric(forget, False), retain_probability=Metric(retain, True))
        for name, (forget, retain) in numbers.items()
    )
    write_picture(tmp_path / "plot.png", Comparison.of(others, twin), "Title")
    assert [(call[1], call[2]["marker"]) for call in drawn] == [
        ([[0.95], [0.9]], "s"),
        ([[0.4], [1e-8]], "o"),
        ([[0.97], [0.02]], "*"),
    ]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.001, "0.0010"), (0.0034, "0.0034"), (0.01, "0.010"), (0.00099, "9.9e-04"), (-12.0, "-12.0")],
)
def test_numbers_are_short_and_never_rounded_to_nothing(value, text):
    assert format_number(value) == text
