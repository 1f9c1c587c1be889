"""Rows that share lines (`padding_free`) against one line for each row."""

from typing import Any

from benchmarks.gpu.cases import Case, Findings
from benchmarks.gpu.parts.attention import FLASH, flash_options, require_flash
from benchmarks.gpu.place import Place
from benchmarks.gpu.training import EXACT, ROUNDED, Tolerance, compare, train


def packing(place: Place, findings: Findings) -> None:
    """With masks (sdpa) in float32, and with the variable lengths of flash attention in bfloat16."""
    with findings.case("sdpa") as case:
        _both(case, place, EXACT)
    for name in FLASH:
        with findings.case(name) as case:
            require_flash(place, name)
            _both(case, place, ROUNDED, **flash_options(name))


def _both(case: Case, place: Place, tolerance: Tolerance, **options: Any) -> None:
    padded, packed = (train(place, padding_free=packs, **options) for packs in (False, True))
    compare(case, packed, padded, tolerance)
    case.below("padding beside that of padded rows", packed.padding, padded.padding)
    case.measured |= {"padding_padded": padded.padding, "time_over_padded": packed.seconds / padded.seconds}
