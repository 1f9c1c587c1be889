"""Alternate preference optimization."""

from egup_trainer.losses.base import Alternate
from egup_trainer.losses.dpo import DPO


class AltPO(DPO):
    """Alternate preference optimization (Mekala et al. 2024, arXiv 2409.13474): `DPO` towards an alternate answer that
    the data provides for the row, wrong but of the same kind, in place of a refusal.

    Formula: that of `DPO`, with A_i the negative log-likelihood of this answer.

    Requirements: a retain set; an alternate answer for each forget row (column `alternate_answer`); one pass over both
    before the first step.

    Inputs: as in `DPO`. Returns shape (B,), nats.

    Recommendations:
        - When you have other plausible answers, or the model can write them (`egup proxy --kind alternate`). The model
          then answers as it would about somebody unknown.

    Relations:
        - `DPO` prefers a refusal.
    """

    alternate = Alternate.GIVEN
