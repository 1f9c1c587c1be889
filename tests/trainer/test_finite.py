"""Numbers that are not finite end a run before any weight takes them in, and are named."""

from pathlib import Path

import pytest
import torch
from fixtures_trainer import furthest, weights_of

from egup_trainer.checkpointing import last_complete
from egup_trainer.components.retain import RetainObjective
from egup_trainer.errors import NumberError


def poisoned(trainer, sample, value=float("nan")):
    """The answers of one forget sample are as likely as `value`."""
    forward = trainer.forward_parts

    def read(model, inputs):
        parts = forward(model, inputs)
        hit = (inputs["forget_ids"] == sample).nonzero().flatten()
        forget = parts["forget_ids"]
        for row in hit.tolist():
            forget.token_logps.data[forget.token_rows == row] = value
        return parts

    trainer.forward_parts = read


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("-inf"), "inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_sample(make_trainer, value, shown, accumulation):
    trainer = make_trainer(
        objective="grad_diff",
        proxy_constraint=False,
        inter_entanglement=False,
        intra_entanglement=False,
        save_strategy="steps",
        save_steps=1,
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    sample = trainer.pair_sampler.pairs(0)[6][0]  # in the second step
    poisoned(trainer, sample, value)
    with pytest.raises(NumberError) as error:
        trainer.train()
    sign = "-" if shown == "inf" else ""
    assert error.value.got == f"a loss that is not finite: forget = {sign}{shown}; forget samples {sample}"
    assert trainer.state.global_step == 1
    assert last_complete(Path(trainer.args.output_dir)).name == "checkpoint-1"


def test_where_the_rows_are_finite_all_of_the_batch_are_named(make_trainer):
    trainer = make_trainer(num_train_epochs=1)
    pairs = trainer.pair_sampler.pairs(0)[:4]
    trainer.component(RetainObjective).weight = float("inf")
    with pytest.raises(NumberError) as error:
        trainer.train()
    forget, retain = (" ".join(map(str, sorted(pair[side] for pair in pairs))) for side in (0, 1))
    assert error.value.got == (
        f"a loss that is not finite: retain = inf; forget samples {forget}, retain samples {retain}"
    )


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_reaches_no_weight(make_trainer, max_grad_norm):
    trainer = make_trainer(num_train_epochs=1, max_grad_norm=max_grad_norm)
    weight = trainer.model.get_parameter("model.layers.1.mlp.up_proj.weight")
    before = weights_of(trainer)
    weight.register_hook(lambda gradient: gradient.clone().index_fill_(0, torch.tensor([3]), float("nan")))
    with pytest.raises(NumberError) as error:
        trainer.train()
    pairs = trainer.pair_sampler.pairs(0)[:4]
    forget, retain = (" ".join(map(str, sorted(pair[side] for pair in pairs))) for side in (0, 1))
    assert error.value.got == f"a gradient that is not finite; forget samples {forget}, retain samples {retain}"
    assert furthest(before, weights_of(trainer)) == 0


def test_a_row_without_a_number_is_named_before_the_first_step(make_trainer, taught):
    """A proxy of which nothing is known would make the goal of the likeliest forget row no number."""
    model = taught()
    trainer = make_trainer(model=model, proxy_constraint=True)
    only = set(trainer.proxy_rows.rows[1].input_ids.tolist())
    for rows in (trainer.forget_rows, trainer.retain_rows):
        only -= {int(token) for row in rows.rows for token in row.input_ids}
    only -= {int(token) for index, row in enumerate(trainer.proxy_rows.rows) if index != 1 for token in row.input_ids}
    with torch.no_grad():
        model.get_input_embeddings().weight[sorted(only)[0]] = float("nan")
    with pytest.raises(NumberError) as error:
        trainer.train()
    assert (
        error.value.got == "a loss that is not finite before the first step, of 1 rows of the proxy set, such as row 1"
    )
    assert trainer.state.global_step == 0
