"""The whole chain on real images: what ``make demo`` runs.

Trains a small network with shortcut heads on scikit-learn's digits, strips and exports it with
every check, publishes it into ./hub/, loads it back by name and by folder, and classifies with
onnxruntime. Then a released network goes through its checks on this machine.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch
import tyro
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data import DataConfig, load_images, normalise
from zoo.hub import run_folder as runs

NAME = "short_bp_resnet20_slim.digits"
RELEASED = "zoo/weights/short_bp_resnet20_slim.cifar10"
RUN, EXPORTED = Path("runs/make_demo"), Path("runs/make_demo_export")
PUBLISHED = Path("hub") / NAME
console = Console()


def step(title: str, *command: str) -> None:
    console.rule(title)
    console.print(f"[dim]python {' '.join(command)}[/dim]", highlight=False)
    if code := subprocess.run([sys.executable, *command]).returncode:
        sys.exit(code)  # it has said why


def main() -> None:
    os.chdir(Path(__file__).parent.parent)
    shutil.rmtree(RUN, ignore_errors=True)
    recipe = ("configs/digits_demo.yaml", "--output", str(RUN))
    step("1  train with shortcut heads", "-m", "zoo.training", *recipe)
    export = (str(RUN), "--output", str(EXPORTED), "--overwrite")
    step("2  strip, export, verify", "export/to_onnx.py", *export)
    publish = (str(EXPORTED), "--to-folder", str(PUBLISHED), "--overwrite")
    step("3  publish", "export/publish.py", *publish)

    console.rule("4  load back and classify")
    os.environ["SHORT_BP_ZOO_WEIGHTS"] = "hub"
    by_name = zoo.create_model(NAME, pretrained=True).eval()
    by_folder = zoo.create_model(f"local-dir:{PUBLISHED}", pretrained=True).eval()
    checkpoint = runs.newest_checkpoint(RUN)
    trained = zoo.create_model(f"local-dir:{checkpoint}", pretrained=True).eval()

    config = json.loads((checkpoint / "config.json").read_text())
    data = DataConfig.recorded(config["training"]["data"])
    images = load_images(data, "test")
    pixel_values = normalise(images.images, data.mean, data.std)
    with torch.inference_mode():
        logits = trained(pixel_values)
        same_name = torch.equal(by_name(pixel_values), logits)
        same_folder = torch.equal(by_folder(pixel_values), logits)
    session = onnxruntime.InferenceSession(PUBLISHED / "onnx/model.onnx")
    (scores,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
    correct = int((torch.from_numpy(scores).argmax(1) == images.labels).sum())

    table = Table("checked", "result", title=NAME)
    report = json.loads((PUBLISHED / "verification.json").read_text())
    for check in report["checks"]:
        table.add_row(check["title"], "ok" if check["passed"] else "FAILED")
    table.add_row("loaded by name: logits equal bit for bit", "ok" if same_name else "FAILED")
    table.add_row("loaded by folder: logits equal bit for bit", "ok" if same_folder else "FAILED")
    accuracy = f"{100 * correct / len(images):.2f} %  ({correct} of {len(images)})"
    table.add_row("onnxruntime, accuracy on the test digits", accuracy)
    console.print(table)
    if not (same_name and same_folder):
        sys.exit("error: a loaded network differs from the one that was trained")

    # Random pixels: the images that it was trained on are not in a clone.
    verify = (RELEASED, "--random-images", "--num-images", "64")
    step("5  verify a released network", "export/verify.py", *verify)


if __name__ == "__main__":
    tyro.cli(main)
