"""Plain fine-tuning on retain rows."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, Guidance, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class FineTune(ForgetLoss):
    """No forget objective: only the retain loss trains the model.

    Formula: 0. Plain fine-tuning has no single source.

    Requirements: a retain set.

    Inputs: `outputs` of B rows. Returns shape (B,).

    Recommendations:
        - Only as a baseline: it shows what the model forgets by itself.

    Relations:
        - EGUP's weights have nothing to act on. The penalty form of the proxy constraint and CLReg work as with any
          objective.
    """

    supports = frozenset({Guidance.TERMS})
    raises_nll = False
    unsupported_reason = "there is no forget loss to weigh"

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return 0 * outputs.mean_nll
