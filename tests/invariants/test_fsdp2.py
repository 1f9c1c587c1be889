"""FSDP2 on two processes ends where one process does: real processes, weights really spread over them."""

import pytest
import torch
from test_ddp import launch


def assert_ends_alike(one: dict, two: list[dict]) -> None:
    """The two processes were really two, with spread weights, and ended with those of one."""
    assert [record["world_size"] for record in two] == [2, 2]
    assert {record["wrapped"] for record in two} == {"FSDPLlamaForCausalLM"}
    assert all(record["is_spread"] for record in two)
    for record in two:
        assert max((one["weights"][name] - record["weights"][name]).abs().max() for name in one["weights"]) < 1e-6
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "kind",
    [pytest.param("", id="two embeddings"), pytest.param("tied", id="tied embeddings", marks=pytest.mark.slow)],
)
def test_two_processes_with_fsdp2_end_with_the_weights_of_one(kind, tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind=kind)[0]
    assert_ends_alike(one, launch(tmp_path / "two", 2, batch=2, accumulation=2, kind=kind + "fsdp2"))


def test_two_processes_that_move_spread_weights_end_as_one(tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind="sharp")[0]
    assert_ends_alike(one, launch(tmp_path / "two", 2, batch=2, accumulation=2, kind="sharp fsdp2"))


@pytest.mark.parametrize("kind", ["expected", "expected base"], ids=["from proxies", "from a proxy model"])
def test_two_processes_that_read_expected_outputs_end_as_one(kind, tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind=kind)[0]
    assert_ends_alike(one, launch(tmp_path / "two", 2, batch=2, accumulation=2, kind=kind + "fsdp2"))


def test_a_range_test_and_a_verdict_on_spread_weights_are_those_of_one_process(tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind="auto taught")[0]
    first, second = launch(tmp_path / "two", 2, batch=2, accumulation=2, kind="auto taught fsdp2")
    assert first["is_spread"]
    assert second["is_spread"]
    assert torch.equal(first["guide"]["auto.state"], second["guide"]["auto.state"])
    # A gradient near 0 may have either sign, by rounding.
    torch.testing.assert_close(first["guide"]["auto.state"], one["guide"]["auto.state"], rtol=0.02, atol=0.02)
    assert first["guide"]["auto.state"][0] > 1e-4  # a rate was chosen: nothing to unlearn would leave 1e-5
    assert first["measured"] == second["measured"]
    assert first["verdict"] == second["verdict"]
    for alone, spread in zip(one["measured"], first["measured"], strict=True):
        for name in ("forget", "retain", "proxy"):
            assert spread[name]["rouge"] == alone[name]["rouge"]
            assert spread[name]["nll"] == pytest.approx(alone[name]["nll"], abs=1e-4)
    before, after = first["measured"]
    assert before["forget"]["rouge"] == [1.0] * 10
    assert max(before["proxy"]["rouge"]) < 1.0  # not every answer is recited
    assert sum(after["forget"]["rouge"]) < sum(before["forget"]["rouge"])  # how many, by the rounding of the machine


@pytest.mark.parametrize(
    ("batch", "accumulation", "forget"),
    [
        pytest.param(4, 1, 10, id="4 x 1 x 2", marks=pytest.mark.slow),
        pytest.param(2, 2, 3, id="fewer rows than a step", marks=pytest.mark.slow),
        pytest.param(2, 2, 9, id="rows that two do not divide", marks=pytest.mark.slow),
        pytest.param(2, 2, 13, id="more rows that two do not divide", marks=pytest.mark.slow),
    ],
)
def test_other_cuts_and_numbers_of_rows_end_alike(tmp_path, batch, accumulation, forget):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, forget=forget)[0]
    assert_ends_alike(one, launch(tmp_path / "two", 2, batch, accumulation, kind="fsdp2", forget=forget))
