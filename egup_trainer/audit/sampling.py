"""Sampling: whether the answer comes back in one of several sampled generations.

Greedy generations understate what a model reveals (Reisizadeh et al. 2025, arXiv 2511.04934).
"""

from statistics import fmean

from egup_trainer.audit.attack import Finding, Target
from egup_trainer.evaluation.metric import mean_metric
from egup_trainer.evaluation.metrics.rouge import NO_WORDS, rouge_score
from egup_trainer.modeling.generation import Sampling


def sampling(target: Target) -> Finding:
    """ROUGE-L recall of generations sampled at temperature 1: best and mean of each row, and the greedy generation's.

    What is sampled for a row depends only on the seed, the row's index and the number of the sample.
    """
    asked, lack = target.asked()
    if lack:
        return Finding(reason=lack)
    tokenized = target.tokenized([target.forget[sample] for sample in asked], "forget set", asked)
    prompts = [tokenized.rows[index].prompt for index in tokenized.first_samples]
    greedy = target.generate(prompts, "Generating greedily")
    times = target.options.num_samples
    sampled = target.generate(
        [prompt for prompt in prompts for _ in range(times)],
        "Sampling generations",
        sampling=Sampling([[target.options.seed, sample, number] for sample in asked for number in range(times)]),
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
