"""Weighted gradient ascent."""

from dataclasses import dataclass
from typing import ClassVar

from egup_trainer.errors import check_range
from egup_trainer.losses.satimp import SatImp
from egup_trainer.options import OptionGroup, option


@dataclass
class WGAOptions(OptionGroup):
    """Options of `WGA`."""

    wga_beta: float = option(1.0, "WGA: power of a token's probability that weighs it (beta); 0 or more.")

    def check_options(self) -> None:
        check_range(self, ("wga_beta",), low=0)


class WGA(SatImp):
    """Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301): `SatImp` without its second factor.

    Formula: sum_t p_t^beta log p_t / n_i, p_t^beta without gradient. Unlike plain ascent it comes to rest, because a
    token's pull fades with its probability.

    Args:
        beta: how fast effort falls as a token becomes unlikely; 0 is gradient ascent.

    Requirements: a retain set.

    Inputs: `outputs` of B rows. Returns shape (B,), nats per token.

    Recommendations:
        - When you have no proxy rows and gradient difference goes too far.

    Relations:
        - `SatImp` also gives less effort to the tokens that the model knows best.

    Example:
        >>> import torch
        >>> from egup_trainer.losses.base import ReferenceOutputs
        >>> from egup_trainer.modeling.outputs import AnswerOutputs
        >>> out = AnswerOutputs(torch.tensor([0.5]).log(), torch.tensor([0]), torch.tensor([1.0]))
        >>> WGA(beta=2.0)(out, ReferenceOutputs())  # 1/4 * log 1/2
        tensor([-0.1733])
    """

    config_fields: ClassVar[dict[str, str]] = {"beta": "wga_beta"}

    def __init__(self, beta: float = 1.0):
        super().__init__(beta1=beta, beta2=0.0)
