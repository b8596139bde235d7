"""Which images make up which step, whoever computes it.

An epoch is one order of the images, cut into steps; a step is cut into chunks, one for each process
and each turn of gradient accumulation. The order follows from the seed and the epoch, an image's
augmentation from these and the image, a chunk's from these and its place: an epoch can be entered
at any step, and two processes see what one with two turns sees.
Shapes: B images of a chunk, C channels, H height, W width.
"""

import hashlib
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from multiprocessing import resource_tracker

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from zoo.data import ImageFiles, ImageSet
from zoo.training.augment import image_policy
from zoo.training.config import Config
from zoo.training.stop import POLITE

Chunks = Generator[tuple[Tensor, Tensor], None, None]  # images and labels
Steps = Generator[Iterator[tuple[Tensor, Tensor]], None, None]

LEAST, MOST = 32, 250  # images that are measured at once


class Feed:
    """One process's share of the training images, step by step.

    Args:
        rank, processes: This process among all.

    Attributes:
        steps: Optimizer steps of an epoch.
        seen: Images of an epoch; a rest of fewer than two for some chunk, whose norms could have
            nothing to compare an image with, is left out.

    Raises:
        ValueError: There are fewer images in a step than chunks to cut it into.
    """

    def __init__(
        self, config: Config, images: ImageSet | ImageFiles, rank: int = 0, processes: int = 1
    ):
        self.config, self.images = config, images
        self.chunks = processes * config.gradient_accumulation
        self.first_chunk = rank * config.gradient_accumulation
        if min(config.batch_size, len(images)) < self.chunks:
            raise ValueError(
                f"batch_size: expected at least an image for each of {processes} processes x "
                f"{config.gradient_accumulation} accumulations, got {config.batch_size} of "
                f"{len(images)} images"
            )
        full, rest = divmod(len(images), config.batch_size)
        self.steps = full + (rest >= 2 * self.chunks or not full)
        self.seen = min(len(images), self.steps * config.batch_size)

    def images_of(self, step: int) -> int:
        """How many images a step has, over all processes."""
        return min(self.config.batch_size, len(self.images) - step * self.config.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Steps:
        """This process's chunks of each step from first_step on: uint8 images [B, C, H, W] or event
        frames [B, T, C, H, W], and labels [B]. torch's generator is seeded anew for each chunk when
        it is handed out. Close what is not taken to its end: a process whose workers wait for more
        does not exit.
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
        with closing(_read(_Training(self.images, policy, seed), wanted, config)) as chunks:
            for step in range(first_step, self.steps):
                yield _seeded(chunks, [(*seed, step, turn) for turn in turns])


def measured_batches(
    config: Config, images: ImageSet | ImageFiles, rank: int = 0, processes: int = 1
) -> Chunks:
    """One process's share of the images that are measured: uint8 as an epoch's, and labels [B]; to
    be closed as that is.

    Their order is drawn once and for all, so that the first batch, whose firing rates are told, has
    something of many classes.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    # Nothing is kept for a backward pass: twice a piece of a step takes less than that piece.
    piece = config.batch_size // (processes * config.gradient_accumulation)
    batches = order.split(min(MOST, max(LEAST, 2 * piece)))[rank::processes]
    return _read(_Measured(images), batches, config)


def _read(images: Dataset, batches: Sequence[Tensor], config: Config) -> Chunks:
    loader = DataLoader(
        images,
        batch_sampler=[batch.tolist() for batch in batches],
        collate_fn=_as_they_are,
        num_workers=config.workers,
        worker_init_fn=_past_the_bar,
        pin_memory=config.device != "cpu" and torch.cuda.is_available(),
    )
    # It is the loop's to end a run, and a signal to the whole group reaches the workers too: these
    # begin with what is blocked here, and block it from their first moment.
    if config.workers:
        resource_tracker.ensure_running()  # which Python may start, and then unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, POLITE)
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _ended(batches) if config.workers else (batch for batch in batches)


def _past_the_bar(_: int) -> None:
    """Let a worker warn on the streams themselves: those of the progress bar have locks, which the
    bar's thread may have held when the worker was forked, and nobody would free.
    """
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _ended(batches: Iterator) -> Chunks:
    """Batches whose workers end with them: at its exit Python would send those that an error leaves
    the signal that they block, and wait.

    Raises:
        ValueError: As the worker raised it, whose traceback torch makes part of the message.
    """
    try:
        yield from batches
    except ValueError as error:
        raise ValueError(str(error).rpartition("ValueError: ")[2].strip()) from None
    finally:
        batches._shutdown_workers()


def _seeded(chunks: Iterator, seeds: list[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
    for parts in seeds:
        chunk = next(chunks)
        torch.manual_seed(seed_of(*parts))
        yield chunk


class _Measured(Dataset):
    """Images by lists of indices."""

    def __init__(self, images: ImageSet | ImageFiles):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.take(indices)


class _Training(_Measured):
    """Images by lists of indices, as random as training wants them: read, then through the policy.

    Args:
        seed: Of the epoch.
    """

    def __init__(
        self, images: ImageSet | ImageFiles, policy: v2.Transform | None, seed: tuple[int, ...]
    ):
        super().__init__(images)
        self.policy, self.seed = policy, seed

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.images.take(indices, lambda index: self._seed("read", index))
        if self.policy is None:
            return images, labels
        changed = []
        for index, image in zip(indices, images, strict=True):
            self._seed("policy", index)
            changed.append(self.policy(image))
        return torch.stack(changed), labels

    def _seed(self, what: str, index: int) -> None:
        # torch.manual_seed asks every other kind of device too, for each image.
        torch.default_generator.manual_seed(seed_of(*self.seed, what, index))


def _as_they_are(chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return chunk


def seed_of(*parts: int | str) -> int:
    """A seed for one place in a run; two places share one of torch's 2^32 by chance alone."""
    return int.from_bytes(hashlib.sha256(str(parts).encode()).digest()[:7], "big")
