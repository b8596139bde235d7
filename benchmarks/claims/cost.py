"""Claim 5: what heads cost a training step."""

import math
import statistics
from typing import Any

from claims.claim import UNDECIDED, YES, Claim, read, section, table
from claims.differences import SURE
from scipy.stats import t

CLAIMED_COST = 9, 11  # % of an epoch: 9 to 10 by the paper, and a rounding
COSTLY, EACH = "short_bp_resnet20", "of each build, %"  # of heads.py, whose peers are not needed


def cost_of(content: dict[str, Any]) -> tuple[str, str, str]:
    """Of the claim's network: the verdict of all builds, their mean and interval, in which is
    nothing of what a network gains or loses by being built and run first, and the mean by order.
    """
    orders: tuple[list[float], ...] = ([], [])  # heads.py turns it about from build to build
    for row in content["rows"]:
        if row["network"] == COSTLY:
            for build, cost in enumerate(row[EACH].split(", ")):
                orders[build % 2].append(float(cost))
    by_order = [statistics.mean(order) for order in orders]
    mean = statistics.mean(by_order)
    freedom = sum(map(len, orders)) - len(orders)
    variance = sum(statistics.variance(order) * (len(order) - 1) for order in orders) / freedom
    spread = math.sqrt(variance * sum(1 / len(order) for order in orders)) / len(orders)
    either_way = float(t.ppf(1 - SURE / 2, freedom)) * spread
    low, high = mean - either_way, mean + either_way
    least, most = CLAIMED_COST
    if high < least:
        verdict = "less than claimed, on a CPU"
    else:
        verdict = YES if 0 < low <= most else UNDECIDED
    builds = sum(map(len, orders))
    interval = f"{mean:+.1f} % (95 % interval {low:+.1f} to {high:+.1f}, {builds} builds)"
    return verdict, interval, " and ".join(f"{cost:+.1f} %" for cost in by_order)


def cost() -> Claim:
    content = read("heads")
    now, interval, by_order = cost_of(content)
    before, earlier, by_order_before = cost_of(read("heads_before"))
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
        f"[measured before](results/heads_before.md): {earlier}. Each is the mean of both orders, "
        f"with the vanilla network and with the other first: now {by_order}, before "
        f"{by_order_before}. They are taken to err by as much to either side, and what differs "
        "between two measurements is in no interval. "
        "This replaced the plain mean when all figures were there.\n\n**The rule.** It counts as "
        f"reproduced if the interval leaves 0 out and reaches {least} to {most} %, as less than "
        f"claimed if it ends below {least} %, and as either only if both measurements say so. It "
        "replaced, after the first measurement, a rule that more builds could only have made "
        "harder to meet."
    )
    claim = "An epoch of training takes 9 to 10 % longer (ResNet-20, CIFAR-10, one V100)."
    told = f"{interval} in {COSTLY}; measured before: {earlier}"
    return section("5. Cost of the heads", verdict, claim, found, None, "heads", told)
