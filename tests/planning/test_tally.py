"""The tally against allocations that can be counted by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from egup_trainer.planning.tally import Tally


def test_the_peak_is_the_largest_sum_of_what_lives_at_once():
    with Tally() as tally:
        first = torch.zeros(100)  # 400 bytes
        second = torch.zeros(50)  # 600 together
        del first  # 200
        third = torch.zeros(75)  # 500
    assert (tally.peak, tally.now) == (600, 500)
    assert len(second) + len(third) == 125


def test_views_and_known_tensors_take_nothing():
    weight = torch.zeros(1000)
    with Tally(known=[weight]) as tally:
        rows = weight.view(10, 100).t()
        copy = rows.clone()
        part = copy[:2]
    assert tally.peak == 4000
    assert part.shape == (2, 10)


def test_parts_at_the_peak():
    with Tally(kind_of=lambda tensor: "wide" if tensor.shape[-1] == 8 else "narrow") as tally:
        wide = torch.zeros(2, 8)
        narrow = torch.zeros(3)
        tally.label(narrow, "chosen")
        last = torch.zeros(1)
    assert tally.at_peak == {"wide": 64, "chosen": 12, "narrow": 4}
    assert wide.numel() + last.numel() == 17


def test_fake_tensors_count_as_real_ones_and_hold_nothing():
    def work():
        weight = torch.nn.Parameter(torch.zeros(64, 32))
        with Tally(known=[weight]) as tally:
            hidden = torch.zeros(16, 32)
            torch.relu(hidden @ weight.t()).sum().backward()
        return tally.peak

    with FakeTensorMode():
        fake = work()
    assert fake == work() > 16 * 32 * 4
    with FakeTensorMode(), Tally() as tally:
        huge = torch.zeros(10**13)  # 40 terabytes
    assert tally.now == huge.numel() * 4
