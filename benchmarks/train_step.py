"""Time the training step of two networks at T = 2 and 4, ours and other libraries'.

    python benchmarks/train_step.py

Contestants run in one process, in turn, with glibc's allocator keeping large buffers, as
zoo.training has it; those of torch.compile run in another, beside ours. Two builds of one network
can differ by more than contestants do. So each process runs several times, in the opposite order
every second time. Peak memory, and the time with glibc's default allocator, come from a process
with one contestant alone. The table has the medians.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from contestants import Contestant, compiled_networks, networks
from measure import BUILDS, DEVICE, interleaved, join_builds, report, run_in_process, run_script

from zoo.training.allocator import keep_large_buffers
from zoo.training.machine import peak_memory

BATCH = 32
COUNT = 4  # builds, as many of each order
ROUNDS = {"short_bp_resnet18": 3, "short_bp_resnet20_slim": 9}  # a short step varies more
GROUPS = {"eager": (networks, (4, 2)), "compiled": (compiled_networks, (4,))}  # with their T
ALONE = ("ours", "ours, fast", "SpikingJelly", "SpikingJelly, channels_last", "ReLU")
PRECISION = "fp32, convolutions in TF32" if DEVICE == "cuda" else "fp32"


def step(contestant: Contestant) -> Callable[[], None]:
    """One optimizer step on a fixed batch."""
    model = contestant.model.to(DEVICE, memory_format=contestant.memory_format)
    images = torch.randn(BATCH, 3, 32, 32, device=DEVICE)
    images = images.contiguous(memory_format=contestant.memory_format)
    labels = torch.randint(10, (BATCH,), device=DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        loss = contestant.loss(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def side_by_side(group: str, name: str, build: int) -> dict[int, dict[str, float]]:
    """Milliseconds of a step, by time steps and contestant."""
    make_all, time_steps = GROUPS[group]
    found = {}
    for T in time_steps:
        made = list(make_all(name, T).items())
        order = reversed(made) if build % 2 == 1 else made
        runs = {who: step(make()) for who, make in order}
        seconds = interleaved(runs, ROUNDS[name])
        found[T] = {who: 1e3 * value for who, value in seconds.items()}
    return found


def alone(name: str, who: str) -> tuple[float, float]:
    """Milliseconds of a step at T = 4, and the MiB that the steps add."""
    run = step(networks(name, 4)[who]())
    before = peak_memory(torch.device(DEVICE))
    seconds = interleaved({who: run}, ROUNDS[name])[who]
    return 1e3 * seconds, peak_memory(torch.device(DEVICE)) - before


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one network."""
    by_itself = {}
    for who in ALONE:
        builds = [run_in_process(__file__, "alone", name, who) for _ in range(COUNT)]
        by_itself[4, who] = [statistics.median(values) for values in zip(*builds, strict=True)]
    for group, (make_all, time_steps) in GROUPS.items():
        builds = [run_in_process(__file__, group, name, str(build)) for build in range(COUNT)]
        for T in time_steps:
            timed = [build[str(T)] for build in builds]
            ours = statistics.median(ms["ours"] for ms in timed)
            for who in make_all(name, T):
                if group == "compiled" and who == "ours":
                    continue  # its row is the eager group's
                ms = statistics.median(ms[who] for ms in timed)
                times = [ms[who] / ms["ours"] for ms in timed]
                default_ms, peak = by_itself.get((T, who), (None, None))
                if DEVICE == "cuda":
                    default_ms = None  # glibc does not allocate a GPU's memory
                yield {
                    "network": name,
                    "T": T,
                    "who": who,
                    "ms": ms,
                    "images/s": 1e3 * BATCH / ms,
                    "times ours": statistics.median(times),
                    BUILDS: join_builds(times),
                    "ms, glibc as it comes": default_ms,
                    "times ours as trained": default_ms and default_ms / ours,
                    "peak MiB": peak,
                }


def main() -> None:
    """Time all contestants."""
    report(
        "train_step",
        "Training step of 32-pixel networks",
        "python benchmarks/train_step.py",
        [row for name in ROUNDS for row in rows_of(name)],
        DEVICE,
        key=("device",),
        batch=BATCH,
        precision=PRECISION,
        builds=COUNT,
        rounds=ROUNDS,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case "alone", name, who:
            print(json.dumps(alone(name, who)))
        case group, name, build:
            keep_large_buffers()
            print(json.dumps(side_by_side(group, name, int(build))))
        case _:
            run_script(main)
