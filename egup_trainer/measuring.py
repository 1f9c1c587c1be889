"""Measures a model before the first step and after the last one: the numbers of a run's record, and its verdict."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from egup_trainer.components.component import why_ended
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.data.names import names_in
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import ModelError
from egup_trainer.modeling.generation import generate
from egup_trainer.modeling.limits import check_positions, check_token_ids, has_room
from egup_trainer.modeling.probability import sample_ids, sample_of
from egup_trainer.records.judgments import AFTER, BEFORE
from egup_trainer.verdict import LEAST_RECITED, Measures, SetMeasures, Verdict, verdict

MOST_QUESTIONS = 32
"""Questions of each set that the model answers."""

MOST_TOKENS = 128
"""Most tokens of such an answer."""

LEAST_WORDS = 4
"""Words that an answer must have so that it can be known again in the place of another one."""

_ASKED = ("forget", "retain", "proxy")
_COMPARED = ("forget", "proxy")


class Measuring(TrainerCallback, ExportableState):
    """Measures the rows of a run under the model before the first and after the last step, and judges by that.

    Of each set: the mean negative log-likelihood l of each row, and the answers to its questions, by ROUGE-L against
    the right ones and those of retain rows, by the names in them, and by repetition; of forget and proxy rows also l
    after a retain row and its answer, since a model may hide rows from the usual prompt alone. Without proxies, a proxy
    model is asked about the forget rows, too. From large sets, samples are taken with the run's seed. A resumed run
    knows what was measured before its first step.

    Args:
        trainer: an `UnlearnTrainer`.
        datasets: rows by name; "forget", "retain" and "proxy" are judged.
        with_answers: whether the model answers questions, and a verdict is given.

    Attributes:
        before, after: what was measured, by the names of the sets.
        of_proxy_model: the forget rows as the proxy model sees them, if the run has a proxy model and no proxies.
        verdict: the verdict, once the run has ended.
    """

    def __init__(self, trainer: Any, datasets: Mapping[str, RowDataset], with_answers: bool = True):
        self.trainer, self.datasets, self.with_answers = trainer, dict(datasets), with_answers
        self.without = _why_not(trainer) if with_answers else ""
        self.before: dict[str, SetMeasures] = {}
        self.after: dict[str, SetMeasures] = {}
        self.of_proxy_model: SetMeasures | None = None
        self.verdict: Verdict | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved:
            self.before = {name: SetMeasures(**values) for name, values in saved["attributes"]["before"].items()}
        elif not (state.global_step or self.before):  # a trainer may train again
            self.before = self._measure("before")
        if self.before and self.of_proxy_model is None:  # it stays what it is, so that a resumed run may ask it again
            self.of_proxy_model = self._measure_proxy_model()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after = self._measure("after")
        if self.with_answers and self.before:
            never_saw = None if self.of_proxy_model is None else Measures(self.of_proxy_model, name="the proxy model")
            found = verdict(_measures(self.before), _measures(self.after), never_saw)
            others = [self.without] if self.without else []
            self.verdict = replace(found, remarks=[*found.remarks, *others, why_ended(state)])

    def _measure_proxy_model(self) -> SetMeasures | None:
        """The forget rows under the proxy model, which never saw them. None if there are proxies, or no proxy model.

        How much it repeats itself is left out: a base model often goes on after its answer, until it is stopped.
        """
        if not self.with_answers or "proxy" in self.datasets:
            return None
        expected = [each for each in self.trainer.components if isinstance(each, ExpectedOutputs)]
        if not expected or expected[0].proxy_model is None:
            return None
        rows, when = self.datasets["forget"], "with the proxy model"
        with expected[0].proxy_model_in_use() as model:
            _, right, written = self._answers("forget", when, model)
            otherwise = self._after_example(rows, model)
            return SetMeasures(
                self._nll(rows, f"Scoring forget rows {when}", model),
                _compare(right, written)[0],
                nll_after_example=self._nll(otherwise, f"Scoring forget rows after an example {when}", model),
            )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        before = {name: asdict(measured) for name, measured in self.before.items()}
        return {"args": {}, "attributes": {"before": before}}

    @property
    def probability(self) -> dict[str, dict[str, float]]:
        """Mean probability of the answers of each set, by when it was measured."""
        found = {BEFORE: self.before, AFTER: self.after}
        return {
            when: {name: values.probability for name, values in measured.items()}
            for when, measured in found.items()
            if measured
        }

    def judged(self, when: str) -> Measures:
        """What is judged of the model as it is; `when` is for the progress bars."""
        return _measures(self._measure(when))

    def _measure(self, when: str) -> dict[str, SetMeasures]:
        when = f"{when} unlearning"
        texts = {name: self._answers(name, when) for name in _ASKED if name in self.datasets}
        names = {name: set(names_in([*asked, *right])) for name, (asked, right, _) in texts.items()}
        found = {}
        for name, rows in self.datasets.items():
            _, right, written = texts.get(name, ([], [], []))
            of_others = names.get("retain", set()) - names.get(name, set())
            of_retain = texts["retain"][1] if "retain" in texts and name != "retain" else []
            otherwise = self._after_example(rows) if name in _COMPARED and self.with_answers else RowDataset([])
            found[name] = SetMeasures(
                self._nll(rows, f"Scoring {name} rows {when}"),
                *_compare(right, written),
                sum(not of_others.isdisjoint(names_in([text])) for text in written),
                self._nll(otherwise, f"Scoring {name} rows after an example"),
                _recited_of(of_retain, right, written),
            )
        return found

    def _nll(self, rows: RowDataset, description: str, model: Any = None) -> list[float]:
        args = self.trainer.args
        if not len(rows):
            return []
        ids, owners = sample_of(rows, args.seed)
        other = {} if model is None else {"model": model}
        scores = self.trainer.score(rows, ids, **other, description=None if args.disable_tqdm else description)
        return scores.nll_of(owners).tolist()

    def _after_example(self, rows: RowDataset, model: Any = None) -> RowDataset:
        """Rows with the shortest retain row and its answer before them; none if the model cannot read so much."""
        if "retain" not in self.datasets:
            return RowDataset([])
        example = min(self.datasets["retain"].rows, key=len)
        found = [row.after(example) for row in rows.rows]
        reader = self.trainer.model if model is None else model
        try:
            check_positions(reader, max(map(len, found)), "a row after an example", "use shorter rows")
            check_token_ids(reader, [example.input_ids], "an example")
        except ModelError:
            return RowDataset([])
        return RowDataset(found)

    def _answers(self, name: str, when: str, model: Any = None) -> tuple[list[str], list[str], list[str]]:
        """Questions of a set, the right answers, and what the model answers, or another one; only what it has room for.

        Args:
            name: of the set.
            when: ends the title of the progress bar.
            model: the other model.
        """
        if not self.with_answers or self.without:
            return [], [], []
        trainer, rows, tokenizer = self.trainer, self.datasets[name], self.trainer.processing_class
        model = trainer.accelerator.unwrap_model(trainer.model) if model is None else model
        asked = [index for index in rows.first_samples if len(rows.rows[index].prompt) > 1]
        chosen = [rows.rows[asked[place]] for place in sample_ids(len(asked), trainer.args.seed, MOST_QUESTIONS)]
        new_tokens = min(max((int(row.is_scored.sum()) for row in chosen), default=0), MOST_TOKENS)
        chosen = [row for row in chosen if has_room(model, len(row.prompt), new_tokens)]
        if not chosen:
            return [], [], []
        right = [row.input_ids[row.is_scored] for row in chosen]
        written = generate(
            model,
            tokenizer,
            [row.prompt for row in chosen],
            max_new_tokens=new_tokens,
            batch_size=trainer.args.per_device_eval_batch_size,
            accelerator=trainer.accelerator,
            description=None if trainer.args.disable_tqdm else f"Answering {name} questions {when}",
        )
        decode = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in right]
        questions = [tokenizer.decode(row.prompt, skip_special_tokens=True) for row in chosen]
        return questions, decode, written


def _measures(measured: Mapping[str, SetMeasures]) -> Measures:
    return Measures(measured["forget"], measured.get("retain"), measured.get("proxy"))


def _compare(right: list[str], written: list[str]) -> tuple[list[float], list[float]]:
    """ROUGE-L recall and share of repeated word sequences of each answer that has words."""
    if not written:
        return [], []
    from egup_trainer.evaluation.metrics.fluency import distinct_share
    from egup_trainer.evaluation.metrics.rouge import rouge_score

    rouge = [rouge_score(answer, text) for answer, text in zip(right, written, strict=True)]
    distinct = [distinct_share(text, 4) for text in written]
    return [each for each in rouge if each is not None], [1 - each for each in distinct if each is not None]


def _recited_of(others: list[str], right: list[str], written: list[str]) -> int:
    """Generations that are one of the answers `others`, nearly word for word, and not also the right one.

    Answers of fewer than `LEAST_WORDS` words, which may suit many questions, are not counted.

    Example:
        >>> _recited_of(["No.", "It is in the old town."], ["Yes."] * 2, ["No.", "It is in the old town, then."])
        1
    """
    if not written:
        return 0
    from egup_trainer.data.words import words_of
    from egup_trainer.evaluation.metrics.rouge import rouge_score

    def is_recited(answer: str, text: str) -> bool:
        words = set(words_of(answer))
        if 2 * len(words & set(words_of(text))) < len(words):  # spares most pairs the comparison, which takes long
            return False
        return (rouge_score(answer, text) or 0.0) >= LEAST_RECITED

    long = [answer for answer in others if len(words_of(answer)) >= LEAST_WORDS]
    return sum(
        not is_recited(answer, text) and any(is_recited(other, text) for other in long)
        for answer, text in zip(right, written, strict=True)
    )


def _why_not(trainer: Any) -> str:
    """Why the model cannot be asked, in a sentence; empty if it can."""
    if trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2):
        return "What the model writes was not measured: DeepSpeed and FSDP1 spread its weights. Under FSDP2 it is."
    if any(find_spec(package) is None for package in ("regex", "rouge_score")):
        return "What the model writes was not measured: install egup-trainer[evaluation]."
    return ""
