"""The training step of two networks at T = 2 and 4: time and peak memory, ours and the peers'.

    python benchmarks/train_step.py

All contestants of a case run in one process, in turn, with glibc's allocator told to keep large
buffers, as our training command tells it, and at T = 4 once more as glibc comes. Peak memory is
what two steps, and compiling where there is any, add to the resident set of a process of their own,
with glibc as it comes.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import torch
from contestants import Contestant, networks
from measure import instruction_set, interleaved, report

from zoo.training.allocator import keep_large_buffers

BATCH = 32
ROUNDS = {"short_bp_resnet18": 3, "short_bp_resnet20_slim": 9}  # a short step varies more
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def milliseconds(name: str, time_steps: int) -> dict[str, float]:
    runs = {who: step(make()) for who, make in networks(name, time_steps).items()}
    return {who: 1e3 * value for who, value in interleaved(runs, ROUNDS[name]).items()}


def peak_memory(name: str, time_steps: int, who: str) -> float:
    """MiB that two steps add."""
    run = step(networks(name, time_steps)[who]())
    if DEVICE == "cuda":
        before = torch.cuda.memory_allocated()
        run(), run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(), run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def in_a_process(*arguments: str):
    line = [sys.executable, __file__, *arguments]
    run = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def peak_memories(name: str, time_steps: int, contestants: list[str]) -> dict[str, float]:
    """peak_memory of each, in as many processes at a time as there are cores for."""
    measure = partial(in_a_process, "memory", name, str(time_steps))
    with ThreadPoolExecutor(torch.get_num_threads() if DEVICE == "cpu" else 1) as pool:
        return dict(zip(contestants, pool.map(measure, contestants), strict=True))


def main() -> None:
    rows = []
    for name, time_steps in product(ROUNDS, (4, 2)):
        case = (name, str(time_steps))
        kept = in_a_process("time", *case, "keep")
        default, peak = {}, {}
        if time_steps == 4:
            default = in_a_process("time", *case, "default")
            peak = peak_memories(name, time_steps, [*kept])
        for who in kept:
            rows.append(
                {
                    "network": name,
                    "T": time_steps,
                    "who": who,
                    "ms": kept[who],
                    "images/s": 1e3 * BATCH / kept[who],
                    "times ours": kept[who] / kept["ours"],
                    "ms, glibc as it comes": default.get(who),
                    "times ours as trained": default[who] / kept["ours"] if default else None,
                    "peak MiB": peak.get(who),
                }
            )
    facts = {"batch": BATCH, "precision": "fp32", "rounds": ROUNDS}
    title = "Training step of 32-pixel networks"
    kind = "cuda" if DEVICE == "cuda" else instruction_set()
    report(f"train_step_{kind}", title, rows, "python benchmarks/train_step.py", **facts)


if __name__ == "__main__":
    match sys.argv[1:]:
        case "time", name, time_steps, allocator:
            if allocator == "keep":
                keep_large_buffers()
            print(json.dumps(milliseconds(name, int(time_steps))))
        case "memory", name, time_steps, who:
            print(json.dumps(peak_memory(name, int(time_steps), who)))
        case _:
            main()
