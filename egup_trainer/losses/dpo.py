"""Direct preference optimization towards refusals."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from egup_trainer.errors import check_range
from egup_trainer.losses.base import Alternate, ForgetLoss, ReferenceOutputs, Unit
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need
from egup_trainer.options import OptionGroup, option


@dataclass
class DPOOptions(OptionGroup):
    """Options of `DPO` and `AltPO`."""

    dpo_beta: float = option(0.1, "DPO and AltPO: inverse temperature beta, per nat of a whole answer; above 0.")
    idk_answers: str | None = option(
        None, "DPO: text file of refusals to prefer, one per line; by default those of this package."
    )

    def check_options(self) -> None:
        check_range(self, ("dpo_beta",), low=0, low_is_allowed=False)


class DPO(ForgetLoss):
    """Direct preference optimization towards "I don't know" (Maini et al. 2024, arXiv 2401.06121; Rafailov et al. 2023,
    arXiv 2305.18290).

    Formula: -(2 / beta) * log sigmoid(beta * ((L_i - L_i^0) - (A_i - A_i^0))), with L_i the negative log-likelihood of
    the whole answer to forget, A_i that of a refusal of the same question, and ^0 the same under the model before
    unlearning. At the start it pushes the answer down and the refusal up with equal strength; both pulls fade once the
    two have moved apart by some 1 / beta nats. A negative weight draws the row back to its answer and away from the
    refusal, with the same fading strength.

    Args:
        beta: inverse temperature, per nat of a whole answer.

    Requirements: a retain set; questions with answers, not plain texts; one pass over the forget rows and their
    refusals before the first step.

    Inputs: `outputs` of B rows with their `alternate`; `reference.sum_nll` and `reference.alternate_nll`, each (B,).
    Returns shape (B,), nats.

    Recommendations:
        - When the model should say that it does not know. It is then easy to notice that the model was unlearned.

    Relations:
        - `AltPO` prefers an alternate answer from the data to a refusal.
        - `NPO` is the half of it that has no preferred answer.

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
    config_fields: ClassVar[dict[str, str]] = {"beta": "dpo_beta"}

    def __init__(self, beta: float = 0.1):
        self.beta = beta

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        rise = outputs.sum_nll - required(reference.sum_nll, "sum_nll")  # (B,)
        alternate = required(outputs.alternate, "alternate")
        alternate_rise = alternate.sum_nll - required(reference.alternate_nll, "alternate_nll")  # (B,)
        return -2 / self.beta * logsigmoid(self.beta * (rise - alternate_rise))
