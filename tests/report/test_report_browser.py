"""The report in a browser: headless Chromium, at the width of a desk and of a phone."""

from dataclasses import replace

import pytest
from fixtures_browser import needs_browser, requested, wait_until
from fixtures_report import HOSTILE, SECTIONS, examples_of, make_evaluation, make_evaluations

from egup_trainer.report.page import write_report

pytestmark = needs_browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Path of a report with every section filled."""
    *evaluations, retrained = [
        replace(evaluation, examples=examples_of(evaluation.name))
        for group in make_evaluations()
        for evaluation in (group if isinstance(group, list) else [group])
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, evaluations, retrained, show_examples=True)
    return path


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def opened(request, browser, report):
    """(browser with the report open, width in pixels)."""
    metrics = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": request.param < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for log in ("browser", "performance"):
        browser.get_log(log)  # empties it
    browser.get(report.as_uri())
    return browser, request.param


@pytest.fixture
def unfolded(opened):
    """The same with the metrics for experts unfolded."""
    opened[0].execute_script("document.querySelector('#experts').open = true")
    wait_until(opened[0], table_is_shown)
    return opened


def table_is_shown(browser) -> bool:
    """Whether the metrics for experts are rendered."""
    return browser.execute_script("return document.querySelector('#table').checkVisibility()")


def test_the_first_screen_has_the_verdict_in_words_and_the_picture(opened, tmp_path):
    """For one unlearned model beside a retrained one; a phone shows 844 pixels, a desk 720."""
    browser, width = opened
    before, after, retrained = (
        replace(make_evaluation(name, rows=12), training=[]) for name in ("before", "egup_clreg", "retrained")
    )
    write_report(tmp_path / "one.html", [before, after], retrained)
    browser.get((tmp_path / "one.html").as_uri())
    bottoms = browser.execute_script(
        "return ['#verdict .status', '#verdict .meaning', '#known-rows img'].map(each => "
        "document.querySelector(each).getBoundingClientRect().bottom)"
    )
    assert bottoms == sorted(bottoms) or width == 1280
    assert max(bottoms) < (844 if width == 390 else 720)


def test_metrics_are_folded_until_they_are_asked_for(opened):
    browser, _ = opened
    assert not table_is_shown(browser)
    assert browser.find_element("css selector", "#questions").text.startswith("Is it gone?")
    browser.execute_script("document.querySelector('#experts > summary').click()")  # the page scrolls smoothly
    wait_until(browser, table_is_shown)


def test_the_page_shows_all_asks_for_nothing_and_reports_no_error(unfolded, report):
    browser, _ = unfolded
    seen = browser.execute_script(
        "return [...document.querySelectorAll('section')].map(each => [each.id, each.innerText.trim().length > 0, "
        "each.getBoundingClientRect().height > 40, each.getBoundingClientRect().width > 200])"
    )
    assert [section[0] for section in seen] == SECTIONS
    assert all(all(section[1:]) for section in seen)
    images = "return [...document.images].map(each => each.complete && each.naturalWidth > 0 && each.width > 200)"
    loaded = browser.execute_script(images)
    assert len(loaded) == 27
    assert all(loaded)
    assert requested(browser) == {report.as_uri()}
    assert browser.get_log("browser") == []


def test_nothing_sticks_out_of_the_page(unfolded):
    browser, width = unfolded
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_markup_in_a_row_makes_no_element(unfolded):
    browser, _ = unfolded
    assert browser.title == "Unlearning report"
    assert browser.execute_script("return document.querySelectorAll('script, section b').length") == 0
    assert f"Q {HOSTILE}" in browser.execute_script("return document.querySelector('#examples').innerText")


def test_each_number_of_the_unlearned_models_is_on_the_screen(unfolded):
    """On a phone, rows are stacked, and every number stands below the name of its model."""
    browser, width = unfolded
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('#table td')].map(each => [each.getBoundingClientRect().left, "
        "each.getBoundingClientRect().right, each.dataset.model, getComputedStyle(each, '::before').content])"
    )
    assert {box[2] for box in boxes} == {"before", "gradient_difference", "egup_clreg", "retrained"}
    assert all(0 <= left < right <= width for left, right, *_ in boxes)
    assert all(shown == (f'"{model}"' if width == 390 else "none") for _, _, model, shown in boxes)
    assert browser.execute_script("return document.querySelector('#table .scroll').scrollWidth") <= width


def test_printing_unfolds_the_metrics(opened):
    browser, _ = opened
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script("return document.querySelector('#table').getBoundingClientRect().height") > 500
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
