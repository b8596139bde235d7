"""Which arms differ: Welch's t-test over the seeds with p < SURE, with Holm's correction over the
comparisons of a table. What was measured twice differs where both times say so.
"""

import math

from claims.claim import Row
from scipy.stats import t, ttest_ind_from_stats

SURE = 0.05
DIFFERENCE = {1: "better", -1: "worse", 0: "not shown"}


def differences(pairs: list[tuple[Row, Row]], seeds: int) -> list[int]:
    """1 where the first arm of a pair comes further, -1 where the second does, 0 where neither is
    shown. Holm: the surest has to be so among all, the next among those that are left.
    """
    tests = []
    for pair in pairs:
        means, spread = ([row[key] for row in pair] for key in ("accuracy, %", "deviation"))
        tests.append(
            ttest_ind_from_stats(
                means[0], spread[0], seeds, means[1], spread[1], seeds, equal_var=False
            )
        )
    signs = [0] * len(pairs)
    # Of two arms without deviation that come equally far the test knows nothing.
    p = [1.0 if math.isnan(test.pvalue) else test.pvalue for test in tests]
    for rank, i in enumerate(sorted(range(len(tests)), key=p.__getitem__)):
        if p[i] >= SURE / (len(tests) - rank):
            break
        signs[i] = 1 if tests[i].statistic > 0 else -1
    return signs


def in_both(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What is left of differences where a second measurement has to show each, too."""
    return {name: sign if sign == before[name] else 0 for name, sign in now.items()}


def within(pair: tuple[Row, Row], seeds: int, comparisons: int = 1) -> float:
    """Points about the difference of two arms in which the true one is with 95 %; as the surest of
    so many comparisons two arms are shown to differ from it on.
    """
    one, other = (row["deviation"] ** 2 / seeds for row in pair)
    if one + other == 0:
        return 0.0
    freedom = (one + other) ** 2 / ((one**2 + other**2) / (seeds - 1))  # Welch's
    return float(t.ppf(1 - SURE / comparisons / 2, freedom)) * math.sqrt(one + other)


def reached(row: Row) -> str:
    return f"{row['accuracy, %']:.1f} ± {row['deviation']:.1f} %"
