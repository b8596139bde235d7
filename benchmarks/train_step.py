"""The training step of two networks at T = 2 and 4: time and peak memory, ours and the peers'.

    python benchmarks/train_step.py

The contestants run in one process, in turn, with glibc's allocator told to keep large buffers, as
our training command tells it; those of torch.compile in another one, with ours beside them. On some
machines two builds of one network differ by more than contestants do, so that each process runs
several times, every second time in the opposite order. Each library's own network runs as often, at
T = 4, in a process of its own with glibc as it comes, for its time and for what its steps add to
the resident set: what else is in a process changes when glibc hands buffers back. Of all these the
medians are told.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from contestants import Contestant, compiled_networks, networks
from measure import (
    DEVICE,
    EACH,
    SUFFIX,
    in_a_process,
    instruction_set,
    interleaved,
    of_each,
    report,
    run_script,
)

from zoo.training.allocator import keep_large_buffers
from zoo.training.machine import peak_memory

BATCH = 32
BUILDS = 4  # as many of each order
ROUNDS = {"short_bp_resnet18": 3, "short_bp_resnet20_slim": 9}  # a short step varies more
GROUPS = {"eager": (networks, (4, 2)), "compiled": (compiled_networks, (4,))}  # with their T
ALONE = ("ours", "ours, fast", "SpikingJelly", "SpikingJelly, channels_last", "ReLU")
AS_TRAINED = (
    "one alone in its process, with glibc's allocator as it comes, to ours beside the others, "
    "with large buffers kept, as zoo.training has it"
)
BESIDE = "those of torch.compile to ours as timed beside them"
RELU = (
    "in each neuron's place, at all T steps: what a step costs without neurons, and not an "
    "ordinary network, which runs once"
)
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
    """Milliseconds of a step by time steps and contestant."""
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
    """Milliseconds of a step at T = 4, and MiB that the steps add."""
    run = step(networks(name, 4)[who]())
    before = peak_memory(torch.device(DEVICE))
    seconds = interleaved({who: run}, ROUNDS[name])[who]
    return 1e3 * seconds, peak_memory(torch.device(DEVICE)) - before


def as_it_comes(name: str, who: str) -> list[float]:
    """What alone says, the medians of its builds."""
    builds = [in_a_process(__file__, "alone", name, who) for _ in range(BUILDS)]
    return [statistics.median(values) for values in zip(*builds, strict=True)]


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """A network's part of the table."""
    builds = {
        group: [in_a_process(__file__, group, name, str(build)) for build in range(BUILDS)]
        for group in GROUPS
    }
    as_they_come = {(4, who): as_it_comes(name, who) for who in ALONE}
    for group, (make_all, time_steps) in GROUPS.items():
        for T in time_steps:
            timed = [build[str(T)] for build in builds[group]]
            ours = statistics.median(ms["ours"] for ms in timed)
            for who in make_all(name, T):
                if group == "compiled" and who == "ours":
                    continue  # it has its row, and is here to be compared with
                ms = statistics.median(ms[who] for ms in timed)
                times = [ms[who] / ms["ours"] for ms in timed]
                by_itself, peak = as_they_come.get((T, who), (None, None))
                if DEVICE == "cuda":
                    by_itself = None  # glibc hands out none of its memory
                yield {
                    "network": name,
                    "T": T,
                    "who": who,
                    "ms": ms,
                    "images/s": 1e3 * BATCH / ms,
                    "times ours": statistics.median(times),
                    EACH: of_each(times),
                    "ms, glibc as it comes": by_itself,
                    "times ours as trained": by_itself and by_itself / ours,
                    "peak MiB": peak,
                }


def main() -> None:
    rows = [row for name in ROUNDS for row in rows_of(name)]
    facts = {"batch": BATCH, "precision": PRECISION, "builds": BUILDS, "rounds": ROUNDS}
    facts |= {"times ours": BESIDE, "ours": "with its heads", "ReLU": RELU}
    if DEVICE == "cpu":
        facts["times ours as trained"] = AS_TRAINED
    title = "Training step of 32-pixel networks"
    name = f"train_step{SUFFIX or f'_{instruction_set()}'}"
    report(name, title, rows, "python benchmarks/train_step.py", DEVICE, **facts)


if __name__ == "__main__":
    match sys.argv[1:]:
        case "alone", name, who:
            print(json.dumps(alone(name, who)))
        case group, name, build:
            keep_large_buffers()
            print(json.dumps(side_by_side(group, name, int(build))))
        case _:
            run_script(main)
