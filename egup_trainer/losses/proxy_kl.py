"""Divergence from the outputs that are expected of a model that never saw the rows."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from egup_trainer.errors import check_range
from egup_trainer.losses.base import ForgetLoss, ReferenceOutputs
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.reference import Need
from egup_trainer.modeling.top_k_logps import TopKLogProbs, coarse_logps
from egup_trainer.options import OptionGroup, option


@dataclass
class ProxyKLOptions(OptionGroup):
    """Options of `ProxyKL`."""

    proxy_kl_effort: float = option(
        3.0, "proxy_kl: weight of the effort on the answer's own tokens beside the divergence; 0 or more."
    )
    proxy_kl_temperature: float = option(0.5, "proxy_kl: width of each token's boundary (T), nats; above 0.")

    def check_options(self) -> None:
        check_range(self, ("proxy_kl_effort",), low=0)
        check_range(self, ("proxy_kl_temperature",), low=0, low_is_allowed=False)


def token_effort(gap: Tensor, temperature: float = 0.5) -> Tensor:
    """e_t = 1 - 2 sigmoid((l_t - b_t) / T), without gradient: `proxy_effort` for a single token.

    Args:
        gap: l_t - b_t, shape (N,), nats; b_t is -log of the probability expected of the answer token.
        temperature: T, nats.

    Example:
        >>> import torch
        >>> token_effort(torch.tensor([-50.0, 0.0, 50.0]))
        tensor([ 1.,  0., -1.])
    """
    return 1 - 2 * (gap.detach() / temperature).sigmoid()


class ProxyKL(ForgetLoss):
    """Divergence from the outputs expected of a model that never saw the row (ours, after EGUP's proxy constraint).

    Formula: mean over answer tokens of KL(q_t || p_t) + effort * e_t log p_t(v), where q_t is the expected output at
    token t, v the answer's token, and e_t = 1 - 2 sigmoid((l_t - b_t) / T), without gradient, with b_t = -log q_t(v).
    Both parts are at rest where p_t = q_t. The first says what takes the answer's place. Its gradient at v fades as
    p_t(v) does, and the second keeps pushing v until it is as unlikely as expected.

    Args:
        effort: weight of the second part.
        temperature: T, nats.

    Requirements: a retain set, and proxies or a `proxy_model`, from which `ExpectedOutputs` estimates q.

    Inputs: `outputs` with logits (N, V), and `reference.top_k_logps`, the expected outputs: k classes, the first of
    which is the answer's token, and the rest together as the last. Returns shape (B,), nats per token.

    Recommendations:
        - When the model should write what a retrained model would write, and not only be as unsure.
        - Give a `proxy_model`, such as the base model, if you have one: what it says needs no estimate.

    Relations:
        - `UNDIAL` and `CEU` move away from the answer to the model's other tokens, which have learned the row, too.
        - `GradientDifference` with the proxy constraint stops each row at a probability, whatever takes its place.

    Example:
        >>> import torch
        >>> q = TopKLogProbs(torch.tensor([[0]]), torch.tensor([[0.5, 0.5]]).log())
        >>> out = AnswerOutputs(
        ...     torch.log(torch.tensor([0.5])), torch.tensor([0]), torch.tensor([1.0]), logits=torch.zeros(1, 2)
        ... )
        >>> ProxyKL()(out, ReferenceOutputs(top_k_logps=q))  # p = q
        tensor([0.])
    """

    needs = frozenset({Need.EXPECTED})
    reads_logits = True
    sets_boundary = True
    default_retain_weight = 3.0
    config_fields: ClassVar[dict[str, str]] = {"effort": "proxy_kl_effort", "temperature": "proxy_kl_temperature"}

    def __init__(self, effort: float = 3.0, temperature: float = 0.5):
        self.effort, self.temperature = effort, temperature

    def __call__(self, outputs: AnswerOutputs, reference: ReferenceOutputs) -> Tensor:
        expected = required(reference.top_k_logps, "top_k_logps")
        effort = token_effort(token_gap(outputs, expected), self.temperature)
        losses = token_divergence(outputs, expected) + self.effort * effort * outputs.token_logps  # (N,)
        return outputs.sum_per_row(losses) / outputs.num_tokens.clamp_min(1)


def token_divergence(outputs: AnswerOutputs, expected: TopKLogProbs) -> Tensor:
    """KL(q_t || p_t) over the k + 1 classes of the expected outputs, at each answer token, shape (N,), nats."""
    q = expected.logps  # (N, k + 1)
    return (q.exp() * (q - coarse_logps(required(outputs.logits, "logits"), expected.ids))).sum(dim=-1)


def token_gap(outputs: AnswerOutputs, expected: TopKLogProbs) -> Tensor:
    """l_t - b_t = log q_t(v) - log p_t(v) of each answer token, without gradient, shape (N,), nats.

    It is below 0 for a token that is likelier than expected.
    """
    return expected.logps[:, 0] - outputs.token_logps.detach()
