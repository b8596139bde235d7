"""The reviewers' question where heads help: does a shortcut past the neurons do their work?

    python benchmarks/membrane_narrow.py --root FOLDER_OR_TAR

membrane.py asks it of a network whose gradient does not vanish. Here it is the narrow ResNet-34 of
depth.py, whose gradient does and which ablation_narrow.py finds better with heads, with each kind
of block. The neuron is the same in all, and every block begins as its shortcut; MS's other norms
begin at the threshold, as in its paper. Beside the accuracy stands what of the classifier's
gradient is left at the stem.

Heads help a kind of block if they make it better by the rule of results.py, over these three pairs.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import depth
from ablation_narrow import DEPTH, SEEDS
from ablation_narrow import run as spike_after_addition
from arms import REACHED, SHOWN, compare, points
from matplotlib.figure import Figure
from measure import RESULTS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.data import normalise
from zoo.hooks import hooks
from zoo.training.config import Config
from zoo.training.prepare import Data

BATCH = 128
NETWORKS = f"narrow ResNet-{DEPTH}"
LEFT = "gradient at the stem / behind the last stage"
FAMILIES = {  # a registered network, and its arguments beside depth.py's; it has none that is None
    "spike after the addition": (f"short_bp_resnet{DEPTH}", {}),
    "spikes added (SEW)": (f"sew_resnet{DEPTH}", {"stem": "conv3x3"}),
    "potentials added (MS)": (
        f"ms_resnet{DEPTH}",
        {"stem": "conv3x3", "stem_width": depth.WIDTHS[0], "zero_init_last": None},
    ),
}


def run(family: str, loss: str) -> Config:
    model, args = FAMILIES[family]
    config = spike_after_addition(loss)
    own = {key: value for key, value in (config.model_args | args).items() if value is not None}
    return replace(config, model=model, model_args=own)


def main() -> None:
    arms = {f"{family}, {loss}": run(family, loss) for family in FAMILIES for loss in depth.LOSSES}
    title = "Heads on three kinds of residual block, where the gradient vanishes"
    draw(compare("membrane_narrow", title, NETWORKS, arms, {}, SEEDS, gradient_left))


def gradient_left(config: Config, folders: list[Path], data: Data) -> dict[str, Any]:
    """Of the trained networks, without their heads."""
    pixels, labels = data.measured.take(list(range(BATCH)))
    x = normalise(pixels, config.data.mean, config.data.std)
    models = [zoo.create_model(f"local-dir:{folder}", pretrained=True) for folder in folders]
    found = [gradient_norms(model, x, labels) for model in models]
    return {LEFT: statistics.geometric_mean(stem / last for stem, last in found)}


def gradient_norms(model: nn.Module, x: Tensor, labels: Tensor) -> list[float]:
    """Of a batch's loss: the norm of its gradient behind the stem, and behind the last stage."""
    places, norms = (model.stem, model.stages[-1]), {}

    def note(place: nn.Module, _, output: Tensor) -> None:
        output.register_hook(lambda grad: norms.update({place: grad.norm().item()}))

    with hooks(*(place.register_forward_hook(note) for place in places)):
        outputs = model.train()(x)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        cross_entropy(logits, labels).backward()
    return [norms[place] for place in places]


def draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    losses = depth.LOSSES
    for i, (loss, shift) in enumerate(zip(losses, (-0.08, 0.08), strict=True)):
        at = [place + shift for place in range(len(FAMILIES))]
        points(axes, rows[i :: len(losses)], at, fmt="os"[i], label=SHOWN[loss])
    axes.set_xticks(range(len(FAMILIES)), FAMILIES)
    axes.set(xlim=(-0.5, len(FAMILIES) - 0.5), xlabel="residual block", ylabel=REACHED)
    axes.set_title(
        f"{NETWORKS}, T = {depth.T},\n{depth.EPOCHS} epochs of {depth.IMAGES} images of CIFAR-10"
    )
    axes.legend()
    figure.savefig(RESULTS / "membrane_narrow.png", dpi=120)


if __name__ == "__main__":
    main()
