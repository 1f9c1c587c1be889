"""A small Llama made in memory, trained on rows; and its twin that never saw the forget set."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from egup_trainer.callbacks.progress import BarOnly
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset


@dataclass(frozen=True)
class ModelSize:
    """Shape of the small Llama: hidden size, layers, attention heads and most entries of the vocabulary."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1500


@dataclass(frozen=True)
class Schedule:
    """How rows are learned: epochs, learning rate, rows per step."""

    epochs: float
    learning_rate: float
    batch_size: int = 16


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>")


def make_model(tokenizer: PreTrainedTokenizerFast, size: ModelSize, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights; the same seed gives the same weights."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def learn(
    model: Any, rows: list[RowDataset], tokenizer: PreTrainedTokenizerFast, schedule: Schedule, folder: str, seed: int
) -> Any:
    """Trains the model on all rows with a plain `transformers.Trainer`."""
    args = TrainingArguments(
        output_dir=folder,
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        per_device_train_batch_size=schedule.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        seed=seed,
    )
    dataset: Any = torch.utils.data.ConcatDataset(rows)
    trainer = Trainer(model, args, RowCollator(tokenizer), train_dataset=dataset)
    BarOnly.replace_in(trainer)
    trainer.train()
    return model
