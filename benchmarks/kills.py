"""Kill a training run at random moments, start it again, and compare its final weights.

    python benchmarks/kills.py --root DATA

A run of two epochs on the first images of each class is timed unbroken. Then it is started TRIALS
times, killed with SIGKILL at a random moment, and started once more.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import report, run_script
from rich.progress import track
from torchvision.transforms.v2.functional import to_pil_image

from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.hub import files as disk
from zoo.hub import run_folder as runs

TRIALS, SEED, IMAGES = 20, 0, {"train": 150, "test": 20}  # of each class
RECIPE = """
model: short_bp_resnet20_slim
model_args: {time_steps: 2, zero_init_last: true, spike_layer: {v_threshold: 0.5}}
data: {name: image_folder, root: IMAGES}
optim: {name: adamw, lr: 0.005, ema_decay: 0.9}
epochs: 2
batch_size: 64
device: cpu
checkpoint_minutes: 0.02
"""


def write_images(root: str, folder: Path) -> None:
    """Write the first images of each class."""
    for split, count in IMAGES.items():
        found = load_images(DataConfig(name="image_folder", root=root), split)
        for number, name in enumerate(found.classes):
            (folder / split / name).mkdir(parents=True)
            for i in torch.where(found.labels == number)[0][:count].tolist():
                to_pil_image(found.images[i]).save(folder / split / name / f"{i:05d}.png")


def start(recipe: Path, run: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "zoo.training", str(recipe), "--output", str(run)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(recipe: Path, run: Path) -> str:
    """Run to the end; return the sha256 of the weights."""
    process = start(recipe, run)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"error: {errors}")
    return disk.file_sha256(runs.newest_checkpoint(run) / hub.WEIGHTS)


def position(run: Path) -> str:
    folder = runs.newest_checkpoint(run)
    if folder is None:
        return "none yet"
    found = json.loads((folder / "state.json").read_text())["position"]
    return f"epoch {found['epoch']}, step {found['step']}"


def main(root: str) -> None:
    """Kill a run, start it again, compare.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # the runs' number, for the table
    draw, rows = random.Random(SEED), []
    with tempfile.TemporaryDirectory(prefix="kills_") as scratch:
        folder = Path(scratch)
        write_images(root, folder / "images")
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.replace("IMAGES", str(folder / "images")))
        finish(recipe, folder / "warm")  # compiles the kernels
        began = time.perf_counter()
        whole = finish(recipe, folder / "whole")
        seconds = time.perf_counter() - began
        for trial in track(range(TRIALS), "killing"):
            run = folder / f"run{trial}"
            process = start(recipe, run)
            moment = draw.uniform(0, seconds)
            time.sleep(moment)
            process.kill()
            process.communicate()
            torn = len(list(run.rglob("*.partial")))
            found = position(run)
            rows.append(
                {
                    "trial": trial + 1,
                    "killed after, s": moment,
                    "still ran": str(process.returncode == -signal.SIGKILL),
                    "newest checkpoint": found,
                    "half-written files": torn,
                    "ends with the same sha256": str(finish(recipe, run) == whole),
                }
            )
            shutil.rmtree(run)
    facts = {"seed": SEED, "unbroken run, s": round(seconds, 1), "sha256 of its weights": whole}
    command = "python benchmarks/kills.py --root DATA"
    report("kills", "Runs killed with SIGKILL and started again", command, rows, **facts)


if __name__ == "__main__":
    run_script(main)
