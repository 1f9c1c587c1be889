"""float32, bfloat16 and float16 on the GPU against float32 on the CPU."""

from benchmarks.gpu.cases import Findings, SkipCase
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, ROUNDED, STEPS, compare, compare_rows, on_the_cpu, train

MOST_SKIPPED = 12
"""Steps that the gradient scaler may leave out: it starts at 65,536 and halves its scale at each of them."""
_FLOAT16_NLL = 0.5
"""Mean |difference of l|: the six updates may be on other rows, after steps that were left out."""


def precision(place: Place, findings: Findings) -> None:
    """Each precision with float32 weights and autocast, as `bf16` and `fp16` of the configuration have it."""
    expected = on_the_cpu(place)
    with findings.case("float32") as case:
        compare(case, train(place), expected, EXACT)
    with findings.case("bfloat16") as case:
        compare(case, train(place, bf16=True), expected, ROUNDED)
    with findings.case("float16 with the gradient scaler") as case:
        if place.dry:
            raise SkipCase("accelerate has no gradient scaler on a CPU")
        found = train(place, fp16=True, most_skipped=MOST_SKIPPED)
        case.near("loss of the first step", found.losses[:1], expected.losses[:1], ROUNDED.loss, relative=True)
        case.below("steps that the scaler left out", found.skipped, MOST_SKIPPED)
        case.equal("updates", len(found.losses) - found.skipped, STEPS)
        compare_rows(case, found, expected, _FLOAT16_NLL)
        case.measured["skipped_steps"] = found.skipped
