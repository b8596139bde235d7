"""The images of each training step.

An epoch is one order of the images, cut into steps; a step is cut into chunks, one for each process
and each turn of gradient accumulation. The order depends on the seed and the epoch, an image's
augmentation on these and the image, a chunk's on these and its place. So an epoch can be resumed at
any step, and two processes see the same as one process with two turns.
Shapes: B images of a chunk, C channels, H height, W width.
"""

import hashlib
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from zoo.console import check_range
from zoo.data import ImageFiles, ImageSet, drawn_order
from zoo.training.augment import image_policy
from zoo.training.config import Config
from zoo.training.stop import POLITE

Chunks = Generator[tuple[Tensor, Tensor], None, None]  # images and labels
Steps = Generator[Iterator[tuple[Tensor, Tensor]], None, None]

LEAST, MOST = 32, 250  # images of a batch that is measured


class Feed:
    """One process's share of the training images, step by step.

    Args:
        rank, processes: This process among all.

    Attributes:
        steps: Optimizer steps of an epoch.
        seen: Images of an epoch. A last step with fewer than two images for a chunk is dropped,
            since norms need two.
    """

    def __init__(
        self, config: Config, images: ImageSet | ImageFiles, rank: int = 0, processes: int = 1
    ):
        self.config, self.images = config, images
        self.chunks = processes * config.gradient_accumulation
        self.first_chunk = rank * config.gradient_accumulation
        check_range("batch_size", min(config.batch_size, len(images)), self.chunks)
        full, rest = divmod(len(images), config.batch_size)
        self.steps = full + (rest >= 2 * self.chunks or not full)
        self.seen = min(len(images), self.steps * config.batch_size)

    def images_of(self, step: int) -> int:
        """Number of images of a step, over all processes."""
        return min(self.config.batch_size, len(self.images) - step * self.config.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Steps:
        """This process's chunks of each step from first_step on.

        A chunk is uint8 images [B, C, H, W] or event frames [B, T, C, H, W], and labels [B]; torch
        is seeded for it when it is taken. Close the generator to stop its workers.
        """
        config, seed = self.config, (self.config.seed, epoch)
        draw = torch.Generator().manual_seed(seed_of(*seed))
        order = torch.randperm(len(self.images), generator=draw)
        turns = range(self.first_chunk, self.first_chunk + config.gradient_accumulation)
        wanted = [
            step.tensor_split(self.chunks)[turn]
            for step in order.split(config.batch_size)[first_step : self.steps]
            for turn in turns
        ]
        policy = image_policy(config.augment.auto, config.data.mean)
        with closing(_read(_Batches(self.images, wanted, policy, seed), config)) as chunks:
            for step in range(first_step, self.steps):
                yield _seeded(chunks, [(*seed, step, turn) for turn in turns])


def measured_batches(
    config: Config, images: ImageSet | ImageFiles, rank: int = 0, processes: int = 1
) -> Chunks:
    """One process's share of the images that are measured, in chunks like an epoch's.

    Their order is drawn, so that the first batch, whose firing rates are logged, has many classes.
    """
    order = drawn_order(len(images))
    # Without a backward pass, twice the images of a piece take less memory than that piece.
    piece = config.batch_size // (processes * config.gradient_accumulation)
    batches = order.split(min(MOST, max(LEAST, 2 * piece)))[rank::processes]
    return _read(_Batches(images, batches), config)


def _read(batches: Dataset, config: Config) -> Chunks:
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=config.workers,
        worker_init_fn=_leave_to_the_loop,
        pin_memory=config.device != "cpu" and torch.cuda.is_available(),
    )
    return _with_workers(iter(loader)) if config.workers else (batch for batch in loader)


def _leave_to_the_loop(_: int) -> None:
    """Leave signals and the progress bar to the training process."""
    for number in POLITE:  # sent to the whole process group, they would kill the worker
        signal.signal(number, signal.SIG_IGN)
    # The bar redirects these; the lock of a forked bar may never be released.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _with_workers(batches: Iterator) -> Chunks:
    """Batches from workers, which are stopped at the end: they ignore the signal Python would send.

    Raises:
        ValueError: A worker could not read an image; torch puts its traceback into the message.
    """
    try:
        yield from batches
    except (ValueError, OSError) as error:
        raise ValueError(str(error).rpartition("Error: ")[2].strip()) from None
    finally:
        batches._shutdown_workers()


def _seeded(chunks: Iterator, seeds: list[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
    for parts in seeds:
        chunk = next(chunks)
        torch.manual_seed(seed_of(*parts))
        yield chunk


class _Batches(Dataset):
    """Batches of images, each from its indices.

    Args:
        seed: Read with random crops and the policy, from this seed; None reads images as they are.
    """

    def __init__(
        self,
        images: ImageSet | ImageFiles,
        batches: Sequence[Tensor],
        policy: v2.Transform | None = None,
        seed: tuple[int, ...] | None = None,
    ):
        self.images, self.policy, self.seed = images, policy, seed
        self.batches = [batch.tolist() for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        indices = self.batches[place]
        if self.seed is None:
            return self.images.take(indices)
        images, labels = self.images.take(indices, lambda index: self._seed("read", index))
        if self.policy is None:
            return images, labels
        changed = []
        for index, image in zip(indices, images, strict=True):
            self._seed("policy", index)
            changed.append(self.policy(image))
        return torch.stack(changed), labels

    def _seed(self, what: str, index: int) -> None:
        # torch.manual_seed would seed every device, for each image.
        torch.default_generator.manual_seed(seed_of(*self.seed, what, index))


def seed_of(*parts: int | str) -> int:
    """A seed for one place in a run, by its hash."""
    return int.from_bytes(hashlib.sha256(str(parts).encode()).digest()[:7], "big")
