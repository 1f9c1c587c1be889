"""Run under torchrun by test_ddp.py: trains on this process's share and writes what every process ended with."""

import sys
from pathlib import Path

import conftest
import torch
from fixtures_trainer import weights_of

from egup_trainer import EGUPConfig, EGUPTrainer


def main(folder: Path, batch: int, accumulation: int, resume: str) -> None:
    tokenizer = conftest.make_tokenizer()
    model = conftest.make_tiny_model(tokenizer)
    config = EGUPConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        objective="npo",
        retain_loss="kl",
        kl_top_k=8,
        clreg_weight=0.5,
        inter_entanglement=True,
        intra_entanglement=True,
        inter_neighbors=2,
        proxy_match="nearest",
        bank_size=16,
        optim="sgd",
        learning_rate=0.2,
        num_train_epochs=3,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        save_steps=3,
        max_grad_norm=0.0,
        seed=5,
    )
    rows = conftest.qa_rows
    trainer = EGUPTrainer(model, config, rows(0, 10), rows(20, 33), rows(40, 46), processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=resume or None)
    record = {
        "world_size": trainer.accelerator.num_processes,
        "wrapped": type(trainer.model_wrapped).__name__,
        "weights": weights_of(trainer),
        "guide": trainer.guide.state_dict(),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "pairs": [trainer.pair_sampler.pairs(epoch) for epoch in range(3)],
        "batches": list(trainer.pair_sampler),
    }
    torch.save(record, folder / f"rank{trainer.accelerator.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "")
