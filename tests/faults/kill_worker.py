"""A run that is to be killed: everything on, a checkpoint at each step, resumed from whatever is there."""

from pathlib import Path

import conftest
import torch
from fixtures_trainer import weights_of
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback

from egup_trainer import EGUPConfig, EGUPTrainer, UnlearnConfig, UnlearnTrainer
from egup_trainer.modeling.loading import load_model

OPTIONS = {
    "workers": {"dataloader_num_workers": 2},
    "four bits": {"optim": "adamw_bnb_8bit"},
    "early stop": {"stop_retain_rise": 100.0},
}
"""By kind of run, what differs from the others. One that is to stop early starts from a model that knows no row."""


class TellWhenStarted(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        (Path(args.output_dir) / "started").touch()


def make_bases(folder: Path) -> None:
    """A model that has learned forget and retain rows, and one that has learned nothing."""
    tokenizer = conftest.make_tokenizer()
    config = conftest.make_tiny_model(tokenizer).config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16  # 4-bit weights come in blocks of 64
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "blank")
    teach(model, folder, tokenizer)
    model.save_pretrained(folder / "taught")


def teach(model, folder: Path, tokenizer) -> None:
    rows = conftest.qa_rows
    config = UnlearnConfig(
        output_dir=str(folder / "lessons"),
        objective="finetune",
        learning_rate=1e-2,
        num_train_epochs=80,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    UnlearnTrainer(model, config, rows(60, 62), rows(0, 10) + rows(20, 33), processing_class=tokenizer).train()


def load(kind: str, base: str):
    if kind != "four bits":
        return load_model(base)
    options = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    return load_model(base, quantization_config=BitsAndBytesConfig(load_in_4bit=True, **options))


def main(folder: Path, kind: str) -> None:
    tokenizer = conftest.make_tokenizer()
    torch.set_num_threads(1)
    config = EGUPConfig(
        output_dir=str(folder),
        objective="npo",
        verdict=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        clreg_weight=0.5,
        inter_entanglement=True,
        intra_entanglement=True,
        inter_neighbors=2,
        stop_at_boundary=True,
        learning_rate=1e-3,
        num_train_epochs=4,
        per_device_train_batch_size=2,
        save_steps=1,
        save_total_limit=3,
        logging_steps=1,
        **OPTIONS.get(kind, {}),
    )
    adapter = LoraConfig(r=4, target_modules="all-linear") if kind in ("lora", "four bits") else None
    rows = conftest.qa_rows
    trainer = EGUPTrainer(
        load(kind, str(folder.parents[1] / ("blank" if kind == "early stop" else "taught"))),
        config,
        rows(0, 10),
        rows(20, 33),
        rows(40, 46),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[TellWhenStarted()],
    )
    trainer.train(resume_from_checkpoint=True)
    if trainer.accelerator.is_main_process:
        state = {f"state {name}": value for name, value in trainer.training_state().items()}
        steps = {"steps": torch.tensor(trainer.state.global_step)}
        torch.save({**weights_of(trainer), **state, **steps}, folder / "end.partial")
        (folder / "end.partial").replace(folder / "end.pt")
