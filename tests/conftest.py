"""Shared by several test files: one short real training run, and no access to the Hub."""

import os
import sys

# SpikingJelly brings a torchaudio that is too old for this torch, and transformers would import it.
sys.modules["torchaudio"] = None
os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub
os.environ.pop("SHORT_BP_ZOO_WEIGHTS", None)  # the weights of whoever runs the tests

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.to_onnx import Options, export
from zoo.training.config import Config, load_config
from zoo.training.engine import train

if not torch.backends.mkldnn.is_available():  # macOS, where a deployed network asks for it
    torch.backends.nnpack.set_flags(False)

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture(scope="session")
def recipe() -> Config:
    """Three epochs of the demo's recipe: enough for a network that is no longer random."""
    return replace(load_config(CONFIGS / "digits_demo.yaml"), epochs=3, device="cpu")


@pytest.fixture(scope="session")
def run(recipe, tmp_path_factory) -> Path:
    """A run folder of real digits, trained with shortcut heads."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(replace(recipe, output=str(folder)))
    return folder


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory) -> Path:
    """The published folder of that run, by the exact rule."""
    return export(Options(source=str(run), output=str(tmp_path_factory.mktemp("export") / "slim")))
