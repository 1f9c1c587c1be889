"""Which share of the weights a run moved: sampled, counted by hand, logged once, warned of."""

import pytest
import torch
from fixtures_trainer import logged, weights_of
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from egup_trainer.callbacks import movement
from egup_trainer.callbacks.movement import MOST_ENTRIES, WeightSample, sample_weights, share_unmoved
from egup_trainer.modeling.loading import add_adapter

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def message(share, kind):
    return (
        f"{share} of the trainable weights ({kind}) did not change during training: train float32 weights "
        "(dtype float32, with bf16 for autocast) or raise the learning rate."
    )


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == movement.__name__]


def test_bfloat16_weights_hardly_move_at_a_small_learning_rate(make_plain_trainer, make_model, caplog):
    trainer = make_plain_trainer(make_model().to(torch.bfloat16), learning_rate=1e-6)
    start = weights_of(trainer)
    trainer.train()
    (share,) = logged(trainer, "weights_unmoved")
    trained = {name: weight for name, weight in start.items() if "embed" not in name and "lm_head" not in name}
    moved = sum((weights_of(trainer)[name] != weight).sum().item() for name, weight in trained.items())
    assert share == pytest.approx(1 - moved / sum(weight.numel() for weight in trained.values()))
    assert 0.9 < share < 1
    assert warnings_of(caplog) == [message(f"{share:.1%}", "bfloat16")]


@pytest.mark.parametrize("autocast", [False, True])
def test_float32_weights_move(make_plain_trainer, caplog, autocast):
    trainer = make_plain_trainer(learning_rate=1e-6, bf16=autocast)
    trainer.train()
    assert 0 <= logged(trainer, "weights_unmoved")[0] < 0.1
    assert warnings_of(caplog) == []


def test_without_a_learning_rate_nothing_moves(make_plain_trainer, caplog):
    trainer = make_plain_trainer(learning_rate=0.0)
    trainer.train()
    assert logged(trainer, "weights_unmoved") == [1.0]
    assert warnings_of(caplog) == [message("100.0%", "float32")]


def test_only_the_first_process_warns(make_plain_trainer, caplog, monkeypatch):
    trainer = make_plain_trainer(learning_rate=0.0)
    trainer.train()
    trainer.state.is_world_process_zero = False
    watch = next(call for call in trainer.callback_handler.callbacks if type(call) is movement.WatchMovement)
    caplog.clear()
    watch.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.state.global_step += 1
    watch.on_log(trainer.args, trainer.state, trainer.control, logs={"train_runtime": 1.0})
    assert logged(trainer, "weights_unmoved") == [1.0, 1.0]
    assert warnings_of(caplog) == []


def test_an_adapter_moves_and_the_frozen_weights_below_it_do_not_count(make_trainer, caplog):
    trainer = make_trainer(peft_config=LoraConfig(**LORA))
    trainer.train()
    assert logged(trainer, "weights_unmoved")[0] < 0.1
    assert warnings_of(caplog) == []
    sampled = {id(sample.weight) for sample in sample_weights(trainer.model, seed=0)}
    names = {name for name, weight in trainer.model.named_parameters() if id(weight) in sampled}
    assert names == {name for name in weights_of(trainer) if "lora_" in name}


@pytest.mark.parametrize("name", ["llama", "gpt2"])  # gpt2's head is its embedding, and it learns positions
def test_embeddings_do_not_count(make_model, name):
    model = make_model(name)
    sampled = {id(sample.weight) for sample in sample_weights(model, seed=0)}
    left_out = {name.split(".")[-2] for name, weight in model.named_parameters() if id(weight) not in sampled}
    assert left_out == ({"embed_tokens", "lm_head"} if name == "llama" else {"wte", "wpe"})


def test_an_adapter_of_the_embedding_does_not_count(make_model):
    model = add_adapter(make_model(), LoraConfig(**{**LORA, "target_modules": ["q_proj", "embed_tokens"]}))
    assert len(sample_weights(model, seed=0)) == 2 * 3


def test_a_share_by_hand_counts_tensors_by_their_size():
    small, large = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, 4))
    samples = [WeightSample.draw(weight, torch.Generator()) for weight in (small, large)]
    assert share_unmoved(samples) == 1
    small.data[0, 1] = 1e-30
    large.data[0] = 1.0
    assert share_unmoved(samples) == pytest.approx((3 + 8) / 16)


def test_of_a_large_weight_some_entries_are_drawn_with_the_seed():
    weight = nn.Parameter(torch.arange(3.0 * MOST_ENTRIES).reshape(3, -1))
    first, again, other = (WeightSample.draw(weight, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.values, first.places.float())
    assert len(first.places) == MOST_ENTRIES
    assert torch.equal(first.places, again.places)
    assert not torch.equal(first.places, other.places)
    weight.data[0] += 1
    assert 1 - first.unmoved == pytest.approx(1 / 3, abs=0.03)


def test_a_resumed_run_counts_from_its_checkpoint(make_trainer, monkeypatch):
    options = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(**options).train()
    seen = []
    monkeypatch.setattr(movement, "share_unmoved", lambda samples: seen.extend(samples) or share_unmoved(samples))
    resumed = make_trainer(**options)
    checkpoint = f"{resumed.args.output_dir}/checkpoint-2"
    resumed.train(resume_from_checkpoint=checkpoint)
    saved = load_file(f"{checkpoint}/model.safetensors")
    names = {id(weight): name for name, weight in resumed.model.named_parameters()}
    assert len(seen) == len(names) - 2
    for sample in seen:
        assert torch.equal(sample.values, saved[names[id(sample.weight)]].flatten()[sample.places])
    assert logged(resumed, "weights_unmoved")[0] < 0.1


def test_a_run_that_had_ended_says_nothing_when_it_is_resumed(make_trainer, caplog):
    options = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(**options).train()
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=True)
    assert logged(resumed, "weights_unmoved") == []
    assert warnings_of(caplog) == []


def test_weights_that_are_spread_over_processes_are_let_be(make_trainer, monkeypatch):
    monkeypatch.setattr(movement, "is_spread_over_processes", lambda model: True)
    trainer = make_trainer()
    trainer.train()
    assert logged(trainer, "weights_unmoved") == []


class Tracker(TrainerCallback):
    """Writes down what an experiment tracker hears, in its order."""

    def __init__(self):
        self.heard = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.heard.append("weights_unmoved" if "weights_unmoved" in logs else "other")

    def on_train_end(self, args, state, control, **kwargs):
        self.heard.append("end")


def test_it_is_logged_before_trackers_close_and_again_by_the_next_run(make_trainer):
    tracker = Tracker()
    trainer = make_trainer(callbacks=[tracker])
    trainer.train()
    trainer.train()
    assert [word for word in tracker.heard if word != "other"] == ["weights_unmoved", "end"] * 2
