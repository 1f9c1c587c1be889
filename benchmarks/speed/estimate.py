"""On paper: a step of a large model under FSDP2, by the sizes of what is computed and sent.

`python -m benchmarks.speed.estimate` writes the table of docs/scaling.md. Nothing here was measured: it is what the
assumptions say, so that they can be argued with.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import markdown

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@dataclass(frozen=True)
class Cluster:
    """H100s, 8 a machine.

    Args:
        gpus: how many.
        flops: operations a second in bfloat16 that training reaches.
        within, between: bytes a second and GPU over NVLink, and between machines (400 Gbit/s).
    """

    gpus: int
    flops: float = 4e14
    within: float = 370e9
    between: float = 50e9

    @property
    def bandwidth(self) -> float:
        """Bytes a second that a GPU can send: of the slowest link on its way."""
        return self.within if self.gpus <= 8 else self.between


@dataclass(frozen=True)
class Job:
    """A step of a model.

    Args:
        weights: how many it has.
        width: of its hidden states.
        rows: forget rows and retain rows together, on each GPU.
        tokens: of a row.
        adapter: weights of the adapter that is trained; None where all weights are.
    """

    weights: float = 70e9
    width: int = 8192
    rows: int = 16
    tokens: int = 512
    adapter: float | None = None

    def seconds_of_computing(self, cluster: Cluster) -> float:
        """6 operations a weight and token; 4 if the weights themselves have no gradient."""
        return (4 if self.adapter else 6) * self.weights * self.rows * self.tokens / cluster.flops

    def seconds_of_sending(self, cluster: Cluster) -> float:
        """Weights in bfloat16 gathered for the forward and again for the backward pass, gradients scattered once."""
        share = (cluster.gpus - 1) / cluster.gpus
        return share * (2 * 2 * self.weights + 2 * (self.adapter or self.weights)) / cluster.bandwidth

    def bytes_of_ours(self) -> int:
        """What EGUP and CLReg send a step and GPU: float32 features of its rows, and a few numbers a row."""
        return self.rows * (self.width + 16) * 4

    def gigabytes(self, cluster: Cluster) -> float:
        """Weights, gradients and optimizer state a GPU: 16 bytes a trained weight, 2 a frozen one."""
        held = 16 * self.weights if self.adapter is None else 2 * self.weights + 16 * self.adapter
        return held / cluster.gpus / 1e9


def table() -> str:
    """A row for each number of GPUs, of full fine-tuning and of LoRA."""
    sizes = ["GB a GPU, without activations", "computing s", "sending s", "efficiency at best", "ours, MB sent"]
    rows = []
    for gpus in (8, 64):
        for name, job in (("all 70B weights", Job()), ("LoRA, 0.2B weights", Job(adapter=2e8))):
            cluster = Cluster(gpus)
            computing, sending = job.seconds_of_computing(cluster), job.seconds_of_sending(cluster)
            times = [f"{computing:.1f}", f"{sending:.1f}", f"{computing / max(computing, sending):.0%}"]
            rows.append([str(gpus), name, f"{job.gigabytes(cluster):.0f}", *times, f"{job.bytes_of_ours() / 1e6:.2f}"])
    return markdown.table(["GPUs", "trained", *sizes], rows)


if __name__ == "__main__":
    PAGE.write_text(markdown.put(PAGE.read_text(encoding="utf-8"), "estimate", table()), encoding="utf-8")
