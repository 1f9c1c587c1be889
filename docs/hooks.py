"""Hooks of mkdocs: they fill in the generated parts of pages and add what the site has from outside of docs."""

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from generate.commands import commands_page
from generate.configuration import options_table
from generate.tables import for_phones
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.cli.evaluate import EvaluateArguments
from egup_trainer.cli.suites import SuiteArguments
from egup_trainer.cli.unlearn import RowArguments
from egup_trainer.config import EGUPConfig, UnlearnConfig
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.proxies.settings import ProxySettings

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/egup-trainer/egup_trainer"
REPORT = "demo/report.html"
"""The demo's report in the site, where `make demo` has written it; its picture leads there."""
OUTSIDE = "repository"
"""Folder of the site for files outside of docs that pages link to."""
FIRST = ("quickstart", "own_data")
"""The first notebooks; the others follow by name."""
GENERATED = {
    "commands": commands_page,
    "UnlearnConfig": lambda: options_table(UnlearnConfig),
    "EGUPConfig": lambda: options_table(EGUPConfig, beyond=UnlearnConfig),
    "RowArguments": lambda: options_table(RowArguments, beyond=SuiteArguments),
    "ProxySettings": lambda: options_table(ProxySettings),
    "AuditOptions": lambda: options_table(AuditOptions),
    "evaluation": lambda: options_table(EvaluateArguments),
    "ScoringOptions": lambda: options_table(ScoringOptions),
}
_MARK = re.compile(r"<!-- generated: (\w+) -->")
_EXTERNAL_IMAGE = re.compile(r"<img\b[^>]*\bsrc=\"https?://[^>]*>")
_EXTERNAL_SCRIPT = re.compile(r"<script\b[^>]*\bsrc=\"https?://[^>]*></script>")
_NOTEBOOK = re.compile(r"(href=\"[^\":]+)\.ipynb(?=[\"#])")
_ALT = re.compile(r"\balt=\"([^\"]*)\"")
_PICTURE_OF_REPORT = re.compile(r"!\[[^]]*\]\(images/report\.png\)")
_RELATIVE = re.compile(r"(?<=\]\()(?!https?:|#)[^)#\s]+")
_LINK_OUT = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")


def notebooks() -> dict[str, Path]:
    """The notebooks by name: the copy that `make notebooks` has executed, or else the source."""
    sources = sorted((ROOT / "notebooks").glob("*.ipynb"))
    sources.sort(key=lambda path: FIRST.index(path.stem) if path.stem in FIRST else len(FIRST))
    executed = {path.stem: ROOT / "build/notebooks" / path.name for path in sources}
    return {path.stem: executed[path.stem] if executed[path.stem].is_file() else path for path in sources}


def on_config(config: Any) -> Any:
    """Appends the notebooks to the navigation."""
    config.nav.append({"Notebooks": [f"notebooks/{name}.ipynb" for name in notebooks()]})
    return config


@event_priority(50)  # before mkdocs-jupyter, which handles the notebooks
def on_files(files: Files, config: Any) -> Files:
    """Adds README as the first page, the demo's report, the notebooks, and the files that pages link to."""
    files.append(File.generated(config, "index.md", content=home((ROOT / "README.md").read_text(encoding="utf-8"))))
    if (ROOT / "demo_output/report.html").is_file():
        files.append(File.generated(config, REPORT, abs_src_path=str(ROOT / "demo_output/report.html")))
    for name, path in notebooks().items():  # mkdocs-jupyter ignores generated files
        files.append(File(f"notebooks/{name}.ipynb", str(path.parents[1]), config.site_dir, config.use_directory_urls))
    for page in list(files.documentation_pages()):
        for target in _LINK_OUT.findall(page.content_string if page.src_uri.endswith(".md") else ""):
            for path in [] if target.startswith("notebooks") else _files_at(ROOT / target):
                target_path = f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
                if files.get_file_from_path(target_path) is None:
                    files.append(File.generated(config, target_path, abs_src_path=str(path)))
    return files


def home(readme: str) -> str:
    """The README with links as from a page in docs."""
    return re.sub(r"\]\((?!https?:|docs/)", "](../", readme).replace("](docs/", "](")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in generated parts, and points links that leave docs at the copies of their files."""
    markdown = _MARK.sub(lambda found: GENERATED[found[1]](), markdown).replace(" ± ", "&nbsp;±&nbsp;")
    uri = page.file.src_uri
    if uri.startswith(f"{OUTSIDE}/"):
        return _RELATIVE.sub(lambda found: _from_outside(uri, found[0], files), markdown)
    if files.get_file_from_path(REPORT):
        markdown = _PICTURE_OF_REPORT.sub(rf"[\g<0>]({REPORT})\n\n[Open this report]({REPORT})", markdown)
    return _LINK_OUT.sub(lambda found: _in_site(found[1]), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Fits tables to a phone, makes notebooks link to pages, and takes scripts and images of other sites away."""
    html = _NOTEBOOK.sub(r"\1.html", for_phones(_EXTERNAL_SCRIPT.sub("", html)))
    return _EXTERNAL_IMAGE.sub(lambda found: "".join(_ALT.findall(found[0])), html)


def _files_at(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]


def _from_outside(uri: str, target: str, files: Files) -> str:
    """The target of a link of a copied file: in the site if it is there, or else in the repository."""
    path = normpath(join(dirname(uri.removeprefix(f"{OUTSIDE}/")), target))
    page = path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}/{path}"
    return f"{REPOSITORY}/blob/main/{path}" if files.get_file_from_path(page) is None else relpath(page, dirname(uri))


def _in_site(target: str) -> str:
    if target.startswith("notebooks"):  # they are pages
        return target if target.endswith(".ipynb") else f"notebooks/{next(iter(notebooks()))}.ipynb"
    return f"{OUTSIDE}/{normpath(_files_at(ROOT / target)[0].relative_to(ROOT).as_posix())}"
