"""Time the training step with and without shortcut heads, at T = 2 and 4.

    python benchmarks/heads.py

Two builds of one network can differ by more than heads cost. So each is built several times, and
every second build runs the network with heads first.
"""

import statistics
from functools import partial

from contestants import ours
from measure import BUILDS, DEVICE, LATEST, interleaved, report, run_script
from train_step import BATCH, PRECISION, step

from zoo.training.allocator import keep_large_buffers

COUNT = 4  # builds, as many of each order
# Of each build. The first network is the claim's; a short step varies more.
ROUNDS = {"short_bp_resnet20": 3, "short_bp_resnet18": 3, "short_bp_resnet20_slim": 11}


def main() -> None:
    """Time steps with and without heads."""
    keep_large_buffers()
    rows = []
    for name, rounds in ROUNDS.items():
        for T in (2, 4):
            made = {heads: partial(ours, name, T, heads=heads) for heads in (False, True)}
            found = []
            for build in range(COUNT):
                order = sorted(made, reverse=build % 2 == 1)
                runs = {str(heads): step(made[heads]()) for heads in order}
                found.append(interleaved(runs, rounds))
            costs = [100 * (seconds["True"] / seconds["False"] - 1) for seconds in found]
            rows.append(
                {
                    "network": name,
                    "T": T,
                    "ms without": 1e3 * statistics.median(s["False"] for s in found),
                    "ms with": 1e3 * statistics.median(s["True"] for s in found),
                    "cost in %": statistics.median(costs),
                    f"{BUILDS}, %": ", ".join(f"{cost:+.1f}" for cost in costs),
                }
            )
    report(
        "heads",
        "Cost of the heads in a training step",
        "python benchmarks/heads.py",
        rows,
        DEVICE,
        key=("device", "measured"),
        measured=LATEST,
        batch=BATCH,
        precision=PRECISION,
        builds=COUNT,
        rounds=ROUNDS,
    )


if __name__ == "__main__":
    run_script(main)
