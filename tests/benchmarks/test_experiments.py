"""Small experiments on images of our own."""

from dataclasses import replace

import experiments
import measure
import pytest
from experiments import EXPERIMENTS, Experiment
from PIL import Image


@pytest.fixture
def root(tmp_path):
    """A folder of 2 classes with 20 training images and 2 test images each."""
    for split, count in (("train", 20), ("test", 2)):
        for shade, name in ((40, "dark"), (200, "light")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (shade + i, shade, shade)).save(folder / f"{i}.png")
    return tmp_path / "images"


def tiny(config):
    data = replace(config.data, holdout=8, limit=32)
    fast = config.model_args | {"memory": "fast"}  # lean memory compiles
    return replace(config, data=data, model_args=fast, epochs=1, batch_size=16, compile=False)


def test_an_experiment_trains_its_arms_and_replaces_its_last_measurement(
    root, tmp_path, monkeypatch
):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    slim = EXPERIMENTS["ablation"]
    arms = {arm: tiny(slim.arms[arm]) for arm in ("vanilla", "shortcut")}
    small = Experiment(
        table="small",
        title="Small",
        networks="slim",
        arms=arms,
        seeds=(0, 1),
        about=slim.about,
        measure=lambda *of: experiments.accuracy_with_heads(*of) | experiments.gradient_left(*of),
    )
    monkeypatch.setattr(experiments, "BATCH", 4)
    for _ in range(2):  # the second reads the finished runs
        experiments.run("small", small, str(root), tmp_path / "runs")
    content = measure.read("small")
    (measurement,) = content["measurements"]
    assert measurement["seeds"] == [0, 1]
    assert measurement["images"] == "CIFAR-10 (JPEG): 32 to train on, 8 held out"
    vanilla, shortcut = measurement["rows"]
    assert (vanilla["arm"], vanilla["what it is"]) == ("vanilla", "no heads")
    assert 0 <= vanilla["accuracy, %"] <= 100
    assert vanilla[experiments.KEPT] is None
    assert 0 <= shortcut[experiments.KEPT] <= 100
    assert shortcut[experiments.LEFT] > 0
    experiments.draw(content, tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size > 1000


def test_measurements_of_other_networks_stay_beside_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    for networks, value in (("a", 1), ("b", 2), ("a", 3)):
        measure.report("t", "T", "run", [{"x": value}], key=("networks",), networks=networks)
    found = measure.read("t")["measurements"]
    assert [(m["networks"], m["rows"][0]["x"]) for m in found] == [("a", 3), ("b", 2)]


def test_an_unknown_experiment_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"expected one of .*'depth'.*, got 'width'"):
        experiments.main("width", "anywhere")
