"""Spiking ResNet with shortcut heads: LIF after the addition, the paper's vanilla block.

Paper: Take A Shortcut Back: Mitigating the Gradient Vanishing for Training Spiking Neural Networks,
NeurIPS 2024, https://arxiv.org/abs/2401.04486. It gives no stems and no widths; those follow public
code of the same authors, named at each entrypoint.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from timm.layers import ClassifierHead, get_device_dtype
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from zoo.heads import ShortcutHeads
from zoo.layers import ConvNorm, DirectCoding, TimeFold, conv_norm, fire
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory

__all__ = ["ShortBPResNet"]

Memory = Literal["fast", "lean"]
Stem = Literal["conv3x3", "conv7x7_pool", "conv3x3x3_pool"]
STEM_REDUCTION: dict[str, int] = {"conv3x3": 1, "conv7x7_pool": 4, "conv3x3x3_pool": 2}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; spikes in, spikes out, [T, B, C, H, W]."""

    expansion = 1

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: nn.Module, spike, **dd):
        super().__init__()
        self.conv1 = ConvNorm(in_chs, chs, 3, stride, **dd)
        self.spike1 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, **dd)
        self.shortcut = shortcut
        self.spike2 = spike()

    def forward(self, x: Tensor) -> Tensor:
        y = fire(self.spike1, self.conv1, x)
        return fire(self.spike2, self.conv2, y, self.shortcut(x))

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv2.norm.weight)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; spikes in, spikes out, [T, B, C, H, W]."""

    expansion = 4

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: nn.Module, spike, **dd):
        super().__init__()
        self.conv1 = ConvNorm(in_chs, chs, 1, **dd)
        self.spike1 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, stride, **dd)
        self.spike2 = spike()
        self.conv3 = ConvNorm(chs, chs * self.expansion, 1, **dd)
        self.shortcut = shortcut
        self.spike3 = spike()

    def forward(self, x: Tensor) -> Tensor:
        y = fire(self.spike1, self.conv1, x)
        y = fire(self.spike2, self.conv2, y)
        return fire(self.spike3, self.conv3, y, self.shortcut(x))

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv3.norm.weight)


def _stem(kind: Stem, in_chans: int, chs: int, time_steps: int, spike, **dd) -> nn.Sequential:
    if kind == "conv3x3":
        return nn.Sequential(DirectCoding(in_chans, chs, 3, 1, time_steps, **dd), spike())
    if kind == "conv7x7_pool":
        return nn.Sequential(
            DirectCoding(in_chans, chs, 7, 2, time_steps, **dd),
            spike(),
            TimeFold(nn.AvgPool2d(3, stride=2, padding=1)),
        )
    if kind == "conv3x3x3_pool":
        return nn.Sequential(
            DirectCoding(in_chans, chs, 3, 1, time_steps, **dd),
            spike(),
            ConvNorm(chs, chs, 3, **dd),
            spike(),
            ConvNorm(chs, chs, 3, **dd),
            spike(),
            TimeFold(nn.AvgPool2d(2)),
        )
    raise ValueError(f"stem: expected one of {sorted(STEM_REDUCTION)}, got {kind!r}")


def _shortcut(in_chs: int, out_chs: int, stride: int, avg_down: bool, **dd) -> nn.Module:
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    if avg_down and stride > 1:
        pool = OrderedDict(pool=nn.AvgPool2d(stride))
        return TimeFold(pool | conv_norm(in_chs, out_chs, 1, **dd))
    return ConvNorm(in_chs, out_chs, 1, stride, **dd)


class ShortBPResNet(nn.Module):
    """Spiking ResNet, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, num_classes].

    With shortcut heads and in training mode it returns ``(logits, side_logits)``, side_logits
    [heads, B, num_classes]; in eval mode the heads are not touched.

    Args:
        block: BasicBlock or Bottleneck.
        depths: Blocks in each stage.
        widths: Channels of each stage, before a bottleneck's expansion.
        stem: What stands before the first stage.
        avg_down: Downsample shortcuts by average pooling instead of a strided convolution.
        zero_init_last: Start the last norm of every block at zero.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Builds one spiking layer: LIF, ``partial(LIF, decay=0.25)``, or a mapping of
            LIF's arguments.
        shortcut_heads: Hang a classifier on the exit of every stage but the last.
        memory: "lean" remembers spikes as bytes and computes norms and neurons again in the
            backward pass, "fast" remembers their inputs; the same bits. What each costs:
            docs/results/train_step.md.
        num_classes, in_chans, global_pool, drop_rate, device, dtype: As everywhere in timm.

    Raises:
        ValueError: time_steps < 1, an unknown stem or memory, or a bad neuron constant.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Stem = "conv3x3",
        avg_down: bool = False,
        zero_init_last: bool = False,
        time_steps: int = 4,
        spike_layer: SpikeLayer = LIF,
        shortcut_heads: bool = False,
        memory: Memory = "lean",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if not (type(time_steps) is int and time_steps >= 1):
            raise ValueError(f"time_steps: expected a whole number >= 1, got {time_steps!r}")
        if memory not in get_args(Memory):
            raise ValueError(f"memory: expected one of {list(get_args(Memory))}, got {memory!r}")
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.stem = _stem(stem, in_chans, widths[0], time_steps, spike, **dd)
        self.stages = nn.Sequential()
        self.feature_info = []
        in_chs, reduction = widths[0], STEM_REDUCTION[stem]
        for i, (depth, chs) in enumerate(zip(depths, widths, strict=True)):
            blocks = nn.Sequential()
            out_chs = chs * block.expansion
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                shortcut = _shortcut(in_chs, out_chs, stride, avg_down, **dd)
                blocks.append(block(in_chs, chs, stride, shortcut, spike, **dd))
                in_chs, reduction = out_chs, reduction * stride
            self.stages.append(blocks)
            self.feature_info.append(
                dict(num_chs=in_chs, reduction=reduction, module=f"stages.{i}")
            )
        for module in self.modules():
            if zero_init_last and isinstance(module, block):
                module.zero_init_last()
            if isinstance(module, ConvNorm):
                module.lean = memory == "lean"

        self.num_features = in_chs
        self.head = ClassifierHead(in_chs, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        exits = [info["num_chs"] for info in self.feature_info[:-1]]
        self.shortcut_heads = ShortcutHeads(exits, num_classes, **dd) if shortcut_heads else None

    @property
    def time_steps(self) -> int:
        return self.stem[0].time_steps

    def _stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of each stage in turn, [T, B, C, H, W]."""
        x = self.stem(x)
        for stage in self.stages:
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            yield x

    def forward_features(self, x: Tensor) -> Tensor:
        """Firing rates of the last stage, unpooled, [B, C, H, W]."""
        *_, x = self._stage_outputs(x)
        return x.mean(0)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        # The classifier is linear: logits of the mean over time are the mean of the logits.
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not (self.training and self.shortcut_heads is not None and self.shortcut_heads.heads):
            return self.forward_head(self.forward_features(x))
        *exits, x = self._stage_outputs(x)
        return self.forward_head(x.mean(0)), self.shortcut_heads(exits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's contract; each intermediate is the firing rates of a stage, [B, C, H, W].

        Args:
            indices: Stages to take; the last n if int, all if None.
            norm: No effect: spikes have no norm after them.
            stop_early: Do not compute stages after the last one taken.
            output_fmt: "NCHW".
            intermediates_only: Return the intermediates alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: expected 'NCHW', got {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        for i, stage_output in enumerate(self._stage_outputs(x)):
            if i in take:
                intermediates.append(stage_output.mean(0))
            if stop_early and i == last:
                break
        if intermediates_only:
            return intermediates
        return stage_output.mean(0), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's contract: drop the stages after the last one taken, and the heads."""
        take, last = feature_take_indices(len(self.stages), indices)
        self.shortcut_heads = None
        if last < len(self.stages) - 1:
            self.stages = self.stages[: last + 1]
            self.num_features = self.feature_info[last]["num_chs"]
            self.head.reset(0, in_features=self.num_features)
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New classifier, and new shortcut heads where the network has them."""
        dd = get_device_dtype(self)
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **dd)
        self.head_hidden_size = self.head.num_features
        if self.shortcut_heads is not None:
            self.shortcut_heads.reset(num_classes, **dd)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return dict(stem=r"^stem", blocks=[(blocks, None)])


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights with heads fit a network without, and the reverse: new heads keep their own start.

    Raises:
        ValueError: A tensor of the backbone is missing, which timm would leave random.
    """
    prefix = "shortcut_heads."
    backbone = {k: v for k, v in state_dict.items() if not k.startswith(prefix)}
    missing = [k for k in model.state_dict() if not k.startswith((prefix, "head.fc."))]
    if missing := [k for k in missing if k not in backbone]:
        raise ValueError(f"weights: expected a whole network, found no {missing}")
    if model.shortcut_heads is None:
        return backbone
    own = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
    theirs = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    fit = {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in theirs.items()}
    return backbone | (theirs if fit else own)


def _cfg(**kwargs) -> dict[str, Any]:
    # Means and deviations are whole numbers over 255, so that a normalised pixel is still a pixel.
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (4, 4),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (125 / 255, 123 / 255, 114 / 255),
        "std": (63 / 255, 62 / 255, 67 / 255),
        "first_conv": "stem.0.conv",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2401.04486",
        "paper_name": "Take A Shortcut Back",
        "license": "apache-2.0",
        **kwargs,
    }


def _cfg_imagenet() -> dict[str, Any]:
    return _cfg(
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bicubic",
        mean=(124 / 255, 116 / 255, 104 / 255),
        std=(58 / 255, 57 / 255, 57 / 255),
    )


default_cfgs = generate_default_cfgs(
    {
        "short_bp_resnet18.untrained": _cfg(),
        "short_bp_resnet34.untrained": _cfg(),
        "short_bp_resnet50.untrained": _cfg(),
        "short_bp_resnet101.untrained": _cfg(),
        "short_bp_resnet152.untrained": _cfg(),
        "short_bp_resnet18_imagenet.untrained": _cfg_imagenet(),
        "short_bp_resnet34_imagenet.untrained": _cfg_imagenet(),
        "short_bp_resnet19.untrained": _cfg(pool_size=(8, 8)),
        "short_bp_resnet20.untrained": _cfg(pool_size=(2, 2)),
        "short_bp_resnet20_slim.untrained": _cfg(pool_size=(8, 8)),
    }
)


def _create(variant: str, pretrained: bool, model_args: dict[str, Any], kwargs) -> ShortBPResNet:
    args = model_args | kwargs
    depths = args.get("depths", (2, 2, 2, 2))
    return build_model_with_cfg(
        ShortBPResNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=tuple(range(len(depths))), feature_cls="getter"),
        **args,
    )


# 32-pixel stem: one 3x3 convolution, no pooling (Joint-A-SNN).


@register_model
def short_bp_resnet18(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """11.17 M parameters at 10 classes (Joint-A-SNN's CIFAR ResNet-18)."""
    return _create("short_bp_resnet18", pretrained, {}, kwargs)


@register_model
def short_bp_resnet34(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    return _create("short_bp_resnet34", pretrained, dict(depths=(3, 4, 6, 3)), kwargs)


@register_model
def short_bp_resnet50(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(block=Bottleneck, depths=(3, 4, 6, 3))
    return _create("short_bp_resnet50", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet101(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(block=Bottleneck, depths=(3, 4, 23, 3))
    return _create("short_bp_resnet101", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet152(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(block=Bottleneck, depths=(3, 8, 36, 3))
    return _create("short_bp_resnet152", pretrained, model_args, kwargs)


# ImageNet stem: 7x7 convolution, average pooling in place of max pooling (Ternary-Spike, MPBN).


@register_model
def short_bp_resnet18_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool")
    return _create("short_bp_resnet18_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet34_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool", depths=(3, 4, 6, 3))
    return _create("short_bp_resnet34_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet19(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """12.57 M parameters at 10 classes (MPBN's resnet19_cifar)."""
    model_args = dict(depths=(3, 3, 2), widths=(128, 256, 512))
    return _create("short_bp_resnet19", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet20(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """11.25 M parameters at 10 classes: MPBN's resnet20_cifar_modified, the paper's ResNet20."""
    model_args = dict(stem="conv3x3x3_pool", avg_down=True, zero_init_last=True)
    return _create("short_bp_resnet20", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet20_slim(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """0.27 M parameters at 10 classes: the CIFAR ResNet-20 of He et al. 2016, sec. 4.2."""
    model_args = dict(depths=(3, 3, 3), widths=(16, 32, 64))
    return _create("short_bp_resnet20_slim", pretrained, model_args, kwargs)
