"""A network and what changes it: one optimizer step, and all that a checkpoint must hold of it.

Shapes: B images of a chunk, C channels, H height, W width, K classes.
"""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from zoo.data import normalise
from zoo.neurons.kernels.dispatch import KERNELS
from zoo.training.augment import augment
from zoo.training.config import Config
from zoo.training.feed import seed_of
from zoo.training.losses import classification_loss, head_weight
from zoo.training.muon import muon_in_fp32
from zoo.training.watch import first_broken

# Of fp16's gradients; it begins at 2^16, and each step that is skipped halves it.
LEAST_SCALE = 2**-14
GLANCE = 10  # steps between two looks at the loss, each of which waits for a GPU
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """A network in training.

    Args:
        model: The network as it is built or loaded; this process's copy where there are several.
        steps: Optimizer steps of an epoch.
    """

    def __init__(self, config: Config, model: nn.Module, steps: int, accelerator: Accelerator):
        self.config, self.accelerator, self.iterations = config, accelerator, config.epochs * steps
        model.to(accelerator.device, memory_format=torch.channels_last)
        if config.sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model
        optim = config.optim
        self.average = None
        if optim.ema_decay:
            self.average = ModelEmaV3(model, decay=optim.ema_decay, use_warmup=True)
        try:
            self.optimizer = create_optimizer_v2(
                model, opt=optim.name, lr=optim.lr, weight_decay=optim.weight_decay
            )
        except (AssertionError, ImportError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"optim.name: expected an optimizer of timm that runs here, got {optim.name!r} "
                f"({error})"
            ) from None
        self.learning_rate = 0.0  # of the step that was taken last
        self.schedule = LambdaLR(self.optimizer, _cosine(config, steps))
        self.scaler = torch.amp.GradScaler(
            accelerator.device.type, enabled=config.precision == "fp16"
        )
        # Of the layer nearest to the images: every gradient that is not finite ends up in its own.
        self.nearest = next((n, p) for n, p in model.named_parameters() if p.requires_grad)
        self.wrapped = accelerator.prepare_model(model)
        self.forward = self.wrapped
        if config.compile:
            if reason := KERNELS[accelerator.device.type].unavailable():
                raise ValueError(
                    f"compile: expected what torch.compile needs, found {reason}; "
                    "leave compile out, or install it"
                )
            # A graph for each size, so that no bit depends on which size came first.
            self.forward = torch.compile(self.wrapped, dynamic=False)

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and saved: the moving average where there is one."""
        return self.average.module if self.average else self.model

    def step(self, chunks: Iterable[tuple[Tensor, Tensor]], iteration: int, total: int) -> Tensor:
        """One optimizer step.

        Args:
            chunks: uint8 images [B, C, H, W], or event frames [B, T, C, H, W], and labels [B]; each
                is taken when its turn comes, since taking it seeds its augmentation.
            total: Images of the step over all processes.

        Returns:
            Sums over this process's images: of the loss, of those that the network got right, and
            of those that each shortcut head did; float64.

        Raises:
            FloatingPointError: The loss is not finite, or without a scaler the gradient, or with
                one no scale is small enough for it: a neuron of which nobody knows the potential
                does not fire, so that the loss alone tells little. The weights are still those
                before the step, or on a GPU, where looking means waiting, before at most GLANCE
                steps.
        """
        config = self.config
        weight = head_weight(config.loss, iteration, self.iterations)
        looks = self.accelerator.device.type == "cpu" or iteration % GLANCE == 0
        sums = torch.zeros(2 + self.heads, dtype=torch.float64, device=self.accelerator.device)
        self.optimizer.zero_grad(set_to_none=True)
        self.wrapped.train()
        for i, (images, labels) in enumerate(chunks):
            images, targets = self._prepared(images, labels)
            last = i == config.gradient_accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with self._autocast():
                    outputs = self.forward(images)
                    logits, side_logits = outputs if config.loss.needs_heads else (outputs, None)
                    loss = classification_loss(config.loss, logits, side_logits, targets, weight)
                if looks and not loss.isfinite():
                    raise self._broken(iteration, f"a finite loss, got {loss.item()}", images)
                # Pieces may differ by an image, and gradients are averaged over the processes.
                share = len(labels) * self.accelerator.num_processes / total
                self.scaler.scale(share * loss).backward()
            sums += self._sums(loss, logits, side_logits, targets)
        name, nearest = self.nearest
        if looks and not self.scaler.is_enabled() and not nearest.grad.isfinite().all():
            raise self._broken(iteration, f"a finite gradient of {name}, got another", images)
        if looks and self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            raise self._broken(
                iteration, "gradients that fp16 holds at some scale, got none", images
            )
        # Some optimizers draw (timm's kron), and each process has seeded its own chunk.
        torch.manual_seed(seed_of(config.seed, "optimizer", iteration))
        with muon_in_fp32() if config.precision == "fp32" else nullcontext():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        if self.average:
            self.average.update(self.model, step=iteration)
        return sums

    def _broken(self, iteration: int, expected: str, images: Tensor) -> FloatingPointError:
        return FloatingPointError(
            f"step {iteration + 1}: expected {expected}; {first_broken(self.model, images)}; "
            "try a lower optim.lr or precision: fp32"
        )

    @property
    def _parameters(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]

    @property
    def heads(self) -> int:
        return len(self.model.shortcut_heads.heads) if self.config.loss.needs_heads else 0

    def head_weight(self, iteration: int) -> float:
        return head_weight(self.config.loss, iteration, self.iterations) if self.heads else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on, beside the weights that are measured."""
        state = {
            "parameters": self._parameters,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "learning_rate": self.learning_rate,
        }
        return state | ({"weights": self.model.state_dict()} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict.

        Raises:
            ValueError: It is of a network whose parameters have another order, by which alone torch
                tells whose momentum is whose.
        """
        if state.get("parameters") != self._parameters:
            raise ValueError(
                "output: expected a checkpoint of this version of the network, got one whose "
                "parameters have other names or another order; go on with the version that wrote "
                "it, or choose another --output"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.learning_rate = state["learning_rate"]
        if self.average:
            self.model.load_state_dict(state["weights"])

    def _prepared(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        data, device = self.config.data, self.accelerator.device
        images = normalise(images.to(device, non_blocking=True), data.mean, data.std)
        labels = labels.to(device, non_blocking=True)
        images, targets = augment(self.config.augment, images, labels, self.model.num_classes)
        if images.ndim == 5:
            return images.transpose(0, 1), targets
        return images.contiguous(memory_format=torch.channels_last), targets

    def _autocast(self):
        dtype = AUTOCAST[self.config.precision]
        return torch.autocast(self.accelerator.device.type, dtype, enabled=dtype is not None)

    @torch.no_grad()
    def _sums(self, loss: Tensor, logits: Tensor, side: Tensor | None, targets: Tensor) -> Tensor:
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        every = logits[None] if side is None else torch.cat([logits[None], side])
        correct = (every.argmax(2) == classes).sum(1)  # [1 + heads]
        return torch.cat([(loss * len(classes))[None].double(), correct.double()])


def _cosine(config: Config, steps: int):
    """Factor on the learning rate by iteration: linear warm-up, then half a cosine to 0."""
    warmup, total = config.optim.warmup_epochs * steps, config.epochs * steps

    def factor(iteration: int) -> float:
        if iteration < warmup:
            return (iteration + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, total - warmup)))

    return factor
