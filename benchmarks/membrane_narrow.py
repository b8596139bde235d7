"""The reviewers' question where heads help: does a shortcut past the neurons do their work?

    python benchmarks/membrane_narrow.py --root FOLDER_OR_TAR

membrane.py asks it of a network whose gradient does not vanish. Here it is the narrow ResNet-34 of
depth.py, whose gradient does and which ablation_narrow.py finds better with heads, with each kind
of block. The neuron is the same in all, and every block begins as its shortcut; MS's other norms
begin at the threshold, as in its paper. Beside the accuracy stands what of the classifier's
gradient is left at the stem.

Heads help a kind of block if they make it better by the rule of claims, over these three pairs.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import depth
from ablation_narrow import DEPTH, SEEDS
from ablation_narrow import run as spike_after_addition
from arms import compare
from membrane import draw
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.data import normalise
from zoo.layers.hooks import hooks
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
    rows = compare("membrane_narrow", title, NETWORKS, arms, {}, SEEDS, gradient_left)
    draw("membrane_narrow", rows, NETWORKS, depth.T)


def gradient_left(config: Config, folders: list[Path], data: Data) -> dict[str, Any]:
    """Of the trained networks, without their heads."""
    pixels, labels = data.measured.take(list(range(BATCH)))
    x = normalise(pixels, config.data.mean, config.data.std)
    left = []
    for folder in folders:
        name = f"local-dir:{folder}"
        model = zoo.create_model(name, pretrained=True, shortcut_heads=False)
        stem, last = gradient_norms(model, x, labels)
        left.append(stem / last)
    return {LEFT: statistics.geometric_mean(left)}


def gradient_norms(model: nn.Module, x: Tensor, labels: Tensor) -> list[float]:
    """Of a batch's loss: the norm of its gradient behind the stem, and behind the last stage."""
    places, norms = (model.stem, model.stages[-1]), {}

    def note(place: nn.Module, _, output: Tensor) -> None:
        output.register_hook(lambda grad: norms.update({place: grad.norm().item()}))

    with hooks(*(place.register_forward_hook(note) for place in places)):
        cross_entropy(model.train()(x), labels).backward()
    return [norms[place] for place in places]


if __name__ == "__main__":
    main()
