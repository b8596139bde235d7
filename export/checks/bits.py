"""PyTorch and onnxruntime give the same bits, for pixels in every setting and for other floats.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from export.checks.check import AT_ONCE, Check, Setting, count_different, logits_of, run_graph
from export.checks.images import Images
from export.folder import GRAPH, QUANTIZED_GRAPH
from zoo.hub import INT8_GRAPH, UINT8_GRAPH

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
class Int8Bits(Bits):
    id = "int8_bits"
    title = "int8 logits have the same bits in every setting"


@dataclass(frozen=True, kw_only=True)
class OffGridFloats(Check):
    id = "off_grid_floats"
    title = "floats that are no pixels give the same bits"
    fault = "images_that_differ"
    images: int
    images_that_differ: int


def check_bits(folder: Path, deployed: fx.GraphModule, images: Images, exact: Tensor) -> Bits:
    """Compare every way to run the network in fp32.

    Args:
        exact: Logits of the deployed network in PyTorch, [N, K].
    """
    runs = {(GRAPH, setting): images.values for setting in SETTINGS}
    if (folder / UINT8_GRAPH).is_file():
        runs |= {(UINT8_GRAPH, setting): images.pixels for setting in FEWER_SETTINGS}
    return Bits(**_differences(folder, deployed, images.values, exact, runs))


def check_int8_bits(folder: Path, whole: fx.GraphModule, images: Images, exact: Tensor) -> Int8Bits:
    """Compare every way to run the network in int8.

    Args:
        exact: Logits of the network of whole numbers in PyTorch, [N, K].
    """
    runs = {(INT8_GRAPH, setting): images.pixels for setting in SETTINGS}
    runs |= {(QUANTIZED_GRAPH, setting): images.values for setting in FEWER_SETTINGS}
    return Int8Bits(**_differences(folder, whole, images.pixels, exact, runs))


def _differences(
    folder: Path,
    deployed: fx.GraphModule,
    images: Tensor,
    exact: Tensor,
    runs: dict[tuple[str, Setting], Tensor],
) -> dict[str, Any]:
    """The figures of a check of bits: of PyTorch in another layout, and of graphs."""
    other = logits_of(deployed, images, "PyTorch", torch.channels_last)
    differ = {"PyTorch, channels_last": count_different(other, exact)}
    for (graph, setting), x in runs.items():
        found = run_graph(folder / graph, x, setting)
        differ[f"{graph}, {setting}"] = count_different(found, exact)
    return {
        "images": len(exact),
        "settings": len(differ),
        "images_that_differ": max(differ.values()),
        "by_setting": differ,
    }


def check_off_grid_floats(folder: Path, deployed: fx.GraphModule, images: Images) -> OffGridFloats:
    beyond = BEYOND * images.values[:AT_ONCE]
    found = run_graph(folder / GRAPH, beyond, FEWER_SETTINGS[0])
    expected = logits_of(deployed, beyond, "floats that are no pixels")
    return OffGridFloats(images=len(beyond), images_that_differ=count_different(found, expected))
