"""Sampling: whether the answer comes back in one of several sampled generations.

Greedy generations understate what a model reveals (Reisizadeh et al. 2025, arXiv 2511.04934).
"""

from statistics import fmean
from typing import Any

from egup_trainer.audit.attack import NO_QUESTION, Finding, Target
from egup_trainer.evaluation.metric import mean_metric
from egup_trainer.evaluation.metrics.rouge import NO_WORDS, rouge_score
from egup_trainer.modeling.generation import Sampling, generate


def sampling(target: Target) -> Finding:
    """ROUGE-L recall of generations sampled at temperature 1: best and mean of each row, and the greedy generation's.

    What is sampled for a row depends only on the seed, the row's index and the number of the sample.
    """
    options = target.options
    asked = [sample for sample, row in enumerate(target.forget) if row.prompt]
    if not asked:
        return Finding(reason=NO_QUESTION)
    tokenized = target.tokenized([target.forget[sample] for sample in asked], "forget set", asked)
    prompts = [tokenized.rows[index].prompt for index in tokenized.first_samples]
    shared: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    greedy = generate(
        target.model, target.tokenizer, prompts, description=options.title("Generating greedily"), **shared
    )
    times = options.num_samples
    sampled = generate(
        target.model,
        target.tokenizer,
        [prompt for prompt in prompts for _ in range(times)],
        sampling=Sampling([[options.seed, sample, number] for sample in asked for number in range(times)]),
        description=options.title("Sampling generations"),
        **shared,
    )
    rouge: dict[str, dict[int, float]] = {"best_rouge": {}, "mean_rouge": {}, "greedy_rouge": {}}
    for index, sample in enumerate(asked):
        answer, texts = target.forget[sample].answer, sampled[index * times : (index + 1) * times]
        scores = [score for text in (greedy[index], *texts) if (score := rouge_score(answer, text)) is not None]
        if scores:
            rouge["greedy_rouge"][sample], *others = scores
            rouge["best_rouge"][sample], rouge["mean_rouge"][sample] = max(others), fmean(others)
    return Finding(
        {
            name: mean_metric("forget", values, num_rows=len(target.forget), without=NO_WORDS)
            for name, values in rouge.items()
        }
    )
