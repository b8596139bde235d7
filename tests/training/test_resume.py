"""Runs that end early: killed, stopped, out of disk, or with a corrupt checkpoint."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from waiting import end_of

from zoo.hub import run_folder as runs
from zoo.training import engine
from zoo.training.checkpoint import load_checkpoint
from zoo.training.engine import train
from zoo.training.run_folder import read_log
from zoo.training.stop import POLITE, StopSignal

# zoo.training, in a process that gets a signal after its fourth step.
SIGNALLED = """
import runpy, signal, subprocess, sys
from zoo.training.learner import Learner

step = Learner.step

def signalled(self, chunks, iteration, total):
    sums = step(self, chunks, iteration, total)
    if iteration == 3:
        {send}
    return sums

Learner.step = signalled
runpy.run_module("zoo.training", run_name="__main__")
"""
RECIPE = """
model: short_bp_resnet20_slim
model_args: {time_steps: 2, zero_init_last: true, depths: [1, 1], widths: [8, 16]}
data: {name: digits, mean: [78], std: [96], limit: 256}
augment: {crop_padding: 1, flip: false}
optim: {lr: 0.005, ema_decay: 0.9}
epochs: 2
batch_size: 32
checkpoint_minutes: 0
device: cpu
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe_file, tmp_path_factory) -> Path:
    """Two epochs of eight steps without a break."""
    run = tmp_path_factory.mktemp("whole")
    process = start(recipe_file, run)
    assert end_of(process)[0]
    return run


def start(recipe: Path, run: Path, *options: str, send: str = "", **kwargs) -> subprocess.Popen:
    code = ["-c", SIGNALLED.format(send=send)] if send else ["-m", "zoo.training"]
    return subprocess.Popen(
        [sys.executable, *code, str(recipe), *options, "--output", str(run)],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **kwargs,
    )


def ends_like(run: Path, whole: Path) -> bool:
    """Whether two runs have the same weights and, but for times and memory, the same log."""
    logs = []
    for folder in (run, whole):
        log = read_log(folder)
        for entry in log:
            for key in ("images_per_second", "seconds", "peak_mib"):
                del entry[key]
        logs.append(log)
    weights = [
        (runs.newest_checkpoint(folder) / "model.safetensors").read_bytes()
        for folder in (run, whole)
    ]
    return logs[0] == logs[1] and weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_ended_resumes_to_the_bits_of_an_unbroken_one(
    recipe_file, tmp_path, whole, how
):
    process = start(recipe_file, tmp_path, send=f"signal.raise_signal(signal.{how.name})")
    output, errors = end_of(process)
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0, signal.SIGINT: 130}
    assert process.returncode == expected[how], errors
    step = 3 if how == signal.SIGKILL else 4
    if how != signal.SIGKILL:
        assert f"stopped by {how.name} after epoch 0, step {step}" in output
    if how == signal.SIGINT:  # as SIGTERM, but for the exit code
        return
    again = start(recipe_file, tmp_path)
    output, errors = end_of(again)
    assert again.returncode == 0, errors
    assert f"resuming after epoch 0, step {step}\n" in output
    assert ends_like(tmp_path, whole)


@pytest.mark.slow
def test_a_signal_to_the_process_group_does_not_kill_workers(recipe_file, tmp_path):
    # Sent by another process: a worker takes a signal of its parent for its own end.
    killer = f"import os; os.killpg(0, {signal.SIGTERM.value})"
    send = f"subprocess.run([sys.executable, '-c', {killer!r}], stderr=subprocess.DEVNULL)"
    process = start(recipe_file, tmp_path, "--workers", "1", send=send)
    output, errors = end_of(process)
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM after epoch 0, step " in output
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_full_disk_ends_in_an_error_and_leaves_the_checkpoints(recipe_file, tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(runs.checkpoints(run)[-1])
    (kept,) = runs.checkpoints(run)
    room = (kept / "model.safetensors").stat().st_size // 2  # the kernel lets it write no more
    process = start(
        recipe_file,
        run,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    _, errors = end_of(process)
    assert process.returncode == 1
    assert "cannot write the checkpoint: " in errors
    assert "File too large" in errors
    assert runs.checkpoints(run) == [kept]
    assert runs.newest_checkpoint(run) == kept
    assert not list(run.rglob("*.partial"))


def test_a_second_ctrl_c_interrupts_at_once_and_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in POLITE}
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.came is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in POLITE} == before


def interrupted(config, monkeypatch, checkpoint: int) -> None:
    """Train with a checkpoint after every step, and break off after one of them."""
    save, written = engine.save_checkpoint, []

    def save_and_count(*arguments, **kwargs):
        written.append(save(*arguments, **kwargs))
        if len(written) == checkpoint:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_checkpoint", save_and_count)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, checkpoint_minutes=0.0))


@pytest.mark.parametrize("name", ["adamw", "muon", "lamb"])
def test_averages_mixes_and_policies_resume_inside_an_epoch(tiny, monkeypatch, name):
    config = replace(
        tiny,
        augment=replace(tiny.augment, auto="randaugment", mixup=0.2, cutmix=1.0),
        optim=replace(tiny.optim, name=name, ema_decay=0.9, warmup_epochs=0.5),
    )
    whole = replace(config, output=f"{tiny.output}_whole")
    train(whole)
    for count in (3, 2):
        interrupted(config, monkeypatch, count)
    train(config)
    assert ends_like(Path(tiny.output), Path(whole.output))


def test_the_time_of_an_epoch_includes_the_time_before_a_break(tiny, monkeypatch):
    interrupted(tiny, monkeypatch, 2)

    def after_an_hour(folder):
        trainer, state = load_checkpoint(folder)
        state["position"]["seconds"] += 3600
        return trainer, state

    monkeypatch.setattr(engine, "load_checkpoint", after_an_hour)
    train(tiny)
    first, second = read_log(Path(tiny.output))
    assert 3600 < first["seconds"] < 7200
    assert second["seconds"] < 3600


def test_checkpoints_are_written_every_few_minutes(tiny, monkeypatch):
    config = replace(tiny, epochs=1, batch_size=16, checkpoint_minutes=10.0)
    now, saved = iter(range(0, 10**9, 100)), []  # each look at the clock takes 100 seconds
    monkeypatch.setattr(engine.time, "perf_counter", lambda: next(now))
    save = engine.save_checkpoint

    def noted(*args, **kwargs):
        save(*args, **kwargs)
        state = json.loads((runs.newest_checkpoint(Path(tiny.output)) / "state.json").read_text())
        saved.append(state["iteration"])

    monkeypatch.setattr(engine, "save_checkpoint", noted)
    train(config)
    assert 1 < saved[0] < 8 == saved[-1]


def test_a_run_resumes_from_the_checkpoint_before_a_corrupt_one(tiny, monkeypatch):
    run = Path(tiny.output)
    interrupted(tiny, monkeypatch, 3)
    second, third = runs.checkpoints(run)
    with (third / "trainer.pt").open("r+b") as file:
        file.truncate(1000)
    stale = run / "checkpoints" / "step_0000009.partial"  # left by a kill
    stale.mkdir()
    later = shutil.copytree(third, run / "checkpoints" / "step_0000008")
    with pytest.warns(UserWarning, match=third.name):
        interrupted(tiny, monkeypatch, 1)
    assert runs.checkpoints(run) == [second, third]
    assert all(map(runs.is_whole, (second, third)))
    assert not stale.exists()
    assert not later.exists()


def test_no_pickle_in_a_checkpoint_is_executed(whole, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = shutil.copytree(runs.checkpoints(whole)[-1], tmp_path / "checkpoint")
    torch.save({"optimizer": Hostile()}, folder / "trainer.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(folder)
    assert not (tmp_path / "ran").exists()
