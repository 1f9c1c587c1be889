"""Refuses proxies that the model knows as well as the forget rows."""

from torch import Tensor

from egup_trainer.errors import DataError
from egup_trainer.records.judgments import knows_proxies


def refuse_known_proxies(forget_nll: Tensor, proxy_nll: Tensor, instead: str) -> None:
    """Raises `DataError` for proxies that are as likely as the forget rows, which would then not be forgotten.

    Args:
        forget_nll: l_i of the forget rows under the model before unlearning, shape (N_f,), nats per token.
        proxy_nll: l of the proxies, shape (P,), or the boundary that they set for each forget row, (N_f,).
        instead: what the user can do if there are no other proxies.
    """
    forget, proxy = ((-nll).exp().mean().item() for nll in (forget_nll, proxy_nll))
    if knows_proxies(forget, proxy):
        raise DataError(
            got=f"proxies as likely before unlearning (probability {proxy:.3g}) as the forget rows ({forget:.3g})",
            expected="rows that the model never saw, which it finds less likely: forgetting ends where they are",
            fix=f"give other rows as proxies (--proxy), or {instead}",
        )
