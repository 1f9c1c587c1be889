"""Flat arrays of numbers at all answer tokens of a data set, filled batch by batch on any number of processes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from egup_trainer.data.tokenization import RowDataset
from egup_trainer.evaluation.scores import TextScores
from egup_trainer.modeling.batches import merge_processes
from egup_trainer.modeling.forward import answer_positions, count_answer_tokens
from egup_trainer.modeling.outputs import AnswerOutputs, required

_MAX_LOGITS = 1 << 24  # numbers of a (tokens, vocabulary) block that are processed at once


class TokenNumbers:
    """Log-probability, greedy match and, for some samples, z of each answer token, and features of some samples.

    Args:
        wants_z: which samples get z, bool, shape (S,).
        wants_features: which samples' features are kept, bool, shape (S,).
    """

    def __init__(self, dataset: RowDataset, wants_z: Tensor, wants_features: Tensor, device: torch.device):
        self.counts = torch.cat([count_answer_tokens(torch.from_numpy(row.labels)[None]) for row in dataset.rows])
        self.starts = self.counts.cumsum(0) - self.counts
        self.is_closed = [row.is_closed for row in dataset.rows]
        self.wants_z, self.wants_features = wants_z.to(device), wants_features.to(device)
        total = int(self.counts.sum())
        self._flat = {name: torch.zeros(total, device=device) for name in ("logps", "greedy_match", "z")}
        self._features: Tensor | None = None

    def keep(self, samples: Tensor, outputs: AnswerOutputs, labels: Tensor) -> None:
        """Stores the numbers of a batch.

        Args:
            samples: which samples its first rows are, shape (K,); numbers of further rows are dropped.
            outputs: what the reader made of it, with logits.
            labels: shape (B, T).
        """
        device = labels.device
        samples = samples.to(device)
        if outputs.features is not None and self._features is None:
            self._features = outputs.features.new_zeros(int(self.wants_features.sum()), outputs.features.shape[1])
        if not len(samples):  # a repeated batch, which only keeps this process in step with the others
            return
        kept = outputs.token_rows < len(samples)
        owners = samples[outputs.token_rows[kept]]  # (N,)
        firsts = outputs.num_tokens.long().cumsum(0) - outputs.num_tokens.long()  # (B,)
        within = torch.arange(len(outputs.token_rows), device=device) - firsts[outputs.token_rows]
        slots = self.starts.to(device)[owners] + within[kept]
        targets, logits = answer_positions(labels)[2], required(outputs.logits, "logits").detach()
        self._flat["logps"][slots] = outputs.token_logps.detach()[kept]
        self._flat["greedy_match"][slots] = (logits.argmax(dim=-1) == targets)[kept].float()
        chosen = kept & self.wants_z[samples[outputs.token_rows.clamp_max(len(samples) - 1)]]
        if chosen.any():
            z = standardise(outputs.token_logps.detach()[chosen], logits[chosen])
            self._flat["z"][slots[chosen[kept]]] = z
        if outputs.features is not None:
            self._keep_features(samples, outputs.features.detach())

    def _keep_features(self, samples: Tensor, features: Tensor) -> None:
        wanted = self.wants_features[samples]
        slots = self._feature_slots[samples[wanted]]
        required(self._features, "features")[slots] = features[: len(samples)][wanted]

    def drop_not_finite(self, accelerator: object, ids: Tensor) -> Tensor:
        """Which of the samples `ids` have numbers that are not finite on any process; these are dropped on all."""
        owners = torch.arange(len(self.counts)).repeat_interleave(self.counts).to(self._flat["logps"].device)
        is_broken = torch.zeros(len(self.counts), device=owners.device)
        for values in self._flat.values():
            is_broken[owners[~values.isfinite()]] = 1
        if self._features is not None:
            is_broken[self.wants_features.clone()] += (~self._features.isfinite().all(dim=1)).float()
        found = merge_processes({"": is_broken}, accelerator)[""] > 0
        broken = ids[found[ids]]
        dropped = torch.zeros_like(found).index_fill(0, broken, True).to(owners.device)
        for values in self._flat.values():
            values[dropped[owners]] = 0
        if self._features is not None:
            self._features[self._feature_slots[dropped & self.wants_features]] = 0
        return broken

    def gather(self, accelerator: object) -> "GatheredNumbers":
        """The numbers of all processes, on the CPU."""
        features = {} if self._features is None else {"features": self._features}
        merged = merge_processes({**self._flat, **features}, accelerator)
        return GatheredNumbers(
            of_tokens={name: merged[name].double().numpy() for name in self._flat},
            starts=self.starts,
            counts=self.counts,
            is_closed=self.is_closed,
            has_z=self.wants_z.cpu(),
            of_samples=merged.get("features"),
            feature_slots=self._feature_slots.cpu(),
        )

    @property
    def _feature_slots(self) -> Tensor:
        """Where the features of each sample that wants them are, (S,)."""
        return self.wants_features.long().cumsum(0) - 1


@dataclass(frozen=True)
class GatheredNumbers:
    """The numbers of all processes, on the CPU, read text by text.

    Args:
        of_tokens: log-probability, greedy match and z of all answer tokens, shape (tokens,) each.
        starts, counts: of each sample, the place of its first answer token among them, and how many it has, (S,).
        is_closed: of each sample, whether its last answer token closes the answer.
        has_z: which samples have z, bool, shape (S,).
        of_samples: the features that are kept, shape (F, d), or None if there are none.
        feature_slots: where those of each sample that has them are, (S,).
    """

    of_tokens: dict[str, np.ndarray]
    starts: Tensor
    counts: Tensor
    is_closed: list[bool]
    has_z: Tensor
    of_samples: Tensor | None
    feature_slots: Tensor

    def text(self, pieces: tuple[int, ...]) -> TextScores:
        """Numbers of the text that consists of the given samples."""
        slices = [slice(int(self.starts[piece]), int(self.starts[piece] + self.counts[piece])) for piece in pieces]
        whole = {name: np.concatenate([values[each] for each in slices]) for name, values in self.of_tokens.items()}
        z = whole["z"] if self.has_z[pieces[0]] else None
        return TextScores(whole["logps"], whole["greedy_match"].astype(bool), z, self.is_closed[pieces[-1]])

    def features(self, pieces: tuple[int, ...]) -> np.ndarray:
        """Mean hidden state over the answer tokens of a text, shape (d,)."""
        weights = self.counts[list(pieces)].float()
        rows = required(self.of_samples, "features")[self.feature_slots[list(pieces)]]  # (P, d)
        return (weights @ rows / weights.sum()).numpy()


def standardise(token_logps: Tensor, logits: Tensor) -> Tensor:
    """z = (log p - mu) / sigma of Min-K%++ (Zhang et al. 2024): how likely a token is among its alternatives.

    mu = sum_v p_v log p_v and sigma^2 = max(sum_v p_v log^2 p_v - mu^2, 1e-6) over the vocabulary.

    Args:
        token_logps: log p of the actual tokens, shape (N,).
        logits: shape (N, V).
    """
    parts = []
    for block in logits.split(max(1, _MAX_LOGITS // logits.shape[1])):
        logps = block.float().log_softmax(dim=-1)  # (n, V)
        probabilities = logps.exp()
        weighted = probabilities * logps.nan_to_num(neginf=0.0)  # a token of probability 0 contributes nothing
        mean = weighted.sum(dim=-1, keepdim=True)
        # The centred form keeps its precision if sigma is small compared with mu.
        variance = (probabilities * (logps.nan_to_num(neginf=0.0) - mean).square()).sum(dim=-1)
        parts.append(torch.stack([mean.squeeze(-1), variance.clamp_min(1e-6).sqrt()]))
    mean, sigma = torch.cat(parts, dim=1)
    return (token_logps - mean) / sigma
