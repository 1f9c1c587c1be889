"""Gradient norms of single texts. Each has a forward pass of its own, so they do not depend on the batch size."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.evaluation.rows import Text
from egup_trainer.evaluation.token_numbers import TokenNumbers
from egup_trainer.modeling.batches import autocast_of, device_of, evaluation_mode, iter_indices
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.loading import keep_gradients_of_4bit_layers
from egup_trainer.modeling.offloading import refuse_offloaded


def gradient_norms(
    model: nn.Module,
    reader: AnswerReader,
    texts: list[Text],
    dataset: RowDataset,
    collator: RowCollator,
    numbers: TokenNumbers,
    accelerator: Any = None,
    description: str | None = None,
    of_each_weight: bool = False,
) -> Tensor:
    """L2 norm of the gradient of each text's mean negative log-likelihood over all floating-point weights: (N,).

    Formula: |sum over pieces of grad L| / n, with L the negative log-likelihood of a piece, n the tokens of the text,
    both computed without the token that closes the answer; nan if no other token is left.

    The forward pass also fills `numbers`, so that these texts need no other one.

    With `of_each_weight`, as OpenUnlearning defines it: the mean over weights that have a gradient of |grad L| / n, a
    norm for each weight.

    Raises:
        ModelError: gradients cannot pass the model's 4-bit weights.
    """
    keep_gradients_of_4bit_layers(model)
    lengths = [sum(len(dataset.rows[piece]) for piece in text.pieces) for text in texts]
    device = device_of(model, accelerator)
    norms = torch.zeros(len(texts), device=device)
    with evaluation_mode(model), _all_require_gradients(model) as weights:
        for indices, counts in iter_indices(lengths, 1, accelerator, description):
            index = int(indices)
            sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
            is_reached = [False] * len(weights)
            for piece in texts[index].pieces:
                batch: dict[str, Any] = {name: value.to(device) for name, value in collator([dataset[piece]]).items()}
                with torch.enable_grad():
                    with autocast_of(accelerator):
                        outputs = reader(model, **batch, keep_logits=True)
                    recited = outputs.token_logps[: len(outputs.token_logps) - dataset.rows[piece].is_closed]
                    gradients = torch.autograd.grad(recited.sum(), weights, allow_unused=True)
                for place, gradient in enumerate(gradients):
                    if gradient is not None:
                        sums[place] += gradient
                        is_reached[place] = True
                numbers.keep(torch.tensor([piece][: int(counts)], dtype=torch.long), outputs, batch["labels"])
            if counts:
                pieces = list(texts[index].pieces)
                tokens = numbers.counts[pieces].sum() - int(dataset.rows[pieces[-1]].is_closed)
                # Rounded to float32 only once; a Mac's GPU has no float64.
                wide = torch.float32 if device.type == "mps" else torch.float64
                reached = [total for total, is_one in zip(sums, is_reached, strict=True) if is_one]
                of_weights = torch.stack([torch.linalg.vector_norm(total, dtype=wide).to(device) for total in reached])
                norm = of_weights.mean() if of_each_weight else torch.linalg.vector_norm(of_weights)
                norms[index] = norm / tokens
    return norms


@contextmanager
def _all_require_gradients(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The model's floating-point weights, all of which require gradients inside the context."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    refuse_offloaded(weights, "gradient norms")
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield weights
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
