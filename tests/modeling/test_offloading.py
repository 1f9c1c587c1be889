"""Models whose weights lie on the disk between two passes (`device_map`) give what the same models in memory give."""

import json
from pathlib import Path

import pytest
import torch
from conftest import make_tokenizer, qa_rows
from fixtures_evaluation import assert_same_numbers, invented_sets
from peft import LoraConfig
from safetensors.torch import load_file

from egup_trainer.audit.attack import merged_copy
from egup_trainer.cli.main import main
from egup_trainer.conditions import weights_of
from egup_trainer.errors import ModelError
from egup_trainer.evaluation.kept_scores import model_fingerprint
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling.limits import refuse_infinite_weights
from egup_trainer.modeling.loading import add_adapter, load_model
from egup_trainer.modeling.merging import save_merged
from egup_trainer.modeling.offloading import is_offloaded, iter_tensors, stand_ins
from egup_trainer.modeling.scan import scan_fingerprint

LORA = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
EACH_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}
LAYERS = {f"model.layers.{index}": "disk" for index in range(3)}
ENDS = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")


@pytest.fixture
def on_disk(tmp_path):
    """Arguments of from_pretrained that leave the decoder layers on the disk."""
    return {"device_map": LAYERS | ENDS, "offload_folder": str(tmp_path / "offloaded")}


def meta_weights(model) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.is_meta}


def test_all_tensors_are_read_and_none_stays_in_memory(base, on_disk):
    plain, offloaded = load_model(str(base)), load_model(str(base), **on_disk)
    assert is_offloaded(offloaded)
    assert not is_offloaded(plain)
    left_out = meta_weights(offloaded)
    assert left_out == {name for name, _ in plain.named_parameters() if ".layers." in name}
    found = list(iter_tensors(offloaded))
    assert [name for name, _ in found] == list(plain.state_dict())
    for name, tensor in found:
        assert torch.equal(tensor, plain.state_dict()[name]), name
    assert meta_weights(offloaded) == left_out
    for fingerprint in (weights_of, model_fingerprint, lambda model: scan_fingerprint(model, [], {})):
        assert fingerprint(offloaded) == fingerprint(plain)


def test_a_weight_on_the_disk_that_is_not_finite_is_found(make_model, tokenizer, on_disk, tmp_path):
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.inf
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"1 weight tensors .* such as model\.layers\.1\.mlp\.up_proj\.weight"):
        refuse_infinite_weights(load_model(str(tmp_path / "broken"), **on_disk))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({**EACH_EPOCH, "load_best_model_at_end": True, "max_steps": 6}, id="and ends with the best one"),
        pytest.param({"gradient_checkpointing": True, "clreg_weight": 0.1}, id="with gradient checkpointing"),
        pytest.param({"objective": "proxy_kl", "retain_loss": "kl", "verdict": True}, id="with KL and a verdict"),
    ],
)
def test_an_adapter_learns_what_it_learns_on_a_model_in_memory(make_trainer, base, on_disk, options, tmp_path):
    saved = []
    for name, kwargs in (("memory", {}), ("disk", on_disk)):
        out = tmp_path / name
        lora = LoraConfig(**LORA)
        options = {"max_steps": 3, **options, "output_dir": str(out), "model_init_kwargs": kwargs}
        trainer = make_trainer(str(base), peft_config=lora, eval_dataset=qa_rows(20, 24), **options)
        trainer.train()
        trainer.save_model()
        assert is_offloaded(trainer.model) == (name == "disk")
        saved.append(load_file(out / "adapter_model.safetensors"))
    memory, disk = saved
    assert memory.keys() == disk.keys()
    assert all(torch.equal(memory[name], disk[name]) for name in memory)
    assert any(tensor.any() for name, tensor in memory.items() if "lora_B" in name)


def test_a_run_on_the_disk_resumes_a_run_in_memory(make_trainer, base, on_disk, tmp_path):
    lora, options = LoraConfig(**LORA), {"save_strategy": "steps", "save_steps": 3}
    make_trainer(str(base), peft_config=lora, **options).train()
    whole = load_file(tmp_path / "out" / "checkpoint-6" / "adapter_model.safetensors")
    resumed = make_trainer(str(base), peft_config=lora, model_init_kwargs=on_disk, **options)
    resumed.train(str(tmp_path / "out" / "checkpoint-3"))
    again = load_file(tmp_path / "out" / "checkpoint-6" / "adapter_model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.fixture
def adapter(make_trainer, base):
    """Folder of a trained adapter on `base`."""
    trainer = make_trainer(str(base), peft_config=LoraConfig(**LORA))
    trainer.train()
    trainer.save_model()
    return trainer.args.output_dir


@pytest.mark.parametrize("has_adapter", [False, True])
def test_scores_and_generations_are_those_of_the_model_in_memory(base, adapter, on_disk, has_adapter):
    path, tokenizer = adapter if has_adapter else str(base), make_tokenizer()
    options = ScoringOptions(batch_size=4, progress=False)
    plain, offloaded = (
        score_sets(load_model(path, **kwargs), tokenizer, invented_sets(), options) for kwargs in ({}, on_disk)
    )
    assert_same_numbers(offloaded, plain)


def test_a_loaded_adapter_goes_on_learning(adapter, make_trainer, base, on_disk, tmp_path):
    model = load_model(adapter, **on_disk)
    assert meta_weights(model) == {
        name for name, _ in model.named_parameters() if ".layers." in name and "lora" not in name
    }
    saved = []
    for name, kwargs in (("memory", {}), ("disk", on_disk)):
        trainer = make_trainer(adapter, output_dir=str(tmp_path / name), model_init_kwargs=kwargs)
        trainer.train()
        saved.append({name: weight for name, weight in iter_tensors(trainer.model) if "lora" in name})
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_an_adapter_is_merged_into_weights_on_the_disk(adapter, on_disk, tmp_path):
    for name, kwargs in (("memory", {}), ("disk", on_disk)):
        save_merged(adapter, tmp_path / name, **kwargs)
    memory, disk = (load_file(tmp_path / name / "model.safetensors") for name in ("memory", "disk"))
    assert memory.keys() == disk.keys()
    assert all(torch.equal(memory[name], disk[name]) for name in memory)


def test_what_would_lose_changes_is_refused(make_trainer, base, on_disk):
    with pytest.raises(ModelError, match=r"offloaded weights, for training them.*train an adapter \(--use_peft\)"):
        make_trainer(str(base), model_init_kwargs=on_disk)
    model = load_model(str(base), **on_disk)
    with pytest.raises(ModelError, match="offloaded weights, for an attack on a copy"):
        merged_copy(model)
    options = ScoringOptions(with_gradient_norms=True, progress=False)
    with pytest.raises(ModelError, match="offloaded weights, for gradient norms"):
        score_sets(model, make_tokenizer(), invented_sets(), options)
    with pytest.raises(ModelError, match="starts from the values of weights that are offloaded"):
        add_adapter(model, LoraConfig(**LORA, use_dora=True))


def test_stand_ins_have_the_device_on_which_weights_are_used(base, on_disk):
    model = load_model(str(base), **on_disk)
    layer = model.model.layers[1].self_attn.q_proj
    before = meta_weights(model)
    with stand_ins(model):
        assert meta_weights(model) == set()
        assert layer.weight.shape == (32, 32)
        assert layer.weight.untyped_storage().nbytes() == 4
        layer.weight.requires_grad_(False)
    assert meta_weights(model) == before
    assert not layer.weight.requires_grad
    assert model.model.layers[1].self_attn.k_proj.weight.requires_grad
    layer._hf_hook.execution_device = torch.device("meta")  # stands for a GPU
    with stand_ins(model):
        assert layer.weight.is_meta


def test_the_command_evaluates_a_model_on_the_disk(base, on_disk, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, qa_rows(0, 3))))
    words = ["evaluate", "--model_name_or_path", str(base), "--suite", "custom", "--use_cpu", "--disable_tqdm"]
    words += ["--forget", str(tmp_path / "rows.jsonl"), "--max_new_tokens", "3"]
    found = []
    for name, more in (("memory", []), ("disk", ["--model_init_kwargs", json.dumps(on_disk)])):
        output = tmp_path / f"{name}.json"
        assert main([*words, "--output", str(output), *more]) == 0
        found.append({name: each["value"] for name, each in json.loads(output.read_text())["metrics"].items()})
    assert found[0] == found[1]
    assert Path(on_disk["offload_folder"]).is_dir()
