"""Draws docs/how_it_works.png: the network in training, and what is published of it.

python docs/how_it_works.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import tyro
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, BODY, HEAD, OUT = "#1f2933", "#d9e2ec", "#f7c873", "#9fd8b5"
STAGES = ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "classifier"]
WIDTH, STEP = 1.55, 2.0


def box(ax, x, y, text, color, dashed=False):
    style = "--" if dashed else "-"
    patch = FancyBboxPatch(
        (x, y), WIDTH, 0.7, boxstyle="round,pad=0.06", fc=color, ec=INK, lw=1.2, ls=style
    )
    ax.add_patch(patch)
    ax.text(x + WIDTH / 2, y + 0.35, text, ha="center", va="center", fontsize=10, color=INK)


def arrow(ax, start, end, dashed=False):
    style = "--" if dashed else "-"
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, ls=style)
    )


def row(ax, y, heads):
    for i, name in enumerate(STAGES):
        box(ax, i * STEP, y, name, OUT if name == "classifier" else BODY)
        if i:
            arrow(ax, (i * STEP - STEP + WIDTH + 0.06, y + 0.35), (i * STEP - 0.06, y + 0.35))
        if heads and name in ("stage 1", "stage 2", "stage 3"):
            box(ax, i * STEP, y + 1.25, "mean + linear", HEAD, dashed=True)
            middle = i * STEP + WIDTH / 2
            arrow(ax, (middle, y + 0.78), (middle, y + 1.18))
            arrow(ax, (middle, y + 2.02), (middle, y + 2.5), dashed=True)


def main() -> None:
    fig, ax = plt.subplots(figsize=(11.5, 5.4), dpi=120)
    right = (len(STAGES) - 1) * STEP + WIDTH

    ax.text(0, 6.05, "training", fontsize=13, weight="bold", color=INK)
    row(ax, 2.5, heads=True)
    loss = (
        r"loss of   logits $+\ \lambda\,\cdot$ sum of the heads,   "
        r"$\lambda$ falls to 0 over the training"
    )
    patch = FancyBboxPatch(
        (STEP, 5.0), right - STEP, 0.7, boxstyle="round,pad=0.06", fc="white", ec=INK, lw=1.2
    )
    ax.add_patch(patch)
    ax.text((STEP + right) / 2, 5.35, loss, ha="center", va="center", fontsize=11, color=INK)
    arrow(ax, (right - WIDTH / 2, 3.28), (right - WIDTH / 2, 4.94))

    ax.text(0, 1.55, "published: the network alone", fontsize=13, weight="bold", color=INK)
    row(ax, 0.55, heads=False)
    ax.text(
        0,
        -0.2,
        "model.safetensors, config.json with the neuron constants: the same bits as in training\n"
        "onnx/: the same bits as zoo.deploy(model), in plain fp32; "
        "verification.json: the proof",
        fontsize=10,
        color=INK,
    )

    ax.set_xlim(-0.2, right + 0.2)
    ax.set_ylim(-0.35, 6.4)
    ax.axis("off")
    path = Path(__file__).with_suffix(".png")
    fig.savefig(path, bbox_inches="tight")
    print(f"wrote {path}")


if __name__ == "__main__":
    tyro.cli(main)
