"""Training runs on real digits: what they leave behind, and that they can be taken up again."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.console import Console
from safetensors.torch import load_file
from timm.optim import Muon
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2.functional import to_pil_image

import zoo
from export.to_onnx import Options, export
from zoo import hub
from zoo.data import DataConfig, ImageSet, load_images, normalise
from zoo.hub import files as disk
from zoo.hub.run_folder import checkpoints
from zoo.neurons.kernels import cpu as compiled
from zoo.training import engine, machine
from zoo.training.augment import AugmentConfig
from zoo.training.config import Config, OptimConfig
from zoo.training.engine import train
from zoo.training.feed import Feed
from zoo.training.learner import Learner
from zoo.training.losses import LossConfig, classification_loss
from zoo.training.machine import bf16_slowdown
from zoo.training.prepare import build_model, load_data, origin, start_folder
from zoo.training.processes import make_accelerator
from zoo.training.rehearsal import rehearse


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run)[-1] / "model.safetensors")


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_run_learns_and_logs_every_epoch(run):
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["test_accuracy"] > 20
    assert log[0]["head_weight"] > log[-1]["head_weight"] >= 0


def test_the_last_two_checkpoints_stay_and_each_is_a_pretrained_folder(run):
    assert [path.name for path in checkpoints(run)] == ["step_0000046", "step_0000069"]
    assert not list(run.rglob("*.partial"))
    model = zoo.create_model(f"local-dir:{checkpoints(run)[-1]}", pretrained=True).eval()
    digits = load_images(DataConfig(name="digits", mean=(78,), std=(96,)), "test")
    with torch.inference_mode():
        logits = model(normalise(digits.images, (78,), (96,)))
    accuracy = 100 * (logits.argmax(1) == digits.labels).float().mean().item()
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert accuracy == pytest.approx(last["test_accuracy"])


def test_a_run_folder_loads_as_its_newest_checkpoint(run):
    model = zoo.create_model(f"local-dir:{run}", pretrained=True)
    assert same(model.state_dict(), weights(run))


def test_a_run_without_a_checkpoint_is_told(run, tmp_path):
    for name in ("config.json", "log.jsonl"):
        shutil.copy(run / name, tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found none yet"):
        zoo.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_an_interrupted_run_ends_with_the_bits_of_an_unbroken_one(
    run, recipe, tmp_path, monkeypatch
):
    config = replace(recipe, output=str(tmp_path / "run"))
    for _ in range(2):
        train_an_epoch_and_die(config, monkeypatch)
    train(config)
    assert same(weights(tmp_path / "run"), weights(run))


def train_an_epoch_and_die(config, monkeypatch):
    save = engine.save_checkpoint

    def save_and_die(*arguments, **kwargs):
        save(*arguments, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def test_an_interrupted_run_keeps_what_it_began_with(run, recipe, tmp_path, monkeypatch):
    config = replace(recipe, output=str(tmp_path), epochs=2, model_args={}, start_from=str(run))
    train_an_epoch_and_die(config, monkeypatch)
    train(config)
    before, after = (hub.read_config(checkpoints(r)[-1])["model_args"] for r in (run, tmp_path))
    assert after == before
    assert (
        after["time_steps"]
        == recipe.model_args["time_steps"]
        != zoo.create_model(recipe.model).time_steps
    )


def test_a_run_that_another_process_trains_is_refused(run, recipe, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = replace(recipe, output=str(folder), epochs=3)
    before = (folder / "log.jsonl").read_text()
    code = "import sys; from filelock import FileLock; f = FileLock(sys.argv[1]); f.acquire();"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code} print(flush=True); input()", folder / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match=r"a folder in which nobody trains, got .*run, in whi"):
            train(config)
        other.kill()
    assert (folder / "log.jsonl").read_text() == before
    assert train(config)["epoch"] == 3  # what a kill left holds nothing
    assert not (folder / ".lock").exists()


def test_a_finished_run_does_nothing_more_and_says_so(run, recipe, tmp_path, capsys):
    run = shutil.copytree(run, tmp_path / "slim[lr=0.1]")
    before = weights(run)
    assert train(replace(recipe, output=str(run)))["epoch"] == 3
    assert (
        f"{run}: has ended after 3 epochs; another --output, and --start" in capsys.readouterr().out
    )
    assert same(weights(run), before)


def test_the_bar_ends_with_what_the_epoch_came_to(recipe, tmp_path, capsys):
    recipe = replace(recipe, epochs=1, output=str(tmp_path), batch_size=100)
    train(recipe)
    said = capsys.readouterr().out
    accuracy = re.search(r"train ([\d.]+ %)", said)[1]
    assert f"accuracy {accuracy}" in said.splitlines()[-1]


def test_a_run_may_begin_with_the_weights_of_another(run, recipe, tmp_path):
    args = recipe.model_args | {"time_steps": 3}
    config = replace(recipe, output=str(tmp_path), epochs=1, model_args=args, start_from=str(run))
    train(replace(config, optim=replace(config.optim, lr=0.0)))
    before, after = weights(run), weights(tmp_path)
    assert same(*({k: v for k, v in w.items() if "norm" not in k} for w in (before, after)))
    (folder,) = checkpoints(tmp_path)
    assert hub.read_config(folder)["model_args"]["time_steps"] == 3


def test_rates_at_one_step_become_spikes_at_several(recipe, tmp_path):
    neuron = {"decay": 1.0, "reset": "subtract", "levels": 4}
    rates = replace(
        recipe,
        output=str(tmp_path / "rates"),
        epochs=1,
        model_args=recipe.model_args | {"time_steps": 1, "spike_layer": neuron},
    )
    spikes = replace(
        rates,
        output=str(tmp_path / "spikes"),
        start_from=rates.output,
        model_args=recipe.model_args | {"time_steps": 4, "spike_layer": {"levels": 1}},
    )
    train(rates)
    train(spikes)
    assert [
        hub.read_config(checkpoints(Path(run.output))[-1])["pretrained_cfg"]["tag"]
        for run in (rates, spikes)
    ] == ["digits_rates", "digits"]
    (folder,) = checkpoints(tmp_path / "spikes")
    constants = hub.read_config(folder)["model_args"]["spike_layer"]
    assert constants == zoo.LIF(1.0, reset="subtract").constants()
    zoo.deploy(zoo.create_model(f"local-dir:{folder}", pretrained=True))


def test_rates_are_exported_exactly(recipe, tmp_path):
    neuron = {"decay": 1.0, "reset": "subtract", "levels": 4}
    args = recipe.model_args | {"time_steps": 1, "spike_layer": neuron}
    train(replace(recipe, output=str(tmp_path / "run"), epochs=1, model_args=args))
    out = export(Options(source=str(tmp_path / "run"), output=str(tmp_path / "out"), num_images=32))
    report = json.loads((out / "verification.json").read_text())
    assert (report["passed"], report["rule"]) == (True, "exact")
    card = (out / "README.md").read_text()
    assert "a rate s = floor(4 v / 1.0) / 4, between 0 and 1" in card

    args = args | {"spike_layer": neuron | {"levels": 3}}
    train(replace(recipe, output=str(tmp_path / "three"), epochs=1, model_args=args))
    with pytest.raises(zoo.NotExactError, match=r"3 levels.*rates are exported exactly or not at"):
        export(Options(source=str(tmp_path / "three"), output=str(tmp_path / "no"), num_images=32))


def test_a_run_keeps_what_its_weights_came_from(run, recipe, tmp_path, monkeypatch):
    first = checkpoints(run)[-1]
    second, third = (
        replace(recipe, output=str(tmp_path / name), epochs=epochs, start_from=str(start))
        for name, epochs, start in (("second", 1, run), ("third", 2, tmp_path / "second"))
    )
    held_out = replace(recipe.data, holdout=200, title="other digits")
    second = replace(second, data=held_out, model_args={})  # measured on others, steps inherited
    train(second)
    train_an_epoch_and_die(third, monkeypatch)
    shutil.rmtree(second.output)  # what a run goes on with is its own
    train(third)
    training = hub.read_config(checkpoints(tmp_path / "third")[-1])["training"]
    before = training["began_with"]["training"]["began_with"]
    assert before["sha256"] == disk.file_sha256(first / "model.safetensors")
    assert before["training"] == hub.read_config(first)["training"]

    exported = export(
        Options(source=third.output, output=str(tmp_path / "exported"), num_images=50)
    )
    card = (exported / "README.md").read_text()
    told = (
        r"3 epochs at T = 2, \d+ minutes? on .+; then 1 epoch at T = 2, .+; then 2 epochs at T = 2"
    )
    assert re.search(told, card)
    assert str(tmp_path) not in card


def test_a_seed_that_a_run_before_had_is_warned_of(run, recipe, tmp_path, capsys):
    for seed, warned in ((0, True), (1, False)):
        output = str(tmp_path / str(seed))
        train(replace(recipe, epochs=1, output=output, start_from=str(run), seed=seed))
        assert ("seed: 0 was that of a run before this one" in capsys.readouterr().out) == warned


def test_a_run_without_a_checkpoint_is_nothing_to_start_from(recipe, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    config = replace(recipe, output=str(tmp_path / "new"), start_from=str(tmp_path / "begun"))
    with pytest.raises(FileNotFoundError, match="start_from: expected a run with a checkpoint"):
        train(config)


def test_a_run_that_may_still_go_on_is_nothing_to_start_from(run, recipe, tmp_path):
    half = shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(checkpoints(half)[-1])
    config = replace(recipe, epochs=1, output=str(tmp_path / "new"), start_from=str(half))
    with pytest.raises(ValueError, match=r"a run that has ended, got .*half after 2 of 3 epochs"):
        train(config)
    assert not (tmp_path / "new").exists()
    named = replace(config, start_from=str(checkpoints(half)[-1]))
    assert train(named)["epoch"] == 1


def test_classes_in_another_order_are_refused(run, recipe):
    data = load_data(recipe)
    first, second, *others = data.train.classes
    swapped = replace(data, train=replace(data.train, classes=(second, first, *others)))
    config = replace(recipe, start_from=str(run))
    with pytest.raises(ValueError, match="in their order, got '1' for '0'; another reader may"):
        origin(config, None, swapped)
    assert origin(config, None, data)["began_with"]


def test_a_folder_with_a_log_alone_keeps_it(run, recipe, tmp_path):
    (tmp_path / "log.jsonl").write_text((run / "log.jsonl").read_text())
    with pytest.raises(ValueError, match="the log of a run and none of its checkpoints; choose an"):
        train(replace(recipe, output=str(tmp_path)))
    assert (tmp_path / "log.jsonl").read_text() == (run / "log.jsonl").read_text()


def test_a_folder_with_another_config_keeps_it(recipe, tmp_path):
    (tmp_path / "config.json").write_text('{"mine": true}')
    with pytest.raises(ValueError, match=r"which holds another config\.json; choose another --out"):
        train(replace(recipe, output=str(tmp_path)))
    assert (tmp_path / "config.json").read_text() == '{"mine": true}'


def test_images_by_another_name_than_a_log_has_are_refused(recipe):
    data = load_data(recipe)
    with pytest.raises(ValueError, match="name: expected test or holdout, got 'validation'"):
        replace(data, name="validation")


def test_processes_that_share_one_network_out_are_refused(recipe, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="each holds the whole network, got FSDP"):
        make_accelerator(recipe)


def test_fp16_whose_gradients_never_fit_ends_the_run(recipe):
    data = replace(recipe.data, mean=(78,) * 3, std=(96,) * 3)
    config = replace(recipe, data=data, loss=LossConfig(name="vanilla"))
    network = zoo.create_model("short_bp_resnet20_slim")
    learner = Learner(config, network, 1, make_accelerator(config))
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-15)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(
        FloatingPointError, match="step 1: expected gradients that fp16 holds at some"
    ):
        learner.step([(images, torch.arange(2))], 0, 2)


def test_the_weights_of_another_architecture_are_refused(run, recipe, tmp_path):
    config = replace(recipe, output=str(tmp_path), model="short_bp_resnet18", start_from=str(run))
    with pytest.raises(ValueError, match="start_from: expected short_bp_resnet18, got short_bp_"):
        train(config)


def test_a_run_refuses_the_folder_of_another(run, recipe):
    with pytest.raises(
        ValueError, match=r"output: expected .* with epochs 3 in place of 4, loss.nam"
    ):
        train(replace(recipe, output=str(run), epochs=4, loss=LossConfig(name="vanilla")))


def test_checkpoints_alone_say_whose_they_are(run, recipe, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match=r"output: expected .* with epochs 3 in place of 4;"):
        train(replace(recipe, output=str(copy), epochs=4))
    assert train(replace(recipe, output=str(copy)))["epoch"] == 3
    assert (copy / "config.json").read_text() != ""


def test_a_run_from_before_an_option_was_there_goes_on_with_its_default(run, recipe, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = json.loads((copy / "config.json").read_text())
    del before["compile"], before["optim"]["ema_decay"]
    (copy / "config.json").write_text(json.dumps(before))
    with pytest.raises(ValueError, match=r"output: expected .* with compile False in place of Tru"):
        train(replace(recipe, output=str(copy), compile=True))
    assert train(replace(recipe, output=str(copy)))["epoch"] == 3


def test_a_run_refuses_the_folder_of_one_whose_network_is_said_otherwise(run, recipe):
    args = recipe.model_args | {"drop_rate": 0.5}
    with pytest.raises(ValueError, match=r"with model_args\.drop_rate 'nothing' in place of 0\.5"):
        train(replace(recipe, output=str(run), model_args=args))


def test_a_run_may_be_moved_and_saved_more_often(run, recipe, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(checkpoints(copy)[-1])
    config = replace(
        recipe,
        output=str(copy),
        data=replace(recipe.data, root="elsewhere"),
        keep_large_buffers=False,
        trackers=("tensorboard",),
        checkpoint_minutes=0.0,
        workers=2,
    )
    assert train(config)["epoch"] == 3
    assert same(weights(copy), weights(run))


def test_what_an_epoch_measures_is_what_it_saves(recipe, tmp_path, monkeypatch):
    seen, evaluate = [], engine.evaluate

    def watched(config, model, *args):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return evaluate(config, model, *args)

    monkeypatch.setattr(engine, "evaluate", watched)
    averaged = replace(recipe.optim, ema_decay=0.9)
    train(replace(recipe, epochs=1, output=str(tmp_path), optim=averaged))
    assert same(seen[-1], weights(tmp_path))


def test_a_run_goes_on_with_its_classes_in_their_order_or_not_at_all(run, recipe, tmp_path):
    copy, data = shutil.copytree(run, tmp_path / "copy"), load_data(recipe)
    shutil.rmtree(checkpoints(copy)[-1])
    first, second, *others = data.train.classes
    swapped = replace(data, train=replace(data.train, classes=(second, first, *others)))
    with pytest.raises(ValueError, match=f"began with class 0: {first}; .* got {second}; "):
        train(replace(recipe, output=str(copy)), swapped)


def test_a_run_goes_on_with_as_many_images_as_before_or_not_at_all(run, recipe, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(checkpoints(copy)[-1])
    whole = load_data(recipe)
    half = replace(whole, train=whole.train.subset(torch.arange(700)))
    with pytest.raises(ValueError, match=r"with images: 1437; expected the same .* got 700;"):
        train(replace(recipe, output=str(copy)), half)
    assert checkpoints(copy)[0].name == "step_0000046"


def test_a_signal_in_an_epochs_last_step_puts_off_its_measurement(
    run, recipe, tmp_path, monkeypatch
):
    config = replace(recipe, output=str(tmp_path))
    step, steps = Learner.step, []

    def step_and_signal(*arguments):
        steps.append(step(*arguments))
        if len(steps) == 23:  # the first epoch's last one
            os.kill(os.getpid(), signal.SIGTERM)
        return steps[-1]

    monkeypatch.setattr(Learner, "step", step_and_signal)
    assert train(config) == {}
    (folder,) = checkpoints(tmp_path)
    assert folder.name == "step_0000023"
    train(config)
    assert len(steps) == 3 * 23
    assert same(weights(tmp_path), weights(run))
    rates = [
        [json.loads(line)["learning_rate"] for line in (r / "log.jsonl").read_text().splitlines()]
        for r in (tmp_path, run)
    ]
    assert rates[0] == rates[1]
    assert not list(tmp_path.rglob("*.partial"))


def test_pieces_of_a_step_count_by_their_images(recipe, tmp_path):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 1, 8, 8), generator=draw, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(5), tuple("abcde"))
    loss, optim = LossConfig(name="vanilla"), OptimConfig(name="sgd", lr=0.1, weight_decay=0.0)
    results = []
    for pieces in (1, 3):  # of 5, and of 2, 2 and 1
        config = replace(recipe, batch_size=5, gradient_accumulation=pieces, loss=loss, optim=optim)
        config = replace(config, augment=AugmentConfig(crop_padding=0, flip=False))
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
        network.num_classes = 5
        feed = Feed(config, data)
        learner = Learner(config, network, feed.steps, make_accelerator(config))
        for step, chunks in enumerate(feed.epoch(0)):
            learner.step(chunks, step, feed.images_of(step))
        results.append(network[1].weight.detach())
    torch.testing.assert_close(*results)


def test_a_short_last_step_counts_as_much_as_a_whole_one(recipe):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (5, 1, 8, 8), generator=draw, dtype=torch.uint8)
    data = ImageSet(pixels, torch.arange(5), tuple("abcde"))
    config = replace(recipe, epochs=1, batch_size=3, loss=LossConfig(name="vanilla"))
    config = replace(config, augment=AugmentConfig(crop_padding=0, flip=False))
    config = replace(config, optim=OptimConfig(name="sgd", lr=0.1, weight_decay=0.0))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    network.num_classes = 5
    weight, bias = (parameter.detach().clone() for parameter in network.parameters())
    feed = Feed(config, data)
    learner = Learner(config, network, feed.steps, make_accelerator(config))
    velocity = 0.0  # timm's sgd has Nesterov's momentum of 0.9
    for step, chunks in enumerate(feed.epoch(0)):
        images, labels = next(chunks)
        x = normalise(images, config.data.mean, config.data.std).flatten(1)
        learner.step(iter([(images, labels)]), step, feed.images_of(step))
        error = (x @ weight.T + bias).softmax(1) - torch.eye(5)[labels]
        gradient = torch.cat([error.T @ x, error.sum(0)[:, None]], 1) / len(labels)
        velocity = 0.9 * velocity + gradient
        moved = learner.learning_rate * (gradient + 0.9 * velocity)
        weight, bias = weight - moved[:, :-1], bias - moved[:, -1]
    assert step == 1
    torch.testing.assert_close(network[1].weight.detach(), weight)


@pytest.mark.parametrize("name", ["vanilla", "shortcut", "constant", "per_head"])
def test_only_a_loss_with_heads_builds_heads(recipe, tmp_path, name):
    train(replace(recipe, output=str(tmp_path), epochs=1, loss=LossConfig(name=name)))
    heads = [key for key in weights(tmp_path) if key.startswith("shortcut_heads.")]
    assert bool(heads) == (name != "vanilla")


def test_held_out_images_are_the_ones_measured(recipe, tmp_path):
    data = replace(recipe.data, holdout=200)
    config = replace(recipe, output=str(tmp_path), epochs=1, data=data)
    entry = train(config)
    model = zoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    held_out = load_data(config).measured
    with torch.inference_mode():
        logits = model(normalise(held_out.images, data.mean, data.std))
    right = 100 * (logits.argmax(1) == held_out.labels).float().mean().item()
    assert entry["holdout_accuracy"] == pytest.approx(right)
    assert "test_accuracy" not in entry


def test_who_watches_sees_a_bar_while_images_are_measured(recipe, tmp_path, monkeypatch):
    screen = io.StringIO()
    terminal = partial(Console, file=screen, force_terminal=True, width=200)
    monkeypatch.setattr(engine, "PatientConsole", terminal)
    entry = train(replace(recipe, output=str(tmp_path), epochs=1))
    assert "measuring" in screen.getvalue()
    assert "measuring" not in screen.getvalue()[screen.getvalue().rindex("epoch 1/1") :]
    assert entry["epoch"] == 1


def test_no_image_is_held_out_and_trained_on(recipe):
    data = load_data(replace(recipe, data=replace(recipe.data, holdout=200)))
    every = load_data(recipe)
    train, held_out, both = (
        sorted(map(tuple, images.images.flatten(1).tolist()))
        for images in (data.train, data.measured, every.train)
    )
    assert (len(train), len(held_out), data.whole) == (1237, 200, 1437)
    assert sorted(train + held_out) == both


def test_lambda_and_the_learning_rate_fall_to_nothing_step_by_step(recipe, tmp_path, monkeypatch):
    weights, rates = [], []

    def watched(config, logits, side_logits, targets, weight):
        weights.append(weight)
        return classification_loss(config, logits, side_logits, targets, weight)

    step = Learner.step

    def stepped(learner, *args):
        sums = step(learner, *args)
        rates.append(learner.learning_rate)
        return sums

    monkeypatch.setattr("zoo.training.learner.classification_loss", watched)
    monkeypatch.setattr(Learner, "step", stepped)
    config = replace(
        recipe,
        output=str(tmp_path),
        epochs=2,
        batch_size=32,
        data=replace(recipe.data, limit=128),
        loss=LossConfig(name="evolutionary", coefficient=0.25),
        optim=OptimConfig(lr=0.01, warmup_epochs=0.5),
    )
    last = train(config)
    assert weights == pytest.approx([0.25 * (1 - i / 8) for i in range(8)])
    assert (last["head_weight"], last["learning_rate"]) == (weights[-1], rates[-1])
    half_cosine = [0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert rates == pytest.approx([0.01 * f for f in (1 / 3, 2 / 3, *half_cosine)])


def test_weights_decay_and_norms_and_biases_do_not(recipe):
    network = zoo.create_model("short_bp_resnet20_slim")
    learner = Learner(recipe, network, 1, make_accelerator(recipe))
    decays = {
        (p.ndim > 1, g["weight_decay"]) for g in learner.optimizer.param_groups for p in g["params"]
    }
    assert decays == {(True, recipe.optim.weight_decay), (False, 0.0)}
    assert recipe.optim.weight_decay > 0


def test_the_average_keeps_what_its_warm_up_says_and_is_what_is_measured(recipe):
    config = replace(recipe, epochs=1, batch_size=32, data=replace(recipe.data, limit=160))
    config = replace(config, optim=OptimConfig(lr=0.1, ema_decay=0.5))
    data = load_data(config)
    feed = Feed(config, data.train)
    torch.manual_seed(0)
    learner = Learner(config, build_model(config, data.train), feed.steps, make_accelerator(config))
    names = "head.fc.weight", "stem.0.norm.running_mean"
    averages = dict.fromkeys(names, 0.0)
    for step, chunks in enumerate(feed.epoch(0)):
        learner.step(chunks, step, feed.images_of(step))
        keep = 0 if step < 2 else min(0.5, 1 - step ** (-2 / 3))
        last = learner.model.state_dict()
        averages = {n: keep * value + (1 - keep) * last[n] for n, value in averages.items()}
    assert step == 4
    measured = learner.measured.state_dict()
    for name, average in averages.items():
        torch.testing.assert_close(measured[name], average)
        assert not torch.equal(measured[name], last[name])


def test_each_head_has_the_accuracy_of_its_own_logits(recipe):
    config = replace(recipe, batch_size=4)
    network = torch.nn.Linear(1, 1)
    network.shortcut_heads = SimpleNamespace(heads=[None, None])
    learner = Learner(config, network, 1, make_accelerator(config))
    labels = torch.tensor([0, 1, 2, 3])
    right, half, none = torch.eye(4)[torch.tensor([[0, 1, 2, 3], [0, 1, 3, 2], [1, 2, 3, 0]])]
    sums = learner._sums(torch.tensor(0.5), half, torch.stack([none, right]), labels)
    assert sums.tolist() == [2.0, 2.0, 0.0, 4.0]


def test_an_optimizer_that_draws_draws_the_same_in_every_process(recipe):
    config = replace(recipe, loss=LossConfig(name="vanilla"), optim=OptimConfig(name="kron"))
    config = replace(config, augment=AugmentConfig(crop_padding=0, flip=False))
    pixels = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))
    results = []
    for process in range(2):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        network.num_classes = 4
        learner = Learner(config, network, 4, make_accelerator(config))
        for step in range(4):
            torch.manual_seed(process)  # as the feed seeds each chunk
            learner.step([(pixels, torch.arange(4))], step, 4)
        results.append(network[1].weight.detach())
    assert torch.equal(*results)


def test_a_limit_leaves_the_images_that_are_measured_as_they_are(recipe):
    data = replace(recipe.data, holdout=200)
    whole = load_data(replace(recipe, data=data))
    few = load_data(replace(recipe, data=replace(data, limit=100)))
    assert (len(whole.train), len(few.train), few.name) == (1237, 100, "holdout")
    assert torch.equal(whole.measured.images, few.measured.images)
    assert torch.equal(few.train.images, whole.train.images[:100])


def test_bf16_trains_in_bf16_and_is_measured_in_fp32(recipe, tmp_path, monkeypatch):
    seen = {True: set(), False: set()}
    forward = zoo.LIF.forward

    def watch(layer, x):
        seen[layer.training].add(x.dtype)
        return forward(layer, x)

    monkeypatch.setattr(zoo.LIF, "forward", watch)
    train(replace(recipe, output=str(tmp_path), epochs=1, precision="bf16"))
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_the_digits_in_every_precision(recipe, tmp_path, precision, compile):
    on_gpu = replace(recipe, epochs=20, device="cuda", precision=precision, compile=compile)
    assert train(replace(on_gpu, output=str(tmp_path)))["test_accuracy"] > 80


@pytest.fixture
def quick_to_compile(recipe):
    """A small network; its last step has fewer images, for which it compiles anew."""
    args = recipe.model_args | {"depths": [1, 1], "widths": [8, 16]}
    few = replace(recipe.data, limit=200)
    return replace(recipe, model_args=args, data=few, epochs=2, compile=True)


@pytest.mark.skipif(compiled.unavailable() is not None, reason="no C++ compiler")
def test_a_compiled_run_trains_as_an_eager_one_and_is_measured_eagerly(
    quick_to_compile, tmp_path, monkeypatch
):
    seen = {True: set(), False: set()}
    forward = zoo.LIF.forward

    def watch(layer, x):
        seen[layer.training].add(torch.compiler.is_compiling())
        return forward(layer, x)

    config = replace(quick_to_compile, epochs=1)
    eager = train(replace(config, output=str(tmp_path / "eager"), compile=False))
    monkeypatch.setattr(zoo.LIF, "forward", watch)
    compiled_too = train(replace(config, output=str(tmp_path / "compiled")))
    assert compiled_too["loss"] == pytest.approx(eager["loss"], rel=0.02)
    assert seen == {True: {True}, False: {False}}


@pytest.mark.skipif(compiled.unavailable() is not None, reason="no C++ compiler")
def test_an_interrupted_compiled_run_ends_with_the_bits_of_an_unbroken_one(
    quick_to_compile, tmp_path, monkeypatch
):
    config = replace(quick_to_compile, output=str(tmp_path / "run"))
    train_an_epoch_and_die(config, monkeypatch)
    torch.compiler.reset()
    train(config)
    torch.compiler.reset()
    train(replace(config, output=str(tmp_path / "unbroken")))
    assert same(weights(tmp_path / "run"), weights(tmp_path / "unbroken"))


def test_compiling_without_a_compiler_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "unavailable", lambda: "no C++ compiler: none found")
    with pytest.raises(ValueError, match=r"compile: expected .*, found no C\+\+ compiler"):
        train(replace(recipe, output=str(tmp_path), compile=True))


@pytest.mark.parametrize("way", [train, rehearse])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("slowdown", [0.5, 2.0])
def test_a_cpu_that_is_slow_in_bf16_is_told_of(
    slowdown, precision, way, recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(machine, "bf16_slowdown", lambda: slowdown)
    way(replace(recipe, output=str(tmp_path), epochs=1, precision=precision))
    said = capsys.readouterr().out
    assert ("--precision fp32" in said) == (precision == "bf16" and slowdown > 1)
    assert (f"{slowdown} times slower in bf16" in said) == ("; try " in said)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_muon_multiplies_in_the_precision_of_the_recipe(precision, recipe, tmp_path, monkeypatch):
    products = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket is torch.ops.aten.addmm:
                products.add(args[0].dtype)
            return function(*args, **kwargs or {})

    def step(optimizer, *args):
        with Products():
            return own_step(optimizer, *args)

    own_step = Muon.step
    monkeypatch.setattr(Muon, "step", step)
    optim = replace(recipe.optim, name="muon", lr=1e-3)
    train(replace(recipe, output=str(tmp_path), epochs=1, optim=optim, precision=precision))
    assert products == {torch.float32 if precision == "fp32" else torch.bfloat16}


def test_bf16_is_timed_against_fp32(monkeypatch):
    assert 0 < bf16_slowdown() < math.inf
    seconds = {torch.bfloat16: 6.0, torch.float32: 2.0}
    monkeypatch.setattr(machine, "_seconds_of_convolution", seconds.get)
    assert bf16_slowdown() == 3


def test_a_run_that_could_not_begin_leaves_its_folder_free(recipe, tmp_path):
    config = replace(recipe, output=str(tmp_path / "run"), epochs=1)
    with pytest.raises(ValueError, match="unknown model"):
        train(replace(config, model="short_bp_resnet81"))
    assert not (tmp_path / "run").exists()
    assert train(config)["epoch"] == 1


def test_a_run_that_died_in_its_first_step_leaves_its_folder_free(recipe, tmp_path):
    config = replace(recipe, output=str(tmp_path / "run"), epochs=1)
    with pytest.raises(ValueError, match=r"augment\.crop_size"):
        train(replace(config, augment=replace(config.augment, crop_size=30)))
    assert train(config)["epoch"] == 1


def test_weights_for_other_classes_are_refused(run, recipe, tmp_path):
    data = load_data(recipe)
    images = replace(data.train, classes=(*data.train.classes, "ten"))
    config = replace(recipe, output=str(tmp_path), start_from=str(run))
    with pytest.raises(ValueError, match="of 1 channels and 11 classes, got one for 1 channels an"):
        train(config, replace(data, train=images))


def test_a_network_says_how_its_images_are_measured(recipe):
    images = ImageSet(torch.zeros(2, 3, 64, 64), torch.arange(2), ("a", "b"))
    for name, seen in (("imagenet", (0.875, "bicubic")), ("image_folder", (1.0, "bilinear"))):
        config = replace(recipe, data=DataConfig(name=name))
        for model in ("short_bp_resnet18", "short_bp_resnet18_imagenet"):
            cfg = build_model(replace(config, model=model), images).pretrained_cfg
            assert (cfg["crop_pct"], cfg["interpolation"]) == seen


def test_classes_that_differ_between_the_splits_are_refused(recipe, tmp_path):
    for split, names in (("train", "abc"), ("test", "bc")):
        for name in names:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            image = torch.zeros(3, 8, 8, dtype=torch.uint8)
            to_pil_image(image).save(tmp_path / "set" / split / name / "0.png")
    data = DataConfig(name="image_folder", root=str(tmp_path / "set"))
    with pytest.raises(ValueError, match="in train and test, got 1 that only one of them has: a"):
        train(replace(recipe, output=str(tmp_path / "run"), data=data))


def test_sizes_that_differ_between_the_splits_are_refused(recipe, tmp_path):
    for split, size in (("train", 8), ("test", 6)):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            image = torch.zeros(3, size, size, dtype=torch.uint8)
            to_pil_image(image).save(tmp_path / "set" / split / name / "0.png")
    data = DataConfig(name="image_folder", root=str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"one size in train and test, got \[3, 8, 8\] and \[3, 6"):
        train(replace(recipe, output=str(tmp_path / "run"), data=data))


def test_every_seed_begins_with_weights_of_its_own(recipe, tmp_path):
    few = replace(recipe.data, limit=64)
    still = replace(recipe, epochs=1, data=few, optim=replace(recipe.optim, lr=0.0))
    for seed in (0, 1):
        train(replace(still, seed=seed, output=str(tmp_path / str(seed))))
    one, other = (weights(tmp_path / seed)["head.fc.weight"] for seed in "01")
    assert not torch.equal(one, other)


def test_processes_share_gradients_with_a_steps_last_piece(recipe, monkeypatch):
    taken, alone = [], []
    config = replace(recipe, gradient_accumulation=3, loss=LossConfig(name="vanilla"))
    network = zoo.create_model(recipe.model, in_chans=1)
    learner = Learner(config, network, 1, make_accelerator(config))

    def apart(*_):
        alone.append(len(taken))
        return nullcontext()

    monkeypatch.setattr(Accelerator, "no_sync", apart)
    piece = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2)
    learner.step((taken.append(1) or piece for _ in range(3)), 0, 6)
    assert alone == [1, 2]


def test_a_run_refuses_the_folder_of_one_with_other_pixels(run, recipe):
    data = replace(recipe.data, mean=(79,))
    with pytest.raises(ValueError, match=r"with data\.mean\.0 78 in place of 79"):
        train(replace(recipe, output=str(run), data=data))


def test_every_seed_holds_out_the_same_images(recipe):
    every = load_images(recipe.data, "train").images
    data = replace(recipe.data, holdout=5)
    for seed in (0, 1):
        held_out = load_data(replace(recipe, data=data, seed=seed)).measured
        assert torch.equal(held_out.images, every[[515, 532, 1290, 1059, 1198]])


def test_images_that_trained_the_weights_to_begin_with_are_not_held_out(recipe, tmp_path):
    data = replace(recipe.data, limit=64, holdout=20)
    first = replace(recipe, output=str(tmp_path / "first"), data=data, epochs=1)
    train(first)
    second = replace(first, output=str(tmp_path / "second"), start_from=first.output)
    train(second)
    third = replace(second, output=str(tmp_path / "third"), start_from=second.output)
    with pytest.raises(
        ValueError, match=r"data.holdout: expected at most 20, .*, got 21; if these"
    ):
        train(replace(third, data=replace(data, holdout=21)))
    others = replace(data, holdout=21, title="other digits")
    assert train(replace(third, data=others))["holdout_accuracy"] >= 0


def test_a_set_that_grew_holds_out_other_images_and_is_refused(recipe, tmp_path):
    for i in range(12):
        image = torch.full((3, 8, 8), 20 * i, dtype=torch.uint8)
        (tmp_path / "set" / "train" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(tmp_path / "set" / "train" / f"{i % 2}" / f"{i}.png")
    data = DataConfig(name="image_folder", root=str(tmp_path / "set"), holdout=4)
    first = replace(recipe, output=str(tmp_path / "first"), data=data, epochs=1)
    train(first)
    second = replace(first, output=str(tmp_path / "second"), start_from=first.output)
    train(second)
    to_pil_image(image).save(tmp_path / "set" / "train" / "0" / "new.png")
    third = replace(second, output=str(tmp_path / "third"), start_from=second.output)
    with pytest.raises(ValueError, match=r"expected the 12 training images .*, got 13; take those"):
        train(third)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "short_bp_resnet81"}, "unknown model 'short_bp_resnet81', closest names: "),
        (
            {"model": "short_bp_resnet20_slim.cifar10"},
            "model: expected a name from zoo.list_models(), got short_bp_resnet20_slim.cifar10",
        ),
        ({"model_args": {"checkpoint_path": "w.pt"}}, "checkpoint_path: expected arguments of a "),
        ({"model_args": {"global_pool": "gap"}}, "model_args: expected arguments of short_bp_"),
        ({"model_args": {"shortcut_heads": True}}, "model_args.shortcut_heads: expected no such "),
        ({"model_args": {"spike_layer": {"decay": 2.0}}}, "decay: expected a number in [0, 1]"),
        ({"model_args": {"num_classes": 5}}, "model_args.num_classes: expected no such key, the"),
        (
            {"model_args": {"features_only": True}},
            "model_args.features_only: expected arguments of",
        ),
        (
            {"data": DataConfig(name="digits", mean=(99,), std=(9,), limit=9999)},
            "data.limit: expected at most the 1437 training images",
        ),
        ({"model_args": {"steps": 4}}, "model_args: expected arguments of short_bp_resnet20_slim"),
        ({"model_args": {"head_stages": []}}, "loss.name: expected vanilla for a network without "),
        ({"trackers": ("tensorboard", "wandb")}, "trackers: expected packages that are installed"),
        ({"trackers": ("foo",)}, "trackers: expected some of ['aim', "),
        ({"trackers": ("all",)}, "trackers: expected some of ['aim', "),
        ({"model_args": {"drop_rate": 2.0}}, "drop_rate: expected a number between 0 and 1, got 2"),
        (
            {"model_args": {"global_pool": ""}},
            "global_pool: expected one that pools for 10",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(recipe, tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(replace(recipe, output=str(tmp_path), **change))


def test_the_recipe_alone_decides_what_is_compiled(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")  # of accelerate launch
    network = torch.nn.Linear(1, 1)
    assert make_accelerator(recipe).prepare_model(network) is network


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("key", ["device", "precision", "sync_batchnorm"])
def test_what_needs_a_cuda_device_is_refused_without_one(recipe, tmp_path, key):
    value = {"device": "cuda", "precision": "fp16", "sync_batchnorm": True}[key]
    with pytest.raises(ValueError, match=f"{key}: expected a CUDA device for {value}, found none"):
        train(replace(recipe, output=str(tmp_path), **{key: value}))


def test_a_folder_that_holds_a_network_is_never_trained_in(recipe, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "network")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"got .*network, which holds a network, model.safetensors"
    ):
        train(replace(recipe, output=str(folder)))
    assert (folder / "config.json").read_bytes() == before


def test_what_costs_nothing_to_see_is_seen_before_the_images_are_read(recipe, tmp_path):
    data = replace(recipe.data, name="image_folder", root="nowhere")
    (tmp_path / "file").write_text("")
    for change, message in (
        ({"model": "short_bp_resnet81"}, "unknown model 'short_bp_resnet81', closest names"),
        ({"output": str(tmp_path / "file")}, "output: expected a folder that can be written to"),
        ({"output": str(tmp_path / "file" / "run")}, "output: expected a folder that can be"),
        ({"start_from": str(tmp_path)}, "start_from: expected a run with a checkpoint"),
    ):
        config = replace(recipe, output=str(tmp_path / "run"), data=data)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(replace(config, **change))


def test_the_same_images_in_another_order_are_not_held_out(tmp_path):
    data = DataConfig(name="cifar10", holdout=500)
    begun = "short_bp_resnet18.cifar10"  # of CIFAR-10 (JPEG), an image_folder
    config = Config(model="short_bp_resnet18", start_from=str(hub.BUNDLED / begun), data=data)
    with pytest.raises(ValueError, match="trained on image_folder, whose images are these in an"):
        start_folder(config, 50_000)
    start_folder(replace(config, data=replace(data, holdout=0)), 50_000)
    start_folder(replace(config, data=replace(data, title="others")), 50_000)


def test_small_logits_of_heads_count_in_bf16():
    logits = torch.full((1, 4), 8.0, dtype=torch.bfloat16)
    side = torch.zeros(1, 1, 4, dtype=torch.bfloat16)
    labels = torch.tensor([0])
    config = LossConfig(name="evolutionary")
    before = classification_loss(config, logits, side, labels, 0.01)
    side[..., 0] = 1.0
    assert classification_loss(config, logits, side, labels, 0.01) < before
