"""Which images make up a step, and what is done to them."""

import io
import multiprocessing
import re
import signal
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import Dataset
from torchvision.transforms.v2 import AutoAugmentPolicy

from zoo.data import ImageSet
from zoo.training.augment import (
    AugmentConfig,
    augment,
    cutout,
    image_policy,
    random_crop,
    random_flip,
    random_roll,
)
from zoo.training.config import Config
from zoo.training.feed import Feed, _read, measured_batches
from zoo.training.stop import POLITE


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Thirty images, of which each knows its number."""
    pixels = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(30, 3, 8, 8)
    return ImageSet(pixels.contiguous(), torch.arange(30), tuple(map(str, range(30))))


def taken(feed: Feed, *args) -> list[list[list[int]]]:
    """Labels by step and chunk."""
    return [[labels.tolist() for _, labels in chunks] for chunks in feed.epoch(*args)]


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(images):
    feed = Feed(Config(batch_size=8), images)
    first, second = taken(feed, 0), taken(feed, 1)
    assert feed.steps == 4
    assert [len(step[0]) for step in first] == [8, 8, 8, 6]
    assert [feed.images_of(step) for step in range(4)] == [8, 8, 8, 6]
    assert sorted(i for step in first for i in step[0]) == list(range(30))
    assert first != second
    assert taken(feed, 0) == first


def test_an_epoch_can_be_entered_at_any_step(images):
    feed = Feed(Config(batch_size=8), images)
    assert taken(feed, 3, 2) == taken(feed, 3)[2:]


def test_two_processes_share_what_one_takes_in_two_turns(images):
    one = taken(Feed(Config(batch_size=8, gradient_accumulation=2), images), 0)
    parts = [taken(Feed(Config(batch_size=8), images, rank, 2), 0) for rank in range(2)]
    assert one == [left + right for left, right in zip(*parts, strict=True)]


def test_a_rest_with_too_little_for_some_process_is_left_out(images):
    alone = Feed(Config(batch_size=29), images)
    assert (alone.steps, alone.seen) == (1, 29)
    assert Feed(Config(batch_size=27), images, 0, 2).steps == 1
    assert Feed(Config(batch_size=26), images, 0, 2).steps == 2
    assert Feed(Config(batch_size=64), images, 0, 20).steps == 1
    with pytest.raises(ValueError, match=r"batch_size: expected a number in .40, inf"):
        Feed(Config(batch_size=32), images, 0, 40)


def test_the_first_batch_that_is_measured_has_something_of_every_class():
    labels = torch.arange(10).repeat_interleave(100)
    pixels = torch.zeros(1000, 1, 1, 1, dtype=torch.uint8)
    by_class = ImageSet(pixels, labels, tuple("0123456789"))
    _, first = next(measured_batches(Config(batch_size=128), by_class))
    assert len(first) < 1000
    assert set(first.tolist()) == set(range(10))


def test_workers_change_no_bit(images):
    config = Config(batch_size=8, augment=AugmentConfig(auto="autoaugment_cifar10"))
    noise = torch.randint(256, images.images.shape, dtype=torch.uint8)
    images = ImageSet(noise, images.labels, images.classes)
    batches = []
    for workers in (0, 2):
        feed = Feed(replace(config, workers=workers), images)
        batches.append([pixels for chunks in feed.epoch(0) for pixels, _ in chunks])
    assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))
    plain = Feed(replace(config, augment=AugmentConfig()), images).epoch(0)
    as_they_come = [pixels for chunks in plain for pixels, _ in chunks]
    assert not any(map(torch.equal, batches[0], as_they_come))


class Workers(Dataset):
    """Asks a worker what it does with signals and where it writes."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int):
        ignored = all(signal.getsignal(number) == signal.SIG_IGN for number in POLITE)
        return ignored, (sys.stdout, sys.stderr) == (sys.__stdout__, sys.__stderr__)


def test_a_worker_ignores_signals_and_writes_to_the_real_streams():
    with Progress(console=Console(force_terminal=True, file=io.StringIO())):
        assert sys.stderr is not sys.__stderr__
        batches = _read(Workers(), Config(workers=1, device="cpu"))
        assert list(map(tuple, batches)) == [(True, True)]


class Broken(Workers):
    def __getitem__(self, place: int):
        raise ValueError("data.root: expected a whole image, got cat.jpg")


def test_an_error_in_a_worker_ends_in_one_line():
    batches = _read(Broken(), Config(workers=1, device="cpu"))
    with pytest.raises(ValueError, match=r"^data\.root: expected a whole image, got cat\.jpg$"):
        next(batches)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_early_stops_the_workers(images, workers):
    config = Config(batch_size=8, workers=workers, device="cpu")
    epoch, measured = Feed(config, images).epoch(0), measured_batches(config, images)
    chunks = next(epoch)
    next(chunks), next(measured)
    assert len(multiprocessing.active_children()) == 2 * workers
    epoch.close(), measured.close()
    assert not multiprocessing.active_children()
    assert not list(chunks)


def test_augmentation_differs_between_seeds_epochs_steps_and_images():
    noise = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))
    same = ImageSet(noise.expand(30, 3, 8, 8).contiguous(), torch.arange(30), ("a",))
    config = Config(batch_size=10, augment=AugmentConfig(auto="randaugment"))
    feed = Feed(config, same)

    def by_number(epoch: int) -> list[torch.Tensor]:
        chunks = [chunk for chunks in feed.epoch(epoch) for chunk in chunks]
        images, labels = map(torch.cat, zip(*chunks, strict=True))
        return list(images[labels.argsort()])

    first, second = by_number(0), by_number(1)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 15
    assert sum(map(torch.equal, first, second)) < 15
    assert taken(Feed(replace(config, seed=1), same), 0) != taken(feed, 0)
    drawn = [float(torch.rand(1)) for chunks in feed.epoch(0) for _ in chunks]
    assert len(set(drawn)) == 3


def test_half_of_the_images_are_mirrored_left_to_right():
    torch.manual_seed(0)
    image = torch.arange(12.0).view(1, 1, 3, 4)
    flipped = random_flip(image.expand(200, 1, 3, 4))
    mirrored = [torch.equal(one, image[0].flip(-1)) for one in flipped]
    assert 60 < sum(mirrored) < 140
    assert all(torch.equal(one, image[0]) for one in flipped[~torch.tensor(mirrored)])


def test_a_padded_crop_reaches_every_place():
    torch.manual_seed(0)
    image = torch.arange(1.0, 37).view(1, 1, 6, 6)
    padded = torch.nn.functional.pad(image, [2] * 4)
    places = {
        tuple(padded[0, 0, y : y + 6, x : x + 6].flatten().tolist())
        for y in range(5)
        for x in range(5)
    }
    crops = random_crop(image.expand(500, 1, 6, 6), 2)
    assert {tuple(crop.flatten().tolist()) for crop in crops} == places


def test_images_are_measured_in_batches_that_fit_where_a_step_does():
    pixels = torch.zeros(400, 3, 2, 2, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(400) % 2, ("a", "b"))

    def batches(batch_size: int, *share: int) -> list[int]:
        config = Config(batch_size=batch_size, gradient_accumulation=2)
        return [len(labels) for _, labels in measured_batches(config, images, *share)]

    assert batches(160) == [160, 160, 80]
    assert batches(160, 0, 2) == [80, 80, 80]
    assert batches(1024) == [250, 150]
    assert batches(4)[0] == 32


def test_cutout_leaves_a_hole_in_each_image():
    torch.manual_seed(0)
    holes = (cutout(torch.ones(64, 3, 16, 16), 4) == 0).sum((1, 2, 3))
    assert holes.max() == 3 * 4 * 4
    assert holes.min() >= 3 * 2 * 2  # cut off by a corner


def test_roll_moves_an_image_around_its_edges_by_so_many_pixels_at_most():
    torch.manual_seed(0)
    image = torch.arange(36.0).view(1, 1, 6, 6)
    moves = range(-2, 3)
    places = {
        tuple(torch.roll(image, (y, x), (2, 3)).flatten().tolist()) for y in moves for x in moves
    }
    rolled = random_roll(image.expand(500, 1, 6, 6), 2)
    assert {tuple(one.flatten().tolist()) for one in rolled} == places


def test_a_small_crop_is_a_piece_of_the_image():
    torch.manual_seed(0)
    image = torch.arange(48.0).view(1, 1, 6, 8)
    pieces = {
        tuple(image[0, 0, y : y + 4, x : x + 4].flatten().tolist())
        for y in range(3)
        for x in range(5)
    }
    crops, labels = augment(
        AugmentConfig(crop_padding=0, crop_size=4, flip=False),
        image.expand(64, 3, 6, 8),
        torch.arange(64),
        64,
    )
    assert crops.shape == (64, 3, 4, 4)
    found = {tuple(crop[0].flatten().tolist()) for crop in crops}
    assert found <= pieces
    assert len(found) > 10
    assert torch.equal(labels, torch.arange(64))


def test_a_crop_larger_than_the_padded_image_is_refused():
    with pytest.raises(ValueError, match=r"augment\.crop_size: expected a number in .0, 9"):
        random_crop(torch.zeros(1, 3, 6, 6), 1, 9)


@pytest.mark.parametrize(
    "asked", [{"crop_padding": 2}, {"flip": True}, {"roll": 2}, {"cutout": 4}], ids=str
)
def test_each_augmentation_that_is_asked_for_is_done(asked):
    torch.manual_seed(0)
    images = torch.rand(64, 3, 8, 8) + 1
    config = AugmentConfig(**{"crop_padding": 0, "flip": False} | asked)
    changed, _ = augment(config, images, torch.arange(64), 64)
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("name", ["CIFAR10", "IMAGENET"])
def test_a_policy_is_that_of_its_name(name):
    policy = image_policy(f"autoaugment_{name.lower()}", (0, 0, 0))
    assert policy.policy is AutoAugmentPolicy[name]


def test_each_piece_of_a_step_and_each_process_draws_its_own(images):
    whole = Feed(Config(batch_size=30, gradient_accumulation=3), images)
    ranks = [Feed(Config(batch_size=30), images, rank, 3) for rank in range(3)]
    for feeds in ([whole], ranks):
        epochs = [feed.epoch(0) for feed in feeds]
        drawn = {float(torch.rand(1)) for epoch in epochs for _ in next(epoch)}
        assert len(drawn) == 3


def test_mixup_and_cutmix_together_take_turns():
    torch.manual_seed(0)
    config = AugmentConfig(crop_padding=0, flip=False, mixup=1.0, cutmix=1.0)
    pixels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    mixed = [augment(config, pixels, torch.arange(4), 10)[0] for _ in range(20)]
    whole = {all(len(image.unique()) == 1 for image in images) for images in mixed}
    assert whole == {True, False}  # mixup blends whole images, CutMix pastes parts


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_mixes_give_shares_of_the_classes(key):
    torch.manual_seed(0)
    config = AugmentConfig(crop_padding=0, flip=False, **{key: 1.0})
    values = torch.arange(4.0)
    pixels = values.view(4, 1, 1, 1).expand(4, 3, 8, 8)
    images, shares = augment(config, pixels, torch.arange(4), 10)
    assert images.shape == (4, 3, 8, 8)
    assert shares.shape == (4, 10)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    assert shares.max() < 1
    torch.testing.assert_close(images.mean((1, 2, 3)), shares[:, :4] @ values)
    blended = [len(image.unique()) == 1 for image in images]
    assert blended == [key == "mixup"] * 4


def test_the_frames_of_an_event_stream_move_together():
    torch.manual_seed(0)
    frames = torch.rand(4, 1, 2, 8, 8).expand(4, 5, 2, 8, 8)
    changed, _ = augment(AugmentConfig(roll=3), frames, torch.arange(4), 10)
    assert changed.shape == frames.shape
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert not torch.equal(changed, frames)


def test_an_amount_below_zero_is_refused():
    with pytest.raises(
        ValueError, match=re.escape("augment.cutout: expected a number in [0, inf), got -1")
    ):
        AugmentConfig(cutout=-1)


@pytest.mark.parametrize("name", ["autoaugment_cifar10", "autoaugment_imagenet", "randaugment"])
def test_a_policy_fills_borders_with_the_mean(name):
    policy, corners = image_policy(name, (11, 22, 33)), set()
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    for seed in range(300):
        torch.manual_seed(seed)
        corners.add(tuple(policy(image)[:, 0, 0].tolist()))
    assert (11, 22, 33) in corners
