"""Plain fine-tuning on retain rows, the simplest thing that one can hope makes a model forget."""

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class FineTune(ForgetLoss):
    """No forget objective: only the retain loss trains the model.

    Formula: 0. EGUP's weights have nothing to weigh here, and of the proxy constraint only the penalty form acts on
    forget rows; CLReg works as with any objective.

    Inputs: `outputs` of B rows. Returns shape (B,).
    """

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        return 0 * outputs.mean_nll
