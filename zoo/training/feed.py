"""Which images make up which step, whoever computes it.

An epoch is one order of the images, cut into steps; a step is cut into chunks, one for each process
and each turn of gradient accumulation. The order follows from the seed and the epoch, an image's
augmentation from these and the image, a chunk's from these and its place: an epoch can be entered
at any step, and two processes see what one with two turns sees.
Shapes: B images of a chunk, C channels, H height, W width.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data import ImageSet
from zoo.training.augment import image_policy
from zoo.training.config import Config


class Feed:
    """One process's share of the training images, step by step.

    Args:
        rank, processes: This process among all.

    Raises:
        ValueError: There are fewer images in a step than chunks to cut it into.
    """

    def __init__(self, config: Config, images: ImageSet, rank: int = 0, processes: int = 1):
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
        self.steps = full + (rest >= self.chunks)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """This process's chunks of each step from first_step on: uint8 images [B, C, H, W] and
        labels [B]. torch's generator is seeded anew for each chunk when it is handed out.
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
        loader = DataLoader(
            _Images(self.images, config, seed),
            batch_sampler=[chunk.tolist() for chunk in wanted],
            collate_fn=_as_they_are,
            num_workers=config.workers,
            pin_memory=torch.cuda.is_available(),
        )
        chunks = iter(loader)
        for step in range(first_step, self.steps):
            yield _seeded(chunks, [(*seed, step, turn) for turn in turns])


def _seeded(chunks: Iterator, seeds: list[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
    for parts in seeds:
        chunk = next(chunks)
        torch.manual_seed(seed_of(*parts))
        yield chunk


class _Images(Dataset):
    """Images by lists of indices, each through the policy, if there is one."""

    def __init__(self, images: ImageSet, config: Config, seed: tuple[int, ...]):
        self.images, self.seed = images, seed
        self.policy = image_policy(config.augment.auto)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.images.images[indices], self.images.labels[indices]
        if self.policy is None:
            return images, labels
        changed = []
        for index, image in zip(indices, images, strict=True):
            torch.manual_seed(seed_of(*self.seed, index))
            changed.append(self.policy(image))
        return torch.stack(changed), labels


def _as_they_are(chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return chunk


def seed_of(*parts: int) -> int:
    """A seed for one place in a run; places that differ have seeds that have nothing in common."""
    return int.from_bytes(hashlib.sha256(str(parts).encode()).digest()[:7], "big")
