"""FSDP2 on two processes ends where one process does: real processes, weights really spread over them."""

import pytest
from test_ddp import launch


@pytest.mark.parametrize("kind", ["", "tied"], ids=["two embeddings", "tied embeddings"])
def test_two_processes_with_fsdp2_end_with_the_weights_of_one(kind, tmp_path):
    one = launch(tmp_path / "one", 1, batch=8, accumulation=1, kind=kind)[0]
    two = launch(tmp_path / "two", 2, batch=2, accumulation=2, kind=kind + "fsdp2")
    assert [record["world_size"] for record in two] == [2, 2]
    assert {record["wrapped"] for record in two} == {"FSDPLlamaForCausalLM"}
    assert all(record["is_spread"] for record in two)
    for record in two:
        assert max((one["weights"][name] - record["weights"][name]).abs().max() for name in one["weights"]) < 1e-5
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-4, abs=1e-4)
