"""Soft prompts: whether a few trained vectors before the question open what was forgotten.

The embedding-space attack of Schwinn et al. 2024, arXiv 2402.09063, in its universal form: one prompt for all rows,
trained on a few forget rows and measured on the others. A prompt for each row is left out on purpose: it can force any
text out of any model (Chen et al. 2025, arXiv 2502.15836), so that it says nothing of what the model has forgotten.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egup_trainer.audit.attack import Curve, Finding, Target, given_and_held_back, too_few
from egup_trainer.audit.audit_options import FEWEST_ROWS
from egup_trainer.audit.held_back import GIVEN, HELD_BACK, HOLDOUT, Probabilities, Prompted
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import IGNORE_INDEX, TokenizedRow
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import TooFewPositionsError
from egup_trainer.modeling.batches import device_of, evaluation_mode
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.limits import check_positions
from egup_trainer.modeling.outputs import AnswerOutputs

NUM_VECTORS = 8
"""Vectors of the prompt."""
RATE = 0.1
"""Learning rate of Adam, as a share of the embeddings' root mean square."""
_POINTS = 10  # of a curve, beside the one before the first step


def soft_prompts(target: Target) -> Finding:
    """Trains one soft prompt on the forget rows that an attacker is given, and measures the rows that are held back."""
    if len(target.forget) <= FEWEST_ROWS:
        return Finding(reason=too_few(len(target.forget)))
    given, held_back = given_and_held_back(target.options, len(target.forget))
    rows = {
        GIVEN: target.tokenized([target.forget[i] for i in given], "forget set", given),
        HELD_BACK: target.tokenized([target.forget[i] for i in held_back], "forget set", held_back),
    }
    if HOLDOUT in target.sets:
        rows[HOLDOUT] = target.tokenized(target.sets[HOLDOUT], "holdout set")
    numbers = {GIVEN: given, HELD_BACK: held_back}
    prompt = SoftPrompt(target, rows[GIVEN])
    try:
        points = {0: prompt.measure(rows)}
    except TooFewPositionsError as error:
        return Finding(reason=str(error))
    plain = _named(prompt.measure(rows, with_vectors=False), numbers)
    steps = target.options.soft_prompt_steps
    for step in prompt.train(steps, target.options.title("Training a soft prompt")):
        if step % max(1, steps // _POINTS) == 0 or step == steps:
            points[step] = prompt.measure(rows)
    attacked = _named(points[steps], numbers)
    curves: dict[str, Curve] = {
        name: [(step, float(values[name].mean())) for step, values in points.items()] for name in rows
    }
    return Finding(Prompted(plain, attacked).metrics(target, "soft_prompts"), curves)


class SoftPrompt:
    """Vectors at the start of the text, after its first token if that begins every text, trained by Adam on mean l_i.

    They start as the embedding of "!" and are float32 whatever the model's own numbers are. The model's weights stay
    as they are: no gradient of theirs is computed.

    Args:
        given: the rows to train on.

    Raises:
        ModelError: a text with the vectors has more tokens than the model has positions.

    Example:
        >>> # prompt = SoftPrompt(target, given)
        >>> # for step in prompt.train(steps=50): ...
        >>> # prompt.measure({"forget": others})["forget"].mean()
    """

    def __init__(self, target: Target, given: RowDataset):
        self._target, self._given = target, given
        self._reader = AnswerReader(target.model)
        bos = target.tokenizer.bos_token_id
        self._bos = -1 if bos is None else bos
        self._token = (target.tokenizer.encode("!", add_special_tokens=False) or [0])[0]
        model: Any = target.model
        embedding, device = model.get_input_embeddings(), device_of(model, None)
        ids = torch.from_numpy(np.concatenate([row.input_ids for row in given.rows])).long().to(device)
        with torch.no_grad():
            embedded = embedding(ids).float()
        self._scale = float(embedded.square().mean().sqrt())
        self.vectors = torch.zeros(NUM_VECTORS, embedded.shape[-1], device=device, requires_grad=True)
        """What is added to the embedding of "!", shape (K, d), float32."""

    def train(self, steps: int, description: str | None = None) -> Iterator[int]:
        """Takes the steps, each on all given rows, and yields the number of steps taken after each."""
        from tqdm.auto import tqdm

        rows, collator = self._with_places(self._given), RowCollator(self._target.tokenizer)
        optimizer = torch.optim.Adam([self.vectors], lr=RATE * self._scale)
        for step in tqdm(range(1, steps + 1), description, leave=False, disable=description is None):
            optimizer.zero_grad()
            self.vectors.grad = torch.zeros_like(self.vectors)
            with evaluation_mode(self._target.model), _frozen(self._target.model):
                for start in range(0, len(rows), self._target.options.batch_size):
                    ids = range(start, min(start + self._target.options.batch_size, len(rows)))
                    batch = collator([rows[i] for i in ids])
                    inputs = {name: value.to(self.vectors.device) for name, value in batch.items()}
                    loss = self._read(self._target.model, **inputs, with_features=False).mean_nll.sum() / len(rows)
                    self.vectors.grad += torch.autograd.grad(loss, self.vectors)[0]
            optimizer.step()
            yield step

    def measure(self, rows: dict[str, RowDataset], with_vectors: bool = True) -> dict[str, np.ndarray]:
        """exp(-l_i) of each row of each set, shape (R,), with the prompt as it is now, or without it."""
        read: Any = self._read if with_vectors else self._reader
        found = {}
        for name, dataset in rows.items():
            placed = self._with_places(dataset) if with_vectors else dataset
            found[name] = self._target.nll(placed, read).neg().exp().double().numpy()
        return found

    def _read(self, model: nn.Module, *, input_ids: Tensor, **reads: Any) -> AnswerOutputs:
        """The reader, with the vectors added where they have their places."""
        starts = (input_ids[:, :1] == self._bos).int()  # (B, 1)
        columns = starts + torch.arange(NUM_VECTORS, device=input_ids.device)  # (B, K)
        rows = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(columns)
        added = self.vectors.new_zeros(*input_ids.shape, self.vectors.shape[1])
        added = added.index_put((rows, columns), self.vectors.expand(len(input_ids), -1, -1))
        return self._reader(model, input_ids=input_ids, **reads, embedding_noise=added)

    def _with_places(self, rows: RowDataset) -> RowDataset:
        placed = [self._with_place(row) for row in rows.rows]
        longest = max(map(len, placed))
        check_positions(self._target.model, longest, "a text with a soft prompt", "lower --max_length")
        return RowDataset(placed)

    def _with_place(self, row: TokenizedRow) -> TokenizedRow:
        """The row with places for the vectors; the tokens that are scored stay the same."""
        start = int(row.input_ids[0] == self._bos)
        insert = partial(np.insert, obj=[start] * NUM_VECTORS)
        ids, labels = insert(row.input_ids, values=self._token), insert(row.labels, values=IGNORE_INDEX)
        if start == 0:
            labels[NUM_VECTORS] = IGNORE_INDEX  # the first token of a text: nothing comes before it to predict it from
        return replace(row, input_ids=ids, labels=labels)


def _named(values: dict[str, np.ndarray], numbers: Mapping[str, Sequence[int]]) -> Probabilities:
    """Numbers by row, where rows are counted within their whole set."""
    return {
        name: dict(zip(numbers.get(name, range(len(each))), each.tolist(), strict=True))
        for name, each in values.items()
    }


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within it, no weight has a gradient, so that none is computed and nothing is kept for it."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trainable:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trainable:
            weight.requires_grad_(True)
