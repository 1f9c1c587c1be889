"""Plain fine-tuning on retain rows, the simplest thing that one can hope makes a model forget."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, Guidance, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class FineTune(ForgetLoss):
    """No forget objective: only the retain loss trains the model.

    Formula: 0. Plain fine-tuning has no single source.

    EGUP's weights have nothing to weigh here; the proxy constraint's penalty form and CLReg act as with any
    objective.

    Inputs: `outputs` of B rows. Returns shape (B,).
    """

    carries = frozenset({Guidance.PENALTY, Guidance.CLREG})
    carries_why = "there is no forget loss to weigh"

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return 0 * outputs.mean_nll
