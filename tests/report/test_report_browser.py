"""The report in a browser: headless Chromium, at the width of a desk and of a phone."""

from dataclasses import replace

import pytest
from fixtures_browser import needs_browser, requested
from fixtures_report import HOSTILE, SECTIONS, examples_of, make_evaluations

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


def test_the_page_shows_all_asks_for_nothing_and_reports_no_error(opened, report):
    browser, _ = opened
    seen = browser.execute_script(
        "return [...document.querySelectorAll('section')].map(each => [each.id, each.innerText.trim().length > 0, "
        "each.getBoundingClientRect().height > 40, each.getBoundingClientRect().width > 200])"
    )
    assert [section[0] for section in seen] == SECTIONS
    assert all(all(section[1:]) for section in seen)
    images = "return [...document.images].map(each => each.complete && each.naturalWidth > 0 && each.width > 200)"
    loaded = browser.execute_script(images)
    assert len(loaded) == 26
    assert all(loaded)
    assert requested(browser) == {report.as_uri()}
    assert browser.get_log("browser") == []


def test_nothing_sticks_out_of_the_page(opened):
    browser, width = opened
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_markup_in_a_row_makes_no_element(opened):
    browser, _ = opened
    assert browser.title == "Unlearning report"
    assert browser.execute_script("return document.querySelectorAll('script, section b').length") == 0
    assert f"Q {HOSTILE}" in browser.execute_script("return document.querySelector('#examples').innerText")


def test_a_wide_table_scrolls_by_itself_and_keeps_its_first_column(opened):
    browser, width = opened
    box = "document.querySelector('#table .scroll')"
    first = f"{box}.querySelector('tbody tr:nth-child(2) th').getBoundingClientRect().left"
    before = browser.execute_script(f"return {first}")
    browser.execute_script(f"{box}.scrollLeft = 150")
    scrolled = browser.execute_script(f"return {box}.scrollLeft")
    assert scrolled == (150 if width == 390 else 0)
    assert browser.execute_script(f"return {first}") == pytest.approx(before, abs=1)
