"""A model's numbers on named row sets: each text is run once, however many metrics there are."""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egup_trainer.data.collator import RowCollator
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import check_layer, check_range
from egup_trainer.evaluation.gradient_norms import gradient_norms
from egup_trainer.evaluation.rows import RowSet, Text, TextKind, Texts, texts_of
from egup_trainer.evaluation.scores import SampleScores, SetScores
from egup_trainer.evaluation.token_numbers import GatheredNumbers, TokenNumbers
from egup_trainer.modeling.batches import autocast_of, device_of, is_first, iter_batches, merge_processes
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.generation import generate
from egup_trainer.modeling.limits import check_positions, check_token_ids


@dataclass(frozen=True)
class ScoringOptions:
    """How rows are scored.

    Args:
        batch_size: rows of up to 256 tokens in a forward pass; of longer rows there are fewer.
        feature_layer: layer that features are read from: a share of the depth, or an index.
        with_gradient_norms: whether the gradient norm of each member and non-member is computed: a backward pass each.
        progress: whether to show progress bars.

    Raises:
        ConfigError: a number is out of its range.
    """

    batch_size: int = 16
    feature_layer: float = 0.5
    with_gradient_norms: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_range(self, ("batch_size",), low=1, whole=True)
        check_layer(self, "feature_layer")


def score_sets(
    model: nn.Module,
    tokenizer: Any,
    row_sets: list[RowSet],
    options: ScoringOptions,
    accelerator: Any = None,
    texts: Texts | None = None,
) -> dict[str, SetScores]:
    """Scores every text of every set once, and generates for the sets that ask for it.

    Args:
        model: the model, possibly wrapped for training.
        accelerator: the `Accelerator` of a run on several processes, or None for one process. Every process ends with
            all results.
        texts: of the row sets from `texts_of`, if you have them.

    Raises:
        DataError, ModelError: a row cannot be tokenized, or the model is not a causal language model.
    """
    read = texts or texts_of(row_sets, tokenizer, options.progress and is_first(accelerator))
    scoring = _Scoring(model, tokenizer, options, accelerator, read)
    check_positions(scoring.bare, max(map(len, read.dataset.rows)), "a text", "lower --max_length")
    check_token_ids(scoring.bare, [row.input_ids for row in read.dataset.rows], "the rows")
    for each in row_sets:
        scoring.check_prompts(each)
    members = _answers(read.texts, [each for each in row_sets if each.with_membership])
    featured = _answers(read.texts, [each for each in row_sets if each.with_features])
    norms, numbers = scoring.numbers(members, featured)
    return {each.name: _collect(each, read, numbers, norms, scoring.generations(each)) for each in row_sets}


def _answers(texts: list[Text], row_sets: list[RowSet]) -> list[Text]:
    """The answer of each row of the sets; if there are several right ones, the first."""
    names = {row_set.name for row_set in row_sets}
    answers = [text for text in texts if text.kind is TextKind.ANSWER and text.row_set in names]
    firsts: dict[tuple[str, int], Text] = {}
    for text in answers:
        firsts.setdefault((text.row_set, text.sample), text)
    return list(firsts.values())


@dataclass(frozen=True)
class _Scoring:
    """A model and the texts that it is run on."""

    model: nn.Module
    tokenizer: Any
    options: ScoringOptions
    accelerator: Any
    read: Texts

    @property
    def dataset(self) -> RowDataset:
        """The texts' pieces."""
        return self.read.dataset

    @property
    def bare(self) -> nn.Module:
        """The model inside what wraps it for training."""
        return self.accelerator.unwrap_model(self.model) if self.accelerator else self.model

    def numbers(self, members: list[Text], featured: list[Text]) -> tuple[dict[Text, float], GatheredNumbers]:
        """Gradient norms of members and non-members, if requested, and the numbers of all tokens."""
        is_member, is_featured = self._pieces_of(members), self._pieces_of(featured)
        collator, reader = RowCollator(self.tokenizer), AnswerReader(self.bare, self.options.feature_layer)
        numbers = TokenNumbers(self.dataset, is_member, is_featured, device_of(self.bare, self.accelerator))
        norms: dict[Text, float] = {}
        todo = torch.arange(len(self.dataset))
        if self.options.with_gradient_norms and members:
            title = self._title("Gradient norms")
            values = gradient_norms(
                self.bare,
                reader,
                members,
                self.dataset,
                collator,
                numbers,
                self.accelerator,
                title,
                of_each_weight=bool(self.read.theirs),
            )
            norms = dict(zip(members, merge_processes({"": values}, self.accelerator)[""].tolist(), strict=True))
            todo = todo[~is_member]
        if len(todo):
            self._run(todo, reader, collator, numbers, bool(featured), self.options.batch_size)
            # A row without finite numbers spoils those that it shares a line or padding with: 0 * NaN.
            lost = numbers.drop_not_finite(self.accelerator, todo) if self.options.batch_size > 1 else todo[:0]
            if len(lost):
                self._run(lost, reader, collator, numbers, bool(featured), 1)
        return norms, numbers.gather(self.accelerator)

    @torch.no_grad()
    def _run(
        self,
        ids: Tensor,
        reader: AnswerReader,
        collator: RowCollator,
        numbers: TokenNumbers,
        with_features: bool,
        batch_size: int,
    ) -> None:
        for indices, batch in iter_batches(
            self.model,
            self.dataset,
            ids,
            collator,
            batch_size=batch_size,
            accelerator=self.accelerator,
            description=self._title("Scoring texts"),
        ):
            with autocast_of(self.accelerator):
                outputs = reader(self.model, **batch, with_features=with_features, keep_logits=True)
            numbers.keep(ids[indices.cpu()], outputs, batch["labels"])

    def check_prompts(self, row_set: RowSet) -> None:
        """Raises `TooFewPositionsError` if the model has no room for a prompt and what it is to write after it."""
        prompts = self._prompts(row_set)
        if row_set.generation is not None and prompts:
            needed = max(map(len, prompts.values())) + row_set.generation.max_new_tokens
            fix = "lower --max_new_tokens or shorten the prompts"
            check_positions(self.bare, needed, "prompt and new tokens", fix)

    def _prompts(self, row_set: RowSet) -> dict[int, np.ndarray]:
        """The token ids after which the model is to write, by sample id; those of rows with a prompt of any tokens."""
        prompts: dict[int, np.ndarray] = {}
        for text in _answers(self.read.texts, [] if row_set.generation is None else [row_set]):
            if row_set.rows[text.sample].prompt:
                answered, theirs = self.dataset.rows[text.pieces[0]], self.read.theirs.get((row_set.name, text.sample))
                prompts[text.sample] = answered.prompt if theirs is None else theirs.prompt
        return {sample: prompt for sample, prompt in prompts.items() if len(prompt)}

    def generations(self, row_set: RowSet) -> dict[int, str]:
        """What the model writes after each prompt of the set, by sample id."""
        if row_set.generation is None:
            return {}
        prompts = self._prompts(row_set)
        written = generate(
            self.bare,
            self.tokenizer,
            list(prompts.values()),
            max_new_tokens=row_set.generation.max_new_tokens,
            stop_words=row_set.generation.stop_words,
            batch_size=self.options.batch_size,
            accelerator=self.accelerator,
            description=self._title(f"Generating for {row_set.name} rows"),
        )
        return dict(zip(prompts, written, strict=True))

    def _pieces_of(self, texts: list[Text]) -> Tensor:
        """Which samples are pieces of the texts, bool, shape (S,)."""
        chosen = torch.zeros(len(self.dataset), dtype=torch.bool)
        chosen[[piece for text in texts for piece in text.pieces]] = True
        return chosen

    def _title(self, text: str) -> str | None:
        return text if self.options.progress else None


def _collect(
    row_set: RowSet,
    read: Texts,
    numbers: GatheredNumbers,
    norms: dict[Text, float],
    generations: dict[int, str],
) -> SetScores:
    by_kind: dict[tuple[int, TextKind], list[Text]] = {}
    for text in read.texts:
        if text.row_set == row_set.name:
            by_kind.setdefault((text.sample, text.kind), []).append(text)
    samples = {}
    for sample, row in enumerate(row_set.rows):
        answers, paraphrases, perturbed = (by_kind.get((sample, kind), []) for kind in TextKind)
        scored = tuple(numbers.text(text.pieces) for text in answers)
        theirs = read.theirs.get((row_set.name, sample))
        samples[sample] = SampleScores(
            answers=scored,
            paraphrase=next((numbers.text(text.pieces) for text in paraphrases), None),
            perturbed=tuple(numbers.text(text.pieces) for text in perturbed),
            references=(row.answer, *row.alternatives),
            generation=None if math.isnan(scored[0].mean_nll) else generations.get(sample),
            zlib_bytes=len(zlib.compress(row.answer.encode("utf-8"))) if theirs is None else theirs.zlib_bytes,
            gradient_norm=norms.get(answers[0]),
        )
    features = None
    if row_set.with_features:
        features = np.stack([numbers.features(by_kind[sample, TextKind.ANSWER][0].pieces) for sample in samples])
    return SetScores(row_set.name, samples, features, row_set.use)
