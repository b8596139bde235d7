"""What several test files need: one short real training run, and the Hub's endpoint for nobody."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub: no test asks the Hub
os.environ.pop("SHORT_BP_ZOO_WEIGHTS", None)  # no test takes weights of whoever runs it

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.checks.check import Setting, run_graph
from export.to_onnx import Options, export
from zoo.training.config import Config, load_config
from zoo.training.engine import train

if not torch.backends.mkldnn.is_available():  # macOS, where a deployed network asks for it
    torch.backends.nnpack.set_flags(False)

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture(scope="session")
def recipe() -> Config:
    """The demo's recipe, three epochs of it: enough for a network that is no longer random."""
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


@pytest.fixture
def cut_at_the_sixth(monkeypatch) -> list[Setting]:
    """Settings that graphs are compared in, of which the sixth is cut short."""
    settings = []

    def cut(graph, images, setting):
        settings.append(setting)
        if len(settings) == 6:
            raise KeyboardInterrupt
        return run_graph(graph, images, setting)

    monkeypatch.setattr("export.checks.equal_bits.run_graph", cut)
    return settings
