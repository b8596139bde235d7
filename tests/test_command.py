"""Where commands may write, and how they end."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.console import check_output, said_in_a_line
from zoo.training.__main__ import main as train_by_command

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError, ImportError, KeyError])
def test_an_error_is_a_line(error):
    with pytest.raises(SystemExit) as stopped, said_in_a_line(KeyError):
        raise error("what: expected this, got that")
    assert "what: expected this, got that" in stopped.value.code


def test_a_fault_of_a_device_says_where_it_came_up(capsys):
    with pytest.raises(SystemExit), said_in_a_line():
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    assert "in test_a_fault_of_a_device_says_where_it_came_up" in capsys.readouterr().err
    for error in (ValueError, torch.OutOfMemoryError):
        with pytest.raises(SystemExit), said_in_a_line():
            raise error("what: expected this, got that")
        assert capsys.readouterr().err == ""


def test_a_cpu_whose_memory_ran_out_says_so_in_a_line(capsys):
    for asked_for_too_much in (lambda: torch.empty(2**50), lambda: np.empty(2**50)):
        with pytest.raises(SystemExit, match=r"error: .*allocate"), said_in_a_line():
            asked_for_too_much()
    with pytest.raises(SystemExit, match="error: memory ran out"), said_in_a_line():
        raise MemoryError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't"),
    ],
)
def test_a_run_that_memory_is_too_small_for_says_which_option_takes_less(error, said, monkeypatch):
    def train(config):
        raise error

    monkeypatch.setattr("zoo.training.__main__.train", train)
    recipe = str(ROOT / "configs/digits_demo.yaml")
    monkeypatch.setattr("zoo.training.__main__.keep_large_buffers", lambda: None)
    monkeypatch.setattr(sys, "argv", ["train", recipe])
    with pytest.raises(SystemExit) as stopped:
        train_by_command()
    assert stopped.value.code.startswith(f"error: {said}")
    assert "; a larger --gradient-accumulation takes" in stopped.value.code


def test_a_fault_of_ours_is_no_line():
    with pytest.raises(KeyError), said_in_a_line():
        raise KeyError("ours")


def test_a_stop_says_what_is_to_be_known_then(capsys):
    with pytest.raises(SystemExit) as stopped, said_in_a_line(stopped="the same goes on"):
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "\nthe same goes on\n"


@pytest.mark.parametrize("script", ["benchmarks/results.py", "export/releases.py"])
def test_a_script_that_is_asked_for_help_writes_nothing(script):
    written = [ROOT / "docs" / "results.md", ROOT / "MODEL_CARDS.md", ROOT / "README.md"]
    before = [path.stat().st_mtime_ns for path in written]
    asked = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True
    )
    assert asked.stdout.startswith("usage: ")
    assert [path.stat().st_mtime_ns for path in written] == before


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    check_output(tmp_path / "new" / "one")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="output: expected a folder that can be written to, g"):
            check_output(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
