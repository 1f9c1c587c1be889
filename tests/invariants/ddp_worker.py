"""A process of the tests of DDP, FSDP2 and DeepSpeed: trains on its share and writes how it ended."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import conftest
import torch
from fixtures_audit import taught
from fixtures_trainer import weights_of

from egup_trainer import EGUPConfig, EGUPTrainer
from egup_trainer.components.scanning import is_spread_over_processes
from egup_trainer.data.sources import load_rows

FSDP2 = {
    "fsdp": True,
    "fsdp_config": {
        "fsdp_version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
    },
}


def allow_fsdp_on_cpu() -> None:
    """accelerate leaves processes on a CPU out of the kinds that FSDP is for: they call themselves another kind."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def begin_as_another_kind(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        if self._shared_state.get("distributed_type") is DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_XPU

    PartialState.__init__ = begin_as_another_kind


def deepspeed_of(kind: str) -> dict:
    """Options of a run under DeepSpeed ZeRO-2 or ZeRO-3. No weight is too small to be spread."""
    stage = int(kind.removeprefix("zero"))
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    options = {"zero_optimization": zero, "zero_allow_untested_optimizer": True, **dict.fromkeys(sizes, "auto")}
    return {"deepspeed": options}


def whole(trainer: EGUPTrainer) -> dict:
    """Weights of all processes, copied."""
    with gathered(trainer.model):
        weights = weights_of(trainer).items()
        return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in weights}


def gathered(model: torch.nn.Module) -> AbstractContextManager:
    """DeepSpeed's way to have its weights at hand, where it has spread them."""
    if not any(hasattr(weight, "ds_id") for weight in model.parameters()):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(model.parameters()))


def main(folder: Path, batch: int, accumulation: int, resume: str, kind: str, forget: int) -> None:
    tokenizer = conftest.make_tokenizer()
    model = conftest.make_tiny_model(tokenizer)
    if "tied" in kind:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    if "taught" in kind:
        taught(tokenizer, load_rows([*conftest.qa_rows(0, forget), *conftest.qa_rows(20, 33)]), model=model).train()
    engine = {}
    if "fsdp2" in kind:
        allow_fsdp_on_cpu()
        engine = FSDP2
    elif "zero" in kind:
        engine = deepspeed_of(kind)
    expected: dict = {"objective": "proxy_kl"} if "expected" in kind else {}
    if "base" in kind:
        conftest.make_tiny_model(tokenizer, seed=1).save_pretrained(folder / f"base{os.environ['RANK']}")
        expected["proxy_model"] = str(folder / f"base{os.environ['RANK']}")
    config = EGUPConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        retain_loss="kl",
        kl_top_k=8,
        clreg_weight=0.5,
        inter_entanglement=True,
        intra_entanglement=True,
        inter_neighbors=2,
        proxy_match="nearest",
        bank_size=16,
        optim="sgd",
        # At ten times this, differences in rounding grow from step to step beyond 1e-5.
        learning_rate=None if "auto" in kind else 0.02,
        num_train_epochs=3,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        save_steps=3,
        max_grad_norm=0.0,
        seed=5,
        verdict="auto" in kind,
        self_samples=2 if "samples" in kind else 0,
        forget_sharpness=0.05 if "sharp" in kind else 0.0,
        **{"objective": "npo", **expected, **engine},
    )
    rows = conftest.qa_rows
    trainer = EGUPTrainer(model, config, rows(0, forget), rows(20, 33), rows(40, 46), processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=resume or None)
    record = {
        "world_size": trainer.accelerator.num_processes,
        "wrapped": type(trainer.model_wrapped).__name__,
        "weights": whole(trainer),
        "is_spread": is_spread_over_processes(trainer.model),
        "guide": trainer.training_state(),
        "verdict": trainer.verdict and trainer.verdict.lines,
        "measured": [
            {name: asdict(measured) for name, measured in found.items()}
            for found in (trainer.measuring.before, trainer.measuring.after)
        ],
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "pairs": [trainer.pair_sampler.pairs(epoch) for epoch in range(3)],
        "batches": list(trainer.pair_sampler),
    }
    torch.save(record, folder / f"rank{trainer.accelerator.process_index}.pt")
