"""The variants of the default method that are to resist relearning: each by hand, then all from rows to table."""

from functools import partial

import pytest
import torch
from conftest import SHARED
from fixtures_study import make_study_small
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import resistance
from benchmarks.resistance import (
    DEFAULT,
    MODELS,
    VARIANTS,
    GuaranteedAdamW,
    Noise,
    SharpnessAware,
    SplitTrainer,
    TwoStatesAdamW,
    Variant,
    line_of,
    moved,
    shared_directions,
    without,
)
from benchmarks.study.plan import Record
from benchmarks.study.work import Place


@pytest.fixture
def place(tofu, tmp_path, monkeypatch):
    """An author of each kind, a model that learns next to nothing, and an empty table."""
    tofu("full")  # skips where the rows are not at hand
    monkeypatch.setattr(resistance, "TABLE", tmp_path / "resistance.jsonl")
    make_study_small(monkeypatch)
    return Place(str(SHARED / "data" / "tofu"), tmp_path / "work")


@pytest.fixture
def adam():
    """Weights (1, 2) whose next step of Adam moves each by the learning rate, against the sign of its gradient."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    return weight, lambda kind, *args, **options: kind([weight], *args, **options)


def test_weights_move_by_a_length_and_come_back():
    weight = torch.tensor([0.1, 0.2, 0.7])
    before = weight.clone()
    with moved([weight], [torch.tensor([0.0, 3.0, 4.0])], 0.5):
        assert weight.tolist() == pytest.approx([0.1, 0.5, 1.1])
    assert weight.equal(before)


def test_without_what_retain_rows_share():
    gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert without(gradient, first, second).tolist() == [[0.0, 0.0], [3.0, 0.0]]


def test_shared_directions_are_those_of_the_inputs_and_of_the_outputs_gradients():
    model, batch = tiny_llama(), {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]])}
    batch |= {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]), "labels": batch["input_ids"]}
    sides = shared_directions(model, batch, rank=5)  # there are five tokens
    linear = [each for each in model.model.layers.modules() if isinstance(each, torch.nn.Linear)]
    assert sides.keys() == {id(each.weight) for each in linear}
    for each in linear:  # the gradient is a sum of outer products of the two, so nothing of it is left
        assert each.weight.grad.norm() > 1e-6
        assert without(each.weight.grad, *sides[id(each.weight)]).norm() < 1e-3 * each.weight.grad.norm()


def test_a_step_that_would_raise_what_is_held_is_projected(adam):
    weight, make = adam
    optimizer = make(GuaranteedAdamW, lr=0.1, weight_decay=0.0)
    weight.grad, optimizer.held = torch.tensor([1.0, 1.0]), [torch.tensor([-3.0, -4.0])]
    optimizer.step()  # (-.1, -.1) would raise it by .7: minus .7 g / 25
    assert weight.tolist() == pytest.approx([1 - 0.1 + 0.084, 2 - 0.1 + 0.112], abs=1e-6)


def test_a_step_that_lowers_what_is_held_is_taken(adam):
    weight, make = adam
    optimizer = make(GuaranteedAdamW, lr=0.1, weight_decay=0.0)
    weight.grad, optimizer.held = torch.tensor([1.0, 1.0]), [torch.tensor([3.0, 4.0])]
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, 1.9], abs=1e-6)


def test_two_states_scale_each_gradient_by_its_own_size(adam):
    weight, make = adam
    optimizer = make(TwoStatesAdamW, 0.1, 0.5)
    weight.grad, optimizer.others = torch.tensor([1.0, -1.0]), [torch.tensor([1e-3, 1e-3])]
    optimizer.step()  # with one state, the small gradients would be lost in the sum
    assert weight.tolist() == pytest.approx([1 - 0.05 - 0.1, 2 + 0.05 - 0.1], abs=1e-4)


def test_noise_alone_is_a_mix_with_a_new_model():
    model, config = tiny_llama(), tiny_llama().config
    torch.manual_seed(3)
    fresh = type(model)(config)
    student = Noise(0.25, 0).mixed(model, seed=3)
    for mixed, old, new in zip(student.parameters(), model.parameters(), fresh.parameters(), strict=True):
        assert mixed.allclose(0.75 * old + 0.25 * new, atol=1e-6)


def test_learning_rate_of_distillation_rises_and_falls_to_nothing():
    noise = Noise(0.2, 110)
    assert [round(noise.rate(step), 2) for step in (0, 9, 10, 60, 110)] == [0.1, 1.0, 1.0, 0.5, 0.0]


def tiny_llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    )


def test_changes_are_those_of_a_seed_to_the_default_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(resistance, "TABLE", tmp_path / "resistance.jsonl")
    speeds = {"before": (9.0, 9.0), "retrained": (1.0, 2.0), DEFAULT: (5.0, 8.0), "masked": (4.0, 4.0)}
    others = dict.fromkeys(("depth", "l_forget", "l_holdout", "l_other", "boundary_distance", "retain_rise"), 0.5)
    for name, of_seeds in speeds.items():
        for seed, speed in enumerate(of_seeds):
            Record({}, {**others, "relearning_speed": speed}, {}).write(line_of(name, seed))
    Record({}, {**others, "relearning_speed": 1.0}, {}).write(line_of("twice", 0))
    head, _, *rows = [row.split(" | ") for row in resistance.table().splitlines()]
    found = {row[0].removeprefix("| "): dict(zip(head[1:4], row[1:4], strict=True)) for row in rows}
    assert found[VARIANTS[DEFAULT].title] == {"seeds": "2", "relearning": "4.50 ± 0.71", "change": ""}
    # 4 / 1 - 5 / 1 = -1 and 4 / 2 - 8 / 2 = -2
    assert found[VARIANTS["masked"].title] == {"seeds": "2", "relearning": "3.00 ± 1.41", "change": "-1.50 ± 0.71"}
    assert found[VARIANTS["twice"].title] == {"seeds": "1", "relearning": "1.00", "change": "-4.00"}


def test_a_report_puts_the_table_into_the_page_and_runs_nothing(tmp_path, monkeypatch):
    markers = "<!-- begin: resistance -->", "<!-- end: resistance -->"
    text = resistance.PAGE.read_text(encoding="utf-8")
    assert [text.count(marker) for marker in markers] == [1, 1]
    page = tmp_path / "page.md"
    page.write_text("Before.\n{}\nold\n{}\nAfter.\n".format(*markers), encoding="utf-8")
    monkeypatch.setattr(resistance, "PAGE", page)
    monkeypatch.setattr(resistance, "_run", lambda options: pytest.fail("run"))
    resistance.main(["--report"])
    begin, end = markers
    assert page.read_text(encoding="utf-8") == f"Before.\n{begin}\n{resistance.table()}\n{end}\nAfter.\n"


@pytest.mark.slow
def test_all_variants_from_rows_to_table(place, monkeypatch):
    few = {name: each if each.finish is None else short(each) for name, each in VARIANTS.items()}
    few["split"] = Variant("the default, read apart", SplitTrainer)
    few["sharp0"] = Variant("a ball of no size", partial(SharpnessAware, rho=0.0))
    monkeypatch.setattr(resistance, "VARIANTS", few)
    resistance.main(["--data_dir", place.data_dir, "--work_dir", str(place.work_dir), "--seeds", "0"])
    values = {name: Record.read(line_of(name, 0)).values for name in (*MODELS, *few)}
    assert values["before"]["retain_rise"] == pytest.approx(0, abs=1e-6)
    assert values["retrained"]["depth"] == pytest.approx(1)
    lengths = {name: found["l_forget"] for name, found in values.items()}
    for same in ("split", "sharp0"):
        assert lengths.pop(same) == pytest.approx(lengths[DEFAULT], abs=1e-4)
    assert len({round(each, 6) for each in lengths.values()}) >= len(lengths) - 1  # no step had to be projected
    assert not resistance.run_first_piece(resistance.pieces(place, list(few), [0]))
    assert f"| {VARIANTS[DEFAULT].title} | 1 |" in resistance.table()


def short(variant):
    noise = variant.finish
    return Variant(variant.title, finish=Noise(noise.share, 2, noise.sets))
