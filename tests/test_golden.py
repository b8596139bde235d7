"""The released networks give the bits that they gave when they were released."""

import hashlib

import numpy as np
import pytest
import torch

import zoo

LOGITS = {  # sha256, of the exact network in fp32
    "short_bp_resnet18.cifar10": (
        "7ce301031324e133d7b87d9183c200372d17917d6e838d1fe7620a8c84d3bc4d"
    ),
    "short_bp_resnet20_slim.cifar10": (
        "b3d4af8ed4aa8857dde5767b540b413ce7a669cf429cd2af4849e118655a9bec"
    ),
}

INT8_LOGITS = {
    "short_bp_resnet18.cifar10": (
        "c10375f69529705043bf1a8b84e5a5d9f1823492ecb5c4dc612f4e7b3429403f"
    ),
    "short_bp_resnet20_slim.cifar10": (
        "6d1ad53d82f9edb007b427417373b881b5e55d37c8ecefa33ea65ce5121bab05"
    ),
}


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """64 handwritten digits, enlarged to 32 pixels and coloured, [64, 3, 32, 32] uint8."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits().images[:64].astype(np.uint8) * 15  # 0 to 240
    images = torch.from_numpy(digits.repeat(4, 1).repeat(4, 2))
    return torch.stack([images, images.flip(-1), 255 - images], dim=1)


@pytest.mark.parametrize("name", LOGITS)
def test_released_logits_keep_their_bits_in_torch(name, pixels):
    model = zoo.create_model(name, pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    images = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        logits = zoo.deploy(model)(images)
    assert sha256(logits.numpy()) == LOGITS[name]


@pytest.mark.parametrize("name", LOGITS)
def test_released_logits_keep_their_bits_in_onnxruntime(name, pixels):
    session = zoo.load_onnx(name).session
    (logits,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
    assert sha256(logits) == INT8_LOGITS[name]


def sha256(logits: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()
