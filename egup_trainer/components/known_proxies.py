"""Refuses rows that leave nothing to forget: proxies that the model knows, and forget rows that it does not know."""

from torch import Tensor

from egup_trainer.errors import DataError
from egup_trainer.modeling.ks_test import LEVEL, ks_p_value, least_p_value
from egup_trainer.records.judgments import knows_proxies


def refuse_known_proxies(forget_nll: Tensor, proxy_nll: Tensor, instead: str) -> None:
    """Raises `DataError` for proxies that are as likely as the forget rows, which would then not be forgotten.

    Args:
        forget_nll: l_i of the forget rows under the model before unlearning, shape (N_f,), nats per token.
        proxy_nll: l of the proxies, shape (P,), or the boundary that they set for each forget row, (N_f,).
        instead: what the user can do if there are no other proxies.
    """
    forget, proxy = _probabilities(forget_nll, proxy_nll)
    if knows_proxies(forget, proxy):
        raise DataError(
            got=f"proxies as likely before unlearning (probability {proxy:.3g}) as the forget rows ({forget:.3g})",
            expected="rows that the model never saw, which it finds less likely: forgetting ends where they are",
            fix=f"give other rows as proxies (--proxy), or {instead}",
        )


def refuse_unknown_rows(forget_nll: Tensor, unseen_nll: Tensor) -> None:
    """Raises `DataError` for forget rows that the model does not know: there is nothing to forget, only harm to do.

    They are unknown if their mean l is not below that of rows never seen, or if a Kolmogorov-Smirnov test that could
    tell as many rows apart does not. Rows never seen that are likely are left to `refuse_known_proxies`.

    Args:
        forget_nll: l_i of the forget rows under the model before unlearning, shape (N_f,), nats per token.
        unseen_nll: l of rows never seen, shape (P,): of proxies, or of the forget rows under a model that never saw
            them.

    Example:
        >>> import torch
        >>> refuse_unknown_rows(torch.tensor([0.1, 0.2, 0.1, 0.3]), torch.tensor([3.0, 2.5, 4.0, 3.5]))
        >>> refuse_unknown_rows(torch.tensor([3.1, 2.6, 4.1]), torch.tensor([3.0, 2.5, 4.0]))
        Traceback (most recent call last):
        ...
        egup_trainer.errors.DataError: Got forget rows that the model finds as unlikely (probability 0.0453) as rows \
never seen (0.0501; p = 1), but expected rows that the model has learned. Check with `egup inspect` that they are \
written as in its training, or leave them out.
    """
    forget, unseen = _probabilities(forget_nll, unseen_nll)
    chance = ks_p_value(forget_nll.tolist(), unseen_nll.tolist())
    is_apart = chance <= LEVEL or least_p_value(len(forget_nll), len(unseen_nll)) > LEVEL
    is_known = is_apart and forget_nll.mean() < unseen_nll.mean()
    if is_known or knows_proxies(forget, unseen):
        return
    raise DataError(
        got=f"forget rows that the model finds as unlikely (probability {forget:.3g}) as rows never seen "
        f"({unseen:.3g}; p = {chance:.2g})",
        expected="rows that the model has learned",
        fix="check with `egup inspect` that they are written as in its training, or leave them out",
    )


def _probabilities(*nlls: Tensor) -> tuple[float, ...]:
    return tuple((-nll).exp().mean().item() for nll in nlls)
