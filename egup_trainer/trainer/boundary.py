"""The boundary that proxies mark, as a run measures it: before its first step, and if asked for at each epoch."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from egup_trainer.errors import ConfigError, DataError
from egup_trainer.guidance.features import FeatureSpace
from egup_trainer.guidance.proxy_constraint import ProxyMatch, ProxyReference, nearest_proxies, proxy_boundary
from egup_trainer.modeling.scan import RowScores
from egup_trainer.records.outcome import knows_proxies

_PROXIES, _RISE = "boundary_proxies", "needed_rise"


def refuse_loss_without_boundary(loss: Any) -> None:
    """Raises `ConfigError` for a loss that must be told how far the boundary is, in a run without proxy rows."""
    if loss.needs_boundary:
        raise ConfigError(
            got="npo_beta=auto without proxy rows",
            expected="rows that the model never saw, which mark the boundary that beta is chosen from",
            fix="use EGUPTrainer with proxy_dataset (--proxy), or set --npo_beta to a number",
        )


def refuse_known_proxies(forget_nll: Tensor, boundary: Tensor) -> None:
    """Raises `DataError` for proxies that are as likely as the forget rows: none of these would be forgotten.

    Args:
        forget_nll, boundary: l_i and b_i of the forget rows under the model before unlearning, (N_f,), nats per token.
    """
    forget, proxy = ((-nll).exp().mean().item() for nll in (forget_nll, boundary))
    if knows_proxies(forget, proxy):
        raise DataError(
            got=f"proxies as likely before unlearning (probability {proxy:.3g}) as the forget rows ({forget:.3g})",
            expected="rows that the model never saw, which it finds less likely: forgetting ends where they are",
            fix="give other rows as proxies (--proxy), or leave the boundary out (--no_proxy_constraint)",
        )


class ProxyBoundary(TrainerCallback):
    """Knows each forget sample's proxies, fits the loss to the boundary, and with `proxy_reference=current` moves it.

    Args:
        trainer: an `EGUPTrainer` with proxy rows.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._proxies: Tensor | Any = None  # (N_f, n), or (1, n) where all proxies count for all
        self._needed_rise: Tensor | None = None

    def use_scan(self, scores: dict[str, RowScores], space: FeatureSpace | Any) -> Tensor:
        """b_i of each forget row under the model before unlearning, (N_f,), on the CPU."""
        proxies, args = scores["proxy"], self.trainer.args
        if args.proxy_match is ProxyMatch.MEAN:
            self._proxies = torch.arange(len(proxies.sum_nll))[None]
        else:
            proxy, forget = (space.to(torch.device("cpu")).place(scores[name].features) for name in ("proxy", "forget"))
            self._proxies = nearest_proxies(proxy, forget, neighbors=args.proxy_neighbors)
        boundary = self._boundary(proxies.mean_nll)
        if self.trainer.forget_loss.needs_boundary:
            forget = scores["forget"]
            self._fit_loss((forget.num_tokens * (boundary - forget.mean_nll)).mean())
        return boundary

    def _boundary(self, proxy_nll: Tensor) -> Tensor:
        return proxy_boundary(proxy_nll, self._proxies).expand(len(self.trainer.forget_rows))

    def _fit_loss(self, needed_rise: Tensor) -> None:
        self._needed_rise = needed_rise
        self.trainer.forget_loss = self.trainer.forget_loss.for_boundary(needed_rise.item())

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks the model again, at the start of every epoch but the first; not where a run resumes within one."""
        starts = state.epoch and state.epoch == int(state.epoch) and not control.should_training_stop
        guide = self.trainer.guide
        if starts and args.proxy_reference is ProxyReference.CURRENT and guide.boundary is not None:
            now = self.trainer.score(self.trainer.proxy_rows).mean_nll
            guide.boundary = self._boundary(now).to(guide.boundary.device)

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs beside b_i, for a checkpoint."""
        rise = {} if self._needed_rise is None else {_RISE: self._needed_rise}
        return {_PROXIES: self._proxies.to(torch.int32), **rise}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over the tensors of a checkpoint."""
        self._proxies = state[_PROXIES].long().cpu()
        if _RISE in state:
            self._fit_loss(state[_RISE].cpu())
