"""Small data sets that scikit-learn and torchvision bring, held in memory."""

import torch
from torchvision import datasets

from zoo.data.config import DataConfig, Split
from zoo.data.sets import ImageSet

TORCHVISION = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "fashion_mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
    "mnist": datasets.MNIST,
}


def digits(split: Split) -> ImageSet:
    """scikit-learn's 8 x 8 digits; a fixed fifth, drawn once, is the test split."""
    from sklearn.datasets import load_digits  # optional

    found = load_digits()
    images = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[360:] if split == "train" else order[:360]
    return ImageSet(images[chosen], labels[chosen], tuple(str(name) for name in found.target_names))


def torchvision_set(config: DataConfig, split: Split) -> ImageSet:
    """A split of CIFAR-10, CIFAR-100, or a set in the manner of MNIST."""
    kind = TORCHVISION[config.name]
    try:
        found = kind(config.root, train=split == "train", download=config.download)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"data.root: {config.name} is not in {config.root!r} ({error}); --data.download "
            "fetches it"
        ) from None
    images = torch.as_tensor(found.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return ImageSet(images.contiguous(), torch.as_tensor(found.targets), tuple(found.classes))
