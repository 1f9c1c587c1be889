"""Negative preference optimization."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from egup_trainer.errors import DataError, read_number_or_auto
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs, Unit
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need
from egup_trainer.options import OptionGroup, option


@dataclass
class NPOOptions(OptionGroup):
    """Options of `NPO`."""

    npo_beta: float | str | None = option(
        0.1,
        "NPO: inverse temperature beta, per nat of a whole answer; above 0. With auto, beta is chosen so that half of "
        "the pull is left when rows reach the boundary that the proxies mark.",
    )

    def check_options(self) -> None:
        self.npo_beta = read_number_or_auto("npo_beta", self.npo_beta)


class NPO(ForgetLoss):
    """Negative preference optimization (Zhang et al. 2024, arXiv 2404.05868).

    Formula: -(2 / beta) * log sigmoid(beta * (L_i - L_i^0)), with L_i the negative log-likelihood of the whole answer
    and L_i^0 the same under the model before unlearning. Its pull in L_i, -2 * sigmoid(-beta * (L_i - L_i^0)), fades
    once a row has become less likely by some 1 / beta nats. Divided by n_i if `per_token`.

    A negative weight pulls a row back with the same fading strength, which is bounded and least for the rows that went
    furthest.

    Args:
        beta: inverse temperature, per nat of a whole answer; None until `for_boundary` has chosen it.
        per_token: whether the loss of a row is divided by its number of answer tokens, as in gradient difference.

    Requirements: a retain set; one pass over the forget rows before the first step. With npo_beta=auto, proxy rows.

    Inputs: `outputs` of B rows; `reference.sum_nll` (B,). Returns shape (B,), nats, or nats per token.

    Recommendations:
        - `egup unlearn` uses it where there are no proxies. It fades by itself, so it does less damage without them
          than gradient difference.
        - If you have proxies, npo_beta=auto chooses beta for you.

    Relations:
        - `SimNPO` is the same idea per token and without a reference model.
        - `DPO` and `AltPO` also teach which answer to give instead.

    Example:
        >>> import torch
        >>> out = AnswerOutputs(torch.tensor([-4.0]), torch.tensor([0]), torch.tensor([1.0]))
        >>> NPO(beta=0.1)(out, ReferenceOutputs(sum_nll=torch.tensor([4.0])))  # (2 / 0.1) * log 2
        tensor([13.8629])
    """

    needs = frozenset({Need.NLL})
    unit = Unit.SUM

    def __init__(self, beta: float | None = 0.1, per_token: bool = False):
        self.beta: float | Any = beta  # a number before the first step, when the loss is called
        self.needs_boundary = beta is None
        if beta is None:
            # With lambda = 2 the effort would be 0 at the boundary. The pull has halved there by itself, so rows would
            # stop before they reach it.
            self.default_proxy_lambda = 1.0
        if per_token:
            self.unit = Unit.MEAN

    @classmethod
    def from_config(cls, config: Any) -> "NPO":
        options = {"beta": config.npo_beta, **(getattr(config, "objective_kwargs", None) or {})}
        return cls(**{**options, "beta": None if options["beta"] == "auto" else options["beta"]})

    def for_boundary(self, needed_rise: float) -> "NPO":
        """Unless beta is set, NPO per token with beta = log 3 / needed_rise: half of its first pull is left there.

        A small beta makes the pull last, and a long answer's pull in L_i is n_i times that of gradient difference,
        which would damage the model on the way. Hence the loss is per token.

        Args:
            needed_rise: how much less likely a forget answer must become to lie at its boundary, mean of
                n_i * (b_i - l_i^0), nats.

        Raises:
            DataError: forget rows are no likelier than the boundary.

        Example:
            >>> round(NPO(beta=None).for_boundary(100.0).beta, 4)
            0.011
        """
        if self.beta is not None:
            return self
        if needed_rise <= 0:
            raise DataError(
                got=f"forget answers that are {-needed_rise:.3g} nats less likely than unseen ones, with npo_beta=auto",
                expected="forget rows that the model knows better than the proxies",
                fix="check forget and proxy rows, or set --npo_beta to a number",
            )
        return NPO(math.log(3) / needed_rise, per_token=True)

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        rise = outputs.sum_nll - required(reference.sum_nll, "sum_nll")  # (B,)
        values = -2 / self.beta * logsigmoid(self.beta * rise)
        return values / outputs.num_tokens.clamp_min(1) if self.unit is Unit.MEAN else values
