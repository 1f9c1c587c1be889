"""Generation and evaluation: the same as on a CPU, and tokens per second."""

import time
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.cases import Findings
from benchmarks.gpu.place import Place
from benchmarks.speed.shapes import SHAPES
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset, tokenize
from egup_trainer.evaluation.run import evaluate_model
from egup_trainer.evaluation.scoring import ScoringOptions
from egup_trainer.evaluation.suites.custom import custom_suite
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.generation import continuations
from egup_trainer.modeling.loading import load_model, load_tokenizer
from egup_trainer.modeling.scan import score_rows

NEW_TOKENS, PROMPTS = 128, 64
_BATCH = 64
_METRICS = ("forget_probability", "retain_probability", "forget_rouge", "retain_rouge")


def writing(place: Place, findings: Findings) -> None:
    """The small model on both devices, then a model of a billion weights in bfloat16 on the GPU alone."""
    tokenizer = load_tokenizer(str(place.model))
    people = place.people
    forget, retain, holdout = (load_rows(each) for each in (people.forget, people.retain, people.holdout))
    suite = custom_suite(forget, retain, holdout, max_new_tokens=40)
    rows = tokenize([*forget, *retain], tokenizer, name="rows")
    with findings.case("the same as on a CPU") as case:
        found, expected = (
            _measure(load_model(str(place.model)).to(device), tokenizer, suite, rows)
            for device in (place.device, "cpu")
        )
        for name in (name for name in _METRICS if expected["metrics"].get(name) is not None):
            case.near(name, [found["metrics"][name]], [expected["metrics"][name]], 0.02)
        alike = np.mean([one == other for one, other in zip(found["texts"], expected["texts"], strict=True)])
        case.below("share of other generations", float(1 - alike), 0.05)
        case.measured |= {"evaluation_seconds": found["seconds"], "evaluation_seconds_cpu": expected["seconds"]}
    with findings.case("tokens per second") as case:
        model = _large(place)
        case.measured["weights"] = sum(weight.numel() for weight in model.parameters())
        written, seconds = _timed(lambda: _write(model, tokenizer, rows, few=place.dry))
        case.equal("generations are not empty", all(written), True)
        case.measured["generated_tokens_per_second"] = sum(map(len, written)) / seconds
        reader, collator = AnswerReader(model), RowCollator(tokenizer)
        scores, seconds = _timed(lambda: score_rows(model, reader, rows, collator, batch_size=_BATCH))
        case.equal("l is finite", bool(scores.mean_nll.isfinite().all()), True)
        case.measured["scored_tokens_per_second"] = sum(map(len, rows.rows)) / seconds


def _measure(model: Any, tokenizer: Any, suite: Any, rows: RowDataset) -> dict[str, Any]:
    """Metrics of the suite, how long it took, and what the model writes."""
    options = ScoringOptions(batch_size=_BATCH, progress=False)
    evaluation, seconds = _timed(lambda: evaluate_model(model, tokenizer, suite, options))
    texts = _write(model, tokenizer, rows, few=True)
    return {"metrics": evaluation.values, "seconds": seconds, "texts": texts}


def _write(model: Any, tokenizer: Any, rows: RowDataset, few: bool) -> list[list[int]]:
    """Greedy generations after the prompts of rows."""
    prompts = [row.input_ids[: int(row.is_scored.argmax())] for row in rows.rows]
    prompts = (prompts * PROMPTS)[:PROMPTS] if not few else prompts[:16]
    length = 16 if few else NEW_TOKENS
    found = continuations(model, tokenizer, prompts, max_new_tokens=length, batch_size=_BATCH)
    return [each.tokens for each in found]


def _large(place: Place) -> Any:
    """Random weights; on a CPU the small model."""
    from transformers import AutoModelForCausalLM

    if place.dry:
        return load_model(str(place.model))
    torch.manual_seed(0)
    with torch.device(place.device):
        return AutoModelForCausalLM.from_config(SHAPES["llama_1b"].config(), dtype=torch.bfloat16).eval()


def _timed(work: Any) -> tuple[Any, float]:
    """What it returns, and seconds of a second call: the first one warms up."""
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, time.perf_counter() - start
