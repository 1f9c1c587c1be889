"""EGUP and CLReg: the components of `EGUPConfig` on top of `UnlearnTrainer`."""

import logging

from egup_trainer.config import EGUPConfig
from egup_trainer.losses.base import ForgetLoss
from egup_trainer.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)


class EGUPTrainer(UnlearnTrainer):
    """Unlearning guided by entanglement, bounded by proxies (EGUP, arXiv 2508.20443), with CLReg (arXiv 2601.22028).

    Loss of a step: gamma * sum_i w_i * base_i / B_f + proxy penalty + alpha * retain + clreg_weight * CLReg, where w_i
    is the product of the inter-sample weight, the intra-sample weight and the proxy effort. Each part is a component
    with its own switch in `EGUPConfig`, and works with any objective that supports it.

    Args:
        args: an `EGUPConfig`.
        proxy_dataset: rows of the forget set's kind that the model never saw. The default objective needs them, or
            `proxy_model` in `args`. With another objective and no proxies, the trainer warns and trains without the
            proxy constraint.
        model, forget_dataset, retain_dataset, eval_dataset, processing_class, peft_config, callbacks, optimizers,
            compute_metrics, forget_loss, components, model_init, train_dataset: as in `UnlearnTrainer`.

    Raises:
        ConfigError: the objective, or `npo_beta="auto"`, needs proxies or a proxy model, and there are none; or as in
            `UnlearnTrainer`.
        DataError: as in `UnlearnTrainer`, or a proxy row equals a forget row. `train` raises it before the first step
            if the model knows the proxies as well as the forget rows.

    Example:
        >>> # trainer = EGUPTrainer("my-model", EGUPConfig("out", clreg_weight=0.1),
        >>> #                       forget_dataset=f, retain_dataset=r, proxy_dataset=p)
        >>> # trainer.train()
    """

    config_class = EGUPConfig
    args: EGUPConfig

    def _set_up_run(self, loss: ForgetLoss) -> None:
        super()._set_up_run(loss)
        is_unbounded = self.args.proxy_constraint and not loss.sets_boundary and self.proxy_rows is None
        if is_unbounded and self.is_world_process_zero():
            logger.warning("No proxy rows were given: training without the proxy constraint.")
