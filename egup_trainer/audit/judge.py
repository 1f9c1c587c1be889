"""A model that judges how much of an answer another text tells, in whatever words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egup_trainer.errors import ModelError
from egup_trainer.modeling.loading import load_config, load_judging_model, load_tokenizer

_CLASSIFIER, _ENTAILS = "ForSequenceClassification", "entail"
_MOST_TOKENS = 512


class Judge:
    """Judges texts by their embeddings or by entailment, from 0 (unlike) to 1 (the same).

    A classifier whose labels include entailment gives P(the text, after its question, entails the answer). Any other
    model gives max(0, cos(e(answer), e(text))), where e is the mean of the last hidden states over a text's tokens, as
    sentence-transformers pools them (Reimers and Gurevych 2019, arXiv 1908.10084). A text without words is worth 0.

    Args:
        name_or_path: folder or hub id of the model.

    Raises:
        ModelError: it cannot be loaded, or it is a classifier of other things.

    Example:
        >>> # Judge("sentence-transformers/all-MiniLM-L6-v2")(["Who?"], ["Ada did it."], ["It was Ada."])
    """

    def __init__(self, name_or_path: str, device: torch.device | str = "cpu", batch_size: int = 16):
        self._label = check_judge(name_or_path)
        self._tokenizer, self._batch_size, self._device = load_tokenizer(name_or_path), batch_size, device
        self._model = load_judging_model(name_or_path, classifies=self._label is not None).to(device)

    @torch.no_grad()
    def __call__(self, questions: Sequence[str], answers: Sequence[str], texts: Sequence[str]) -> list[float]:
        """How much of each answer the text of the same index tells."""
        found: list[float] = []
        for start in range(0, len(texts), self._batch_size):
            part = slice(start, start + self._batch_size)
            if self._label is not None:
                asked = [f"{question} {text}" for question, text in zip(questions[part], texts[part], strict=True)]
                logits = self._model(**self._tokens(asked, list(answers[part]))).logits
                found += logits.softmax(dim=-1)[:, self._label].tolist()
            else:
                ours, theirs = (self._embedded(list(each[part])) for each in (answers, texts))
                found += (ours * theirs).sum(dim=1).clamp(0, 1).tolist()
        return [value if text.strip() else 0.0 for value, text in zip(found, texts, strict=True)]

    def _embedded(self, texts: list[str]) -> Tensor:
        """Embeddings of unit length, shape (B, d)."""
        tokens = self._tokens(texts)
        mask = tokens["attention_mask"].unsqueeze(-1)
        states = self._model(**tokens).last_hidden_state
        return torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1), dim=1)

    def _tokens(self, *texts: list[str]) -> Any:
        """Texts, or pairs of texts, as the model takes them, cut to its length."""
        most = min(self._tokenizer.model_max_length, _MOST_TOKENS)
        return self._tokenizer(*texts, padding=True, truncation=True, max_length=most, return_tensors="pt").to(
            self._device
        )


def check_judge(name_or_path: str) -> int | None:
    """The label of entailment of a classifier, and None for a model that embeds texts.

    Raises:
        ModelError: there is no model, or it is a classifier without such a label.
    """
    config = load_config(name_or_path)
    if not any(name.endswith(_CLASSIFIER) for name in config.architectures or ()):
        return None
    label = next((index for index, name in config.id2label.items() if name.lower().startswith(_ENTAILS)), None)
    if label is None:
        raise ModelError(
            got=f"{name_or_path}, a classifier with the labels {', '.join(config.id2label.values())}",
            expected="a model that embeds texts, or a classifier with the label entailment",
            fix="set --judge_model",
        )
    return int(label)
