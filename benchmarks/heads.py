"""What the shortcut heads cost: the training step with and without, at T = 2 and 4.

    python benchmarks/heads.py

On some machines two builds of one network differ by more than heads cost, so that each is built
several times, and in every second build the one with heads comes first.
"""

import statistics
from functools import partial

from contestants import ours
from measure import DEVICE, SUFFIX, interleaved, report, run_script
from train_step import BATCH, PRECISION, step

from zoo.training.allocator import keep_large_buffers

BUILDS = 4  # as many of each order
# Of each build. The first network is the paper's; a short step varies more.
ROUNDS = {"short_bp_resnet20": 3, "short_bp_resnet18": 3, "short_bp_resnet20_slim": 11}


def main() -> None:
    keep_large_buffers()
    rows = []
    for name, rounds in ROUNDS.items():
        for T in (2, 4):
            made = {heads: partial(ours, name, T, heads=heads) for heads in (False, True)}
            found = []
            for build in range(BUILDS):
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
                    "of each build, %": ", ".join(f"{cost:+.1f}" for cost in costs),
                }
            )
    facts = {
        "batch": BATCH,
        "precision": PRECISION,
        "builds": BUILDS,
        "rounds": ROUNDS,
        "the paper reports": "9 to 10 % (rebuttal, ResNet20 on one V100)",
    }
    name, command = f"heads{SUFFIX}", "python benchmarks/heads.py"
    report(name, "What the heads cost", rows, command, DEVICE, **facts)


if __name__ == "__main__":
    run_script(main)
