"""The proxy constraint: rows are forgotten until they are as unlikely as rows that the model never saw."""

from dataclasses import dataclass, fields
from enum import Enum

import torch
from torch import Tensor
from torch.nn.functional import softplus

from egup_trainer.components.component import Component, ComponentOptions, Needs
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.forget import ForgetObjective
from egup_trainer.components.known_proxies import refuse_known_proxies
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import Step
from egup_trainer.errors import ConfigError, check_range, choose
from egup_trainer.losses.base import ForgetLoss, Guidance, Unit
from egup_trainer.modeling.scan import RowScores
from egup_trainer.options import option

_BOUNDARY = "boundary"


class ProxyForm(str, Enum):
    """How the boundary acts on the loss."""

    EFFORT = "effort"
    """A factor on a sample's weight, without gradient."""
    PENALTY = "penalty"
    """A term of the loss."""


class ProxyMatch(str, Enum):
    """Which proxies set the boundary of a sample."""

    MEAN = "mean"
    """All of them: one boundary for all samples."""
    NEAREST = "nearest"
    """Those nearest to the sample's features before unlearning."""


def nearest_proxies(proxy_features: Tensor, forget_features: Tensor, neighbors: int = 4) -> Tensor:
    """The proxies that set the boundary of each forget sample: those nearest to phi_0(x_i).

    Args:
        proxy_features: shape (P, k), unit length.
        forget_features: phi_0, shape (N_f, k), unit length.
        neighbors: how many proxies count; all of them if there are fewer.

    Returns:
        Their indexes, shape (N_f, neighbors), int64.

    Example:
        >>> import torch
        >>> nearest_proxies(torch.eye(2), torch.tensor([[0.0, 1.0]]), neighbors=1)
        tensor([[1]])
    """
    cosines = forget_features @ proxy_features.T  # (N_f, P)
    return cosines.topk(min(neighbors, len(proxy_features)), dim=1).indices


def proxy_boundary(proxy_nll: Tensor, proxies: Tensor) -> Tensor:
    """b_i = mean l over a forget sample's proxies: (P,), (N_f, n) -> (N_f,), nats per token.

    Example:
        >>> import torch
        >>> proxy_boundary(torch.tensor([4.0, 6.0, 8.0]), torch.tensor([[0, 1], [1, 2]]))
        tensor([5., 7.])
    """
    return proxy_nll[proxies].mean(dim=1)


def proxy_effort(nll: Tensor, boundary: Tensor, strength: float = 2.0, temperature: float = 0.2) -> Tensor:
    """The effort that is left: 1 - lambda * sigmoid((l_i - b_i) / T), without gradient.

    It is 1 far below the boundary, 0 at it (with lambda = 2), and negative beyond it, where it pulls the row back.

    Args:
        nll: l_i, shape (B,), nats per token.
        boundary: b_i, shape (B,), nats per token.
        strength: lambda.
        temperature: T, nats per token.

    Example:
        >>> import torch
        >>> proxy_effort(torch.tensor([5.0]), torch.tensor([5.0]))
        tensor([0.])
    """
    return 1 - strength * ((nll.detach() - boundary) / temperature).sigmoid()


def proxy_penalty(nll: Tensor, boundary: Tensor, strength: float = 2.0, temperature: float = 0.2) -> Tensor:
    """Penalty for going past the boundary: lambda * T * softplus((l_i - b_i) / T), shape (B,), nats per token.

    Its derivative in l_i is lambda * sigmoid((l_i - b_i) / T), so under gradient ascent it does what `proxy_effort`
    does. For a loss in L_i, multiply by n_i.

    Example:
        >>> import torch
        >>> proxy_penalty(torch.tensor([5.0]), torch.tensor([5.0]))  # 2 * 0.2 * log 2
        tensor([0.2773])
    """
    return strength * temperature * softplus((nll - boundary) / temperature)


@dataclass
class ProxyOptions(ComponentOptions):
    """Options of `ProxyConstraint`."""

    help_title = "EGUP"

    proxy_constraint: bool = option(True, "EGUP: forget rows only until they are as unlikely as unseen rows.")
    proxy_form: ProxyForm = option(ProxyForm.EFFORT, "How the boundary acts: on a sample's effort, or as a penalty.")
    proxy_match: ProxyMatch = option(
        ProxyMatch.NEAREST, "A sample's boundary is the mean over the proxies nearest to it, or over all of them."
    )
    proxy_neighbors: int = option(
        4, "proxy_match=nearest: the boundary of a row is the mean of so many nearest proxies; 1 or more."
    )
    proxy_lambda: float | None = option(
        None,
        "Strength of the proxy constraint (lambda); 0 or more. By default 2, and 1 with npo_beta=auto, whose pull has "
        "halved at the boundary already.",
    )
    proxy_temperature: float = option(0.2, "Width of the boundary (T), nats per token; above 0.")

    def check_options(self) -> None:
        self.proxy_form = choose(ProxyForm, self.proxy_form, "proxy_form")
        self.proxy_match = choose(ProxyMatch, self.proxy_match, "proxy_match")
        check_range(self, ("proxy_neighbors",), low=1, whole=True)
        check_range(self, ("proxy_lambda",), low=0)
        check_range(self, ("proxy_temperature",), low=0, low_is_allowed=False)

    def _refuse_with_token_boundaries(self, loss: ForgetLoss) -> None:
        """Raises `ConfigError` if an option of the row boundary is set for a loss with a boundary for each token."""
        for each in fields(ProxyOptions):
            value = getattr(self, each.name)
            if each.name == "proxy_constraint" or value in (each.default, None):
                continue
            if each.name == "proxy_lambda" and value == loss.default_proxy_lambda:
                continue
            raise ConfigError(
                got=f"{each.name}={value.value if isinstance(value, Enum) else value} with {type(loss).__name__}",
                expected="none of the proxy constraint's options: this loss has a boundary of its own for each token",
                fix=f"leave out --{each.name}",
            )

    def make_component(self, loss: ForgetLoss, has_proxies: bool) -> Component | None:
        if loss.sets_boundary:
            self._refuse_with_token_boundaries(loss)
            return None
        is_wanted = has_proxies and (self.proxy_constraint or loss.needs_boundary)
        return ProxyConstraint(self, loss) if is_wanted else None


class ProxyConstraint(Component):
    """Bounds how far each forget row is forgotten: up to b_i, the mean l of its proxies (EGUP).

    As an effort it multiplies the loss of a row by `proxy_effort`; as a penalty it adds `proxy_penalty`. It fits the
    forget loss to the boundary if the loss needs that.

    Args:
        options: the options of the constraint. If `proxy_constraint` is off, only the loss is fitted.

    Attributes:
        boundary: b_i of each forget row, shape (N_f,), nats per token, once the run has started.
        strength: lambda.
    """

    name = "proxy_constraint"
    flag = "proxy_constraint"
    switch_off = "add --no_proxy_constraint"
    boundary: Tensor

    def __init__(self, options: ProxyOptions, loss: ForgetLoss):
        self._options, self._unit, self._fits_loss = options, loss.unit, loss.needs_boundary
        self._allows_negative = loss.supports_negative_weight
        self.is_on = options.proxy_constraint
        self._is_effort = options.proxy_form is ProxyForm.EFFORT
        self._is_nearest = options.proxy_match is ProxyMatch.NEAREST
        self.strength = loss.default_proxy_lambda if options.proxy_lambda is None else options.proxy_lambda
        self.needs = Needs(features=self._is_nearest, proxy_rows=True)
        self.acts_by = frozenset({Guidance.WEIGHTS if self._is_effort else Guidance.TERMS} if self.is_on else ())

    def scan(self) -> dict[str, ScanRequest]:
        proxies, forget = self.run.needed_proxy_rows, self.run.forget_rows
        ids = torch.arange(len(proxies))
        memory = self.run.component(FeatureMemory) if self._is_nearest else None
        requests = {"proxy": memory.request(proxies, ids) if memory else ScanRequest(proxies, ids)}
        if self._fits_loss:
            requests["forget"] = ScanRequest(forget, torch.arange(len(forget)))
        return requests

    def start(self, scan: dict[str, RowScores]) -> None:
        proxies = scan["proxy"]
        if self._is_nearest:
            # `FeatureMemory` has requested the features of the forget rows, and started before this component.
            space = self.run.component(FeatureMemory).cache.space.to(torch.device("cpu"))
            proxy, forget = (space.normalize(scan[name].features) for name in ("proxy", "forget"))
            nearest = nearest_proxies(proxy, forget, neighbors=self._options.proxy_neighbors)
        else:
            nearest = torch.arange(len(proxies.sum_nll))[None]
        boundary = proxy_boundary(proxies.mean_nll, nearest)
        self.boundary = boundary.expand(len(self.run.forget_rows)).to(self.run.device)
        if self._fits_loss:
            rows = scan["forget"]
            needed_rise = (rows.num_tokens * (self.boundary.cpu() - rows.mean_nll)).mean()
            self.run.component(ForgetObjective).fit_to_boundary(needed_rise)
        if self.is_on and "forget" in scan:  # with proxy_match=mean, only some losses request these rows
            instead = "leave the boundary out (--no_proxy_constraint)"
            refuse_known_proxies(scan["forget"].mean_nll, self.boundary.cpu(), instead)

    def observe(self, step: Step) -> None:
        if self.is_on:
            gap = step.forget.mean_nll.detach() - self.boundary[step.forget_ids.clamp_min(0)]
            step.observe("boundary_gap", gap, _mean_and_share_past)

    def weights(self, step: Step) -> Tensor | None:
        if not (self.is_on and self._is_effort):
            return None
        gap = step.latest("boundary_gap")
        effort = proxy_effort(gap, torch.zeros_like(gap), self.strength, self._options.proxy_temperature)
        return effort if self._allows_negative else effort.clamp_min(0)

    def terms(self, step: Step) -> dict[str, Tensor]:
        if not self.is_on or self._is_effort:
            return {}
        boundary = self.boundary[step.forget_ids.clamp_min(0)]
        penalty = proxy_penalty(step.forget.mean_nll, boundary, self.strength, self._options.proxy_temperature)
        scale = step.forget.num_tokens if self._unit is Unit.SUM else 1
        return {"proxy": step.counts.per_forget_row(penalty * scale * (step.forget_ids >= 0))}

    def state_dict(self) -> dict[str, Tensor]:
        return {_BOUNDARY: self.boundary}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.boundary = state[_BOUNDARY]


def _mean_and_share_past(name: str, gaps: Tensor) -> dict[str, float]:
    return {name: gaps.mean().item(), "past_boundary": (gaps > 0).float().mean().item()}
