"""EGUP and CLReg on top of `UnlearnTrainer`: weights, proxy constraint, contrastive regulariser."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from egup_trainer.data.collator import Part
from egup_trainer.data.overlap import keep_apart
from egup_trainer.data.tokenization import RowDataset, check_paraphrases
from egup_trainer.errors import DataError
from egup_trainer.guidance.embedding_cache import EmbeddingCache
from egup_trainer.guidance.feature_table import Shelf
from egup_trainer.guidance.features import FeatureSpace, random_projection
from egup_trainer.guidance.guide import Guide, Sight
from egup_trainer.guidance.proxy_constraint import ProxyForm, ProxyMatch, proxy_penalty
from egup_trainer.losses.base import Unit
from egup_trainer.losses.clreg import ClregPositives, contrastive_loss, retain_anchor_loss
from egup_trainer.losses.registry import forget_loss
from egup_trainer.modeling.forward import AnswerReader
from egup_trainer.modeling.outputs import AnswerOutputs, required
from egup_trainer.modeling.probability import sample_ids
from egup_trainer.modeling.scan import RowScores
from egup_trainer.trainer.boundary import ProxyBoundary, refuse_known_proxies
from egup_trainer.trainer.config import EGUPConfig
from egup_trainer.trainer.noise import view_noise
from egup_trainer.trainer.preparation import check_args, prepare_dataset, prepare_forget_set, prepare_tokenizer
from egup_trainer.trainer.scanning import ScanRequest
from egup_trainer.trainer.step import StepCounts
from egup_trainer.trainer.stopping import StopAtBoundary, refuse_too_few_rows
from egup_trainer.trainer.unlearn_trainer import UnlearnTrainer

logger = logging.getLogger(__name__)
_RETAIN_BEFORE = "retain_nll_before"


class EGUPTrainer(UnlearnTrainer):
    """Unlearning guided by entanglement, bounded by proxies (EGUP, arXiv 2508.20443), with CLReg (arXiv 2601.22028).

    Loss of a step: gamma * sum_i w_i * base_i / B_f + proxy penalty + alpha * retain + clreg_weight * CLReg, where w_i
    is the product of the inter-sample weight, the intra-sample weight and the proxy effort. Each part has its own
    switch in `EGUPConfig` and works with any objective.

    Args:
        proxy_dataset: rows of the forget set's kind that the model never saw. Without them the run says so and trains
            without the proxy constraint.
        model, args, forget_dataset, retain_dataset, eval_dataset, processing_class, peft_config, callbacks, optimizers,
            compute_metrics: as in `UnlearnTrainer`; `args` is an `EGUPConfig`.

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
        model: Any,
        args: EGUPConfig | None = None,
        forget_dataset: Any = None,
        retain_dataset: Any = None,
        proxy_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Any = None,
    ):
        args = check_args(args, self.config_class)
        tokenizer = prepare_tokenizer(processing_class, model, args)
        forget_dataset = prepare_forget_set(forget_dataset, tokenizer, args)
        if args.clreg_weight and args.clreg_positives is ClregPositives.PARAPHRASE:
            check_paraphrases(forget_dataset)
        self.proxy_rows: RowDataset | Any = self._prepare_proxies(proxy_dataset, forget_dataset, tokenizer, args)
        self.guide: Guide | Any = None
        self._sights: list[Sight] = []
        self._retain_nll_before: Tensor | Any = None
        super().__init__(
            model,
            args,
            forget_dataset,
            retain_dataset,
            eval_dataset,
            tokenizer,
            peft_config=peft_config,
            callbacks=callbacks,
            optimizers=optimizers,
            compute_metrics=compute_metrics,
        )
        self.boundary = ProxyBoundary(self) if self._has_boundary(args) else None
        if args.stop_at_boundary:  # before the boundary, which moves only if there is a next epoch
            self.add_callback(StopAtBoundary(self))
        if self.boundary:
            self.add_callback(self.boundary)
        if args.proxy_constraint and self.proxy_rows is None and self.is_world_process_zero():
            logger.warning("No proxy rows were given: training without the proxy constraint.")

    def _prepare_proxies(
        self, dataset: Any, forget_rows: RowDataset, tokenizer: Any, args: EGUPConfig
    ) -> RowDataset | None:
        if dataset is None and args.stop_at_boundary:
            raise DataError(
                got="no proxy set with stop_at_boundary",
                expected="rows that the model never saw, to tell when forget rows look like them",
                fix="give proxy_dataset (--proxy)",
            )
        if dataset is None or not (self._wants_boundary(args) or args.stop_at_boundary):
            return None
        rows = prepare_dataset(dataset, "proxy set", tokenizer, args)
        rows = keep_apart(forget_rows, "forget set", rows, "proxy set", drop=args.drop_overlap)
        if args.stop_at_boundary:
            refuse_too_few_rows(len(forget_rows), len(rows))
        return rows

    def _needs_retain_rows(self, args: EGUPConfig) -> bool:
        return super()._needs_retain_rows(args) or self._reads_features(args) or args.stop_at_boundary

    def _reads_features(self, args: EGUPConfig) -> bool:
        nearest = self._has_boundary(args) and args.proxy_match is ProxyMatch.NEAREST
        return bool(args.inter_entanglement or args.intra_entanglement or args.clreg_weight or nearest)

    def _wants_boundary(self, args: EGUPConfig) -> bool:
        return args.proxy_constraint or forget_loss(args.objective).from_config(args).needs_boundary

    def _has_boundary(self, args: EGUPConfig) -> bool:
        return self.proxy_rows is not None and self._wants_boundary(args)

    def _positives(self) -> str | None:
        drawn_to = self.args.clreg_positives
        return drawn_to.value if self.args.clreg_weight and drawn_to is not ClregPositives.FORGET else None

    # Before the first step

    def begin_training(self) -> None:
        """Scans as `UnlearnTrainer` does; what a step that was broken off left behind is dropped."""
        super().begin_training()
        self._sights.clear()

    def _make_reader(self, model: nn.Module, args: EGUPConfig) -> AnswerReader:
        return AnswerReader(model, args.feature_layer, args.rmu_layer, args.padding_free)

    def _wants_features(self) -> bool:
        return self._reads_features(self.args)

    def _projection(self) -> Tensor | None:
        size = self.model.config.get_text_config().hidden_size
        return random_projection(size, self.args.cache_dim, self.args.seed)

    def scan_requests(self) -> dict[str, ScanRequest]:
        """The forget rows, a seeded sample of the retain rows as large as the bank, and the proxies."""
        requests, reads = super().scan_requests(), self._reads_features(self.args)
        if reads:
            requests["forget"] = ScanRequest(self.forget_rows, torch.arange(len(self.forget_rows)), with_features=True)
        if reads or self.args.stop_at_boundary:
            requests["retain"] = ScanRequest(self.retain_rows, self._retain_sample(), with_features=reads)
        if self._has_boundary(self.args):
            nearest = self.args.proxy_match is ProxyMatch.NEAREST
            requests["proxy"] = ScanRequest(self.proxy_rows, torch.arange(len(self.proxy_rows)), nearest)
        return requests

    def _retain_sample(self) -> Tensor:
        """As many retain rows as the bank holds, sampled with the run's seed; their ids in order."""
        return sample_ids(len(self.retain_rows), self.args.seed, self.args.bank_size)

    def use_scan(self, scores: dict[str, RowScores]) -> None:
        """Builds the feature cache, the retain bank and the boundary."""
        super().use_scan(scores)
        device, cache, space = self.args.device, None, None
        if self.args.stop_at_boundary:
            self._retain_nll_before = scores["retain"].mean_nll.mean()
        if self._reads_features(self.args):
            retain = scores["retain"].features.to(device)
            space = FeatureSpace.fit(retain, self._projection())
            cache = EmbeddingCache.build(
                scores["forget"].features.to(device),
                retain,
                self.scan_requests()["retain"].ids.to(device),
                len(self.retain_rows),
                space=space,
                neighbors=self.args.inter_neighbors,
                bank_size=self.args.bank_size,
                shelf=self._shelf,
            )
        boundary = self.boundary.use_scan(scores, space).to(device) if self.boundary else None
        boundary = boundary if self.args.proxy_constraint else None
        if boundary is not None and "forget" in scores:
            refuse_known_proxies(scores["forget"].mean_nll.to(boundary.device), boundary)
        self.guide = Guide(self.args, self.forget_loss.pulls_back, cache, boundary)

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.args.device, self.scan_folder)

    def retain_rise(self) -> float:
        """How far the mean l of the retain sample has risen since before unlearning, nats per token."""
        now = self.score(self.retain_rows, self._retain_sample()).mean_nll.mean()
        return float(now - self._retain_nll_before.cpu())

    # The step

    def compute_terms(
        self,
        model: nn.Module,
        parts: dict[Part, AnswerOutputs],
        inputs: dict[str, Tensor],
        counts: StepCounts,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms of `UnlearnTrainer`, the forget term weighted, and those of the proxy penalty and of CLReg."""
        forget, ids = parts[Part.FORGET], inputs["forget_ids"]
        sight = self.guide.look(forget, ids, parts.get(Part.RETAIN), inputs.get("retain_ids", ids[:0]))
        self._sights.append(sight.detached())
        terms = super().compute_terms(model, parts, inputs, counts, weights=sight.weights)
        if sight.boundary_gap is not None and self.args.proxy_form is ProxyForm.PENALTY:
            terms["proxy"] = self._proxy_term(forget, ids, counts)
        if self.args.clreg_weight:
            terms |= self._clreg_terms(sight, parts, counts)
        return terms

    def _proxy_term(self, forget: AnswerOutputs, ids: Tensor, counts: StepCounts) -> Tensor:
        args, boundary = self.args, self.guide.boundary[ids.clamp_min(0)]
        strength = self.guide.strength.to(boundary.device)
        penalty = proxy_penalty(forget.mean_nll, boundary, strength, args.proxy_temperature)
        scale = forget.num_tokens if self.forget_loss.unit is Unit.SUM else 1
        return counts.per_forget_row(penalty * scale * (ids >= 0))

    def _clreg_terms(self, sight: Sight, parts: dict[Part, AnswerOutputs], counts: StepCounts) -> dict[str, Tensor]:
        args, cache = self.args, self.guide.cache
        if Part.POSITIVE in parts:
            positives = cache.space(required(parts[Part.POSITIVE].features, "features"))
            is_positive = torch.eye(len(positives), dtype=torch.bool, device=positives.device)
        else:
            positives = cache.latest[counts.forget_ids]
            is_positive = sight.forget_ids[:, None] != counts.forget_ids[None, :]
        contrast = contrastive_loss(sight.forget_features, positives, is_positive, cache.bank, args.clreg_temperature)
        terms = {"clreg": args.clreg_weight * counts.per_forget_row(contrast * (sight.forget_ids >= 0))}
        if args.clreg_retain_anchor and sight.retain_features is not None:
            initial, seen = cache.retain_reference(sight.retain_ids)
            total = cache.retain_reference(counts.retain_ids)[1].sum().clamp_min(1)
            held = (retain_anchor_loss(sight.retain_features, initial) * seen).sum() / total
            terms["clreg_anchor"] = args.clreg_weight * args.clreg_retain_anchor * held
        return terms

    def _embedding_noise(self, inputs: dict[str, Tensor]) -> Tensor | None:
        if self.args.clreg_positives is not ClregPositives.VIEWS or "positive_ids" not in inputs:
            return None
        ids = inputs["positive_ids"]
        return view_noise(
            ids,
            inputs["attention_mask"][-len(ids) :].sum(dim=1),
            width=inputs["input_ids"].shape[1],
            size=self.reader.embedding.embedding_dim,
            alpha=self.args.clreg_noise_alpha,
            seed=self.args.seed,
            step=self.state.global_step,
        ).to(ids.device)

    def end_step(self) -> None:
        """Gathers what all processes saw in the step, takes it into the cache, and logs it."""
        super().end_step()
        seen = {name: self._gather(name) for name, value in vars(self._sights[0]).items() if value is not None}
        self._sights.clear()
        if self.guide.cache is not None:
            self.guide.cache.commit(
                seen["forget_ids"],
                seen["forget_features"],
                seen["entanglement"],
                seen["drift"],
                seen["retain_ids"],
                seen["retain_features"],
            )
        names = {"weights": "weight", **{name: name for name in ("entanglement", "drift", "boundary_gap")}}
        real = seen["forget_ids"] >= 0
        self.step_log.observe({logged: seen[name][real] for name, logged in names.items() if name in seen})
        if self.args.proxy_dual_rate and "boundary_gap" in seen:
            self.guide.learn_strength(seen["boundary_gap"][real])
            self.step_log.observe({"proxy_lambda": self.guide.strength[None]})

    def _gather(self, name: str) -> Tensor:
        return self.accelerator.gather(torch.cat([getattr(sight, name) for sight in self._sights]))

    # Checkpoints

    def training_state(self) -> dict[str, Tensor]:
        """The tensors of `UnlearnTrainer`, of the guide, and of what its boundary is measured by."""
        before = {} if self._retain_nll_before is None else {_RETAIN_BEFORE: self._retain_nll_before}
        boundary = self.boundary.state_dict() if self.boundary else {}
        return {**super().training_state(), **self.guide.state_dict(), **boundary, **before}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Takes over the tensors of a checkpoint."""
        super().load_training_state(state)
        self._retain_nll_before = state.pop(_RETAIN_BEFORE, None)
        if self.boundary:
            self.boundary.load_state_dict(state)
        self.guide = Guide.from_state_dict(self.args, self.forget_loss.pulls_back, state, self._shelf)
