"""Answers with known log-probabilities, and a tiny model with a batch to take a step on."""

import pytest
import torch

from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import AnswerOutputs


@pytest.fixture
def answers():
    """answers([[-1, -3], []]): outputs of rows with these token log-probabilities, which are leaves of the graph."""

    def make(rows: list[list[float]], logits: torch.Tensor | None = None) -> AnswerOutputs:
        return AnswerOutputs(
            token_logps=torch.tensor([value for row in rows for value in row]).float().requires_grad_(),
            token_rows=torch.tensor([place for place, row in enumerate(rows) for _ in row], dtype=torch.long),
            num_tokens=torch.tensor([float(len(row)) for row in rows]),
            logits=logits,
        )

    return make


@pytest.fixture
def nll_after_step(make_model):
    """nll_after_step(loss): mean l of a batch before and after a step of gradient descent on loss(outputs)."""

    def run(loss) -> tuple[float, float]:
        model = make_model()
        reader = AnswerReader(model)
        ids = torch.randint(1, 300, (3, 14), generator=torch.Generator().manual_seed(1))
        labels = ids.clone()
        labels[:, :6] = -100

        def read():
            return reader(model, ids, torch.ones_like(ids), labels, with_features=False, keep_logits=True)

        before = read()
        loss(before).mean().backward()
        # A step of fixed length: the pull of some losses is tiny on a model that knows nothing.
        length = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad / length
            return before.mean_nll.mean().item(), read().mean_nll.mean().item()

    return run
