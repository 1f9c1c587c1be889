"""A headless Chromium that logs its console and its requests."""

import json
from contextlib import suppress
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
    """The addresses that pages asked for since the log was read last, without what they hold and the browser's own."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = (message["params"] for message in messages if message["method"] == "Network.requestWillBeSent")
    own = ("data:", "chrome:", "chrome-untrusted:")  # a new browser shows a page of its own first
    return {each["request"]["url"] for each in sent if not each["request"]["url"].startswith(own)}


def wait_until(browser, condition):
    """Waits until condition(browser) is true and returns its value: a page shows a change a frame later, or more."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, timeout=30).until(condition)


def settled_width(browser, most: int) -> int:
    """Width of the page that is open, in pixels, once it is `most`, or after five seconds: scripts wrap wide tables."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    def width(browser) -> int:
        return browser.execute_script("return document.documentElement.scrollWidth")

    with suppress(TimeoutException):
        WebDriverWait(browser, timeout=5, poll_frequency=0.1).until(lambda browser: width(browser) <= most)
    return width(browser)
