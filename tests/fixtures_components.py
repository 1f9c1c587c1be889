"""EGUP's components on features and losses that a test makes up, without a model."""

from types import SimpleNamespace

import torch
from torch import Tensor

from egup_trainer.components.component import Component
from egup_trainer.components.feature_space import InterMatch
from egup_trainer.components.features import FeatureMemory
from egup_trainer.components.inter_sample import InterSampleEntanglement
from egup_trainer.components.intra_sample import IntraSampleEntanglement
from egup_trainer.components.proxy_constraint import ProxyConstraint, ProxyForm, ProxyMatch
from egup_trainer.components.step import Collected, Step, StepCounts
from egup_trainer.data.collator import Part
from egup_trainer.losses.grad_diff import GradientDifference
from egup_trainer.trainer import UnlearnTrainer

NO_ROWS = torch.zeros(0, dtype=torch.long)


def options(**chosen) -> SimpleNamespace:
    """Options of EGUP, each as it is by default but for one neighbor, tau = 1 and a bank of three."""
    return SimpleNamespace(
        **{
            "inter_entanglement": False,
            "inter_match": InterMatch.NEAREST,
            "inter_neighbors": 1,
            "inter_temperature": 1.0,
            "inter_clip_min": 0.2,
            "inter_clip_max": 5.0,
            "intra_entanglement": False,
            "intra_temperature": 0.5,
            "proxy_constraint": True,
            "proxy_form": ProxyForm.EFFORT,
            "proxy_match": ProxyMatch.NEAREST,
            "proxy_lambda": 2.0,
            "proxy_temperature": 0.2,
            "cache_dim": None,
            "bank_size": 3,
            **chosen,
        }
    )


def components_for(chosen, cache=None, boundary=None, supports_negative_weight=True) -> list[Component]:
    """The components that are on, with a cache and a boundary as if the run had started."""
    components: list[Component] = []
    if cache is not None:
        components.append(FeatureMemory(chosen))
        components[0].cache = cache
        if chosen.inter_entanglement:
            clip = (chosen.inter_clip_min, chosen.inter_clip_max)
            components.append(InterSampleEntanglement(chosen.inter_temperature, clip))
        if chosen.intra_entanglement:
            components.append(IntraSampleEntanglement(chosen.intra_temperature))
    if boundary is not None:
        loss = GradientDifference()
        loss.supports_negative_weight = supports_negative_weight
        constraint = ProxyConstraint(chosen, loss)
        constraint.boundary, constraint._proxies = boundary, torch.zeros(1, 1, dtype=torch.long)
        components.append(constraint)
    run = SimpleNamespace(
        component=lambda kind: next(each for each in components if isinstance(each, kind)), storage=None
    )
    for component in components:
        component.run = run
    return components


def look(components, forget, forget_ids: Tensor, retain=None, retain_ids: Tensor = NO_ROWS) -> Step:
    """What the components see of a micro-batch, and its weights."""
    parts = {Part.FORGET: forget} if retain is None else {Part.FORGET: forget, Part.RETAIN: retain}
    counts = StepCounts(forget_ids[forget_ids >= 0], retain_ids[retain_ids >= 0], torch.tensor(1), torch.tensor(1))
    step = Step({"forget_ids": forget_ids, "retain_ids": retain_ids}, parts, Collected(counts), None)
    UnlearnTrainer.observe(SimpleNamespace(components=components), step)
    return step
