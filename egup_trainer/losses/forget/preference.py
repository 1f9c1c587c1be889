"""Preference for another answer: DPO towards refusals, AltPO towards alternate answers."""

from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from egup_trainer.losses.base import Alternate, ForgetLoss, ReferenceOutputs, Unit
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need


class DPO(ForgetLoss):
    """Direct preference optimization towards "I don't know" (Maini et al. 2024, arXiv 2401.06121; Rafailov et al. 2023,
    arXiv 2305.18290).

    Formula: -(2 / beta) * log sigmoid(beta * ((L_i - L_i^0) - (A_i - A_i^0))), with L_i the negative log-likelihood of
    the whole answer to forget, A_i that of a refusal of the same question, and ^0 the same under the model before
    unlearning. At the start it pushes the answer down and the refusal up with equal strength; both pulls fade once the
    two have moved apart by some 1 / beta nats.

    A negative weight draws the row back to its answer and away from the refusal, with the same fading strength.

    Args:
        beta: inverse temperature, per nat of a whole answer.

    Inputs: `outputs` of B rows with their `alternate`; `reference.sum_nll` and `reference.alternate_nll`, each (B,).
    Returns shape (B,), nats.

    Example:
        >>> import torch
        >>> refusal = AnswerOutputs(torch.tensor([-2.0]), torch.tensor([0]), torch.tensor([1.0]))
        >>> out = AnswerOutputs(torch.tensor([-4.0]), torch.tensor([0]), torch.tensor([1.0]), alternate=refusal)
        >>> before = ReferenceOutputs(sum_nll=torch.tensor([4.0]), alternate_nll=torch.tensor([2.0]))
        >>> DPO(beta=0.1)(out, before)  # (2 / 0.1) * log 2
        tensor([13.8629])
    """

    needs = frozenset({Need.NLL})
    unit = Unit.SUM
    alternate = Alternate.REFUSAL

    def __init__(self, beta: float = 0.1):
        self.beta = beta

    @classmethod
    def from_config(cls, config: Any) -> "DPO":
        return cls(beta=config.dpo_beta)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        # (B,) how much less likely the answer has become
        rise = outputs.sum_nll - required(reference.sum_nll, "sum_nll")
        alternate = required(outputs.alternate, "alternate")
        alternate_rise = alternate.sum_nll - required(reference.alternate_nll, "alternate_nll")  # (B,)
        return -2 / self.beta * logsigmoid(self.beta * (rise - alternate_rise))


class AltPO(DPO):
    """Alternate preference optimization (Mekala et al. 2024, arXiv 2409.13474): `DPO` towards an alternate answer that
    the data has for the row, wrong but of the same kind, in place of a refusal.

    Formula: that of `DPO`, with A_i the negative log-likelihood of this answer. Returns shape (B,), nats.
    """

    alternate = Alternate.GIVEN
