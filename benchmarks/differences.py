"""Which arms differ: Welch's t-test over the seeds, with Holm's correction over a table."""

import math
from typing import Any

from scipy.stats import t, ttest_ind_from_stats

SIGNIFICANCE = 0.05
Row = dict[str, Any]


def differences(pairs: list[tuple[Row, Row]], seeds: int) -> list[int]:
    """1 where the first arm of a pair is better, -1 where it is worse, 0 where neither is shown.

    Holm: the smallest p has to pass among all comparisons, the next among those that are left.
    """
    tests = []
    for pair in pairs:
        (mean, other_mean), (deviation, other_deviation) = (
            [row[key] for row in pair] for key in ("accuracy, %", "deviation")
        )
        arms = mean, deviation, seeds, other_mean, other_deviation, seeds
        tests.append(ttest_ind_from_stats(*arms, equal_var=False))
    # The p of two equal arms without deviation is not a number.
    p = [1.0 if math.isnan(test.pvalue) else test.pvalue for test in tests]
    signs = [0] * len(pairs)
    for rank, i in enumerate(sorted(range(len(tests)), key=p.__getitem__)):
        if p[i] >= SIGNIFICANCE / (len(tests) - rank):
            break
        signs[i] = 1 if tests[i].statistic > 0 else -1
    return signs


def margin(pair: tuple[Row, Row], seeds: int, comparisons: int = 1) -> float:
    """Half the 95 % interval of a difference, in points.

    With several comparisons: the difference that would be shown if its p were the smallest.
    """
    one, other = (row["deviation"] ** 2 / seeds for row in pair)
    if one + other == 0:
        return 0.0
    freedom = (one + other) ** 2 / ((one**2 + other**2) / (seeds - 1))  # Welch's
    quantile = t.ppf(1 - SIGNIFICANCE / comparisons / 2, freedom)
    return float(quantile) * math.sqrt(one + other)
