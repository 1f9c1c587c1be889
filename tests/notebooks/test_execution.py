"""In a kernel, each notebook runs from top to bottom, and what its text says of the results holds."""

import json
import re
from pathlib import Path

import pytest

for module in ("nbclient", "ipykernel", "plotly"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install 'egup-trainer[notebooks]'")

from notebooks.execute import FOLDER, execute  # noqa: E402

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.slow  # test_cells.py runs the same cells with short trainings


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Folder of the executed copies; the demo's models are made in it once."""
    return tmp_path_factory.mktemp("executed")


@pytest.fixture
def run(output):
    """run("quickstart"): the HTML of each output, in their order, of the executed notebook."""

    def run(name: str) -> list[str]:
        notebook = execute(FOLDER / f"{name}.ipynb", output, **NO_GPU)
        assert (output / f"{name}.ipynb").is_file()
        assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(
            range(1, 1 + sum(cell.cell_type == "code" for cell in notebook.cells))
        )
        outputs = [each for cell in notebook.cells if cell.cell_type == "code" for each in cell.outputs]
        return [each.data["text/html"] for each in outputs if "text/html" in each.get("data", {})]

    return run


def table(html: str) -> dict[str, list[str]]:
    """The cells of a table of pandas by the heading of their line."""
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, flags=re.S) for line in html.split("<tr")]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


def numbers(html: str) -> dict[str, list[float]]:
    return {name: list(map(float, line)) for name, line in table(html).items() if re.match(r"-?\d", line[0])}


def report(path: Path) -> dict[str, dict[str, float]]:
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    return {name: {model: cell["value"] for model, cell in cells.items()} for name, cells in metrics.items()}


def test_quickstart(run, output):
    shown = run("quickstart")
    found = report(output / "work/quickstart/report.json")
    forget, retain = found["forget_probability"], found["retain_probability"]
    assert forget["before"] > 0.9
    assert forget["retrained"] / 3 < forget["unlearned"] < 3 * forget["retrained"]
    assert min(retain.values()) > 0.8
    before, after, retrained = next(
        line["forget_probability"] for html in shown if "forget_probability" in (line := table(html))
    )
    assert (before, after, retrained) == tuple(f"{value:.3f}" for value in forget.values())
    assert '<iframe srcdoc="<!DOCTYPE html>' in shown[-1]
    assert "&quot;" in shown[-1]  # the page's own quotes do not end the attribute


def test_evaluation_and_audit(run, output):
    shown = run("evaluation_and_audit")
    found = report(output / "work/evaluation/report.json")
    forget = found["forget_probability"]
    assert forget["gradient_difference"] < 1e-3 * forget["retrained"]
    assert forget["retrained"] / 3 < forget["egup_clreg"] < 3 * forget["retrained"]
    relearned = found["relearning_forget_end"]
    assert relearned["egup_clreg"] > 3 * relearned["retrained"]  # "had only hidden its rows"
    assert {"quantization_4bit_forget_probability", "sampling_best_rouge", "probe_layer_2_auc"} <= set(found)
    assert found["quantization_4bit_forget_probability"]["egup_clreg"] < 0.1  # it was measured
    assert sum("data:image/svg+xml" in html for html in shown) == 5  # three of the outcome, relearning, the page


def test_seen_from_inside(run):
    shown = run("seen_from_inside")
    moving = [html for html in shown if "Plotly.addFrames" in html]
    assert len(moving) == 3
    sources = {source for html in moving for source in re.findall(r'src="([^"]*)"', html)}
    assert all("mathjax" in source for source in sources)  # plotly itself is in the page; formulas are not used
    found = next(line for html in shown if "entanglement_overlap" in (line := numbers(html)))
    _, gradient_difference, egup, clreg, _ = range(5)
    assert found["forget_probability"][gradient_difference] < 1e-4 < 0.01 < found["forget_probability"][egup]
    assert found["entanglement_variance_ratio"][clreg] < found["entanglement_variance_ratio"][egup] / 3
    assert found["entanglement_overlap"][clreg] < found["entanglement_overlap"][egup]


def test_tofu_lora_4bit(run, output):
    shown = run("tofu_lora_4bit")
    tables = [numbers(html) for html in shown if "forget_probability" in table(html)]
    (before, after, retrained), (kept, loaded) = (found["forget_probability"] for found in tables)
    assert before > 0.9
    assert retrained / 3 < after < 3 * retrained
    assert tables[0]["retain_probability"][1] > 0.8
    assert loaded == kept == after  # the adapter came back whole
    assert (output / "work/tofu/unlearned/adapter_model.safetensors").is_file()


def test_own_data(run, output):
    answers = list(table(run("own_data")[-1]).values())[1:]
    assert len(answers) == 10
    assert all(unlearned != before for _, before, unlearned, _ in answers[:5])
    assert all(unlearned == before for _, before, unlearned, _ in answers[5:])
    known = (output / "work/own_data/forget.jsonl").read_text(encoding="utf-8")
    assert all(before in known for _, before, _, _ in answers[:3])
    assert "Ottoline" not in (output / "work/own_data/unlearned/README.md").read_text(encoding="utf-8")
