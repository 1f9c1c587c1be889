"""Features that other components read: those of the rows of a step, and a cache of those of all samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from egup_trainer.components.component import Component, Needs, Run
from egup_trainer.components.embedding_cache import EmbeddingCache
from egup_trainer.components.feature_space import FeatureSpace, InterMatch, drift, random_projection
from egup_trainer.components.scanning import ScanRequest
from egup_trainer.components.step import Features, FinishedStep, Step
from egup_trainer.data.tokenization import RowDataset
from egup_trainer.errors import check_layer, check_range, choose
from egup_trainer.modeling.outputs import required
from egup_trainer.modeling.scan import RowScores
from egup_trainer.options import OptionGroup, option


@dataclass
class FeatureOptions(OptionGroup):
    """Options of the features, of the retain bank, and of what is measured on them."""

    help_title = "Features"

    feature_layer: float = option(
        0.5, "Layer that features are read from: a share of the depth between 0 and 1, or an index (-1 is the last)."
    )
    cache_dim: int | None = option(
        None, "Project cached features to this many dimensions; by default they are kept whole."
    )
    bank_size: int = option(1024, "Most recent retain features to compare with (M); 1 or more.")
    inter_match: InterMatch = option(
        InterMatch.NEAREST,
        "Entanglement is a forget sample's mean cosine to the nearest retain samples, or its cosine to the mean of the "
        "retain samples before unlearning (centroid), by features that are not centred.",
    )
    inter_neighbors: int = option(
        8, "Nearest retain samples that entanglement is averaged over with inter_match=nearest (k); 1 or more."
    )

    def check_options(self) -> None:
        self.inter_match = choose(InterMatch, self.inter_match, "inter_match")
        check_layer(self, "feature_layer")
        check_range(self, ("inter_neighbors", "bank_size"), low=1, whole=True)
        check_range(self, ("cache_dim",), low=2, whole=True)


class FeatureMemory(Component):
    """Maps the pooled hidden states of a step to unit vectors phi, measures entanglement and drift, and caches all.

    The trainer adds it when a component needs features. It observes, for each forget row, the entanglement e_i with the
    retain bank and the drift d_i, which are logged.

    Attributes:
        cache: the features of all samples across steps, once the run has started.
    """

    name = "features"
    needs = Needs(features=True, retain_rows=True)
    cache: EmbeddingCache

    def __init__(self, options: FeatureOptions):
        self._options = options
        self._neighbors = options.inter_neighbors if options.inter_match is InterMatch.NEAREST else None

    def attach(self, run: Run) -> None:
        super().attach(run)
        self._projection = random_projection(run.hidden_size, self._options.cache_dim, run.seed)

    def request(self, rows: RowDataset, ids: Tensor) -> ScanRequest:
        """Asks for the projected features of rows."""
        return ScanRequest(rows, ids, with_features=True, projection=self._projection)

    def scan(self) -> dict[str, ScanRequest]:
        forget, retain = self.run.forget_rows, self.run.needed_retain_rows
        return {
            "forget": self.request(forget, torch.arange(len(forget))),
            "retain": self.request(retain, self.run.retain_sample()),
        }

    def start(self, scan: dict[str, RowScores]) -> None:
        run, options = self.run, self._options
        retain = scan["retain"].features.to(run.device)
        self.cache = EmbeddingCache.build(
            scan["forget"].features.to(run.device),
            retain,
            run.retain_sample().to(run.device),
            len(run.needed_retain_rows),
            space=FeatureSpace.fit(retain, self._projection),
            neighbors=self._neighbors,
            bank_size=options.bank_size,
            storage=run.storage,
        )

    def observe(self, step: Step) -> None:
        cache = self.cache
        projected = cache.space.project(required(step.forget.features, "features"))  # (B, k)
        phi = cache.space.normalize(projected)
        seen = phi.detach()
        step.features = Features(
            forget=phi,
            retain=None if step.retain is None else cache.space(required(step.retain.features, "features")),
            entanglement=cache.space.entanglement(projected.detach(), cache.bank, self._neighbors),
            drift=drift(seen, cache.initial[step.forget_ids.clamp_min(0)]),
        )
        step.observe("entanglement", step.features.entanglement)
        step.observe("drift", step.features.drift)
        step.keep("features", phi)
        if step.features.retain is not None:
            step.keep("retain_features", step.features.retain)

    def commit(self, step: FinishedStep) -> None:
        names = ("forget_ids", "features", "entanglement", "drift", "retain_ids", "retain_features")
        self.cache.commit(*(step[name] for name in names))

    def state_dict(self) -> dict[str, Tensor]:
        return self.cache.state_dict()

    def bytes_of_state(self) -> int:
        bank = self.cache.bank  # it grows up to `bank_size`
        return super().bytes_of_state() + (self.cache.bank_size - len(bank)) * bank.shape[1] * bank.element_size()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.cache = EmbeddingCache.from_state_dict(state, self._options.bank_size, self.run.storage)
