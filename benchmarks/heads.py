"""What the shortcut heads cost: the training step with and without, at T = 2 and 4.

python benchmarks/heads.py
"""

from functools import partial

from contestants import ours
from measure import DEVICE, SUFFIX, interleaved, report, run_script
from train_step import BATCH, PRECISION, step

from zoo.training.allocator import keep_large_buffers

# The first is the paper's; a short step varies more.
ROUNDS = {"short_bp_resnet20": 9, "short_bp_resnet18": 9, "short_bp_resnet20_slim": 31}


def main() -> None:
    keep_large_buffers()
    rows = []
    for name, rounds in ROUNDS.items():
        for T in (2, 4):
            made = {heads: partial(ours, name, T, heads=heads) for heads in (False, True)}
            runs = {str(heads): step(make()) for heads, make in made.items()}
            seconds = interleaved(runs, rounds)
            rows.append(
                {
                    "network": name,
                    "T": T,
                    "ms without": 1e3 * seconds["False"],
                    "ms with": 1e3 * seconds["True"],
                    "cost in %": 100 * (seconds["True"] / seconds["False"] - 1),
                }
            )
    facts = {
        "batch": BATCH,
        "precision": PRECISION,
        "rounds": ROUNDS,
        "the paper reports": "9 to 10 % (rebuttal, ResNet20 on one V100)",
    }
    name, command = f"heads{SUFFIX}", "python benchmarks/heads.py"
    report(name, "What the heads cost", rows, command, DEVICE, **facts)


if __name__ == "__main__":
    run_script(main)
