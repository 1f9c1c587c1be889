"""The tally compared with allocations that can be counted by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from egup_trainer.planning.tally import Tally


def test_views_and_known_tensors_take_nothing_and_parts_are_told():
    weight = torch.zeros(1000)
    with Tally(known=[weight], part_of=lambda tensor: "wide" if tensor.shape[-1] == 8 else "narrow") as tally:
        view = weight.view(125, 8).t()
        wide = torch.zeros(2, 8)
        narrow = torch.zeros(3)
        tally.label(narrow, "chosen")
        last = torch.zeros(1)
    assert tally.at_peak == {"wide": 64, "chosen": 12, "narrow": 4}
    assert view.shape == (8, 125)
    assert wide.numel() + last.numel() == 17


def test_fake_tensors_count_as_real_ones_beside_real_inputs():
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def work(weight):
        weight = torch.nn.Parameter(weight)
        with Tally(known=[weight]) as tally:
            hidden = torch.zeros(16, 32)
            torch.relu(hidden @ weight.t()).sum().backward()
        return tally.peak

    with mode:
        fake = torch.zeros(64, 32)
        huge = torch.zeros(10**13)  # 40 terabytes
    assert work(fake) == work(torch.zeros(64, 32)) > 16 * 32 * 4
    with Tally() as tally:
        double = huge * 2
    assert tally.now == double.numel() * 4
