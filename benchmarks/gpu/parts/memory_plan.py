"""What `egup plan` estimates for a GPU, beside the peak of `egup unlearn` with the same flags there."""

import torch

from benchmarks.gpu.cases import Case, Findings, SkipCase
from benchmarks.gpu.place import SETS, Place
from benchmarks.plan import GUIDED, planned
from egup_trainer.demo.twins import ModelSize, make_model
from egup_trainer.modeling.loading import load_tokenizer
from egup_trainer.planning.plan import MARGIN

SETTINGS: dict[str, tuple[str, ...]] = {
    "all weights": (*GUIDED, "--per_device_train_batch_size", "32"),
    "LoRA on 4 bits": (
        *("--use_peft", "--lora_r", "16", "--lora_target_modules", "all-linear", "--load_in_4bit"),
        *("--use_bnb_nested_quant", "--per_device_train_batch_size", "32"),
    ),
    "checkpointing, 8 x 4 pairs": (
        *("--gradient_checkpointing", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "4"),
    ),
}
"""Flags of each setting, beside those that all share."""
VOCABULARY = 32_000


def memory_plan(place: Place, findings: Findings) -> None:
    """Three settings of a model of 170 million random weights. Estimated for a GPU, wherever this runs."""
    folder = place.folder / "to_plan"
    tokenizer = load_tokenizer(str(place.model))
    model = make_model(tokenizer, ModelSize(64, 2, 1) if place.dry else ModelSize(1024, 12, 16), seed=0)
    model.resize_token_embeddings(VOCABULARY // (10 if place.dry else 1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    for number, (name, flags) in enumerate(SETTINGS.items()):
        with findings.case(name) as case:
            words = ["--model_name_or_path", str(folder), "--output_dir", str(place.folder / f"planned_{number}")]
            words += [word for each in SETS for word in (f"--{each}", str(place.source(each)))]
            words += ["--max_steps", "3", "--learning_rate", "1e-4", "--save_strategy", "no"]
            words += ["--report_to", "none", "--disable_tqdm", "true", *flags]
            _compare(case, words, place)


def _compare(case: Case, words: list[str], place: Place) -> None:
    from egup_trainer.cli.unlearn import COMMAND

    found = planned([*words, "--memory_gb", "16"] if place.dry else words)
    case.measured |= {"estimated_gb": found["estimated_gb"], "phases": found["phases"]}
    if place.dry:
        raise SkipCase(f"estimated {found['estimated_gb']:.3f} GB; only a GPU's allocator tells what was taken")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    COMMAND.main(words)
    measured = torch.cuda.max_memory_allocated() / 1e9
    ratio = found["estimated_gb"] / measured
    case.measured |= {"measured_gb": measured, "ratio": ratio}
    case.near("estimated / measured", [ratio], [1.0], MARGIN)
