"""Which sources of expected outputs a run takes, and which it refuses before its first step."""

from functools import reduce
from operator import or_

import pytest
from conftest import make_tiny_model, qa_rows
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from egup_trainer import EGUPTrainer
from egup_trainer.components.component import Component, Needs
from egup_trainer.components.expected_outputs import ExpectedOutputs
from egup_trainer.errors import ConfigError, DataError, ModelError
from egup_trainer.losses.registry import make_forget_loss
from egup_trainer.modeling.reference import Need
from egup_trainer.records.schema import ADAPTER_OFF
from egup_trainer.trainer import make_components
from egup_trainer.verdict import Status

PLAIN = {"objective": "proxy_kl", "inter_entanglement": False, "intra_entanglement": False, "max_steps": 1}


@pytest.fixture
def saved(tokenizer, tmp_path):
    """saved(model, name="other"): the folder of a saved model with its tokenizer."""

    def save(model, name="other", tokenizer=tokenizer):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def with_adapter(model):
    """A model with a LoRA adapter that is not zero."""
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)
    return adapted


def refusal(error, trainer):
    """The error with which the run ends before its first step."""
    with pytest.raises(error) as caught:
        trainer.train()
    assert trainer.state.global_step == 0
    return caught.value


# Sources


def test_without_any_source_a_trainer_is_refused(make_trainer):
    with pytest.raises(ConfigError) as caught:
        make_trainer(proxies=False, **PLAIN)
    assert caught.value.got == "objective=proxy_kl without proxies and without a proxy model"
    assert "--proxy_model" in caught.value.fix


@pytest.mark.parametrize("proxies", [False, True], ids=["alone", "with proxies"])
def test_a_model_that_never_saw_the_rows_is_taken(make_trainer, taught, make_model, saved, caplog, proxies):
    trainer = make_trainer(taught(), proxies=proxies, proxy_model=saved(make_model()), **PLAIN)
    trainer.train()
    assert trainer.state.global_step == 1
    assert "No proxy rows were given" not in caplog.text


def test_without_proxies_the_verdict_compares_the_rows_with_those_under_the_proxy_model(
    make_trainer, taught, make_model, saved
):
    folder = saved(make_model())
    trainer = make_trainer(taught(), proxies=False, proxy_model=folder, verdict=True, learning_rate=1e-7, **PLAIN)
    trainer.train()
    theirs = make_trainer(folder, objective="grad_diff", output_dir=f"{trainer.args.output_dir}2")
    probability = theirs.score(theirs.forget_rows).probability
    assert trainer.verdict.status is Status.NOT_FORGOTTEN
    assert trainer.verdict.reasons[0] == (
        "Forget rows differ from the same rows under the proxy model: probability 0.88, before 0.88; under the proxy "
        f"model {probability:.2g} (p < 0.001)."
    )
    found = trainer.measuring.of_proxy_model
    assert found.nll == pytest.approx(theirs.score(theirs.forget_rows).mean_nll.tolist(), abs=1e-4)
    assert len(found.rouge) == len(trainer.measuring.before["forget"].rouge) == len(theirs.forget_rows)
    assert found.repetition == []  # a base model often goes on after its answer
    after_example = theirs.measuring._after_example(theirs.forget_rows)
    assert found.nll_after_example == pytest.approx(theirs.score(after_example).mean_nll.tolist(), abs=1e-4)


def test_what_the_proxy_model_says_is_known_after_a_resume(make_trainer, taught, make_model, saved, tmp_path):
    options = {"proxies": False, "proxy_model": saved(make_model()), "verdict": True, **PLAIN, "max_steps": 6}
    whole = make_trainer(taught(), **options, save_strategy="epoch", output_dir=str(tmp_path / "whole"))
    whole.train()
    resumed = make_trainer(taught(), **options, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.measuring.of_proxy_model == whole.measuring.of_proxy_model
    assert resumed.verdict == whole.verdict


def test_a_model_of_another_depth_is_taken(make_trainer, taught, tokenizer, make_model, saved):
    config = make_model().config
    config.num_hidden_layers = 1
    trainer = make_trainer(
        taught(), proxies=False, proxy_model=saved(AutoModelForCausalLM.from_config(config)), feature_layer=2, **PLAIN
    )
    trainer.train()
    assert trainer.state.global_step == 1


def test_the_model_below_a_trained_adapter_is_taken(make_trainer, make_model):
    trainer = make_trainer(with_adapter(make_model()), proxies=False, proxy_model=ADAPTER_OFF, **PLAIN)
    below = make_trainer(make_model(), objective="grad_diff", output_dir=str(trainer.args.output_dir) + "2")
    trainer.train()
    expected = below.score(below.forget_rows, top_k=trainer.args.expected_top_k, answer_first=True).top_k_logps
    found = trainer.component(ExpectedOutputs).table
    assert found.logps.sub(expected.logps).abs().max() < 1e-5
    assert all("lora_" in name for name, weight in trainer.model.named_parameters() if weight.requires_grad)


# Sources that know the rows


def test_a_model_that_has_learned_the_rows_is_refused(make_trainer, taught, saved):
    other = taught()
    for weight in other.parameters():
        weight.data *= 1.01
    folder = saved(other)
    found = refusal(DataError, make_trainer(taught(), proxies=False, proxy_model=folder, **PLAIN))
    assert found.got.startswith(f"the proxy model {folder}, which finds the forget rows as likely (probability 0.8")
    assert "before fine-tuning" in found.fix


def test_the_model_itself_is_refused_even_if_it_knows_no_row(make_trainer, make_model, saved):
    trainer = make_trainer(proxies=False, proxy_model=saved(make_model()), **PLAIN)
    assert trainer.score(trainer.forget_rows).probability < 0.01
    assert "which finds the forget rows as likely" in refusal(DataError, trainer).got


def test_a_new_adapter_switched_off_is_the_model_itself(make_trainer, taught):
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(taught(), proxies=False, proxy_model=ADAPTER_OFF, peft_config=lora, **PLAIN)
    assert refusal(DataError, trainer).got.startswith("the proxy model adapter_off, which finds the forget rows")


@pytest.mark.parametrize("proxy_model", [False, True], ids=["alone", "with a proxy model"])
def test_proxies_that_the_model_knows_are_refused(config, taught, make_model, tokenizer, saved, proxy_model):
    folder = saved(make_model()) if proxy_model else None
    rows = {"forget_dataset": qa_rows(0, 10), "retain_dataset": qa_rows(20, 26), "proxy_dataset": qa_rows(26, 33)}
    args = config(proxy_model=folder, **PLAIN)
    found = refusal(DataError, EGUPTrainer(taught(), args, processing_class=tokenizer, **rows))
    assert found.got.startswith("proxies as likely before unlearning (probability 0.9")
    assert "no_proxy_constraint" not in found.fix  # there is none to switch off


# Models that cannot be a source


def test_an_adapter_cannot_be_switched_off_where_there_is_none(make_trainer):
    with pytest.raises(ConfigError) as caught:
        make_trainer(proxies=False, proxy_model=ADAPTER_OFF, **PLAIN)
    assert caught.value.got == "proxy_model=adapter_off for a model without an adapter"


def test_a_model_with_more_tokens_is_refused(make_trainer, make_model, saved, tokenizer):
    other = make_model()
    other.resize_token_embeddings(len(tokenizer) + 8)
    folder = saved(other)
    found = refusal(ModelError, make_trainer(proxies=False, proxy_model=folder, **PLAIN))
    assert found.got == f"the model {folder} with {len(tokenizer) + 8} tokens"
    assert str(len(tokenizer)) in found.expected


def test_a_model_without_the_tokens_that_were_added_is_a_source(make_trainer, make_model, saved, tokenizer):
    """Fine-tuning often adds one for padding, which the base model lacks."""
    model = make_model()
    model.resize_token_embeddings(len(tokenizer) + 1)
    trainer = make_trainer(model, proxies=False, proxy_model=saved(make_tiny_model(tokenizer, seed=1)), **PLAIN)
    trainer.train()
    assert trainer.state.global_step > 0


def test_a_model_with_other_tokens_is_refused(make_trainer, make_model, saved, tokenizer):
    import json

    folder = saved(make_tiny_model(tokenizer, seed=1))
    path = f"{folder}/tokenizer.json"
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    vocabulary = settings["model"]["vocab"]
    last = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[last[0]], vocabulary[last[1]] = vocabulary[last[1]], vocabulary[last[0]]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(settings, file)
    found = refusal(ModelError, make_trainer(proxies=False, proxy_model=folder, **PLAIN))
    assert found.got == f"the model {folder} with {len(tokenizer)} tokens, 2 of them with other ids"


def test_a_model_that_is_not_there_is_refused(make_trainer):
    found = refusal(ModelError, make_trainer(proxies=False, proxy_model="./absent", **PLAIN))
    assert found.got == "no folder at ./absent"


# Options that nothing reads


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("proxy_form", "penalty", "proxy_form=penalty"),
        ("proxy_neighbors", 2, "proxy_neighbors=2"),
        ("proxy_lambda", 1.0, "proxy_lambda=1.0"),
        ("proxy_match", "mean", "proxy_match=mean"),
    ],
)
def test_options_of_the_boundary_of_rows_are_refused(make_trainer, option, value, shown):
    with pytest.raises(ConfigError) as caught:
        make_trainer(**PLAIN, **{option: value})
    assert caught.value.got == f"{shown} with ProxyKL"
    assert caught.value.fix == f"leave out --{option}"


def test_a_component_of_your_own_may_read_expected_outputs(make_trainer, config, tokenizer, make_model, saved, taught):
    class Watch(Component):
        name = "watch"
        needs = Needs(reference=frozenset({Need.EXPECTED}))

    trainer = EGUPTrainer(
        taught(),
        config(objective="grad_diff", max_steps=1, proxy_model=saved(make_model())),
        qa_rows(0, 10),
        qa_rows(20, 33),
        processing_class=tokenizer,
        components=[Watch()],
    )
    trainer.train()
    assert trainer.component(ExpectedOutputs).table.ids.shape[1] == trainer.args.expected_top_k


def examples_of(config, **options):
    args = config(**{**PLAIN, **options})
    return make_components(args, make_forget_loss(args), has_proxies=True)


def test_rows_are_read_after_examples_by_default_only_with_auto_and_without_features(config):
    def share(**options):
        found = examples_of(config, **options)
        return reduce(or_, (component.needs for component in found)).example_share

    assert share() == 0
    assert share(auto=True) == 0.2
    assert share(example_share=0.25) == 0.25
    assert share(auto=True, example_share=0) == 0
    assert share(auto=True, intra_entanglement=True) == 0


def test_examples_beside_features_are_refused(config):
    with pytest.raises(ConfigError) as caught:
        examples_of(config, example_share=0.5, intra_entanglement=True)
    assert str(caught.value) == (
        "Got example_share=0.5 with a component that reads features, but expected only one of the two, because "
        "features are read from rows in their usual prompt. Leave out --example_share, or both entanglements and CLReg."
    )
