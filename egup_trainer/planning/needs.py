"""What a run has to know of its rows and of the model before unlearning, told by its options alone."""

from dataclasses import dataclass
from math import inf
from typing import Any

from egup_trainer.components.clreg import ClregPositives
from egup_trainer.components.proxy_constraint import ProxyMatch
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.losses.registry import make_forget_loss, retain_loss
from egup_trainer.losses.task_vector import TaskVector
from egup_trainer.modeling.reference import NEEDS_OF_LOGITS, NEEDS_OF_THE_MODEL, Need, ReferenceKind
from egup_trainer.modeling.top_k_logps import TokenOffsets, top_k_bytes
from egup_trainer.planning.dry_run import Reading
from egup_trainer.planning.sizes import bytes_of_features, bytes_of_scan
from egup_trainer.planning.skeleton import Skeleton
from egup_trainer.planning.steps import Rows


@dataclass(frozen=True)
class Needs:
    """What a run keeps besides the model that it trains.

    Args:
        reading: what it reads of the model in a step.
        positives: what second views of forget rows are, as in `PairCollator`.
        reference: how the model before unlearning is kept.
        scanned: row sets that are read before the first step.
        kept: bytes of what is kept of them, of a copy of the model, and of likely tokens.
        scan: bytes of a scan's results while it runs.
    """

    reading: Reading
    positives: str | None
    reference: ReferenceKind
    scanned: dict[str, RowDataset]
    kept: int
    scan: int


def needs_of(skeleton: Skeleton, rows: Rows, args: Any) -> Needs:
    """What `EGUPTrainer` with these options needs.

    Args:
        args: an `EGUPConfig`.
    """
    loss = make_forget_loss(args)
    kind = retain_loss(args.retain_loss) if args.retain_weight else None
    retain_needs = kind.needs if kind else frozenset()
    needs = loss.needs | retain_needs
    boundary = rows.proxy is not None and (args.proxy_constraint or loss.needs_boundary)
    nearest = boundary and args.proxy_match is ProxyMatch.NEAREST
    features = bool(args.inter_entanglement or args.intra_entanglement or args.clreg_weight or nearest)
    likely = Need.TOP_K in retain_needs and Need.TOP_K not in loss.needs and args.kl_top_k
    table = top_k_bytes(TokenOffsets.of(rows.retain).total, args.kl_top_k) if likely and rows.retain else inf
    copy = sum(skeleton.weights.values())
    reference = _reference(needs, skeleton, table, copy)
    kept = {ReferenceKind.TOP_K: table, ReferenceKind.FROZEN_COPY: copy}.get(reference, 0)
    if isinstance(loss, TaskVector):
        kept += sum(weight.numel() * weight.element_size() for weight in skeleton.trained)
    k = args.cache_dim or skeleton.model.config.get_text_config().hidden_size
    sampled = min(args.bank_size, len(rows.retain)) if features and rows.retain is not None else 0
    numbers = len(rows.forget) + sampled + (len(rows.proxy) if boundary and rows.proxy is not None else 0)
    if features:
        kept += bytes_of_features(len(rows.forget), sampled, args.bank_size, k)
    reads_logits = loss.reads_logits or bool(needs & NEEDS_OF_LOGITS)
    stands_in = args.kl_top_k if reference is ReferenceKind.TOP_K else 0
    drawn_to = args.clreg_positives if args.clreg_weight else ClregPositives.FORGET
    return Needs(
        Reading(features, reads_logits, loss.reads_hidden or Need.HIDDEN in needs, stands_in),
        None if drawn_to is ClregPositives.FORGET else drawn_to.value,
        reference,
        {
            name: each
            for name, each in (("forget", rows.forget), ("retain", rows.retain), ("proxy", rows.proxy))
            if each
        },
        int(kept),
        bytes_of_scan(numbers, k if features else 0),
    )


def _reference(needs: frozenset[Need], skeleton: Skeleton, table: float, copy: int) -> ReferenceKind:
    """As `choose_reference`, of an adapter that does nothing yet: a fresh one."""
    if needs <= {Need.NLL}:
        return ReferenceKind.CACHED if needs else ReferenceKind.NONE
    if skeleton.adapter_is_fresh:
        return ReferenceKind.ADAPTER_OFF
    if not needs & NEEDS_OF_THE_MODEL and table < copy:
        return ReferenceKind.TOP_K
    return ReferenceKind.FROZEN_COPY
