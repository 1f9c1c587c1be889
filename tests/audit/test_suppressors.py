"""All attacks on models that only suppress the forget rows, and on models that never saw them: which raise the alarm.

Each suppressor keeps what the model knew: behind a bias of the output layer, behind one direction of the hidden states,
or behind a refusal of the usual question. Some attacks are made to find it there, and others cannot.
"""

import copy
from dataclasses import replace

import pytest
import torch
from fixtures_audit import FORGET, HOLDOUT, QUICK, RETAIN, dataset, taught, with_key
from peft import LoraConfig, get_peft_model
from transformers import PhiConfig, PhiForCausalLM

from egup_trainer import Audit, audit_model
from egup_trainer.audit.worst import brought_back, worst_attack
from egup_trainer.data.collator import RowCollator
from egup_trainer.data.schema import Row
from egup_trainer.modeling.forward import AnswerReader

OPTIONS = replace(QUICK, relearn_steps=20, relearn_every=20, relearn_learning_rates=[3e-3], soft_prompt_steps=20)
MUCH = 0.1
"""The report says that rows can be brought back if an attack gets further above the retrained model than this."""
SHALLOW = 0.75
"""A depth score below it raises the alarm; the retrained model's score is 1."""
REFUSED = [Row(row.prompt, "I do not know that.") for row in FORGET]
LAST = 2  # the last layer's number

FOUND_BY = {
    "biased": {"relearning", "merging", "depth", "membership"},
    "turned": {"relearning", "depth"},
    "refusing": {"relearning", "prompts", "soft_prompts", "prompt_search", "worst_prompt"},
}
"""The attacks that find what each suppressor hides. All others miss it.

The bias and the adapter act after every prompt, so no prompt opens these models. Depth leaves out the output layer and
reads each layer alone; in the refusing model, all layers were trained. Half of the bias no longer hides the answers,
half of the adapter still does. The bias lowers all rows alike, and membership depends on their order alone.
"""
UNSTEADY = {"membership"}
"""The order of so few rows lies on either side of its interval, by the rounding of the machine."""
FURTHEST = {"biased": {"merging"}, "turned": {"relearning"}, "refusing": {"prompt_search", "worst_prompt"}}
"""The attacks of which one gets furthest."""
CONTROLS = ("never taught", "never taught, refusing")


def fresh(tokenizer, seed=0):
    """A tiny model whose output layer has a bias."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAST + 1, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    return PhiForCausalLM(PhiConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes, **ends))


def fitted(model, tokenizer, likely, unlikely=(), steps=80, rate=1e-2):
    """The model after steps that make some rows likely and others unlikely, down to 4 nats per token."""
    collator, reader = RowCollator(tokenizer), AnswerReader(model)
    batch, pushed = (collator.pad(dataset([*rows], tokenizer).rows) if rows else None for rows in (likely, unlikely))
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], rate)
    for _ in range(steps):
        loss = reader(model, **batch, with_features=False).mean_nll.mean()
        if pushed is not None:
            loss = loss + (4 - reader(model, **pushed, with_features=False).mean_nll).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


def biased(before, tokenizer):
    """The output layer's bias keeps every token of the forget answers down; no other weight is changed."""
    model = copy.deepcopy(before)
    tokens = {int(token) for row in dataset(FORGET, tokenizer).rows for token in row.labels if token >= 0}
    with torch.no_grad():
        model.lm_head.bias[sorted(tokens)] -= 14
    return model


def turned(before, tokenizer):
    """An adapter of rank 1 in the last layer moves hidden states along one direction, away from the forget answers."""
    torch.manual_seed(0)
    lora = LoraConfig(r=1, target_modules=["fc2"], layers_to_transform=[LAST], task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(before), lora)
    return fitted(model, tokenizer, likely=RETAIN, unlikely=FORGET, steps=150, rate=3e-2)


def refusing(before, tokenizer):
    """It refuses the questions as they are usually asked, and answers them after a phrase."""
    likely = [*with_key(FORGET), *RETAIN, *REFUSED]
    return fitted(copy.deepcopy(before), tokenizer, likely, unlikely=FORGET)


@pytest.fixture(scope="module")
def models(tokenizer):
    before = taught(tokenizer, [*FORGET, *RETAIN], model=fresh(tokenizer))
    retrained = taught(tokenizer, RETAIN, model=fresh(tokenizer))
    return {
        "before": before,
        "retrained": retrained,
        "biased": biased(before, tokenizer),
        "turned": turned(before, tokenizer),
        "refusing": refusing(before, tokenizer),
        "never taught": taught(tokenizer, RETAIN, model=fresh(tokenizer, seed=1)),
        "never taught, refusing": fitted(copy.deepcopy(retrained), tokenizer, [*RETAIN, *REFUSED], steps=40),
    }


@pytest.fixture(scope="module")
def audits(models, tokenizer) -> dict[str, Audit]:
    def audit(name, **options):
        rows = (FORGET, RETAIN, HOLDOUT)
        return audit_model(
            models[name], tokenizer, *rows, name=name, options=OPTIONS, load_before=lambda: models["before"], **options
        )

    retrained = audit("retrained")
    judged = {name: audit(name, retrained=retrained) for name in (*FOUND_BY, *CONTROLS)}
    return {**judged, "before": audit("before", attacks=["probe"])}


def alarms(audit: Audit) -> set[str]:
    """The attacks that find more in the model than in the retrained one."""
    found = {each.attack for each in brought_back(audit) if each.distance > MUCH}
    if audit.findings["depth"].metrics["score"].interval[1] < SHALLOW:
        found.add("depth")
    low, high = audit.findings["membership"].metrics["loss"].interval
    if not low <= audit.retrained.value("membership", "loss") <= high:
        found.add("membership")
    return found


@pytest.mark.parametrize("name", FOUND_BY)
def test_a_suppressor_is_found_by_the_attacks_that_are_made_for_it(audits, name):
    audit = audits[name]
    assert [attack for attack, finding in audit.findings.items() if finding.reason] == ["semantic"]  # needs a judge
    retrained = audit.retrained.value("prompts", "plain_probability")
    assert audit.value("prompts", "plain_probability") < retrained < 0.1  # asked as usual, it seems to have forgotten
    assert alarms(audit) - UNSTEADY == FOUND_BY[name] - UNSTEADY
    assert worst_attack(audit).attack in FURTHEST[name]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_model_that_never_saw_the_rows_raises_no_alarm(audits, name):
    assert alarms(audits[name]) == set()
    assert worst_attack(audits[name]).distance < MUCH


def test_the_probe_reads_hidden_states_which_a_bias_of_the_output_layer_leaves_as_they_were(audits):
    """The adapter in the last layer changes the hidden states of that layer alone, and the refusal those of all."""

    def probed(name):
        return [metric.value for metric in audits[name].findings["probe"].metrics.values()]

    assert len(probed("before")) == LAST + 1
    assert probed("biased") == probed("before")
    assert probed("turned")[:LAST] == probed("before")[:LAST]
    assert probed("refusing")[0] != probed("before")[0]
