"""EGUP and CLReg: the components of `EGUPConfig` on top of `UnlearnTrainer`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, PreTrainedTokenizerBase, TrainerCallback

from egup_trainer.components.component import Component
from egup_trainer.config import EGUPConfig
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.trainer import Rows, UnlearnTrainer

if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.getLogger(__name__)


class EGUPTrainer(UnlearnTrainer):
    """Unlearning guided by entanglement, bounded by proxies (EGUP, arXiv 2508.20443), with CLReg (arXiv 2601.22028).

    Loss of a step: gamma * sum_i w_i * base_i / B_f + proxy penalty + alpha * retain + clreg_weight * CLReg, where w_i
    is the product of the inter-sample weight, the intra-sample weight and the proxy effort. Each part is a component
    with its own switch in `EGUPConfig`, and works with any objective that supports it.

    Args:
        proxy_dataset: rows of the forget set's kind that the model never saw. Without them the trainer warns and trains
            without the proxy constraint.
        model, args, forget_dataset, retain_dataset, eval_dataset, processing_class, peft_config, callbacks, optimizers,
            compute_metrics, forget_loss, components, model_init, train_dataset: as in `UnlearnTrainer`; `args` is an
            `EGUPConfig`.

    Raises:
        DataError: as in `UnlearnTrainer`, or a proxy row equals a forget row. `train` raises it before the first step
            if the model knows the proxies as well as the forget rows.

    Example:
        >>> # trainer = EGUPTrainer("my-model", EGUPConfig("out", clreg_weight=0.1),
        >>> #                       forget_dataset=f, retain_dataset=r, proxy_dataset=p)
        >>> # trainer.train()
    """

    config_class = EGUPConfig
    args: EGUPConfig

    def __init__(
        self,
        model: str | Path | nn.Module | None = None,
        args: EGUPConfig | None = None,
        forget_dataset: Rows | None = None,
        retain_dataset: Rows | None = None,
        proxy_dataset: Rows | None = None,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: "PeftConfig | None" = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        *,
        forget_loss: ForgetLoss | None = None,
        components: Sequence[Component] = (),
        model_init: Callable[..., Any] | None = None,
        train_dataset: None = None,
    ):
        super().__init__(
            model,
            args,
            forget_dataset,
            retain_dataset,
            eval_dataset,
            processing_class,
            peft_config,
            callbacks,
            optimizers,
            compute_metrics,
            proxy_dataset=proxy_dataset,
            forget_loss=forget_loss,
            components=components,
            model_init=model_init,
            train_dataset=train_dataset,
        )
        is_unbounded = self.args.proxy_constraint and not self.forget_loss.sets_boundary and self.proxy_rows is None
        if is_unbounded and self.is_world_process_zero():
            logger.warning("No proxy rows were given: training without the proxy constraint.")
