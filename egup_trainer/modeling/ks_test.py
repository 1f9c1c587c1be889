"""Whether two samples can be distinguished: the two-sided two-sample Kolmogorov-Smirnov test."""

import math
from collections.abc import Sequence

LEVEL = 0.05
"""p-value above which the test does not distinguish two samples."""


def ks_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """The statistic of the test: the largest distance between the two empirical distribution functions, 0 to 1.

    Example:
        >>> ks_distance([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0])
        0.5
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(first, second).statistic)


def ks_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """The p-value of the test.

    Example:
        >>> ks_p_value([1.0, 2.0], [1.0, 2.0])
        1.0
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(first, second).pvalue)


def least_p_value(num_first: int, num_second: int) -> float:
    """The lowest p-value that samples of these sizes can have, which is that of samples without overlap.

    Formula: 2 / C(n + m, n), since 2 of the C(n + m, n) equally likely orders separate the samples. If it is above
    `LEVEL`, the test cannot distinguish any two samples of these sizes.

    Example:
        >>> least_p_value(3, 3), round(least_p_value(4, 4), 4)
        (0.1, 0.0286)
    """
    return 2 / math.comb(num_first + num_second, num_first)
