"""Meaning: whether the model still tells the forgotten facts, though in other words.

ROUGE counts words. An answer in other words is worth nothing to it, and an answer with the right words but another fact
is worth much. A model that judges texts sees the first, and partly the second.
"""

from egup_trainer.audit.attack import Finding, Target
from egup_trainer.audit.judge import Judge
from egup_trainer.evaluation.metric import mean_metric
from egup_trainer.evaluation.metrics.rouge import NO_WORDS, rouge_score
from egup_trainer.evaluation.rows import Generation
from egup_trainer.modeling.batches import device_of


def semantic(target: Target) -> Finding:
    """How much of each answer the greedy generation tells, by the judge and by ROUGE-L recall."""
    options, rows = target.options, target.forget
    if options.judge_model is None:
        return Finding(reason="needs a model that judges texts (--judge_model)")
    asked, lack = target.asked()
    if lack:
        return Finding(reason=lack)
    row_set = target.row_set("forget", [rows[i] for i in asked], generation=Generation(options.max_new_tokens))
    written = [each.generation for each in target.score(row_set)["forget"].samples.values()]
    asked = [i for i, text in zip(asked, written, strict=True) if text is not None]
    texts = [text for text in written if text is not None]
    questions, answers = [rows[i].prompt[-1].content for i in asked], [rows[i].answer for i in asked]
    judge = Judge(options.judge_model, device_of(target.model, None), options.batch_size)
    scores = [rouge_score(answer, text) for answer, text in zip(answers, texts, strict=True)]
    found = {
        "similarity": dict(zip(asked, judge(questions, answers, texts), strict=True)),
        "rouge": {sample: score for sample, score in zip(asked, scores, strict=True) if score is not None},
    }
    return Finding(
        {name: mean_metric("forget", values, num_rows=len(rows), without=NO_WORDS) for name, values in found.items()}
    )
