"""The site builds without warnings, loads nothing from other sites, and fits a desktop and a phone."""

import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import pytest
from fixtures_browser import needs_browser, requested, settled_width, wait_until
from fixtures_docs import PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built with warnings as errors."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_built_with_its_generated_parts(site):
    for page in PAGES:
        if page.parent == ROOT / "docs":
            text = (site / f"{page.stem}.html").read_text(encoding="utf-8")
            assert "generated:" not in text, page.name
    reference = (site / "reference.html").read_text(encoding="utf-8")
    assert "<code>--forget</code>" in reference
    assert "<code>proxy_neighbors</code>" in reference
    assert "register_forget_loss" in (site / "api.html").read_text(encoding="utf-8")


def test_linked_files_of_the_repository_are_in_the_site(site):
    assert (site / "repository/accelerate_configs/fsdp2.yaml").is_file()
    table = (site / "repository/benchmarks/results/design_choices.html").read_text(encoding="utf-8")
    assert "proxy_match=mean" in table


def test_no_link_of_the_site_is_dead(site):
    dead = {}
    for page in site.rglob("*.html"):
        text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = {unquote(target) for target in re.findall(r'(?:href|src)="([^"#?:]+)["#?]', text)}
        homes = {target: site if target.startswith("/") else page.parent for target in targets}
        missing = [target for target, home in homes.items() if not (home / target.lstrip("/")).exists()]
        if missing:
            dead[page.name] = missing
    assert dead == {}


@pytest.fixture(scope="module")
def served(site):
    """The address at which the site is served."""
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


HIDDEN = """
const beyond = (each) => each.getBoundingClientRect().right > innerWidth
const scrolled = [...document.querySelectorAll('.numbers tr > :first-child')]
document.querySelectorAll('.md-typeset__scrollwrap').forEach(each => { each.scrollLeft = 1000 })
return [...document.querySelectorAll('.stacked td')].filter(beyond).map(each => each.textContent)
    .concat(scrolled.filter(each => each.getBoundingClientRect().left < 0).map(each => each.textContent))
"""
"""Returns the texts of cells that are off the screen: of stacked tables, and of the first column of scrolled ones."""


@needs_browser
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_no_page_is_wider_than_the_window_or_loads_anything_from_other_sites(browser, site, served, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("performance")  # empties it
    wide, hidden = {}, {}
    for page in sorted(site.rglob("*.html")):
        browser.get(served + page.relative_to(site).as_posix())
        found = settled_width(browser, width)
        if found > width:
            wide[page.name] = found
        if width < 500:
            hidden[page.name] = browser.execute_script(HIDDEN)
    assert wide == {}
    assert {name: cells for name, cells in hidden.items() if cells} == {}
    assert {url for url in requested(browser) if not url.startswith(served)} == set()


@needs_browser
def test_the_search_finds_a_flag(browser, served):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(f"{served}index.html?q=stop_at_boundary")
    found = wait_until(
        browser,
        lambda driver: driver.execute_script(
            "return [...document.querySelectorAll('.md-search-result__link')].map(each => each.pathname)"
        ),
    )
    assert "/methods.html" in found
