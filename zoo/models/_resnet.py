"""Stems, shortcuts and stages that the spiking ResNets share.

Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from zoo.layers.conv import ConvNorm, DirectCoding, TimeFold, conv_norm
from zoo.validation import one_of, sizes_of_stages

Block = Literal["basic", "bottleneck"]
Stem = Literal["conv3x3", "conv7x7_pool", "conv7x7_maxpool", "conv3x3x3_pool"]
STEM_REDUCTION: dict[str, int] = {
    "conv3x3": 1,
    "conv7x7_pool": 4,
    "conv7x7_maxpool": 4,
    "conv3x3x3_pool": 2,
}


def make_stem(kind: Stem, in_chans: int, chs: int, time_steps: int, spike, **dd) -> nn.Sequential:
    """The layers before the first stage, image -> [T, B, chs, H, W]."""
    one_of("stem", STEM_REDUCTION, kind)
    if kind == "conv3x3":
        return nn.Sequential(DirectCoding(in_chans, chs, 3, 1, time_steps, **dd), spike())
    if kind in ("conv7x7_pool", "conv7x7_maxpool"):
        pool = nn.MaxPool2d if kind == "conv7x7_maxpool" else nn.AvgPool2d
        return nn.Sequential(
            DirectCoding(in_chans, chs, 7, 2, time_steps, **dd),
            spike(),
            TimeFold(pool(3, stride=2, padding=1)),
        )
    return nn.Sequential(
        DirectCoding(in_chans, chs, 3, 1, time_steps, **dd),
        spike(),
        ConvNorm(chs, chs, 3, **dd),
        spike(),
        ConvNorm(chs, chs, 3, **dd),
        spike(),
        TimeFold(nn.AvgPool2d(2)),
    )


def make_shortcut(in_chs: int, out_chs: int, stride: int, avg_down: bool, **dd) -> nn.Module:
    """A block's shortcut, [T, B, in_chs, H, W] -> [T, B, out_chs, H / stride, W / stride].

    Args:
        avg_down: Average before a convolution of stride 1 (He et al. 2018, arXiv:1812.01187, D).
    """
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    if avg_down and stride > 1:
        # An odd side ends in a window of one pixel, as for the strided convolution beside it.
        pool = OrderedDict(pool=nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        return TimeFold(pool | conv_norm(in_chs, out_chs, 1, **dd))
    return ConvNorm(in_chs, out_chs, 1, stride, **dd)


def resnet_stages(
    make: Callable[[int, int, int], nn.Module],
    expansion: int,
    depths: Sequence[int],
    widths: Sequence[int],
    reduction: int,
    in_chs: int | None = None,
    first_stride: int = 1,
) -> tuple[nn.Sequential, list[dict[str, Any]]]:
    """The stages of a residual network; all but the first begin with a stride of 2.

    Args:
        make: in_chs, chs and stride -> a block of chs * expansion channels.
        reduction: Stride of the stem.
        in_chs: Channels of the stem; widths[0] if None.
        first_stride: Stride of the first stage.

    Returns:
        Stages of blocks, and timm's feature_info.
    """
    stages, feature_info, in_chs = nn.Sequential(), [], in_chs or widths[0]
    for i, (depth, chs) in enumerate(sizes_of_stages(depths, widths)):
        blocks = nn.Sequential()
        for j in range(depth):
            stride = 1 if j > 0 else 2 if i > 0 else first_stride
            blocks.append(make(in_chs, chs, stride))
            in_chs, reduction = chs * expansion, reduction * stride
        stages.append(blocks)
        feature_info.append(dict(num_chs=in_chs, reduction=reduction, module=f"stages.{i}"))
    return stages, feature_info
