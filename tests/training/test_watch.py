"""What a run says about itself: curves, firing rates, and what breaks."""

import json
import multiprocessing
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from zoo.hub import run_folder as runs
from zoo.training import report
from zoo.training.engine import train
from zoo.training.learner import Learner
from zoo.training.run_folder import read_log


def test_the_log_holds_heads_and_firing_rates_of_every_layer(run):
    last = read_log(run)[-1]
    layers = [
        n
        for n, m in zoo.create_model("short_bp_resnet20_slim").named_modules()
        if isinstance(m, zoo.LIF)
    ]
    assert list(last["firing_rates"]) == layers
    assert all(0 < rate < 1 for rate in last["firing_rates"].values())
    assert len(last["head_accuracies"]) == 2
    assert max(last["head_accuracies"]) > 15


def test_a_layer_that_never_fires_is_named(recipe, tmp_path, capsys):
    unreachable = recipe.model_args | {"spike_layer": {"v_threshold": 1e6}}
    train(replace(recipe, epochs=1, output=str(tmp_path), model_args=unreachable))
    assert "no neuron fires in 19 of 19 layers: stem.1, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "layer",
    ["head.fc", "stages.1.0.conv2.conv"],  # the second's neurons fall silent; the loss stays finite
)
def test_a_step_that_is_not_finite_ends_the_run(layer, recipe, tmp_path, monkeypatch):
    def breaks(learner, *args, step=Learner.step):
        with torch.no_grad():
            learner.model.get_submodule(layer).weight[0] = torch.nan
        return step(learner, *args)

    monkeypatch.setattr(Learner, "step", breaks)
    with pytest.raises(FloatingPointError, match="step 1: "):
        train(replace(recipe, output=str(tmp_path)))
    assert not runs.checkpoints(tmp_path)


def test_a_run_that_breaks_leaves_no_worker_that_its_process_would_wait_for(recipe, tmp_path):
    wild = replace(recipe.optim, name="sgd", lr=1e38)
    config = replace(recipe, output=str(tmp_path), optim=wild, workers=1)
    with pytest.raises(FloatingPointError) as error:  # whose traceback holds on to the images
        train(config)
    assert not multiprocessing.active_children(), error


def test_weights_that_are_not_finite_are_never_saved(recipe, tmp_path):
    wild = replace(recipe, output=str(tmp_path), optim=replace(recipe.optim, lr=1e30))
    with pytest.raises(FloatingPointError, match=r"after epoch \d, step \d: \d+ weights are not"):
        train(replace(wild, batch_size=2000))
    for folder in runs.checkpoints(tmp_path):
        assert all(t.isfinite().all() for t in load_file(folder / "model.safetensors").values())


def test_a_report_draws_the_curves(run, monkeypatch):
    figures, save = [], Figure.savefig

    def noted(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", noted)
    path = report.draw(run)
    log = read_log(run)
    lines = [line for figure in figures for axes in figure.axes for line in axes.lines]
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in lines)
    curves = [list(line.get_ydata()) for line in lines]
    for key in ("loss", "test_accuracy", "accuracy", "learning_rate", "head_weight"):
        assert curves.count([entry[key] for entry in log]) == 1, key
    for of_a_head in zip(*(entry["head_accuracies"] for entry in log), strict=True):
        assert list(of_a_head) in curves
    assert len(curves) == 7
    with Image.open(path) as image:
        assert image.size[0] > 800
        assert len(image.convert("L").getcolors(256)) > 50
    path.unlink()


def test_a_report_of_one_epoch_of_a_deep_network_is_drawn(run, tmp_path):
    (entry, *_) = read_log(run)
    deep = {f"stages.2.{i}.spike2": 0.1 for i in range(151)}
    (tmp_path / "log.jsonl").write_text(json.dumps(entry | {"firing_rates": deep}) + "\n")
    assert report.draw(tmp_path).stat().st_size > 10_000


def test_a_report_without_an_epoch_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no epoch has been logged yet"):
        report.draw(tmp_path)


def test_tensorboard_gets_every_curve(recipe, tmp_path):
    train(replace(recipe, epochs=1, output=str(tmp_path), trackers=("tensorboard",)))
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events))
    found.Reload()
    tags = found.Tags()["scalars"]
    assert {"loss", "test_accuracy", "head_weight", "head_accuracies.0"} <= set(tags)
    assert "firing_rates.stages.2.2.spike2" in tags
