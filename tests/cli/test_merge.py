"""`egup merge`: an adapter merged later is what `egup unlearn --merge` writes, and nothing else is replaced."""

import json

import pytest
import torch
from fixtures_audit import wide_model
from fixtures_cli import assert_refused, egup, save, write_rows
from fixtures_evaluation import with_adapter
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from egup_trainer import UnlearnConfig, UnlearnTrainer
from egup_trainer.errors import StateError
from egup_trainer.modeling.loading import load_model
from egup_trainer.records.io import is_merged, read_ledger

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
LORA = ("--use_peft", "--lora_r", "4", "--lora_target_modules", "all-linear", "--no_verdict")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Rows, a model, the adapter of a run in 4 bits that was merged at once, and an adapter without a record."""
    folder = tmp_path_factory.mktemp("merge")
    flags = {**write_rows(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "max_steps": 2}
    model = save(wide_model(tokenizer), tokenizer, folder / "model")
    words = (*LORA, "--load_in_4bit", "--merge")
    assert (
        egup("unlearn", *words, model_name_or_path=model, output_dir=folder / "run", learning_rate=3e-2, **flags) == 0
    )
    save(with_adapter(load_model(str(model))), tokenizer, folder / "plain")
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_merged_later_is_what_the_run_would_have_merged(folder, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    before = files_of(folder / "run")
    assert egup("merge", model_name_or_path=folder / "run", output_dir=tmp_path / "later") == 0
    assert f"Merged model in {tmp_path / 'later'}" in capsys.readouterr().out
    at_once, later = folder / "run" / "merged", tmp_path / "later"
    assert {path.name for path in later.iterdir()} == {path.name for path in at_once.iterdir()}
    expected, found = load_file(at_once / "model.safetensors"), load_file(later / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)  # dequantized without a flag
    assert is_merged(later)
    assert read_ledger(later) == read_ledger(at_once)
    assert (later / "README.md").read_text() == (at_once / "README.md").read_text()
    assert files_of(folder / "run") == before


def test_an_adapter_without_a_record_is_merged_into_its_own_folder_by_hand_computed_sums(folder, tokenizer):
    adapted = load_model(str(folder / "plain"))
    layer = adapted.base_model.model.model.layers[0].mlp.up_proj
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight + layer.scaling["default"] * high @ low
    assert egup("merge", model_name_or_path=folder / "plain") == 0
    merged = AutoModelForCausalLM.from_pretrained(folder / "plain" / "merged")
    torch.testing.assert_close(merged.model.layers[0].mlp.up_proj.weight, expected, rtol=0, atol=1e-6)
    names = {path.name for path in (folder / "plain" / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"unlearning.json", "README.md", "adapter_config.json", "_unfinished"}


@pytest.mark.parametrize("kind", [None, "fp4", "nf4"])
def test_the_adapter_of_a_run_in_python_is_merged(folder, config, tmp_path, kind):
    """Such a run writes no more than the secrets into its private record."""
    model = str(folder / "model")
    if kind is not None:
        pytest.importorskip("bitsandbytes")
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind)
        model = AutoModelForCausalLM.from_pretrained(model, quantization_config=bits, dtype=torch.float32)
    output, rows = tmp_path / "trained", {name: folder / f"{name}.jsonl" for name in ("forget", "retain")}
    args = config(UnlearnConfig, output_dir=str(output), objective="grad_diff", max_steps=1)
    sources = {"forget_dataset": str(rows["forget"]), "retain_dataset": str(rows["retain"])}
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = UnlearnTrainer(model, args, **sources, peft_config=lora)
    trainer.train()
    trainer.save_model()
    assert egup("merge", model_name_or_path=output) == 0
    ids = torch.arange(8)[None]
    merged = AutoModelForCausalLM.from_pretrained(output / "merged")(input_ids=ids).logits
    torch.testing.assert_close(merged, trainer.model.eval()(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert is_merged(output / "merged")


def test_a_type_can_be_chosen_and_a_finished_model_is_replaced_on_demand_alone(folder, tmp_path, capsys):
    output = tmp_path / "out"
    words = {"model_name_or_path": folder / "plain", "output_dir": output}
    assert egup("merge", **words, dtype="bfloat16") == 0
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    again = ["merge", "--model_name_or_path", str(folder / "plain"), "--output_dir", str(output)]
    assert_refused(again, output, capsys, "holds a finished model", "--overwrite_output_dir", error=StateError)
    assert egup("merge", "--overwrite_output_dir", **words) == 0
    assert {each.dtype for each in load_file(output / "model.safetensors").values()} == {torch.float32}


def test_what_cannot_be_merged_or_would_replace_a_model_is_refused(folder, tmp_path, capsys):
    words = ["merge", "--model_name_or_path"]
    whole = f"--model_name_or_path {folder / 'model'}, which is not the folder of an adapter"
    assert_refused([*words, str(folder / "model")], tmp_path, capsys, whole, "--use_peft")
    own = [*words, str(folder / "plain"), "--output_dir", str(folder / "plain")]
    assert_refused(own, tmp_path, capsys, f"--output_dir {folder / 'plain'}, the folder of the adapter")
    base = [*words, str(folder / "plain"), "--output_dir", str(folder / "model" / "x")]
    assert_refused(base, tmp_path, capsys, f"the output folder {folder / 'model' / 'x'}", "folders apart")
    assert_refused([*words, str(folder / "plain"), "--lora_r", "8"], tmp_path, capsys, "--lora_r")
