"""proxy_reference=current: the boundary is what the model says of the proxies at the start of each epoch."""

import pytest
import torch
from fixtures_trainer import boundary_of, whole_and_resumed
from transformers import TrainerCallback

from egup_trainer.components.proxy_constraint import ProxyConstraint, proxy_boundary


class Watch(TrainerCallback):
    """Notes the boundary, and what the proxies would make of it, once each epoch has begun."""

    def __init__(self):
        self.trainer, self.seen = None, []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.epoch == int(state.epoch):
            now = self.trainer.score(self.trainer.proxy_rows).mean_nll
            proxies = self.trainer.component(ProxyConstraint)._proxies
            wanted = proxy_boundary(now, proxies).expand(len(self.trainer.forget_rows))
            self.seen.append((boundary_of(self.trainer).clone(), wanted))


@pytest.mark.parametrize("match", ["nearest", "mean"])
@pytest.mark.parametrize("reference", ["initial", "current"])
def test_the_boundary_follows_the_model_if_asked_to(make_trainer, match, reference):
    watch = Watch()
    trainer = make_trainer(
        proxy_match=match, proxy_reference=reference, num_train_epochs=3, objective="grad_diff", callbacks=[watch]
    )
    watch.trainer = trainer
    trainer.train()
    assert len(watch.seen) == 3
    torch.testing.assert_close(*watch.seen[0])
    start = watch.seen[0][0]
    for boundary, wanted in watch.seen[1:]:
        assert (wanted - start).abs().max() > 0.01  # the model says something else of the proxies by now
        torch.testing.assert_close(boundary, wanted if reference == "current" else start)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_run_has_the_same_boundary(make_trainer, tmp_path, step):
    """Within an epoch of three steps, at its end, and after it."""
    options = {"proxy_reference": "current", "objective": "grad_diff", "num_train_epochs": 3}
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, step, **options)
    assert torch.equal(boundary_of(whole), boundary_of(resumed))
