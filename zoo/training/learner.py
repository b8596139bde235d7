"""A network in training: one optimizer step, and the state that a checkpoint holds.

Shapes: B images of a chunk, C channels, H height, W width, K classes.
"""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, muon
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from zoo.data import normalise
from zoo.training.augment import augment
from zoo.training.config import Config
from zoo.training.feed import seed_of
from zoo.training.losses import classification_loss, head_weight

LOG_EVERY = 10  # steps between two looks at the loss, each of which waits for a GPU
NEWTON_SCHULZ = muon.zeropower_via_newtonschulz


class Learner:
    """A network in training.

    Args:
        model: The network; each process has its own copy.
        steps: Optimizer steps of an epoch.
    """

    def __init__(self, config: Config, model: nn.Module, steps: int, accelerator: Accelerator):
        self.config, self.accelerator, self.iterations = config, accelerator, config.epochs * steps
        model.to(accelerator.device, memory_format=torch.channels_last)
        self.model = model
        optim = config.optim
        self.average = None
        if optim.ema_decay:
            self.average = ModelEmaV3(model, decay=optim.ema_decay, use_warmup=True)
        # timm's Muon always multiplies in bf16, which a CPU without bf16 emulates slowly.
        dtype = torch.float32 if config.precision == "fp32" else torch.bfloat16
        muon.zeropower_via_newtonschulz = partial(NEWTON_SCHULZ, dtype=dtype)
        self.optimizer = create_optimizer_v2(
            model, opt=optim.name, lr=optim.lr, weight_decay=optim.weight_decay
        )
        self.learning_rate = 0.0  # of the last step
        self.schedule = LambdaLR(self.optimizer, _cosine(config, steps))
        # The layer nearest to the images: every gradient that is not finite ends up in its own.
        self.nearest = next(p for p in model.parameters() if p.requires_grad)
        self.wrapped = accelerator.prepare_model(model)
        self.forward = self.wrapped
        if config.compile:
            # A graph for each size, so that no bit depends on which size comes first.
            self.forward = torch.compile(self.wrapped, dynamic=False)

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and saved: the moving average if there is one."""
        return self.average.module if self.average else self.model

    def step(self, chunks: Iterable[tuple[Tensor, Tensor]], iteration: int, total: int) -> Tensor:
        """One optimizer step.

        Args:
            chunks: uint8 images [B, C, H, W], or event frames [B, T, C, H, W], and labels [B].
                Taking a chunk seeds its augmentation.
            total: Images of the step over all processes.

        Returns:
            Sums over this process's images, float64: the loss, the images that the network
            classifies correctly, and those that each shortcut head does.

        Raises:
            FloatingPointError: The loss or the gradient is not finite. The loss alone does not
                tell: an undefined potential fires no spike. A GPU is asked every LOG_EVERY steps.
        """
        config, device = self.config, self.accelerator.device
        weight = head_weight(config.loss, iteration, self.iterations)
        looks = device.type == "cpu" or iteration % LOG_EVERY == 0
        sums = torch.zeros(2 + self.heads, dtype=torch.float64, device=device)
        self.optimizer.zero_grad(set_to_none=True)
        self.wrapped.train()
        for i, (images, labels) in enumerate(chunks):
            images, targets = self._prepared(images, labels)
            last = i == config.gradient_accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with torch.autocast(device.type, torch.bfloat16, config.precision == "bf16"):
                    outputs = self.forward(images)
                    logits, side_logits = outputs if config.loss.needs_heads else (outputs, None)
                    loss = classification_loss(config.loss, logits, side_logits, targets, weight)
                # Chunks may differ by an image, and gradients are averaged over the processes.
                share = len(labels) * self.accelerator.num_processes / total
                (share * loss).backward()
            sums += self._sums(loss, logits, side_logits, targets)
        if looks and not (sums[0].isfinite() and self.nearest.grad.isfinite().all()):
            raise FloatingPointError(
                f"step {iteration + 1}: the loss or its gradient is not finite; try a lower "
                "optim.lr or precision: fp32"
            )
        # Some optimizers draw random numbers (timm's kron); all processes must draw the same.
        torch.manual_seed(seed_of(config.seed, "optimizer", iteration))
        self.optimizer.step()
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        if self.average:
            self.average.update(self.model, step=iteration)
        return sums

    @property
    def heads(self) -> int:
        return len(self.model.shortcut_heads.heads) if self.config.loss.needs_heads else 0

    def head_weight(self, iteration: int) -> float:
        return head_weight(self.config.loss, iteration, self.iterations) if self.heads else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What it takes to resume, besides the weights that are measured."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "learning_rate": self.learning_rate,
        }
        return state | ({"weights": self.model.state_dict()} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
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

    @torch.no_grad()
    def _sums(self, loss: Tensor, logits: Tensor, side: Tensor | None, targets: Tensor) -> Tensor:
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        every = logits[None] if side is None else torch.cat([logits[None], side])
        correct = (every.argmax(2) == classes).sum(1)  # [1 + heads]
        return torch.cat([(loss * len(classes))[None].double(), correct.double()])


def _cosine(config: Config, steps: int):
    """Factor on the learning rate by iteration: a linear warm-up, then half a cosine to 0."""
    warmup, total = config.optim.warmup_epochs * steps, config.epochs * steps

    def factor(iteration: int) -> float:
        if iteration < warmup:
            return (iteration + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, total - warmup)))

    return factor
