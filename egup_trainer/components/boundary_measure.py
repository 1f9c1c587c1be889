"""What components share that compare forget rows with rows never seen, and watch the retain rows meanwhile."""

import torch
from torch import Tensor

from egup_trainer.components.component import Component, Needs
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.modeling.scan import RowScores

_RETAIN_BEFORE = "retain_nll"


class BoundaryMeasure(Component):
    """Scores forget rows, proxies and a sample of the retain rows under the model as it is."""

    needs = Needs(retain_rows=True, proxy_rows=True)
    _retain_before: Tensor | None = None

    def scan(self) -> dict[str, ScanRequest]:
        return {"retain": ScanRequest(self.run.needed_retain_rows, self.run.retain_sample())}

    def start(self, scan: dict[str, RowScores]) -> None:
        self._retain_before = scan["retain"].mean_nll.mean()

    def measure_sides(self) -> tuple[list[float], list[float]]:
        """l of the forget rows, without answers of the model's own, and of the proxies, nats per token."""
        run = self.run
        # What a model says itself is likelier than rows of any other source.
        given = torch.arange(len(run.forget_rows) - run.own_answers)
        forget, proxies = run.score(run.forget_rows, given), run.score(run.needed_proxy_rows)
        return forget.mean_nll.tolist(), proxies.mean_nll.tolist()

    def measure_retain_rise(self) -> float:
        """How far the mean l of the retain sample has risen since before unlearning, nats per token."""
        assert self._retain_before is not None  # set before the first step
        now = self.run.score(self.run.needed_retain_rows, self.run.retain_sample()).mean_nll.mean()
        return float(now - self._retain_before.cpu())

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._retain_before is None else {_RETAIN_BEFORE: self._retain_before}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._retain_before = state[_RETAIN_BEFORE]
