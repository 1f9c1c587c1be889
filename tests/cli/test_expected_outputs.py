"""`egup unlearn --objective proxy_kl` and `egup plan` of it, with every source of expected outputs."""

import json

import pytest
from conftest import make_tiny_model, qa_rows
from fixtures_cli import egup, save, unlearn, write_rows
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
QUICK = {"objective": "proxy_kl", "learning_rate": 1e-3, "logging_steps": 1}


@pytest.fixture
def folders(taught, tokenizer, tmp_path):
    """Folders of a tiny model that knows the rows ("model"), and of one that never saw them ("never_saw")."""
    models = {"model": taught(), "never_saw": make_tiny_model(tokenizer, seed=1)}
    return {name: save(model, tokenizer, tmp_path / "models" / name) for name, model in models.items()}


@pytest.fixture
def rows(tmp_path):
    """Paths of forget, retain and proxy rows; the model of `folders` knows the first two."""
    return write_rows(tmp_path, forget=(0, 10), retain=(20, 33), proxy=(40, 46))


def sources(rows, folders, names):
    """Flags of some of the sources "proxy" and "proxy_model"."""
    flags = {name: path for name, path in rows.items() if name != "proxy" or "proxy" in names}
    return flags | ({"proxy_model": folders["never_saw"]} if "proxy_model" in names else {})


@pytest.mark.parametrize("names", [["proxy"], ["proxy_model"], ["proxy", "proxy_model"]], ids="+".join)
def test_unlearn_with_rows_a_model_or_both(folders, rows, tmp_path, capsys, caplog, names):
    output = tmp_path / "out"
    assert unlearn(folders["model"], output, **sources(rows, folders, names), **QUICK) == 0
    record = json.loads((output / "unlearning.json").read_text())
    model = {"name": "never_saw", "is_local": True} if "proxy_model" in names else None
    assert record["expected_outputs"] == {"proxy_model": model, "ranked_by_proxies": "proxy" in names}
    assert ("proxy" in record["rows"]) == ("proxy" in names)
    card = (output / "README.md").read_text()
    assert "- expected outputs: " in card
    assert ("`never_saw`" in card) == ("proxy_model" in names)
    assert str(tmp_path) not in card + json.dumps(record)
    assert "No proxy rows were given" not in caplog.text
    logged = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert any("token_gap_unlikely" in entry for entry in logged)
    before, after = (load_file(folder / "model.safetensors") for folder in (folders["model"], output))
    assert any(not before[name].equal(after[name]) for name in before)
    assert qa_rows(0, 1)[0]["answer"] not in capsys.readouterr().out


def test_unlearn_with_the_adapter_switched_off(folders, rows, tokenizer, tmp_path):
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    base = make_tiny_model(tokenizer, seed=1).from_pretrained(folders["never_saw"])
    adapted = get_peft_model(base, lora)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)
    adapter = save(adapted, tokenizer, tmp_path / "models" / "adapter")
    output, flags = tmp_path / "out", {name: rows[name] for name in ("forget", "retain")}
    assert unlearn(adapter, output, **flags, **QUICK, proxy_model="adapter_off") == 0
    assert "- expected outputs: those of the model below the adapter\n" in (output / "README.md").read_text()
    assert (output / "adapter_model.safetensors").is_file()


def test_the_model_itself_is_refused(folders, rows, tmp_path, capsys):
    flags = {**sources(rows, folders, []), **QUICK, "proxy_model": folders["model"]}
    assert unlearn(folders["model"], tmp_path / "out", **flags) == 2
    assert "which finds the forget rows as likely" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_proxy_model_is_never_written_over(folders, rows, capsys):
    before = {path.name: path.read_bytes() for path in folders["never_saw"].iterdir()}
    flags = {**sources(rows, folders, ["proxy_model"]), **QUICK}
    for output in (folders["never_saw"], folders["never_saw"] / "out"):
        assert unlearn(folders["model"], output, **flags) == 2
        assert "expected an output folder outside the model" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folders["never_saw"].iterdir()} == before


# egup plan


def plan(folder, output, **flags):
    quick = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    return egup("plan", model_name_or_path=folder, output_dir=output, **{**quick, **QUICK, **flags})


@pytest.mark.parametrize("names", [["proxy"], ["proxy_model"], ["proxy", "proxy_model"]], ids="+".join)
def test_plan_with_rows_a_model_or_both(folders, rows, tmp_path, capsys, names):
    assert plan(folders["model"], tmp_path / "out", measure_steps=1, **sources(rows, folders, names)) == 0
    printed = capsys.readouterr().out
    assert ": fits (" in printed
    assert "s per step" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{}, {"objective": "npo", "npo_beta": "auto"}], ids=["proxy_kl", "npo_beta=auto"])
@pytest.mark.parametrize("measure_steps", [0, 1])
def test_plan_with_proxies_that_are_still_to_be_written(folders, rows, tmp_path, capsys, options, measure_steps):
    """The model knows the forget rows, which stand in for the proxies, nearly by heart."""
    flags = {**sources(rows, folders, []), "measure_steps": measure_steps, **options}
    assert plan(folders["model"], tmp_path / "out", proxy="auto", **flags) == 0
    printed = capsys.readouterr().out
    assert "in their place" in printed
    assert ("s per step" in printed) == bool(measure_steps)
