"""CLReg's terms of a step, by hand: whose positives they are, and which retain rows are held."""

from math import cos, exp, log
from types import SimpleNamespace

import pytest
import torch
from fixtures_components import components_for, look, options

from egup_trainer.components.clreg import CLReg, ClregPositives
from egup_trainer.data.collator import Part
from egup_trainer.modeling.outputs import AnswerOutputs

IDS, RETAIN_IDS = torch.tensor([2, 0, -1]), torch.tensor([3, 0, -1])
ANGLES, RETAIN_ANGLES = (2.3, 0.1, 1.0), (0.9, 2.0, 1.0)  # the last rows only fill the batch
BANK, TEMPERATURE = (0.5, 1.5), 0.5
OPTIONS = {"clreg_weight": 0.3, "clreg_temperature": TEMPERATURE, "clreg_retain_anchor": 0.7}


@pytest.fixture
def terms(make_cache, units):
    """terms(positives): those of a step of forget rows 2 and 0, of which the cache last saw 2 at 2 and 0 at 0."""

    def read(positives):
        chosen = options(inter_entanglement=True)
        parts = [
            AnswerOutputs(torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(3), units(*angles))
            for angles in (ANGLES, RETAIN_ANGLES, (2.2, 0.4, 1.0))
        ]
        components = components_for(chosen, make_cache())
        step = look(components, parts[0], IDS, parts[1], RETAIN_IDS)
        if positives is not ClregPositives.FORGET:
            step.parts[Part.POSITIVE] = parts[2]
        clreg = CLReg(SimpleNamespace(**OPTIONS, clreg_positives=positives))
        clreg.run = components[0].run
        return {name: value.item() for name, value in clreg.terms(step).items()}

    return read


def contrast(angle, positive):
    drawn, pushed = exp(cos(angle - positive) / TEMPERATURE), sum(exp(cos(angle - b) / TEMPERATURE) for b in BANK)
    return -log(drawn / (drawn + pushed))


@pytest.mark.parametrize(
    ("positives", "drawn_to"),
    [(ClregPositives.FORGET, (0.0, 2.0)), (ClregPositives.VIEWS, (2.2, 0.4)), (ClregPositives.PARAPHRASE, (2.2, 0.4))],
)
def test_a_row_is_drawn_to_the_other_rows_of_the_step_or_to_its_own_view(terms, positives, drawn_to):
    values = [contrast(*pair) for pair in zip(ANGLES, drawn_to, strict=False)]
    assert terms(positives)["clreg"] == pytest.approx(0.3 * sum(values) / 2, abs=2e-3)  # features lie in two bytes


def test_retain_rows_that_the_scan_saw_are_held_where_they_were(terms):
    held = 1 - cos(0.9 - 0.5)  # row 3; the scan did not see row 0
    assert terms(ClregPositives.FORGET)["clreg_anchor"] == pytest.approx(0.3 * 0.7 * held, abs=2e-3)
