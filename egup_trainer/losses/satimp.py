"""Gradient ascent with weights on tokens, by saturation and importance."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from egup_trainer.errors import check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs
from egup_trainer.options import OptionGroup, option


@dataclass
class SatImpOptions(OptionGroup):
    """Options of `SatImp`."""

    satimp_beta1: float = option(5.0, "SatImp: power of a token's probability (beta1); 0 or more.")
    satimp_beta2: float = option(1.0, "SatImp: power of 1 minus a token's probability (beta2); 0 or more.")

    def check_options(self) -> None:
        check_range(self, ("satimp_beta1", "satimp_beta2"), low=0)


class SatImp(ForgetLoss):
    """Gradient ascent weighted by saturation and importance (Yang et al. 2025, arXiv 2505.11953).

    Formula: sum_t w_t log p_t / n_i, with w_t = p_t^beta1 * (1 - p_t)^beta2 without gradient. The first factor gives
    less effort to tokens that are already unlikely, the second to those that the model is surest of. A negative weight
    learns a row again, with a strength that fades in the same way.

    Args:
        beta1: how fast effort falls as a token becomes unlikely.
        beta2: how much less effort the surest tokens get.

    Requirements: a retain set.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Recommendations:
        - When the model knows some tokens of an answer much better than others.

    Relations:
        - `WGA` has only the first factor; `GradientDifference` has neither.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([0.5]).log(), torch.tensor([0]), torch.tensor([1.0]))
        >>> SatImp(beta1=1.0, beta2=1.0)(out, ReferenceOutputs())  # 1/2 * 1/2 * log 1/2
        tensor([-0.1733])
    """

    config_fields: ClassVar[dict[str, str]] = {"beta1": "satimp_beta1", "beta2": "satimp_beta2"}

    def __init__(self, beta1: float = 5.0, beta2: float = 1.0):
        self.beta1, self.beta2 = beta1, beta2

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        probabilities = outputs.token_logps.detach().exp()  # (N,)
        weights = probabilities**self.beta1 * (1 - probabilities) ** self.beta2  # (N,)
        return outputs.sum_per_row(weights * outputs.token_logps) / outputs.num_tokens.clamp_min(1)
