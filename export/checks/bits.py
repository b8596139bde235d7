"""PyTorch and onnxruntime give the same bits, for pixels in every setting and for other floats.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, fx

from export.checks.check import AT_ONCE, Check, Setting, count_different, logits_of, run_graph
from export.checks.images import Images
from export.folder import GRAPH, UINT8_GRAPH

BEYOND = 1.5  # times an image: some values are beyond white, some between two pixels
# Every batch size meets both numbers of threads, and optimised and plain graphs.
SETTINGS = [
    Setting(64, 2, True),
    Setting(64, 1, False),
    Setting(7, 2, True),
    Setting(7, 1, False),
    Setting(1, 2, False),
    Setting(1, 1, True),
]
FEWER_SETTINGS = [Setting(64, 2, True), Setting(7, 1, False)]


@dataclass(frozen=True, kw_only=True)
class Bits(Check):
    id = "bits"
    title = "logits have the same bits in every setting"
    fault = "images_that_differ"
    images: int
    settings: int
    images_that_differ: int
    by_setting: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class OffGridFloats(Check):
    id = "off_grid_floats"
    title = "floats that are no pixels give the same bits"
    fault = "images_that_differ"
    images: int
    images_that_differ: int


def check_bits(folder: Path, deployed: fx.GraphModule, images: Images, exact: Tensor) -> Bits:
    """Compare every way to run the network.

    Args:
        exact: Logits of the deployed network in PyTorch, [N, K].
    """
    layout = torch.channels_last
    runs = {
        "PyTorch, channels_last": partial(logits_of, deployed, images.values, "PyTorch", layout)
    }
    for graph, x, settings in (
        (GRAPH, images.values, SETTINGS),
        (UINT8_GRAPH, images.pixels, FEWER_SETTINGS),
    ):
        for setting in settings:
            runs[f"{graph}, {setting}"] = partial(run_graph, folder / graph, x, setting)
    differ = {name: count_different(run(), exact) for name, run in runs.items()}
    return Bits(
        images=len(exact),
        settings=len(differ),
        images_that_differ=max(differ.values()),
        by_setting=differ,
    )


def check_off_grid_floats(folder: Path, deployed: fx.GraphModule, images: Images) -> OffGridFloats:
    beyond = BEYOND * images.values[:AT_ONCE]
    found = run_graph(folder / GRAPH, beyond, FEWER_SETTINGS[0])
    expected = logits_of(deployed, beyond, "floats that are no pixels")
    return OffGridFloats(images=len(beyond), images_that_differ=count_different(found, expected))
