"""The per-sample numbers that every metric is a function of."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TextScores:
    """Numbers of one text with n answer tokens.

    Args:
        token_logps: log-probability of each answer token, shape (n,), nats, float64.
        hits: whether the most likely token is the answer's, shape (n,), bool.
        token_z: (log p - mu) / sigma with mu = sum p log p and sigma^2 = max(sum p log^2 p - mu^2, 1e-6) over the
            vocabulary at each position, shape (n,), float64; None where it was not asked for.
        is_closed: whether the last token closes the answer: an end of the turn or of the sequence.

    Example:
        >>> TextScores(np.log([0.5, 0.5]), np.array([True, False])).probability
        0.5
    """

    token_logps: np.ndarray
    hits: np.ndarray
    token_z: np.ndarray | None = None
    is_closed: bool = False

    @property
    def recited(self) -> "TextScores":
        """The numbers without those of the token that closes the answer: what a model that recites on would predict."""
        if not self.is_closed:
            return self
        z = None if self.token_z is None else self.token_z[:-1]
        return TextScores(self.token_logps[:-1], self.hits[:-1], z)

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
        references: the right answers' texts, which generations are compared with.
        generation: what the model wrote after the prompt, or None if it was not asked to.
        generation_nll: avg of the generation under the model before unlearning, nats per token, if there was one.
        zlib_bytes: length of the answer's text, compressed by zlib.
        gradient_norm: L2 norm of the gradient of avg over all weights, without the token that closes the answer;
            nan if no other token is left, None if it was not asked for.
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
        name: of the set.
        samples: by sample id.
        features: mean hidden state over each answer's tokens, shape (N, d), float32, in the order of `samples`; None
            if not asked for.
    """

    name: str
    samples: dict[int, SampleScores] = field(default_factory=dict)
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples)
