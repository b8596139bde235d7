"""Runs that end before their time: killed, stopped, out of disk, or with a torn checkpoint."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from waiting import end_of

import zoo
from zoo.hub import run_folder as runs
from zoo.training import checkpoint, engine
from zoo.training.checkpoint import load_checkpoint, save_checkpoint
from zoo.training.engine import train
from zoo.training.learner import Learner
from zoo.training.prepare import build_model, load_data
from zoo.training.processes import make_accelerator
from zoo.training.run_folder import read_log
from zoo.training.stop import POLITE, StopSignal

RECIPE = Path(__file__).parent.parent.parent / "configs" / "digits_demo.yaml"
SHORT = ("--epochs", "2", "--device", "cpu", "--checkpoint-minutes", "0")
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


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    """Two epochs without a break."""
    run = tmp_path_factory.mktemp("whole")
    train(replace(recipe, epochs=2, output=str(run)))
    return run


def start(run: Path, *options: str, send: str = "", **kwargs) -> subprocess.Popen:
    options = (*SHORT, *options, "--output", str(run))
    code = ["-c", SIGNALLED.format(send=send)] if send else ["-m", "zoo.training"]
    line = [sys.executable, *code, str(RECIPE), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    kwargs = pipes | {"start_new_session": True} | kwargs
    return subprocess.Popen(
        line, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}, **kwargs
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
def test_a_run_ended_inside_an_epoch_goes_on_to_the_bits_of_an_unbroken_one(tmp_path, whole, how):
    process = start(tmp_path, send=f"signal.raise_signal(signal.{how.name})")
    output, errors = end_of(process)
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0, signal.SIGINT: 130}
    assert process.returncode == expected[how], errors
    step = 3 if how == signal.SIGKILL else 4
    if how != signal.SIGKILL:
        assert f"stopped on {how.name} after epoch 0, step {step}; " in output
    again = start(tmp_path)
    output, errors = end_of(again)
    assert again.returncode == 0, errors
    assert f"going on after epoch 0, step {step}\n" in output
    assert ends_like(tmp_path, whole)


def test_a_run_goes_on_when_the_reader_of_its_output_goes(tmp_path, whole):
    process = start(tmp_path)
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None  # nothing is left to be read there
    _, errors = end_of(process)
    assert (process.returncode, errors) == (0, "")
    assert ends_like(tmp_path, whole)


def test_a_run_that_is_asked_to_end_while_it_measures_measures_when_it_goes_on(
    recipe, tmp_path, whole, monkeypatch
):
    measured = engine.measured_batches

    def asked(*args):
        signal.raise_signal(signal.SIGTERM)
        yield from measured(*args)

    config = replace(recipe, epochs=2, output=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "measured_batches", asked)
        assert train(config) == {}
    (folder,) = runs.checkpoints(tmp_path)
    assert json.loads((folder / "state.json").read_text())["position"]["step"] == 23
    train(config)
    assert ends_like(tmp_path, whole)


def test_a_second_ctrl_c_ends_at_once_and_then_signals_are_whose_they_were():
    before = {number: signal.getsignal(number) for number in POLITE}
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.came is signal.SIGINT
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


def test_averages_mixes_and_policies_go_on_inside_an_epoch(recipe, tmp_path, monkeypatch):
    config = replace(
        recipe,
        epochs=2,
        data=replace(recipe.data, limit=320),
        augment=replace(recipe.augment, auto="randaugment", mixup=0.2, cutmix=1.0),
        optim=replace(recipe.optim, ema_decay=0.9),
        checkpoint_minutes=0.0,
    )
    train(replace(config, output=str(tmp_path / "whole")))
    broken = replace(config, output=str(tmp_path / "broken"))
    for count in (3, 2, 3):
        interrupted(broken, monkeypatch, count)
    train(broken)
    assert ends_like(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.parametrize("name", ["muon", "lamb", "sgd"])
def test_other_optimizers_go_on_inside_an_epoch(recipe, tmp_path, monkeypatch, name):
    config = replace(
        recipe,
        epochs=1,
        data=replace(recipe.data, limit=256),
        optim=replace(recipe.optim, name=name, ema_decay=0.9, warmup_epochs=0.5),
    )
    train(replace(config, output=str(tmp_path / "whole")))
    broken = replace(config, output=str(tmp_path / "broken"))
    interrupted(broken, monkeypatch, 2)
    train(broken)
    assert ends_like(tmp_path / "broken", tmp_path / "whole")


def test_a_run_counts_the_time_that_it_took_before_it_was_broken_off(recipe, tmp_path, monkeypatch):
    config = replace(recipe, epochs=1, data=replace(recipe.data, limit=256), output=str(tmp_path))
    interrupted(config, monkeypatch, 2)
    load = checkpoint.load_checkpoint

    def after_an_hour(folder):
        trainer, state = load(folder)
        state["position"]["seconds"] += 3600
        return trainer, state

    monkeypatch.setattr(engine, "load_checkpoint", after_an_hour)
    assert 3600 < train(config)["seconds"] < 7200


def test_a_checkpoint_is_due_after_as_many_minutes_as_asked_for(recipe, tmp_path, monkeypatch):
    config = replace(recipe, epochs=1, checkpoint_minutes=10.0, output=str(tmp_path))
    config = replace(config, data=replace(recipe.data, limit=8 * recipe.batch_size))
    now, saved = iter(range(0, 10**9, 100)), []  # each look at the clock takes 100 seconds
    monkeypatch.setattr(engine.time, "perf_counter", lambda: next(now))
    save = engine.save_checkpoint

    def noted(*args, **kwargs):
        save(*args, **kwargs)
        state = json.loads((runs.newest_checkpoint(tmp_path) / "state.json").read_text())
        saved.append(state["iteration"])

    monkeypatch.setattr(engine, "save_checkpoint", noted)
    train(config)
    assert 1 < saved[0] < 8 == saved[-1]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_workers_and_loop_in_peace(tmp_path, whole, how):
    # From somebody else: a worker takes its parent's for its own end.
    killer = f"import os; os.killpg(0, {how.value})"
    send = f"subprocess.run([sys.executable, '-c', {killer!r}], stderr=subprocess.DEVNULL)"
    process = start(tmp_path, "--workers", "1", send=send)
    output, errors = end_of(process)
    assert process.returncode == {signal.SIGTERM: 0, signal.SIGINT: 130}[how], errors
    assert f"stopped on {how.name} after epoch 0, step " in output
    assert "Traceback" not in errors


def test_a_torn_checkpoint_does_not_count_as_kept(recipe, tmp_path, monkeypatch):
    config = replace(recipe, epochs=3, data=replace(recipe.data, limit=64), output=str(tmp_path))
    interrupted(config, monkeypatch, 2)
    first, second = runs.checkpoints(tmp_path)
    (second / "state.json").write_text("{}")
    stale = tmp_path / "checkpoints" / "step_0000009.partial"
    stale.mkdir()
    with pytest.warns(UserWarning, match="passed by"):
        interrupted(config, monkeypatch, 1)
    assert runs.checkpoints(tmp_path) == [first, second]
    assert runs.newest_checkpoint(tmp_path) == second
    (second / "state.json").write_text("{}")
    (tmp_path / "checkpoints" / "step_0000001_copy").mkdir()
    train_from = shutil.copytree(second, tmp_path / "checkpoints" / "step_0000003")
    (train_from / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="passed by"):
        interrupted(config, monkeypatch, 2)
    assert all(runs.is_whole(folder) for folder in runs.checkpoints(tmp_path))
    assert not stale.exists()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_checkpoint_whose_successor_did_not_come_has_its_name_again(
    recipe, whole, tmp_path, monkeypatch, error
):
    run = shutil.copytree(whole, tmp_path / "run")
    newest = runs.checkpoints(run)[-1]
    before = json.loads((newest / runs.SEAL).read_text())
    rename = Path.rename

    def cut(path: Path, target: Path) -> Path:
        if path.name == f"{newest.name}.partial":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", cut)
    model = zoo.create_model(f"local-dir:{newest}", pretrained=True)
    iteration = int(newest.name.removeprefix("step_"))
    with pytest.raises(error):
        save_checkpoint(run, model, {}, {"iteration": iteration})
    monkeypatch.undo()
    if error is OSError:  # after which others may read the run before it goes on
        assert runs.checkpoints(run)[-1] == newest
    train(replace(recipe, epochs=2, output=str(run)))
    assert json.loads((newest / runs.SEAL).read_text()) == before


def test_a_bit_that_changed_anywhere_in_a_checkpoint_is_never_taken_as_good(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    before, newest = runs.checkpoints(run)
    draw = random.Random(0)
    for _ in range(100):
        path = draw.choice(sorted(newest.iterdir()))
        content = bytearray(path.read_bytes())
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        good = path.read_bytes()
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="passed by for the one before"):
            assert runs.newest_checkpoint(run) == before
        path.write_bytes(good)
    assert runs.newest_checkpoint(run) == newest


def test_a_run_with_a_torn_checkpoint_goes_on_from_the_one_before(recipe, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    config = replace(recipe, epochs=2, output=str(run))
    newest = runs.checkpoints(run)[-1]
    with (newest / "trainer.pt").open("r+b") as file:
        file.truncate(1000)
    with pytest.warns(UserWarning, match="this checkpoint is passed by for the one before"):
        train(config)
    assert runs.newest_checkpoint(run) == newest
    assert ends_like(run, whole)


def test_a_file_beside_a_checkpoints_own_costs_nothing(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    newest = runs.checkpoints(run)[-1]
    (newest / ".DS_Store").write_bytes(b"a folder that somebody looked at")
    assert runs.newest_checkpoint(run) == newest


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"none": "0"}'])
def test_a_seal_that_says_nothing_seals_nothing(whole, tmp_path, content):
    run = shutil.copytree(whole, tmp_path / "run")
    before, newest = runs.checkpoints(run)
    (newest / "sha256.json").write_text(content)
    with pytest.warns(UserWarning, match="passed by for the one before"):
        assert runs.newest_checkpoint(run) == before


def test_a_run_without_a_whole_checkpoint_says_so(recipe, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    for folder in runs.checkpoints(run):
        (folder / "state.json").write_text("{}")
    with (
        pytest.warns(UserWarning, match="passed by"),
        pytest.raises(ValueError, match="expected a whole checkpoint, got 2 of which none has"),
    ):
        train(replace(recipe, epochs=2, output=str(run)))


@pytest.mark.slow
def test_a_full_disk_ends_in_an_error_and_leaves_the_checkpoints(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(runs.checkpoints(run)[-1])
    (kept,) = runs.checkpoints(run)
    room = (kept / "model.safetensors").stat().st_size // 2  # what the kernel then lets it write
    process = start(run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    _, errors = end_of(process)
    assert process.returncode == 1
    assert "error: " in errors
    assert "expected room for a checkpoint, got: [Errno 27] File too large" in errors
    assert f"['{kept.name}'] stands as it was" in errors
    assert runs.checkpoints(run) == [kept]
    assert runs.newest_checkpoint(run) == kept
    assert not list(run.rglob("*.partial"))


def test_processes_that_see_different_checkpoints_are_refused(recipe, whole, tmp_path, monkeypatch):
    run = shutil.copytree(whole, tmp_path / "run")
    another = torch.tensor([-1])  # what a process finds that has a disk of its own
    monkeypatch.setattr(Accelerator, "gather", lambda _, step: torch.cat([step, another]))
    with pytest.raises(ValueError, match=r"all processes share, got checkpoints of steps \[46, -1"):
        train(replace(recipe, epochs=2, output=str(run)))


def test_momenta_of_parameters_in_another_order_are_refused(recipe):
    images = load_data(recipe).train
    learner = Learner(recipe, build_model(recipe, images), 1, make_accelerator(recipe))
    state = learner.state_dict()
    learner.load_state_dict(state)
    state["parameters"] = state["parameters"][::-1]
    with pytest.raises(ValueError, match="parameters have other names or another order"):
        learner.load_state_dict(state)


def test_a_run_that_ended_under_an_earlier_version_says_that_it_has(
    recipe, whole, tmp_path, capsys
):
    run = shutil.copytree(whole, tmp_path / "run")
    newest = runs.checkpoints(run)[-1]
    trainer, _ = load_checkpoint(newest)
    del trainer["parameters"]  # which earlier versions did not write
    torch.save(trainer, newest / "trainer.pt")
    runs.seal(newest)
    train(replace(recipe, epochs=2, output=str(run)))
    assert "has ended after 2 epochs" in capsys.readouterr().out


def test_a_checkpoint_of_hostile_pickles_is_refused(whole, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = shutil.copytree(runs.checkpoints(whole)[-1], tmp_path / "checkpoint")
    torch.save({"optimizer": Hostile()}, folder / "trainer.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_read_for_now_is_neither_torn_nor_forgotten(
    whole, tmp_path, monkeypatch
):
    run = shutil.copytree(whole, tmp_path / "run")
    before, newest = runs.checkpoints(run)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(runs, "file_sha256", refuse)
    with pytest.raises(OSError, match=f"{newest.name}: expected to read it, .* move it away to go"):
        runs.newest_checkpoint(run)
    checkpoint._forget(run, newest)
    assert runs.checkpoints(run) == [before, newest]
