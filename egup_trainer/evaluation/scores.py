"""The per-sample numbers that every metric is computed from."""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from egup_trainer.evaluation.definitions import Definitions


class RowRole(str, Enum):
    """What a row set is to the model; it decides which metrics the set gets and which direction is good."""

    FORGET = "forget"
    RETAIN = "retain"
    CHOICE = "choice"
    """Rows to keep with a right answer and wrong options (`Row.perturbed`): probability is taken among the options."""
    NEIGHBOR = "neighbor"
    """Rows on things that are related to what is to be forgotten, which should still be known."""
    UNSEEN = "unseen"
    """Rows that no model saw: only the retrained model's value is right."""


@dataclass(frozen=True)
class RougeForm:
    """Which number of rouge-score: the variant, recall or F1, and whether words are stemmed."""

    variant: str = "rougeL"
    part: str = "recall"
    use_stemmer: bool = True


@dataclass(frozen=True)
class SetUse:
    """What a row set is measured for.

    Args:
        role: what the rows are to the model.
        metrics: names of the set metrics to compute; None for all that fit the role.
        fluency: whether the set's generations are what fluency is measured on.
        perplexity: whether those generations are also read by the model before unlearning.
        definitions: whose definitions tokens and metrics follow.
    """

    role: RowRole = RowRole.RETAIN
    metrics: tuple[str, ...] | None = None
    rouge: RougeForm = RougeForm()
    fluency: bool = False
    perplexity: bool = True
    definitions: Definitions = Definitions.OURS


@dataclass(frozen=True)
class TextScores:
    """Numbers of one text with n answer tokens.

    Args:
        token_logps: log-probability of each answer token, shape (n,), nats, float64.
        greedy_match: whether the most likely token is the answer's, shape (n,), bool.
        token_z: (log p - mu) / sigma with mu = sum p log p and sigma^2 = max(sum p log^2 p - mu^2, 1e-6) over the
            vocabulary at each position, shape (n,), float64; None if it was not requested.
        is_closed: whether the last token closes the answer: an end of the turn or of the sequence.

    Example:
        >>> TextScores(np.log([0.5, 0.5]), np.array([True, False])).probability
        0.5
    """

    token_logps: np.ndarray
    greedy_match: np.ndarray
    token_z: np.ndarray | None = None
    is_closed: bool = False

    @property
    def recited(self) -> "TextScores":
        """The numbers without the token that closes the answer, which a model that recites on would not predict."""
        if not self.is_closed:
            return self
        z = None if self.token_z is None else self.token_z[:-1]
        return TextScores(self.token_logps[:-1], self.greedy_match[:-1], z)

    def __len__(self) -> int:
        return len(self.token_logps)

    @property
    def mean_nll(self) -> float:
        """avg = -mean of the tokens' log-probabilities, nats per token."""
        return float(-self.token_logps.mean())

    @property
    def probability(self) -> float:
        """exp(-avg)."""
        return float(np.exp(-self.mean_nll))


@dataclass(frozen=True)
class SampleScores:
    """Numbers of one row.

    Args:
        answers: of the answer and its alternatives; at least one.
        paraphrase: of the paraphrased answer, if the row has one.
        perturbed: of the wrong answers.
        references: texts of the right answers, which generations are compared with.
        generation: what the model wrote after the prompt, or None if it was not asked to.
        generation_nll: avg of the generation under the initial model, nats per token, if there was one.
        zlib_bytes: length of the answer's text, compressed by zlib.
        gradient_norm: L2 norm of the gradient of avg over all weights, without the token that closes the answer;
            nan if no other token is left, None if it was not requested.
    """

    answers: tuple[TextScores, ...]
    paraphrase: TextScores | None = None
    perturbed: tuple[TextScores, ...] = ()
    references: tuple[str, ...] = ()
    generation: str | None = None
    generation_nll: float | None = None
    zlib_bytes: int | None = None
    gradient_norm: float | None = None


@dataclass(frozen=True)
class SetScores:
    """Numbers of one row set.

    Args:
        features: mean hidden state over each answer's tokens, shape (N, d), float32, in the order of `samples`; None
            if not requested.
        use: what the set is measured for.
    """

    name: str
    samples: dict[int, SampleScores] = field(default_factory=dict)
    features: np.ndarray | None = None
    use: SetUse = SetUse()

    def __len__(self) -> int:
        return len(self.samples)
