"""What a wheel holds, and that all commands run from it alone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PACKAGES = ("zoo", "export", "short_bp_zoo")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
# Without them the checkout is not found, and a build compiles as it does elsewhere.
OWN = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")

pytestmark = pytest.mark.release


def run(command: list, folder: Path, **variables: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in OWN} | variables
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    """Built without a warning."""
    said = run([sys.executable, "-c", BUILD, source / "dist"], source)
    assert "warning" not in said.lower()
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


def test_a_wheel_holds_every_module_the_recipes_and_the_released_weights(source, wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    found = {path for package in PACKAGES for path in (source / package).rglob("*.*")}
    assert packed == {path.relative_to(source).as_posix() for path in found if path.is_file()}
    assert {f"zoo/training/recipes/{path.name}" for path in (ROOT / "configs").iterdir()} <= packed
    assert wheel.stat().st_size < 60e6  # bytes; PyPI takes 100e6


def test_a_wheel_goes_from_classify_to_export_without_a_checkout(wheel, tmp_path):
    python, home = tmp_path / "venv/bin/python", tmp_path / "home"
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], tmp_path)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", wheel], tmp_path)
    (packages,) = (tmp_path / "venv/lib").glob("*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def call(*arguments: str) -> str:
        command = [python.with_name("short-bp-zoo"), *arguments]
        return run(command, tmp_path, HF_HOME=str(home))

    where = run([python, "-c", "import zoo; print(zoo.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(packages)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(noise[:8, :8, 0]).save(tmp_path / "digit.png")

    for tag in ("short_bp_resnet18.cifar10", "short_bp_resnet20_slim.cifar10"):
        assert tag.partition(".")[0] in call("list", "--pretrained")
        assert "airplane" in call("classify", tag, "noise.png", "--top", "10")
    call("train", "digits_demo", "--epochs", "2", "--device", "cpu")
    call("export", "runs/digits_demo", "--output", "hub/digits")
    call("verify", "hub/digits")
    assert "digit.png" in call("classify", "local-dir:hub/digits", "digit.png")
    call("diagnose", "runs/digits_demo", "--num-images", "10")
    call("publish", "hub/digits", "--to-folder", "hub/published")
