"""All links in README, docs and benchmarks work as GitHub shows them; building the site checks its own links."""

import re

import pytest
from fixtures_docs import PAGES, ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
DOCUMENTS = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").rglob("*.md"))]


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def without_links(text: str) -> str:
    return LINK.sub("", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page.

    Example:
        >>> sorted(anchors("# Two words\\n\\n## Inter-sample `x` (S1)\\n"))
        ['inter-sample-x-s1', 'two-words']
    """
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dead_links(page) -> list[str]:
    dead = []
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_dead(page):
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# A heading, (with) marks\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[1](there.md) [2](there.md#a-heading-with-marks) [3](gone.md) [4](there.md#gone) [5](#own) `[6](code.md)`\n",
        encoding="utf-8",
    )
    assert dead_links(page) == ["gone.md", "there.md#gone", "#own"]


def test_every_page_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {target.partition("#")[0] for target in LINK.findall(readme)}
    assert {f"docs/{page.name}" for page in PAGES if page.parent == ROOT / "docs"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_exists(page):
    # NAME.py stands for a new file, and src/ is a folder of OpenUnlearning.
    named = re.findall(r"\b(?:[a-z_]+/)+\w+\.py\b", without_links(page.read_text(encoding="utf-8")))
    homes = (ROOT, ROOT / "egup_trainer", ROOT / "egup_trainer/evaluation")
    missing = [name for name in named if not any((home / name).is_file() for home in homes)]
    assert [name for name in missing if not name.endswith("NAME.py") and not name.startswith("src/")] == []
