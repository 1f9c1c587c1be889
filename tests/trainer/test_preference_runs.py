"""DPO and AltPO in a run: both answers' reference from one scan, one forward pass, resume, refusals of one's own."""

import json
from pathlib import Path

import pytest
import torch
from conftest import qa_rows
from fixtures_trainer import TRIAL, furthest, reference_nll, weights_of, whole_and_resumed
from peft import LoraConfig
from test_objectives import ALTERNATES
from test_step import OFF, plain_nll

from egup_trainer import EGUPTrainer
from egup_trainer.data.alternates import REFUSALS, refusals_for
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import DataError
from egup_trainer.modeling.reference import ReferenceKind

RUNS = {"dpo": {}, "altpo": {"forget": ALTERNATES}}
each_run = pytest.mark.parametrize("objective", RUNS)


@each_run
def test_a_step_follows_the_hand_written_gradient(make_model, make_trainer, objective):
    options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    options |= {"dpo_beta": 0.2, "max_steps": 2, "per_device_train_batch_size": 10, **OFF, **RUNS[objective]}
    trainer = make_trainer(objective=objective, **options)
    trainer.train()
    model = make_model()
    before = {}
    for step in range(2):
        pairs = trainer.pair_sampler.pairs(step)
        forget = [trainer.forget_rows[f] for f, _ in pairs]
        _, lose, _ = plain_nll(model, forget)
        _, win, _ = plain_nll(model, [(index, row.alternate) for index, row in forget])
        _, kept, counts = plain_nll(model, [trainer.retain_rows[r] for _, r in pairs])
        for place, (index, _) in enumerate(pairs):
            before.setdefault(index, (lose[place].item(), win[place].item()))
        lose_0, win_0 = torch.tensor([before[index] for index, _ in pairs]).unbind(dim=1)
        margins = (lose - lose_0) - (win - win_0)
        assert step == 0 or margins.abs().mean() > 1  # the second step sees what the first has done
        losses = -2 / 0.2 * torch.nn.functional.logsigmoid(0.2 * margins)
        model.zero_grad()
        (losses.sum() / 10 + kept.sum() / counts.sum()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert furthest(weights_of(trainer), dict(model.named_parameters())) < 1e-5


@each_run
def test_no_second_model_and_one_forward_pass_a_step(make_trainer, make_model, objective):
    model, calls = make_model(), []
    trainer = make_trainer(model, objective=objective, clreg_weight=0.1, clreg_positives="views", **RUNS[objective])
    model.register_forward_hook(lambda module, args, output: calls.append(module.training))
    trainer.train()
    assert trainer.reference.kind is ReferenceKind.CACHED
    assert sum(calls) == trainer.state.global_step == 6
    scans = 2 + 2 + 2 + 1  # of forget rows, alternates, retain rows and proxies, 8 at a time
    assert len(calls) - 6 == TRIAL + scans
    assert all("alternate_nll" in row for row in trainer.state.log_history if "loss" in row)


def test_views_have_their_noise_and_alternates_none(make_trainer):
    """The noise belongs to the last rows of the joined batch, which are the views."""
    trainer = make_trainer(objective="dpo", clreg_weight=0.1, clreg_positives="views", clreg_noise_alpha=50.0)
    seen = []
    forward = trainer.forward_parts
    trainer.forward_parts = lambda model, inputs: seen.append(forward(model, inputs)) or seen[-1]
    trainer.train()
    first, expected = seen[0], reference_nll(trainer)["alternate_nll"]
    pairs = trainer.pair_sampler.pairs(0)[:4]
    torch.testing.assert_close(first["alternate_ids"].sum_nll.detach(), expected[[f for f, _ in pairs]])
    difference = (first["positive_ids"].sum_nll - first["forget_ids"].sum_nll).abs()
    assert difference.min() > 1e-3


@each_run
@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(make_trainer, tmp_path, objective, step):
    options = {"objective": objective, "clreg_weight": 0.1, **RUNS[objective]}
    whole, resumed = whole_and_resumed(make_trainer, tmp_path, step, **options)
    assert torch.equal(reference_nll(whole)["alternate_nll"], reference_nll(resumed)["alternate_nll"])


def test_an_adapter_learns_to_refuse(make_trainer, taught):
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(taught(), objective="dpo", peft_config=lora, retain_weight=0.0, num_train_epochs=6, **OFF)
    answers = {
        "forget": trainer.forget_rows,
        "alternate": RowDataset([row.alternate for row in trainer.forget_rows.rows]),
    }
    before = {name: trainer.score(rows).mean_nll.mean() for name, rows in answers.items()}
    trainer.train()
    after = {name: trainer.score(rows).mean_nll.mean() for name, rows in answers.items()}
    assert after["forget"] > before["forget"] + 1
    assert after["alternate"] < before["alternate"] - 1


def test_each_row_has_its_refusal_of_the_seed(make_trainer, tokenizer):
    trainer = make_trainer(objective="dpo", seed=5)
    expected = refusals_for(load_rows(qa_rows(0, 10)), REFUSALS, seed=5)
    for row, text in zip(trainer.forget_rows.rows, expected, strict=True):
        answer = row.alternate.input_ids[row.alternate.is_scored]
        assert tokenizer.decode(answer).replace("<eos>", "").strip() == text


def test_refusals_of_ones_own_are_used_and_their_path_is_not_recorded(make_trainer, tmp_path):
    (tmp_path / "own.txt").write_text("Pass.\n")
    trainer = make_trainer(objective="dpo", idk_answers=str(tmp_path / "own.txt"))
    alternates = {row.alternate.input_ids[row.alternate.is_scored].tobytes() for row in trainer.forget_rows.rows}
    assert len(alternates) == 1
    trainer.train()
    trainer.save_model()
    text = (Path(trainer.args.output_dir) / "unlearning.json").read_text()
    assert json.loads(text)["objective"] == "dpo"
    assert "own.txt" not in text
    assert "Pass." not in text


@pytest.mark.parametrize(
    ("objective", "rows", "message"),
    [
        (
            "altpo",
            qa_rows(0, 4),
            "no alternate answer in row 0 of the forget set",
        ),
        (
            "dpo",
            [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}],
            "tokens without an alternate answer in row 0 of the forget set",
        ),
        (
            "dpo",
            [{"text": "A long story."}],
            "a plain text as row 0 of the forget set",
        ),
    ],
)
def test_rows_without_an_alternate_are_refused_before_anything_is_made(
    make_model, tokenizer, config, objective, rows, message, tmp_path
):
    with pytest.raises(DataError) as caught:
        EGUPTrainer(make_model(), config(objective=objective), rows, qa_rows(20, 24), processing_class=tokenizer)
    assert caught.value.got == message
    assert not (tmp_path / "out").exists()
