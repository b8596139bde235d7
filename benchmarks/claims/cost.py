"""Claim 5: what heads cost a training step."""

import math
import statistics
from typing import Any

from claims.claim import UNDECIDED, YES, Claim, read, section, table
from claims.differences import SURE
from scipy.stats import t

CLAIMED_COST = 9, 11  # % of an epoch: 9 to 10 by the paper, and a rounding
COSTLY, EACH = "short_bp_resnet20", "of each build, %"  # of heads.py, whose peers are not needed


def cost_of(content: dict[str, Any]) -> tuple[str, str]:
    """Of the claim's network: the verdict of all builds, and their mean with its interval."""
    rows = (row for row in content["rows"] if row["network"] == COSTLY)
    costs = [float(cost) for row in rows for cost in row[EACH].split(", ")]
    mean = statistics.mean(costs)
    spread = statistics.stdev(costs) / math.sqrt(len(costs))
    either_way = float(t.ppf(1 - SURE / 2, len(costs) - 1)) * spread
    low, high = mean - either_way, mean + either_way
    least, most = CLAIMED_COST
    if high < least:
        verdict = "less than claimed, on a CPU"
    else:
        verdict = YES if 0 < low <= most else UNDECIDED
    return verdict, f"{mean:+.1f} % (95 % interval {low:+.1f} to {high:+.1f}, {len(costs)} builds)"


def cost() -> Claim:
    content = read("heads")
    now, interval = cost_of(content)
    before, earlier = cost_of(read("heads_before"))
    verdict = now if now == before else UNDECIDED
    lines = [
        [row["network"], str(row["T"]), f"{row['cost in %']:+.1f} %", row[EACH]]
        for row in content["rows"]
    ]
    least, most = CLAIMED_COST
    found = (
        table(["network", "T", "cost of the heads in a training step", EACH], lines)
        + "\n\nForward, backward and optimizer, the median of the builds; below 0 is what a build "
        "varies by. In every second build the network with heads was built and run first. What a "
        "head costs beside the network differs from one device to another, and a V100 was not at "
        f"hand.\n\n**The claim's network**, {COSTLY}, at both T: {interval}; "
        f"[measured before](results/heads_before.md): {earlier}. The interval takes all "
        "that builds of one measurement differ by for chance, which of the two networks was built "
        "first too; the mean difference between the two orders was taken out for a time, but has "
        "opposite signs in the two measurements. What one measurement differs from the other by is "
        "not in it.\n\n**The rule.** "
        f"It counts as reproduced if the interval leaves 0 out and reaches {least} to {most} % "
        "(the paper's 9 to 10, and a point for rounding), as "
        f"less than claimed if it ends below {least} %, and as either only if both measurements "
        "say so. It replaced, after the first measurement, a rule that more builds could only have "
        "made harder to meet."
    )
    claim = "An epoch of training takes 9 to 10 % longer (ResNet-20, CIFAR-10, one V100)."
    told = f"{interval} in {COSTLY}; measured before: {earlier}"
    return section("5. Cost of the heads", verdict, claim, found, None, "heads", told)
