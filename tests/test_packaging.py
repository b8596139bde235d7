"""What a wheel holds: every module, and the released weights whole."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.mark.release
def test_a_wheel_holds_every_module_and_the_released_weights(exported, tmp_path):
    source = tmp_path / "source"
    for package in ("zoo", "export"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(exported, source / "zoo/weights/short_bp_resnet20_slim.digits")
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    folders = (source / "zoo", source / "export")
    files = {path for folder in folders for path in folder.rglob("*.*") if path.is_file()}
    assert packed == {path.relative_to(source).as_posix() for path in files}
    assert wheel.stat().st_size < 100 * 2**20  # a larger one is for the Hub: docs/hub.md
