"""The picture of the demo's report: `make demo`, then `PYTHONPATH=docs python -m generate.picture`."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
_SIZE = {"width": 1280, "height": 860, "deviceScaleFactor": 1, "mobile": False}
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def open_browser(profile: Path) -> Any:
    """A headless Chromium that logs its console and its requests, with its files in the folder `profile`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*_FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))


def main() -> None:
    """Writes docs/images/report.png from demo_output/report.html."""
    with TemporaryDirectory() as profile:
        browser = open_browser(Path(profile))
        try:
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _SIZE)
            browser.get((ROOT / "demo_output/report.html").as_uri())
            browser.save_screenshot(str(ROOT / "docs/images/report.png"))
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
