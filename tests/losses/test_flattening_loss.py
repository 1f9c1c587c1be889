"""PDU's forget loss and the training of a task vector: values by hand, gradients, and what they say of themselves."""

from dataclasses import replace

import pytest
import torch

from egup_trainer.losses.base import ReferenceOutputs
from egup_trainer.losses.pdu import PDU
from egup_trainer.losses.task_vector import TaskVector

ROWS = [[-1.0, -1.0], [-1.0], []]
LOGITS = torch.tensor([[3.0, 0.0, 0.0], [1.0, 4.0, 1.0], [2.0, 2.0, -1.0]])


@pytest.fixture
def spoken(answers):
    """Two rows of 2 and 1 answer tokens and one without any, over a vocabulary of 3; logits with gradient."""
    return replace(answers(ROWS), logits=LOGITS.clone().requires_grad_())


def test_margins_by_hand(spoken):
    values = PDU()(spoken, ReferenceOutputs())
    assert values.tolist() == [((3 - 1) ** 2 + (4 - 2) ** 2) / 2, (2 - 1) ** 2, 0]


def test_descent_lowers_the_surest_token_and_raises_the_others(spoken):
    PDU()(spoken, ReferenceOutputs()).sum().backward()
    half = 2 * 2 / 2  # the slope 2 (max - mean) of a row's mean over two tokens
    expected = [[half * 2 / 3, -half / 3, -half / 3], [-half / 3, half * 2 / 3, -half / 3]]
    torch.testing.assert_close(spoken.logits.grad[:2], torch.tensor(expected))
    assert spoken.logits.grad[2, 2] < 0


def test_flat_logits_are_at_rest(answers):
    logits = torch.full((1, 5), 7.0, requires_grad=True)
    value = PDU()(replace(answers([[-1.0]]), logits=logits), ReferenceOutputs())
    value.sum().backward()
    assert value.tolist() == [0]
    assert logits.grad.abs().sum() == 0


def test_a_task_vector_learns_the_rows_first(answers):
    out = answers([[-1.0, -3.0], [-0.5], []])
    values = TaskVector()(out, ReferenceOutputs())
    assert values.tolist() == [2, 0.5, 0]
    values.sum().backward()
    assert out.token_logps.grad.tolist() == [-0.5, -0.5, -1]  # descent raises the log-probability
