"""Gradient ascent with weights on tokens: WGA and SatImp."""

from typing import Any

from torch import Tensor

from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs


class SatImp(ForgetLoss):
    """Gradient ascent weighted by saturation and importance (Yang et al. 2025, arXiv 2505.11953).

    Formula: sum_t w_t log p_t / n_i, with w_t = p_t^beta1 * (1 - p_t)^beta2 without gradient. The first factor lets go
    of tokens that are unlikely already, the second gives less effort to those that the model is surest of.

    A negative weight learns a row again, with strengths that fade alike.

    Args:
        beta1: how fast effort falls as a token becomes unlikely.
        beta2: how much less effort the surest tokens get.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([0.5]).log(), torch.tensor([0]), torch.tensor([1.0]))
        >>> SatImp(beta1=1.0, beta2=1.0)(out, ReferenceOutputs())  # 1/2 * 1/2 * log 1/2
        tensor([-0.1733])
    """

    def __init__(self, beta1: float = 5.0, beta2: float = 1.0):
        self.beta1, self.beta2 = beta1, beta2

    @classmethod
    def from_config(cls, config: Any) -> "SatImp":
        return cls(beta1=config.satimp_beta1, beta2=config.satimp_beta2)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        probabilities = outputs.token_logps.detach().exp()  # (N,)
        weights = probabilities**self.beta1 * (1 - probabilities) ** self.beta2  # (N,)
        return outputs.sum_per_row(weights * outputs.token_logps) / outputs.num_tokens.clamp_min(1)


class WGA(SatImp):
    """Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301): `SatImp` without its second factor.

    Formula: sum_t p_t^beta log p_t / n_i, p_t^beta without gradient. Unlike plain ascent it comes to rest: a token's
    pull fades with its probability.

    Args:
        beta: how fast effort falls as a token becomes unlikely; 0 is gradient ascent.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([0.5]).log(), torch.tensor([0]), torch.tensor([1.0]))
        >>> WGA(beta=2.0)(out, ReferenceOutputs())  # 1/4 * log 1/2
        tensor([-0.1733])
    """

    def __init__(self, beta: float = 1.0):
        super().__init__(beta1=beta, beta2=0.0)

    @classmethod
    def from_config(cls, config: Any) -> "WGA":
        return cls(beta=config.wga_beta)
