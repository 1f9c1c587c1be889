"""A run whose weights are not numbers at its end says so, and certifies nothing."""

import math
from pathlib import Path

import pytest
import torch

from egup_trainer.errors import NumberError
from egup_trainer.modeling.limits import refuse_infinite_weights


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_with_a_weight_that_is_no_number_is_not_saved(make_trainer, tmp_path, value):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[3, 1] = value
    with pytest.raises(NumberError) as caught:
        trainer.save_model()
    assert caught.value.got == (
        "1 weight tensors that are not finite, such as model.embed_tokens.weight: the model is not saved"
    )
    assert not [
        path for path in Path(trainer.args.output_dir).glob("*") if path.suffix in (".json", ".md", ".safetensors")
    ]


def test_the_weights_that_an_engine_has_gathered_are_looked_at(make_model):
    model = make_model()
    gathered = {"a": torch.ones(2), "b": torch.tensor([1.0, math.nan]), "c": torch.tensor([1])}
    with pytest.raises(NumberError, match="1 weight tensors that are not finite, such as b"):
        refuse_infinite_weights(model, gathered)
    refuse_infinite_weights(model)
