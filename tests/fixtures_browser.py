"""A headless Chromium that logs its console and its requests."""

import json
from importlib.util import find_spec

import pytest
from generate.picture import CHROMEDRIVER, CHROMIUM, open_browser

needs_browser = pytest.mark.skipif(
    find_spec("selenium") is None or CHROMIUM is None or CHROMEDRIVER is None,
    reason="selenium, Chromium and chromedriver are not all installed",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The browser, for a module's tests."""
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


def requested(browser) -> set[str]:
    """The addresses that pages asked for since the log was read last."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = (message["params"] for message in messages if message["method"] == "Network.requestWillBeSent")
    return {each["request"]["url"] for each in sent if not each["request"]["url"].startswith("data:")}


def wait_until(browser, condition):
    """Waits until condition(browser) is true and returns its value: a page shows a change a frame later, or more."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, timeout=30).until(condition)
