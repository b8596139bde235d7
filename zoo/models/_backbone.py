"""The base class of all networks: stem, stages, classifier, and timm's contract.

Shapes: T time steps, B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, TypeVar, get_args

import torch
from timm.layers import ClassifierHead, get_device_dtype
from timm.models._features import feature_take_indices
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from zoo.layers.conv import ConvNorm
from zoo.layers.shortcut_heads import ShortcutHeads
from zoo.models._neurons import KEY, decisive, from_tensor, neurons_of, to_tensor
from zoo.neurons import LIF
from zoo.validation import flag, one_of, whole

CONFIG = "config.json"  # beside weights: the network that they belong to
NEEDED = LIF().constants().keys()  # in the spike_layer of a config.json
COUNTER = "num_batches_tracked"  # a norm's buffer that is no weight; timm's frozen norms lack it
Memory = Literal["fast", "lean"]
Backbone = TypeVar("Backbone", bound="SpikingBackbone")


class OtherWeightsError(ValueError):
    """The weights belong to another network."""


class SpikingBackbone(nn.Module):
    """A spiking network, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, K].

    With shortcut heads and in training mode it returns ``(logits, side_logits)``, side_logits
    [heads, B, K]; in eval mode the heads are not touched.

    Args:
        stem: Image -> [T, B, C, H, W], beginning with DirectCoding.
        stages: Each [T, B, C, H, W] -> [T, B, C', H', W'].
        feature_info: timm's: num_chs, reduction and module of each stage's output.
        last_spike: The neuron after the last stage, if the stage's output is a current.
        shortcut_heads: Add classifiers at the exits of stages, for training.
        head_stages: Numbers of the stages that have one; all but the last if None.
        memory: What autograd saves: "lean" saves spikes as bytes and computes norms and neurons
            again in the backward pass, "fast" saves their inputs. On a CPU with AVX2 the bits are
            the same, except for the rounding of weight gradients in bf16. Second derivatives need
            "fast" and neurons with backend="eager".
        num_classes, global_pool, drop_rate, device, dtype: As in timm.
    """

    usual_stages = 4  # when depths is not given; timm asks before the network is built

    def __init__(
        self,
        stem: nn.Sequential,
        stages: nn.Sequential,
        feature_info: list[dict[str, Any]],
        last_spike: nn.Module | None = None,
        shortcut_heads: bool = False,
        head_stages: Sequence[int] | None = None,
        memory: Memory = "lean",
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        num_classes = whole("num_classes", num_classes, 0)
        one_of("memory", get_args(Memory), memory)
        flag("shortcut_heads", shortcut_heads)
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = stem[0].conv.in_channels
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self._given_args: dict[str, Any] = {}

        self.stem = stem
        self.stages = stages
        self.feature_info = feature_info
        self.last_spike = nn.Identity() if last_spike is None else last_spike
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.lean = memory == "lean"

        self.num_features = feature_info[-1]["num_chs"]
        head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = head.num_features
        self.head_stages = stages_with_heads(head_stages, len(stages))
        exits = [feature_info[i]["num_chs"] for i in self.head_stages]
        self.shortcut_heads = ShortcutHeads(exits, num_classes, **dd) if shortcut_heads else None
        self.head = head  # last: timm takes the last two parameters for the classifier's
        self.register_buffer(KEY, to_tensor(neurons_of(self)).to(device))

    @property
    def time_steps(self) -> int:
        return self.stem[0].time_steps

    @property
    def _model_args(self) -> dict[str, Any]:
        """What timm writes into config.json: the arguments that were given, and all constants."""
        return self._given_args | neurons_of(self)

    @_model_args.setter
    def _model_args(self, given: dict[str, Any]) -> None:
        self._given_args = given

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + KEY] = to_tensor(neurons_of(self)).to(self.neurons.device)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Refuse the weights of other neurons; older files do not say which they had."""
        *_, errors = args
        ours, found = neurons_of(self), state_dict.get(prefix + KEY)
        if found is not None:
            theirs = from_tensor(found)
            if decisive(theirs) != decisive(ours):
                errors.append(
                    f"neurons: expected {decisive(ours)}, got weights of {decisive(theirs)}; build "
                    f"the network with {theirs}, or delete {prefix + KEY!r} from the weights"
                )
        state_dict[prefix + KEY] = self.neurons = to_tensor(ours).to(self.neurons.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of each stage in turn, [T, B, C, H, W]."""
        if not isinstance(x, Tensor | fx.Proxy):
            raise TypeError(
                f"x: expected normalised floats [B, C, H, W], got {type(x).__name__}; of a PIL "
                "image call transform(image)[None] with transform = timm.data.create_transform("
                "**timm.data.resolve_data_config(model=model))"
            )
        if isinstance(x, Tensor) and not x.is_floating_point():
            mean, std = (
                tuple(round(255 * value) for value in self.pretrained_cfg[key])
                for key in ("mean", "std")
            )
            raise TypeError(
                f"x: expected normalised floats, got {x.dtype}; of pixels call "
                f"zoo.data.normalise(x, {mean}, {std}) after import zoo.data"
            )
        x = self.stem(x)
        for stage in self.stages:
            if self.grad_checkpointing:
                for block in stage:
                    x = _checkpointed(block, x)
            else:
                x = stage(x)
            yield x

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's output averaged over time, unpooled, [B, C, H, W]. Of spikes these are
        firing rates.
        """
        *_, x = self._stage_outputs(x)
        return self.last_spike(x).mean(0)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, C, H, W] from forward_features -> logits [B, K], or with pre_logits the classifier's
        input [B, C].
        """
        # The classifier is linear: the logits of the mean over time are the mean of the logits.
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward_steps(self, x: Tensor) -> Tensor:
        """Logits of each time step, [T, B, K], as for the TET loss; without shortcut heads.

        In eval mode with average pooling their mean over T is forward's output but for rounding.
        """
        *_, x = self._stage_outputs(x)
        x = self.last_spike(x)
        return self.head(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not (self.training and self.shortcut_heads is not None and self.shortcut_heads.heads):
            return self.forward_head(self.forward_features(x))
        outputs = list(self._stage_outputs(x))
        logits = self.forward_head(self.last_spike(outputs[-1]).mean(0))
        return logits, self.shortcut_heads([outputs[i] for i in self.head_stages])

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's contract. An intermediate is a stage's output averaged over time, [B, C, H, W].

        Args:
            indices: Stages to take; the last n if int, all if None.
            norm: Take the last stage after last_spike.
            stop_early: Skip the stages after the last one taken.
            output_fmt: "NCHW".
            intermediates_only: Return the intermediates alone.

        Returns:
            The output of forward_features, or of the last stage that was computed, and the
            intermediates.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: expected 'NCHW', got {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        end = len(self.stages) - 1
        intermediates = []
        for i, stage_output in enumerate(self._stage_outputs(x)):
            if i in take:
                after = self.last_spike(stage_output) if norm and i == end else stage_output
                intermediates.append(after.mean(0))
            if stop_early and i == last:
                break
        if intermediates_only:
            return intermediates
        if i == end:
            stage_output = self.last_spike(stage_output)
        return stage_output.mean(0), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's contract: drop the stages after the last one taken, and the heads.

        Args:
            indices: Stages to keep; the last n if int.
            prune_norm: Drop last_spike.
            prune_head: Drop the classifier.

        Returns:
            The numbers of the stages taken.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        self.shortcut_heads = None
        if last < len(self.stages) - 1:
            self.stages = self.stages[: last + 1]
            self.num_features = self.feature_info[last]["num_chs"]
            self.head.reset(0, in_features=self.num_features)
            prune_head = prune_norm = True
        if prune_norm:
            self.last_spike = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the shortcut heads if any. pretrained_cfg loses the names of
        the old classes and the tag.
        """
        dd = get_device_dtype(self)
        num_classes = whole("num_classes", num_classes, 0)
        self.head.reset(num_classes, global_pool, **dd)
        self.num_classes = num_classes
        forget_classes(getattr(self, "pretrained_cfg", {}))
        self.head_hidden_size = self.head.num_features
        if self.shortcut_heads is not None:
            self.shortcut_heads.reset(self.num_classes, **dd)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save only the input of each block and run the block again in the backward pass. Its norms
        still count every batch once. Custom neurons must not keep state between calls.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return dict(stem=r"^stem", blocks=[(blocks, None)])


class _KeepsBuffers:
    """Lets a block change copies of its buffers, and restores the buffers at the end.

    With torch's checkpoint alone, a norm that runs again would update its statistics again.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self) -> None:
        self.kept = [(module, dict(module._buffers)) for module in self.block.modules()]
        for module, buffers in self.kept:
            for name, buffer in buffers.items():
                setattr(module, name, None if buffer is None else buffer.clone())

    def __exit__(self, *_) -> None:
        for module, buffers in self.kept:
            for name, buffer in buffers.items():
                setattr(module, name, buffer)


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # a compiled checkpoint updates statistics once
        return checkpoint(block, x, use_reentrant=False)
    contexts = nullcontext(), _KeepsBuffers(block)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


def stages_with_heads(chosen: Sequence[int] | None, stages: int) -> tuple[int, ...]:
    """Numbers of the stages that have a shortcut head."""
    numbers = range(stages - 1) if chosen is None else chosen
    several = isinstance(numbers, Sequence) and all(type(number) is int for number in numbers)
    if not several or list(numbers) != sorted({*numbers} & {*range(stages)}):
        raise ValueError(
            f"head_stages: expected rising numbers of stages from 0 to {stages - 1}, got {chosen}"
        )
    return tuple(numbers)


def forget_classes(cfg: dict[str, Any], kept: Container[str] = ()) -> None:
    """Remove the names of classes and the tag from a pretrained_cfg."""
    for name in {"label_names", "tag"}.difference(kept):
        cfg.pop(name, None)
