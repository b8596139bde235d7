"""Training runs on digits: what they learn, measure, save and refuse."""

import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
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
from zoo.training import engine
from zoo.training.augment import AugmentConfig
from zoo.training.config import OptimConfig
from zoo.training.engine import train
from zoo.training.feed import Feed
from zoo.training.learner import Learner
from zoo.training.losses import LossConfig, classification_loss
from zoo.training.prepare import build_model, check_held_out, load_data
from zoo.training.processes import make_accelerator

RATES = {"decay": 1.0, "reset": "subtract", "levels": 4}


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(Path(run))[-1] / "model.safetensors")


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def config_of(run: str | Path) -> dict:
    return hub.read_config(checkpoints(Path(run))[-1])


# What a run leaves


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


def test_a_finished_run_does_nothing_more(run, recipe, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "slim[lr=0.1]")
    assert train(replace(recipe, output=str(copy)))["epoch"] == 3
    printed = capsys.readouterr()
    assert f"{copy}: has finished all 3 epochs" in printed.out
    command = shlex.split(printed.out.partition("export it: ")[2])
    assert command == ["short-bp-zoo", "export", str(copy), "--output", "FOLDER"]
    assert same(weights(copy), weights(run))


def test_every_seed_starts_with_its_own_weights(tiny):
    still = replace(tiny, epochs=1, optim=replace(tiny.optim, lr=0.0))
    for seed in (0, 1):
        train(replace(still, seed=seed, output=f"{tiny.output}{seed}"))
    one, other = (weights(f"{tiny.output}{seed}")["head.fc.weight"] for seed in (0, 1))
    assert not torch.equal(one, other)


# Whose folder it is


def test_a_run_refuses_the_folder_of_another(run, recipe):
    other = replace(recipe, output=str(run), epochs=4, loss=LossConfig(name="vanilla"))
    with pytest.raises(ValueError, match=r"holds another run .*epochs 3, not 4, loss\.name"):
        train(other)
    with pytest.raises(ValueError, match=r"data\.mean\.0 78, not 79"):
        train(replace(recipe, output=str(run), data=replace(recipe.data, mean=(79,))))


def test_a_folder_that_holds_a_network_is_never_trained_in(recipe, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "network")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match="holds another run or network"):
        train(replace(recipe, output=str(folder)))
    assert (folder / "config.json").read_bytes() == before


def test_a_folder_that_another_process_trains_in_is_refused(tiny):
    folder = Path(tiny.output)
    folder.mkdir()
    code = "import sys; from filelock import FileLock; f = FileLock(sys.argv[1]); f.acquire();"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code} print(flush=True); input()", folder / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        with pytest.raises(FileExistsError, match=r"another process is training in .*run"):
            train(tiny)
        other.kill()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert train(replace(tiny, epochs=1))["epoch"] == 1  # a killed process holds no lock


def test_a_run_may_be_moved_and_saved_more_often(run, recipe, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(checkpoints(copy)[-1])
    config = replace(
        recipe,
        output=str(copy),
        data=replace(recipe.data, root="elsewhere"),
        checkpoint_minutes=0.2,
        workers=1,
    )
    assert train(config)["epoch"] == 3
    assert same(weights(copy), weights(run))


def test_a_run_from_before_an_option_existed_resumes_with_its_default(run, recipe, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = json.loads((copy / "config.json").read_text())
    del before["compile"], before["optim"]["ema_decay"]
    before["sync_batchnorm"] = False  # an option that is gone
    (copy / "config.json").write_text(json.dumps(before))
    with pytest.raises(ValueError, match="compile False, not True"):
        train(replace(recipe, output=str(copy), compile=True))
    assert train(replace(recipe, output=str(copy)))["epoch"] == 3


def test_a_run_resumes_with_the_same_images_or_not_at_all(run, recipe, tmp_path):
    copy, data = shutil.copytree(run, tmp_path / "copy"), load_data(recipe)
    shutil.rmtree(checkpoints(copy)[-1])
    first, second, *others = data.train.classes
    half = data.train.subset(torch.arange(700))
    for train_set, named in (
        (replace(data.train, classes=(second, first, *others)), "classes"),
        (half, "images"),
    ):
        with pytest.raises(ValueError, match=f"began with other {named}; take the same"):
            train(replace(recipe, output=str(copy)), replace(data, train=train_set))


def test_a_run_that_failed_before_its_first_checkpoint_leaves_its_folder_free(tiny):
    wrong = replace(tiny.augment, crop_size=30)
    with pytest.raises(ValueError, match=r"augment\.crop_size"):
        train(replace(tiny, augment=wrong))
    assert train(replace(tiny, epochs=1))["epoch"] == 1


# Starting from weights


def test_a_run_may_start_from_the_weights_of_another(run, recipe, tmp_path):
    args = recipe.model_args | {"time_steps": 3}
    config = replace(recipe, output=str(tmp_path), epochs=1, model_args=args, start_from=str(run))
    train(replace(config, optim=replace(config.optim, lr=0.0)))
    before, after = weights(run), weights(tmp_path)
    still = (
        {k: v for k, v in w.items() if "norm" not in k and k != "neurons"} for w in (before, after)
    )
    assert same(*still)
    assert config_of(tmp_path)["model_args"]["time_steps"] == 3


def test_rates_at_one_step_become_spikes_at_several(tiny):
    args = tiny.model_args | {"time_steps": 1, "spike_layer": RATES}
    rates = replace(tiny, epochs=1, model_args=args)
    args = tiny.model_args | {"time_steps": 4, "spike_layer": {"levels": 1}}
    spikes = replace(
        rates, output=f"{tiny.output}_spikes", start_from=rates.output, model_args=args
    )
    train(rates)
    train(spikes)
    tags = [config_of(run.output)["pretrained_cfg"]["tag"] for run in (rates, spikes)]
    assert tags == ["digits_rates", "digits"]
    constants = config_of(spikes.output)["model_args"]["spike_layer"]
    assert constants == zoo.LIF(1.0, reset="subtract").constants()
    zoo.deploy(zoo.create_model(f"local-dir:{spikes.output}", pretrained=True))


def test_rates_are_exported_exactly(tiny, tmp_path):
    args = tiny.model_args | {"time_steps": 1, "spike_layer": RATES}
    train(replace(tiny, epochs=1, model_args=args))
    out = export(Options(source=tiny.output, output=str(tmp_path / "out"), num_images=32))
    report = json.loads((out / "verification.json").read_text())
    assert (report["passed"], report["rule"]) == (True, "exact")


def test_a_run_keeps_the_history_of_its_weights(run, tiny, recipe, tmp_path, monkeypatch):
    second = replace(
        recipe,
        output=str(tmp_path / "second"),
        epochs=1,
        start_from=str(run),
        model_args={},  # its steps come from the first
        data=replace(recipe.data, holdout=200, limit=64, title="other digits"),
    )
    third = replace(second, output=str(tmp_path / "third"), epochs=2, start_from=second.output)
    train(second)
    save = engine.save_checkpoint

    def save_and_stop(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(third)
    shutil.rmtree(second.output)  # resuming does not need it
    train(third)
    config = config_of(third.output)
    before = config["training"]["began_with"]["training"]["began_with"]
    first = checkpoints(run)[-1]
    assert before["sha256"] == disk.file_sha256(first / "model.safetensors")
    assert before["training"] == hub.read_config(first)["training"]
    assert config["model_args"] == hub.read_config(first)["model_args"]


def test_a_run_that_has_not_finished_is_not_started_from(run, recipe, tmp_path):
    half = shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(checkpoints(half)[-1])
    config = replace(recipe, epochs=1, output=str(tmp_path / "new"), start_from=str(half))
    with pytest.raises(ValueError, match=r"half has trained 2 of 3 epochs; let it finish"):
        train(config)
    assert not (tmp_path / "new").exists()
    few = replace(recipe.data, limit=64)
    assert train(replace(config, start_from=str(checkpoints(half)[-1]), data=few))["epoch"] == 1


@pytest.mark.parametrize(
    ("model", "start", "message"),
    [
        ("short_bp_resnet20_slim", "nothing", "start_from: .*nothing: no such folder"),
        ("short_bp_resnet18", "", "start_from: expected short_bp_resnet18, got short_bp_resnet20"),
    ],
)
def test_weights_that_are_missing_or_of_another_network_are_refused(
    run, recipe, tmp_path, model, start, message
):
    config = replace(recipe, output=str(tmp_path / "new"), model=model)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(replace(config, start_from=str(run / start)))


def test_weights_for_other_classes_are_refused(run, recipe, tmp_path):
    data = load_data(recipe)
    images = replace(data.train, classes=(*data.train.classes, "ten"))
    config = replace(recipe, output=str(tmp_path), start_from=str(run))
    with pytest.raises(ValueError, match="for 1 channels and 10 classes, and the images have 1 an"):
        train(config, replace(data, train=images))


# Held-out images


def test_no_image_is_held_out_and_trained_on(recipe):
    data = load_data(replace(recipe, data=replace(recipe.data, holdout=200)))
    every = load_data(recipe)
    train, held_out, both = (
        sorted(map(tuple, images.images.flatten(1).tolist()))
        for images in (data.train, data.measured, every.train)
    )
    assert (len(train), len(held_out), data.whole) == (1237, 200, 1437)
    assert sorted(train + held_out) == both


def test_a_limit_and_a_seed_leave_the_held_out_images_as_they_are(recipe):
    data = replace(recipe.data, holdout=200)
    whole = load_data(replace(recipe, data=data))
    few = load_data(replace(recipe, seed=1, data=replace(data, limit=100)))
    assert (len(whole.train), len(few.train), few.name) == (1237, 100, "holdout")
    assert torch.equal(whole.measured.images, few.measured.images)
    assert torch.equal(few.train.images, whole.train.images[:100])


def test_held_out_images_are_the_ones_measured(tiny):
    config = replace(tiny, epochs=1, data=replace(tiny.data, holdout=200))
    entry = train(config)
    model = zoo.create_model(f"local-dir:{tiny.output}", pretrained=True).eval()
    held_out = load_data(config).measured
    with torch.inference_mode():
        logits = model(normalise(held_out.images, config.data.mean, config.data.std))
    right = 100 * (logits.argmax(1) == held_out.labels).float().mean().item()
    assert entry["holdout_accuracy"] == pytest.approx(right)
    assert "test_accuracy" not in entry


def test_images_that_trained_the_starting_weights_are_not_held_out(tiny):
    first = replace(tiny, data=replace(tiny.data, holdout=20), epochs=1)
    train(first)
    more = replace(first.data, holdout=21)
    second = replace(first, output=f"{tiny.output}2", start_from=first.output, data=more)
    with pytest.raises(ValueError, match=r"data\.holdout: .*hold out at most 20"):
        train(second)
    assert train(replace(second, data=first.data))["holdout_accuracy"] >= 0


@pytest.mark.parametrize(
    ("change", "whole", "refused"),
    [
        ({}, 50_000, False),
        ({"holdout": 0, "name": "cifar10"}, 50_000, False),
        ({"title": "others"}, 49_999, False),
        ({"name": "cifar10"}, 50_000, True),  # another reader has another order
        ({}, 49_999, True),  # another number of images has another order
    ],
)
def test_the_same_images_are_held_out_only_of_the_same_set(change, whole, refused):
    kind = {"name": "image_folder", "title": "CIFAR-10", "holdout": 500}
    before = {"data": kind, "training_images": 50_000}
    with pytest.raises(ValueError, match="at most 0") if refused else nullcontext():
        check_held_out(DataConfig(**kind | change), before, whole)


def test_classes_that_differ_between_the_splits_are_refused(tiny, tmp_path):
    for split, names in (("train", "abc"), ("test", "bc")):
        for name in names:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            image = torch.zeros(3, 8, 8, dtype=torch.uint8)
            to_pil_image(image).save(tmp_path / "set" / split / name / "0.png")
    data = DataConfig(name="image_folder", root=str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"only one of train and test has the classes \['a'\]"):
        train(replace(tiny, data=data))


# The step


def learner_of(config, network, steps=1) -> Learner:
    return Learner(config, network, steps, make_accelerator(config))


def linear(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    network.num_classes = classes
    return network


@pytest.fixture
def plain(recipe):
    """SGD without heads or augmentation."""
    return replace(
        recipe,
        epochs=1,
        loss=LossConfig(name="vanilla"),
        augment=AugmentConfig(crop_padding=0, flip=False),
        optim=OptimConfig(name="sgd", lr=0.1, weight_decay=0.0),
    )


@pytest.fixture
def five() -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 1, 8, 8), generator=draw, dtype=torch.uint8)
    return ImageSet(images, torch.arange(5), tuple("abcde"))


def test_pieces_of_a_step_are_weighted_by_their_images(plain, five):
    results = []
    for pieces in (1, 3):  # 5 images, and 2, 2 and 1
        config = replace(plain, batch_size=5, gradient_accumulation=pieces)
        network, feed = linear(5), Feed(config, five)
        learner = learner_of(config, network, feed.steps)
        for step, chunks in enumerate(feed.epoch(0)):
            learner.step(chunks, step, feed.images_of(step))
        results.append(network[1].weight.detach())
    torch.testing.assert_close(*results)


def test_a_step_is_sgd_written_by_hand(plain, five):
    config, network = replace(plain, batch_size=3), linear(5)
    weight, bias = (parameter.detach().clone() for parameter in network.parameters())
    feed = Feed(config, five)
    learner = learner_of(config, network, feed.steps)
    velocity = 0.0  # timm's sgd has Nesterov momentum of 0.9
    for step, chunks in enumerate(feed.epoch(0)):  # 3 images, then 2
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


def test_gradients_are_shared_with_the_last_piece_of_a_step(plain, monkeypatch):
    taken, alone = [], []
    learner = learner_of(replace(plain, gradient_accumulation=3), linear(10))

    def apart(*_):
        alone.append(len(taken))
        return nullcontext()

    monkeypatch.setattr(Accelerator, "no_sync", apart)
    piece = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2)
    learner.step((taken.append(1) or piece for _ in range(3)), 0, 6)
    assert alone == [1, 2]


def test_the_optimizer_draws_the_same_in_every_process(plain, five, monkeypatch):
    learner, drawn = learner_of(plain, linear(5)), []
    monkeypatch.setattr(learner.optimizer, "step", lambda: drawn.append(float(torch.rand(()))))
    for process in range(2):
        torch.manual_seed(process)  # as the feed seeds each chunk
        learner.step([(five.images, five.labels)], 7, 5)
    assert drawn[0] == drawn[1]


def test_lambda_and_the_learning_rate_fall_to_zero_step_by_step(tiny, monkeypatch):
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
    last = train(replace(tiny, optim=OptimConfig(lr=0.01, warmup_epochs=0.5)))
    assert weights == pytest.approx([0.25 * (1 - i / 8) for i in range(8)])
    assert (last["head_weight"], last["learning_rate"]) == (weights[-1], rates[-1])
    half_cosine = [0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert rates == pytest.approx([0.01 * f for f in (1 / 3, 2 / 3, *half_cosine)])


def test_weights_decay_and_norms_and_biases_do_not(recipe):
    learner = learner_of(recipe, zoo.create_model("short_bp_resnet20_slim"))
    decays = {
        (p.ndim > 1, g["weight_decay"]) for g in learner.optimizer.param_groups for p in g["params"]
    }
    assert decays == {(True, recipe.optim.weight_decay), (False, 0.0)}


def test_the_moving_average_follows_its_warm_up_and_is_what_is_measured(tiny):
    config = replace(tiny, epochs=1, optim=OptimConfig(lr=0.1, ema_decay=0.5))
    data = load_data(config)
    feed = Feed(config, data.train)
    learner = learner_of(config, build_model(config, data.train), feed.steps)
    names = "head.fc.weight", "stem.0.norm.running_mean"
    averages = dict.fromkeys(names, 0.0)
    for step, chunks in enumerate(feed.epoch(0)):
        learner.step(chunks, step, feed.images_of(step))
        keep = 0 if step < 2 else min(0.5, 1 - step ** (-2 / 3))
        last = learner.model.state_dict()
        averages = {n: keep * value + (1 - keep) * last[n] for n, value in averages.items()}
    assert step == 3
    measured = learner.measured.state_dict()
    for name, average in averages.items():
        torch.testing.assert_close(measured[name], average)
        assert not torch.equal(measured[name], last[name])


def test_what_an_epoch_measures_is_what_it_saves(tiny, monkeypatch):
    seen, evaluate = [], engine.evaluate

    def watched(config, model, *args):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return evaluate(config, model, *args)

    monkeypatch.setattr(engine, "evaluate", watched)
    train(replace(tiny, optim=replace(tiny.optim, ema_decay=0.9)))
    assert same(seen[-1], weights(tiny.output))


def test_each_head_has_the_accuracy_of_its_own_logits(recipe):
    network = torch.nn.Linear(1, 1)
    network.shortcut_heads = SimpleNamespace(heads=[None, None])
    learner = learner_of(recipe, network)
    labels = torch.tensor([0, 1, 2, 3])
    right, half, none = torch.eye(4)[torch.tensor([[0, 1, 2, 3], [0, 1, 3, 2], [1, 2, 3, 0]])]
    sums = learner._sums(torch.tensor(0.5), half, torch.stack([none, right]), labels)
    assert sums.tolist() == [2.0, 2.0, 0.0, 4.0]


@pytest.mark.parametrize("name", ["vanilla", "shortcut", "constant", "per_head"])
def test_only_a_loss_with_heads_builds_heads(tiny, name):
    train(replace(tiny, epochs=1, loss=LossConfig(name=name)))
    heads = [key for key in weights(tiny.output) if key.startswith("shortcut_heads.")]
    assert bool(heads) == (name != "vanilla")


# Precision and compiling


def test_bf16_trains_in_bf16_and_is_measured_in_fp32(tiny, monkeypatch):
    seen = {True: set(), False: set()}
    forward = zoo.LIF.forward

    def watch(layer, x):
        seen[layer.training].add(x.dtype)
        return forward(layer, x)

    monkeypatch.setattr(zoo.LIF, "forward", watch)
    one_step = replace(tiny.data, limit=32)
    train(replace(tiny, epochs=1, precision="bf16", data=one_step))
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_muon_multiplies_in_the_precision_of_the_recipe(precision, tiny, monkeypatch):
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
    config = replace(tiny, epochs=1, precision=precision, data=replace(tiny.data, limit=32))
    train(replace(config, optim=OptimConfig(name="muon", lr=1e-3)))
    assert products == {torch.float32 if precision == "fp32" else torch.bfloat16}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_learns_the_digits_in_every_precision(recipe, tmp_path, precision, compile):
    on_gpu = replace(recipe, epochs=20, device="cuda", precision=precision, compile=compile)
    assert train(replace(on_gpu, output=str(tmp_path)))["test_accuracy"] > 80


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_trains_as_an_eager_one_and_is_measured_eagerly(tiny, monkeypatch):
    seen = {True: set(), False: set()}
    forward = zoo.LIF.forward

    def watch(layer, x):
        seen[layer.training].add(torch.compiler.is_compiling())
        return forward(layer, x)

    config = replace(tiny, epochs=1)
    eager = train(replace(config, output=f"{tiny.output}_eager"))
    monkeypatch.setattr(zoo.LIF, "forward", watch)
    compiled = train(replace(config, compile=True))
    assert compiled["loss"] == pytest.approx(eager["loss"], rel=0.02)
    assert seen == {True: {True}, False: {False}}


def test_the_recipe_and_not_the_launcher_decides_on_compiling(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    network = torch.nn.Linear(1, 1)
    assert make_accelerator(recipe).prepare_model(network) is network


# Ordinary mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "short_bp_resnet81"}, "unknown architecture 'short_bp_resnet81', closest name"),
        ({"model": "short_bp_resnet20_slim.cifar10"}, "model: unknown architecture"),
        ({"model_args": {"shortcut_heads": True}}, "model_args.shortcut_heads: leave it out"),
        ({"model_args": {"num_classes": 5}}, "model_args.num_classes: leave it out"),
        ({"model_args": {"steps": 4}}, "model_args: short_bp_resnet20_slim cannot take"),
        (
            {"data": DataConfig(name="digits", mean=(9,), std=(9,), limit=9999)},
            "data.limit: expected a number in [0, 1438), got 9999",
        ),
        (
            {"data": DataConfig(name="digits", mean=(9,), std=(9,), holdout=1437)},
            "data.holdout: expected a number in [0, 1437), got 1437",
        ),
        ({"optim": OptimConfig(name="admaw")}, "admaw"),
    ],
)
def test_a_wrong_config_is_refused(recipe, tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(replace(recipe, output=str(tmp_path), **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_recipe_that_needs_cuda_is_refused_without_it(recipe, tmp_path):
    with pytest.raises(ValueError, match="device: cuda"):
        train(replace(recipe, output=str(tmp_path), device="cuda"))


def test_mistakes_are_found_before_the_images_are_read(recipe, tmp_path):
    data = replace(recipe.data, name="image_folder", root="nowhere")
    (tmp_path / "file").write_text("")
    for change, message in (
        ({"model": "short_bp_resnet81"}, "unknown architecture"),
        ({"output": str(tmp_path / "file" / "run")}, "output: expected a folder that can be"),
        ({"start_from": str(tmp_path)}, "start_from: .*no such file"),
    ):
        config = replace(recipe, output=str(tmp_path / "run"), data=data)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(replace(config, **change))
    assert not (tmp_path / "run").exists()


def test_a_signal_in_the_last_step_of_an_epoch_puts_off_its_measurement(tiny, monkeypatch):
    unbroken = replace(tiny, output=f"{tiny.output}_unbroken")
    train(unbroken)
    step, steps = Learner.step, []

    def step_and_signal(*arguments):
        steps.append(step(*arguments))
        if len(steps) == 4:  # the last of the first epoch
            signal.raise_signal(signal.SIGTERM)
        return steps[-1]

    monkeypatch.setattr(Learner, "step", step_and_signal)
    assert train(tiny) == {}
    assert [path.name for path in checkpoints(Path(tiny.output))] == ["step_0000004"]
    train(tiny)
    assert len(steps) == 2 * 4
    assert same(weights(tiny.output), weights(unbroken.output))
