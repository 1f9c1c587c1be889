"""DeepSpeed ZeRO-2 and ZeRO-3 end where a plain run does: on one process, all that its CPU side can here."""

import importlib.util

import pytest
from test_ddp import launch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-deepspeed"
)


# Spread weights (stage 3) are read the plain way, and effort amplifies its rounding.
@pytest.mark.parametrize(("stage", "tolerance"), [(2, 1e-5), (3, 1e-4)])
def test_a_run_under_deepspeed_ends_with_the_weights_of_a_plain_one(stage, tolerance, tmp_path, monkeypatch):
    plain = launch(tmp_path / "plain", 1, batch=4, accumulation=2)[0]
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    zero = launch(tmp_path / "zero", 1, batch=4, accumulation=2, kind=f"zero{stage}")[0]
    assert (zero["world_size"], zero["wrapped"]) == (1, "DeepSpeedEngine")
    assert zero["losses"] == pytest.approx(plain["losses"], rel=tolerance, abs=tolerance)
    assert max((plain["weights"][name] - zero["weights"][name]).abs().max() for name in plain["weights"]) < 1e-6
