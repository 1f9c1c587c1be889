"""`egup unlearn --merge`, `egup verify` and `egup merge`: a stand-alone model, its numbers, a record to check."""

import json
import re
import shutil

import pytest
import torch
from conftest import qa_rows
from fixtures_audit import wide_model
from fixtures_cli import assert_refused, egup, save, write, write_rows
from fixtures_evaluation import with_adapter
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from egup_trainer import EGUPTrainer, UnlearnConfig, UnlearnTrainer
from egup_trainer.cli.command import load_command
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.errors import DataError, StateError
from egup_trainer.modeling.loading import add_adapter, load_model
from egup_trainer.modeling.merging import save_merged
from egup_trainer.modeling.probability import probabilities_of, sample_ids
from egup_trainer.records.io import is_merged, read_ledger

SPANS = {"forget": (0, 8), "retain": (20, 32), "proxy": (40, 46)}
LORA = ("--use_peft", "--lora_r", "4", "--lora_target_modules", "all-linear")


def unlearn(folder, output, *words, **flags):
    flags = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "learning_rate": 3e-2, "max_steps": 4} | flags
    flags.setdefault("verdict", False)
    paths = {name: folder / f"{name}.jsonl" for name in SPANS}
    model, output = folder / "model", folder / output
    return egup("unlearn", *words, **{"model_name_or_path": model, "output_dir": output, **paths, **flags})


def verify(folder, record, model, *words, **flags):
    return egup("verify", folder / record / "_run.json", *words, model=folder / model, use_cpu=True, **flags)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Rows, a model, and what three runs made of it: 4-bit with an adapter merged, an adapter, all weights.

    Also "plain", an adapter of the model that has no record.
    """
    folder = tmp_path_factory.mktemp("merge")
    write_rows(folder)
    save(wide_model(tokenizer), tokenizer, folder / "model")
    assert unlearn(folder, "quantized", *LORA, "--load_in_4bit", "--merge") == 0
    assert unlearn(folder, "adapter", *LORA) == 0
    assert unlearn(folder, "whole") == 0
    save(with_adapter(load_model(str(folder / "model"))), tokenizer, folder / "plain")
    return folder


def record(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def probability(folder, model, tokenizer, name):
    rows = tokenize(load_rows(str(folder / f"{name}.jsonl")), tokenizer, name=name)
    return probabilities_of(model, tokenizer, {name: rows}, seed=42, batch_size=8)[name]


def test_the_merged_model_stands_alone_in_float32_and_says_what_the_adapter_says(folder, tokenizer):
    found = record(folder, "quantized/unlearning.json")["probability"]
    merged = AutoModelForCausalLM.from_pretrained(folder / "quantized" / "merged")
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    assert not (folder / "quantized" / "merged" / "adapter_config.json").exists()
    for name in SPANS:
        assert probability(folder, merged, tokenizer, name) == found["merged"][name]
        assert found["merged"][name] == pytest.approx(found["after"][name], rel=1e-5)
    assert abs(found["after"]["forget"] - found["before"]["forget"]) > 0.01 * found["before"]["forget"]


def test_the_merged_model_is_measured_in_four_bits_too(folder):
    found = record(folder, "quantized/unlearning.json")["probability"]
    assert found["merged, in 4 bits"].keys() == SPANS.keys()
    assert all(0 < value < 1 for value in found["merged, in 4 bits"].values())
    assert found["merged, in 4 bits"] != found["merged"]


def test_an_adapter_in_a_subfolder_is_merged_into_the_weights_it_was_trained_on(folder, tmp_path):
    """As PEFT saves an adapter with a name of its own; the record of the run stays above."""
    named = tmp_path / "run" / "politeness"
    named.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / "quantized" / name, named)
    shutil.copy(folder / "quantized" / "unlearning.json", named.parent)
    save_merged(named.parent, tmp_path / "merged")
    ours, expected = (load_model(str(each)).state_dict() for each in (tmp_path / "merged", folder / "quantized/merged"))
    assert all(torch.equal(ours[name], weight) for name, weight in expected.items())


def test_the_table_has_a_column_for_each_measurement(folder, capsys):
    assert unlearn(folder, "shown", *LORA, "--merge") == 0
    printed = capsys.readouterr().out
    head = next(line for line in printed.splitlines() if "before" in line)
    headings = ["rows", "before", "after", "merged", "merged, in 4 bits"]
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == headings
    assert f"Merged model in {folder / 'shown' / 'merged'}" in printed.splitlines()


def test_the_whole_record_repeats_a_run_and_is_the_users_alone(folder):
    whole = record(folder, "whole/_run.json")
    assert whole["command"].startswith(f"egup unlearn --model_name_or_path {folder / 'model'} --output_dir ")
    assert whole["sources"] == {name: str(folder / f"{name}.jsonl") for name in SPANS}
    assert whole["options"]["seed"] == 42
    assert whole["versions"]["torch"] == torch.__version__
    assert {name: facts["rows"] for name, facts in whole["rows"].items()} == {"forget": 8, "retain": 12, "proxy": 6}
    assert oct((folder / "whole" / "_run.json").stat().st_mode & 0o777) == "0o600"
    published = (folder / "whole" / "unlearning.json").read_text(encoding="utf-8")
    assert str(folder) not in published


@pytest.mark.parametrize(
    ("run", "model", "flags"),
    [
        ("whole", "whole", ()),
        ("adapter", "adapter", ()),
        ("quantized", "quantized", ()),
        ("quantized", "quantized", ("--load_in_4bit",)),
        ("quantized", "quantized/merged", ()),
    ],
)
def test_a_model_gives_the_numbers_of_its_run(folder, capsys, run, model, flags):
    assert verify(folder, run, model, *flags) == 0
    files, *_, numbers = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Files equal: (\d+) of \1\.", files)
    assert numbers == "Numbers equal, within a share of 0.001."


def test_another_model_does_not(folder, capsys):
    assert verify(folder, "whole", "model") == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("Numbers not equal: forget, retain")


def test_a_tolerance_that_is_wide_enough_lets_numbers_pass_but_no_files(folder, capsys):
    assert verify(folder, "whole", "model", "--tolerance", "1e6") == 1
    files, *_, numbers = capsys.readouterr().out.splitlines()
    assert files.startswith("Files changed: ")
    assert "model.safetensors" in files
    assert "unlearning.json (missing)" in files
    assert numbers == "Numbers equal, within a share of 1e+06."


def edit_weights(path, change=lambda weights: None):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt", "saved": "again"})


def zero_unused_embedding(folder):
    edit_weights(folder / "model.safetensors", lambda weights: weights["model.embed_tokens.weight"][-1].zero_())


def edit_text(name, old, new):
    def edit(folder):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return edit


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (zero_unused_embedding, "model.safetensors"),
        (edit_text("egup_ledger.jsonl", '"rows": 8', '"rows": 9'), "egup_ledger.jsonl"),
        (edit_text("unlearning.json", '"objective": "proxy_kl"', '"objective": "pdu"'), "unlearning.json"),
        (edit_text("config.json", '"use_cache": ', '"use_caches": '), "config.json"),
        (lambda folder: (folder / "modeling_x.py").write_text("x = 1"), "modeling_x.py (new)"),
        (lambda folder: (folder / "egup_ledger.jsonl").unlink(), "egup_ledger.jsonl (missing)"),
        (lambda folder: edit_weights(folder / "model.safetensors"), "model.safetensors"),
        (edit_text("README.md", "unlearning", "learning"), ""),
    ],
)
def test_files_that_are_not_those_of_the_run_are_named(folder, tmp_path, capsys, change, says):
    shutil.copytree(folder / "whole", tmp_path / "copy")
    change(tmp_path / "copy")
    code = verify(folder, "whole", tmp_path / "copy")
    files, *_, numbers = capsys.readouterr().out.splitlines()
    if says == "":  # the model card is not part of the model
        assert (code, files[:12]) == (0, "Files equal:")
    else:
        assert (code, files, numbers[:13]) == (1, f"Files changed: {says}.", "Numbers equal")


def test_a_template_that_reads_the_rows_otherwise_is_a_difference_of_files(folder, tmp_path, capsys):
    shutil.copytree(folder / "whole", tmp_path / "copy")
    template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    (tmp_path / "copy" / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert verify(folder, "whole", tmp_path / "copy") == 1
    files, numbers = capsys.readouterr().out.splitlines()
    assert files.startswith("Files changed: chat_template.jinja")
    assert numbers.startswith("Numbers not measured: Got forget rows of fingerprint ")


def test_an_adapter_and_a_merged_model_have_files_of_their_own(folder, tmp_path, capsys):
    shutil.copytree(folder / "quantized" / "merged", tmp_path / "merged")
    edit_weights(tmp_path / "merged" / "model.safetensors", lambda weights: weights["lm_head.weight"][-1].add_(1e-7))
    assert verify(folder, "quantized", tmp_path / "merged") == 1
    assert capsys.readouterr().out.startswith("Files changed: model.safetensors.\n")


@pytest.mark.parametrize("index", [0, 2, 3, 4])
def test_the_record_may_stand_anywhere_among_the_flags(index):
    words = ["--model", "whole", "--use_cpu", "--disable_tqdm"]
    words.insert(index, "_run.json")
    args, _ = load_command("verify").parser().parse(words)
    assert (args.record, args.model, args.use_cpu, args.disable_tqdm) == ("_run.json", "whole", True, True)


def test_rows_elsewhere_are_found_and_other_rows_are_refused(folder, tmp_path, capsys):
    write_rows(tmp_path)
    assert verify(folder, "whole", "whole", forget=tmp_path / "forget.jsonl") == 0
    capsys.readouterr()
    write_rows(tmp_path, forget=(1, 9))
    assert verify(folder, "whole", "whole", forget=tmp_path / "forget.jsonl") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    expected = record(folder, "whole/_run.json")["rows"]["forget"]["fingerprint"]
    assert all(each in error for each in ("Got forget rows of fingerprint ", expected, "--forget"))


def test_an_adapter_that_was_not_merged_is_asked_for(folder, capsys):
    assert verify(folder, "adapter", "model") == 2
    assert "expected the adapter's folder as --model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a complete JSON file"),
        ("[]", "not a JSON object"),
        (json.dumps({"schema_version": 1, "rows": {}}), "whose adapter is missing"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, capsys, text, says):
    path = write(tmp_path / "_run.json", text)
    assert_refused(["verify", str(path), "--model", "model"], tmp_path, capsys, path, says, error=DataError)


def test_a_sample_is_drawn_with_the_seed():
    first, again, other = (sample_ids(1000, seed=seed).tolist() for seed in (1, 1, 2))
    assert sample_ids(3, seed=1).tolist() == [0, 1, 2]
    assert len(first) == len(set(first)) == 400
    assert first == again == sorted(first) != other


def test_no_file_that_a_run_leaves_holds_a_row(folder):
    texts = [row[key].encode() for span in SPANS.values() for row in qa_rows(*span) for key in ("question", "answer")]
    files = [path for run in ("quantized", "whole") for path in (folder / run).rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [str(path) for path in files if any(text in path.read_bytes() for text in texts)] == []


@pytest.mark.parametrize("targets", [["q_proj", "embed_tokens"], ["q_proj", "lm_head"], ["q_proj"]])
def test_tied_embeddings_are_parted_if_an_adapter_changes_one(make_model, tmp_path, targets):
    tied = make_model()
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    adapted = add_adapter(load_model(str(tmp_path / "base")), config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    save_merged(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert merged.config.tie_word_embeddings == (targets == ["q_proj"])
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=0, atol=1e-5)
        assert (merged(ids).logits - tied(ids).logits).abs().max() > 1e-2


def test_a_config_file_is_in_the_record_but_for_its_tokens(folder):
    (folder / "run.yaml").write_text("optim: sgd\nhub_token: hf_secret\nmax_length: 64\n", encoding="utf-8")
    assert unlearn(folder, "configured", "--config", str(folder / "run.yaml")) == 0
    whole = record(folder, "configured/_run.json")
    assert whole["config_file"] == {"optim": "sgd", "max_length": 64}
    assert whole["reading"]["max_length"] == 64


def test_a_finished_folder_is_left_as_it_is_unless_it_is_to_be_overwritten(folder, capsys):
    """Refused at once, and by a run that is refused later; replaced whole, with what an earlier run merged."""
    out = folder / "twice"
    assert unlearn(folder, "twice", *LORA, "--merge") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    first = read_ledger(out)
    capsys.readouterr()
    assert unlearn(folder, "twice") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"the output folder {out}, which holds a finished model" in error
    assert "--overwrite_output_dir" in error
    assert unlearn(folder, "twice", "--overwrite_output_dir", "--eval_strategy", "steps") == 2  # no rows to evaluate
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert unlearn(folder, "twice", "--overwrite_output_dir") == 0
    names = {path.name for path in out.iterdir()}
    assert not names & {"merged", "adapter_config.json", "adapter_model.safetensors", "_lock", "_publishing"}
    assert not names & {"_unfinished", "_scan"}
    assert "merged" not in record(folder, "twice/_run.json")["probability"]
    assert record(folder, "twice/unlearning.json")["adapter"] is None
    assert read_ledger(out / "_overwritten" / "1") == first
    assert record(folder, "twice/_overwritten/1/_run.json")["adapter"] is not None
    assert verify(folder, "twice", "twice") == 0


def test_the_base_of_an_adapter_is_not_written_to(folder, capsys):
    before = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    assert unlearn(folder, "model", model_name_or_path=folder / "adapter") == 2
    assert "expected an output folder outside the model's folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (folder / "model").iterdir()} == before


def test_an_adapter_that_lacks_weights_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "adapter", tmp_path / "cut")
    path = tmp_path / "cut" / "adapter_model.safetensors"
    weights = load_file(path)
    gone = sorted(weights)[0]
    save_file({name: weight for name, weight in weights.items() if name != gone}, path)
    assert verify(folder, "adapter", tmp_path / "cut") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'cut'}, which lacks 1 weights" in said
    assert gone in said


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda run: run.pop("adapter"), "adapter"),
        (lambda run: run["reading"].pop("seed"), "reading"),
        (lambda run: run["probability"].pop("after"), "probability"),
        (lambda run: run["probability"]["after"].pop("forget"), "probability"),
        (lambda run: run["probability"]["after"].update(forget="0.1"), "probability"),
        (lambda run: run["probability"]["after"].update(forget=float("inf")), "probability"),
        (lambda run: run["rows"].pop("forget"), "rows"),
        (lambda run: (run["probability"]["after"].pop("forget"), run["sources"].pop("forget")), "probability"),
        (lambda run: run["probability"]["after"].update(forget=1.5), "probability"),
        (lambda run: run.pop("files"), "files"),
        (lambda run: run.update(secrets=[]), "secrets"),
    ],
)
def test_a_record_with_a_hole_verifies_nothing(folder, tmp_path, capsys, change, what):
    run = record(folder, "whole/_run.json")
    change(run)
    (tmp_path / "_run.json").write_text(json.dumps(run), encoding="utf-8")
    words = ["verify", str(tmp_path / "_run.json"), "--model", str(folder / "whole"), "--use_cpu"]
    assert_refused(words, tmp_path, capsys, f"_run.json, whose {what} is missing", error=DataError)


def test_a_resumed_run_tells_what_was_measured_before_its_first_step(folder):
    assert unlearn(folder, "fresh", "--resume_from_checkpoint", "true") == 0
    first = record(folder, "fresh/unlearning.json")["probability"]
    assert first.keys() == {"before", "after"}
    assert unlearn(folder, "fresh", "--resume_from_checkpoint", "true") == 0
    assert record(folder, "fresh/unlearning.json")["probability"] == first


# egup merge


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_merged_later_is_what_the_run_would_have_merged(folder, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    before = files_of(folder / "quantized")
    assert egup("merge", model_name_or_path=folder / "quantized", output_dir=tmp_path / "later") == 0
    assert f"Merged model in {tmp_path / 'later'}" in capsys.readouterr().out
    at_once, later = folder / "quantized" / "merged", tmp_path / "later"
    assert {path.name for path in later.iterdir()} == {path.name for path in at_once.iterdir()}
    expected, found = load_file(at_once / "model.safetensors"), load_file(later / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)  # dequantized without a flag
    assert is_merged(later)
    assert read_ledger(later) == read_ledger(at_once)
    assert (later / "README.md").read_text() == (at_once / "README.md").read_text()
    assert files_of(folder / "quantized") == before


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
    assert_refused(
        base, tmp_path, capsys, f"the output folder {folder / 'model' / 'x'}", "an output folder outside the model"
    )
    assert_refused([*words, str(folder / "plain"), "--lora_r", "8"], tmp_path, capsys, "--lora_r")


@pytest.mark.parametrize("kind", [None, "fp4", "nf4"])
@pytest.mark.usefixtures("fresh_accelerate")
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


def test_a_config_file_that_changes_during_the_run_is_recorded_as_it_was_read(folder, monkeypatch):
    """Reading it again at the end would record other flags, or lose the model where it can no longer be read."""
    file = folder / "changed.yaml"
    file.write_text("max_length: 64\n", encoding="utf-8")
    train = EGUPTrainer.train

    def train_and_edit(*args, **kwargs):
        found = train(*args, **kwargs)
        file.write_text("max_length: [\n", encoding="utf-8")
        return found

    monkeypatch.setattr(EGUPTrainer, "train", train_and_edit)
    assert unlearn(folder, "changed", "--config", str(file)) == 0
    assert record(folder, "changed/_run.json")["config_file"] == {"max_length": 64}


def test_an_adapter_is_kept_though_its_merge_is_interrupted(folder, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("egup_trainer.modeling.merging.save_merged", interrupt)
    assert unlearn(folder, "interrupted", *LORA, "--merge") == 130
    assert (folder / "interrupted" / "adapter_model.safetensors").is_file()
    assert verify(folder, "interrupted", "interrupted") == 0


def test_precision_of_a_launcher_and_dtype_among_other_arguments_are_recorded(folder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    kwargs = '{"dtype": "bfloat16"}'
    assert unlearn(folder, "launched", *LORA, model_init_kwargs=kwargs) == 0
    whole = record(folder, "launched/_run.json")
    assert (whole["mixed_precision"], whole["loading"]["dtype"]) == ("bf16", "bfloat16")
