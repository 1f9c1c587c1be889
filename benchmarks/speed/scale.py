"""Time of a step by the number of forget rows: the cache of all of them must cost nothing that grows."""

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.speed.measure import StepClock
from egup_trainer.config import EGUPConfig
from egup_trainer.data.schema import IGNORE_INDEX
from egup_trainer.egup import EGUPTrainer

VOCABULARY, LENGTH, PROMPT = 512, 16, 6
RETAIN, PROXIES = 1000, 100


def compare_sizes(small: int, large: int, steps: int, rounds: int) -> dict[str, Any]:
    """Both sizes in turn: seconds a step of each round, and the median ratio of the large to the small."""
    found = {str(size): [] for size in (small, large)}
    with TemporaryDirectory() as folder:
        for _ in range(rounds):
            for size, seconds in found.items():
                seconds.append(_run(int(size), steps, Path(folder) / size))
    pairs = zip(found[str(large)], found[str(small)], strict=True)
    return {"seconds": found, "ratio": statistics.median(one / other for one, other in pairs)}


def _run(num_forget: int, steps: int, folder: Path) -> float:
    """Seconds a step; the scan in `folder` is made by the first run."""
    clock = StepClock()
    make_trainer(num_forget, steps, folder, [clock]).train()
    return statistics.median(clock.seconds)


def make_trainer(
    num_forget: int, steps: int, folder: Path, callbacks: list[TrainerCallback], **options: Any
) -> EGUPTrainer:
    """A trainer on made-up rows, all different, with both entanglements, the proxy constraint and CLReg."""
    sizes = {"forget": num_forget, "retain": RETAIN, "proxy": PROXIES}
    draw = np.random.default_rng(0)
    return EGUPTrainer(
        _model(),
        EGUPConfig(
            str(folder),
            scan_cache_dir=str(folder / "_scan"),  # kept for the next round
            max_steps=steps,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=512,
            objective="npo",
            clreg_weight=0.1,
            inter_entanglement=True,
            intra_entanglement=True,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            verdict=False,
            **{"save_strategy": "no", **options},
        ),
        processing_class=_tokenizer(),
        callbacks=callbacks,
        **{f"{name}_dataset": _rows(size, draw) for name, size in sizes.items()},
    )


def _rows(count: int, draw: np.random.Generator) -> list[dict[str, np.ndarray]]:
    ids = draw.integers(1, VOCABULARY, (count, LENGTH)).astype(np.int32)
    labels = np.where(np.arange(LENGTH) < PROMPT, IGNORE_INDEX, ids).astype(np.int32)
    return [{"input_ids": row, "labels": scored} for row, scored in zip(ids, labels, strict=True)]


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config)


def _tokenizer() -> Any:
    from egup_trainer.demo.twins import train_tokenizer

    return train_tokenizer(["a tokenizer that nothing is read with"], VOCABULARY)
