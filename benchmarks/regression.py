"""Short recorded runs that show whether a change leaves the numbers as they were: `python -m benchmarks.regression`.

Each case trains a small model for a few steps on a CPU with one thread, through the public API alone, and records all
logged values and a fingerprint of the final weights. `record FILE` writes one line per case, `compare FILE` runs the
cases again and names every value that differs. On the same machine and versions, a change that only moves code leaves
all values within 1e-6; another CPU may differ by more. The committed table is benchmarks/results/regression.jsonl.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
)

from benchmarks import tables
from benchmarks.tables import Line, read_table
from egup_trainer import EGUPConfig, EGUPTrainer, UnlearnConfig, UnlearnTrainer
from egup_trainer.cli.terminal import quiet_libraries
from egup_trainer.records.facts import run_facts
from egup_trainer.records.schema import ADAPTER_OFF

TABLE = tables.RESULTS / "regression.jsonl"
TOLERANCE = 1e-6
"""Largest allowed difference, as a share of the largest value of its series."""
_NOT_COMPARED = ("second", "runtime", "memory", "flos", "epoch", "step")
"""Logged keys with one of these words are times, memory or counts."""

_NAMES = ["Ada Lorn", "Bo Quill", "Cleo Marsh", "Dov Ember", "Ines Vale", "Jon Frost", "Kaia Stone", "Leo Birch"]
_TOWNS = ["Aren", "Bryle by the northern sea", "Corvo", "Denna in the hills"]
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Case:
    """A recorded run.

    Args:
        options: of the configuration.
        egup: whether it is an `EGUPTrainer`, or an `UnlearnTrainer`.
        lora: whether it trains an adapter.
        four_bit: whether the frozen weights have four bits.
        processes: how many processes train together.
        resume: the step whose checkpoint the recorded run starts from, or 0.
        model: "llama" or "gemma3".
        proxies: whether an `EGUPTrainer` gets proxies.
        source: of expected outputs, besides proxies: "untaught" (the model before it was taught), or "adapter_off"
            (only an adapter was taught).
    """

    options: dict[str, Any] = field(default_factory=dict)
    egup: bool = True
    lora: bool = False
    four_bit: bool = False
    processes: int = 1
    resume: int = 0
    model: str = "llama"
    proxies: bool = True
    source: str = ""


def _plain(objective: str, **options: Any) -> Case:
    return Case({"objective": objective, **options}, egup=False)


_BOTH = {"inter_entanglement": True, "intra_entanglement": True, "inter_neighbors": 3}
_ALL = {"objective": "npo", **_BOTH, "clreg_weight": 0.5}
_PROXY_KL = {"objective": "proxy_kl", "expected_top_k": 16}
_RMU = {"rmu_layer": -1, "rmu_steering": 20.0, "learning_rate": 1.0}

CASES = {
    # objectives alone
    "grad_diff": _plain("grad_diff"),
    "grad_ascent": _plain("grad_ascent"),
    "npo": _plain("npo", forget_weight=0.7, retain_weight=1.3),
    "npo_kl_top_k": _plain("npo", retain_loss="kl", kl_top_k=8),
    "npo_kl_frozen_copy": _plain("npo", retain_loss="kl", kl_top_k=0),
    "simnpo": _plain("simnpo", simnpo_beta=2.0, simnpo_delta=0.1),
    "wga": _plain("wga", wga_beta=0.5),
    "satimp": _plain("satimp", satimp_beta1=1.0),
    "ceu": _plain("ceu"),
    "undial": _plain("undial", undial_strength=5.0),
    "dpo": _plain("dpo", learning_rate=2e-4),
    "altpo": _plain("altpo", dpo_beta=0.2, learning_rate=0.01),
    "rmu": _plain("rmu", **_RMU),
    "pdu": _plain("pdu", pdu_dual_start=2.0, pdu_dual_rate=0.5, learning_rate=0.001),
    "task_vector": _plain("task_vector", task_vector_scale=0.5),
    "finetune": _plain("finetune", optim="adamw_torch", learning_rate=1e-3),
    # EGUP
    "egup_effort": Case({"objective": "grad_diff", **_BOTH}),
    "egup_penalty": Case({"objective": "npo", **_BOTH, "proxy_form": "penalty", "proxy_match": "mean"}),
    "egup_npo_beta_auto": Case({"objective": "npo", "npo_beta": "auto"}),
    "egup_projected": Case({"objective": "grad_diff", **_BOTH, "cache_dim": 8, "bank_size": 6}),
    "egup_rmu": Case({"objective": "rmu", **_RMU, **_BOTH, "clreg_weight": 0.5}),
    "egup_pdu": Case({"objective": "pdu", "pdu_dual_start": 2.0, "learning_rate": 0.001}),
    "egup_stop_at_boundary": Case({"objective": "grad_diff", "num_train_epochs": 8, "stop_at_boundary": True}),
    "egup_undial_scores": Case({"objective": "undial", **_BOTH, "retain_loss": "kl", "kl_top_k": 0}),
    # expected outputs
    "proxy_kl": Case(_PROXY_KL),
    "proxy_kl_model": Case(_PROXY_KL, proxies=False, source="untaught"),
    "proxy_kl_model_and_proxies": Case(_PROXY_KL, source="untaught"),
    "proxy_kl_adapter_off": Case({**_PROXY_KL, "learning_rate": 0.2}, proxies=False, source=ADAPTER_OFF),
    "proxy_kl_lora": Case({**_PROXY_KL, "learning_rate": 0.2}, lora=True),
    "proxy_kl_weights_clreg": Case({**_PROXY_KL, **_BOTH, "clreg_weight": 0.5}),
    # CLReg
    "clreg_forget": Case({**_ALL, "clreg_positives": "forget"}),
    "clreg_views": Case({**_ALL, "clreg_positives": "views", "clreg_retain_anchor": 0.5}),
    "clreg_paraphrase": Case({**_ALL, "clreg_positives": "paraphrase"}),
    # how it trains
    "lora": Case({**_ALL, "learning_rate": 0.2}, lora=True),
    "lora_4bit": Case({**_ALL, "learning_rate": 0.2}, lora=True, four_bit=True),
    "two_processes": Case({**_ALL, "per_device_train_batch_size": 2}, processes=2),
    "resumed": Case({**_ALL, "optim": "adamw_torch", "learning_rate": 1e-3}, resume=2),
    "accumulation": Case({**_ALL, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    "packed": Case({**_ALL, "padding_free": True, "retain_loss": "kl", "kl_top_k": 8}),
    "padded": Case({**_ALL, "padding_free": False, "retain_loss": "kl", "kl_top_k": 8}),
    "group_by_length": Case({**_ALL, "train_sampling_strategy": "group_by_length"}),
    "windows": Case({**_ALL, "max_length": 37}),
    "checkpointing": Case({**_ALL, "gradient_checkpointing": True}),
    "gemma3": Case({**_ALL, "learning_rate": 0.01}, model="gemma3"),
}


def rows(start: int, stop: int) -> list[dict[str, str]]:
    """Invented questions and answers, all different and of different lengths."""
    return [
        {
            "question": f"Where does {_NAMES[i % 8]} number {i} live?",
            "answer": f"{_NAMES[i % 8]} number {i} lives in {_TOWNS[i % 4]} with {i % 7 + 2} cats.",
            "paraphrased_answer": f"The home of {_NAMES[i % 8]} is {_TOWNS[i % 4]}, with {i % 7 + 2} cats.",
            "alternate_answer": f"{_NAMES[i % 8]} number {i} lives in {_TOWNS[(i + 1) % 4]} with {i % 5 + 3} dogs.",
        }
        for i in range(start, stop)
    ]


_LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
FORGET, RETAIN, PROXY = rows(0, 10), rows(20, 33), rows(40, 46)


@cache
def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [text for row in rows(0, 100) for text in row.values()]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


def _untaught(kind: str) -> Any:
    tokenizer = make_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    size = {"vocab_size": len(tokenizer), **_SIZES, **ids}
    config = (
        Gemma3TextConfig(**size, head_dim=16, final_logit_softcapping=5.0, sliding_window=16)
        if kind == "gemma3"
        else LlamaConfig(**size)
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@cache
def _taught(kind: str, only_adapter: bool = False) -> Any:
    """A model that has seen the forget and the retain rows, so that no loss starts at a value that says nothing."""
    tokenizer, model = make_tokenizer(), _untaught(kind).train()
    if only_adapter:
        model = get_peft_model(model, LoraConfig(**_LORA))
    texts = [f"Question: {row['question']}\nAnswer: {row['answer']}<eos>" for row in FORGET + RETAIN]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    kind_of = torch.optim.Adam if only_adapter else partial(torch.optim.SGD, momentum=0.9)
    optimizer = kind_of(trained, lr=0.02 if only_adapter else 0.5)
    for _ in range(40):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    return model


def _model_of(case: Case, folder: Path) -> Any:
    model = copy.deepcopy(_taught(case.model, only_adapter=case.source == ADAPTER_OFF))
    if not case.four_bit:
        return model
    model.save_pretrained(folder / "model")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    return AutoModelForCausalLM.from_pretrained(folder / "model", quantization_config=quantization)


def _trainer_of(case: Case, folder: Path) -> UnlearnTrainer:
    defaults = {
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "optim": "sgd",
        "learning_rate": 0.05,
        "max_grad_norm": 0.0,  # clipping would hide how large a loss is
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "steps" if case.resume else "no",
        "save_steps": case.resume or 500,
    }
    config = EGUPConfig if case.egup else UnlearnConfig
    adapter = {"peft_config": LoraConfig(**_LORA)} if case.lora else {}
    proxies = {"proxy_dataset": PROXY} if case.egup and case.proxies else {}
    if case.source:
        defaults["proxy_model"] = case.source
    if case.source == "untaught":
        defaults["proxy_model"] = str(folder / "untaught")
        _untaught(case.model).save_pretrained(folder / "untaught")
    trainer = (EGUPTrainer if case.egup else UnlearnTrainer)(
        _model_of(case, folder),
        config(**{**defaults, **case.options}),
        forget_dataset=FORGET,
        retain_dataset=RETAIN,
        processing_class=make_tokenizer(),
        **proxies,
        **adapter,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def run_case(case: Case, folder: Path) -> dict[str, Any]:
    """Runs a case in this process; its logged values and the fingerprint of its weights."""
    torch.set_num_threads(1)
    trainer = _trainer_of(case, folder)
    trainer.train()
    if case.resume:
        trainer = _trainer_of(case, folder)
        trainer.train(resume_from_checkpoint=str(folder / "out" / f"checkpoint-{case.resume}"))
    logged: dict[str, list[float]] = {}
    for entry in trainer.state.log_history:
        for key, value in entry.items():
            if not any(word in key for word in _NOT_COMPARED):
                logged.setdefault(key, []).append(_rounded(value))
    weights = {name: fingerprint(weight) for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    return {"logged": logged, "weights": weights}


def fingerprint(weight: torch.Tensor) -> dict[str, list[float]]:
    """Sum, length and eight values of a tensor, in float64."""
    values = weight.detach().double().flatten()
    some = values[torch.linspace(0, len(values) - 1, 8).long()]
    return {
        "sum": [_rounded(values.sum().item())],
        "norm": [_rounded(values.norm().item())],
        "values": [_rounded(value) for value in some.tolist()],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def run_apart(name: str, folder: Path) -> dict[str, Any]:
    """Runs a case in processes of its own, started by torchrun; the first one's results."""
    result = folder / "result.jsonl"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={CASES[name].processes}"]
    command = [*start, "-m", "benchmarks.regression", "run", name, str(result)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    return Line(result, name).read()


def run_cases(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs cases one after another."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            case = CASES[name]
            found = run_apart(name, Path(folder)) if case.processes > 1 else run_case(case, Path(folder))
            print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
            yield name, found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """By series, the largest difference as a share of the largest value; infinite where one of them is missing."""
    old, new = _series(expected), _series(found)
    shares = {}
    for name in {**old, **new}:
        if len(old.get(name, ())) != len(new.get(name, ())):
            shares[name] = float("inf")
            continue
        scale = max([1e-9, *map(abs, old[name]), *map(abs, new[name])])
        if name == "weights_unmoved":  # a share of all weights
            scale = 1.0
        if name.endswith(".sum"):  # of values that may cancel each other
            scale = max(scale, *old[name.removesuffix("sum") + "norm"])
        shares[name] = max(abs(a - b) for a, b in zip(old[name], new[name], strict=True)) / scale
    return shares


def _series(line: dict[str, Any]) -> dict[str, list[float]]:
    weights = {f"{name}.{kind}": values for name, kinds in line["weights"].items() for kind, values in kinds.items()}
    return {**line["logged"], **weights}


def compare(table: Path, names: list[str], tolerance: float = TOLERANCE) -> dict[str, dict[str, float]]:
    """Runs cases again and prints how far each is from its line; the series that differ by more than `tolerance`."""
    lines, wrong = read_table(table), {}
    for name, found in run_cases(names):
        if name not in lines:
            print(f"{name}: not recorded")
            continue
        shares = differences(lines[name], found)
        print(f"{name}: largest difference {max(shares.values()):.1e}", flush=True)
        beyond = {key: share for key, share in shares.items() if not share <= tolerance}
        for key, share in sorted(beyond.items(), key=lambda item: -item[1])[:8]:
            print(f"    {key}: {share:.1e}")
        if beyond:
            wrong[name] = beyond
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Records, compares, or runs one case; the exit status is 1 if something differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["record", "compare", "run"], help="`run` writes the one case that is named.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="Cases; by default all.")
    parser.add_argument("file", type=Path, help="The table, as benchmarks/results/regression.jsonl.")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = parser.parse_args(argv)
    quiet_libraries()
    names = options.names or list(CASES)
    if options.action == "run":
        with tempfile.TemporaryDirectory() as folder:
            shared = os.environ.get("TORCHELASTIC_RUN_ID", "")
            found = run_case(CASES[names[0]], Path(folder) if not shared else options.file.parent)
        if os.environ.get("RANK", "0") == "0":
            Line(options.file, names[0]).write(found)
        return 0
    if options.action == "record":
        for name, found in run_cases(names):
            Line(options.file, name).write(
                {**found, "run": run_facts(command="python -m benchmarks.regression record")}
            )
        return 0
    wrong = compare(options.file, names, options.tolerance)
    print(f"{len(wrong)} of {len(names)} runs differ by more than {options.tolerance:g}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
