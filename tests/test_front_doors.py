"""What users of timm, transformers, Lightning and torch try first."""

import shutil
from functools import partial

import lightning
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torchvision.transforms.functional import to_pil_image
from transformers import AutoModelForImageClassification, pipeline

import zoo
from export.strip import load_source
from export.verify import published_folder
from short_bp_zoo.networks import describe
from zoo import hub
from zoo.training.config import Config
from zoo.training.prepare import start_folder

SLIM = "short_bp_resnet20_slim"
FOLDER = hub.find_pretrained(f"{SLIM}.cifar10")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def photograph(tmp_path) -> str:
    pixels = torch.randint(256, (3, 40, 48), generator=torch.Generator().manual_seed(0))
    to_pil_image(pixels.to(torch.uint8)).save(tmp_path / "photograph.png")
    return str(tmp_path / "photograph.png")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return zoo.create_model(SLIM, pretrained=True).eval()


@torch.inference_mode()
def gives_the_logits_of(model: nn.Module, trained: nn.Module, images: torch.Tensor) -> bool:
    return torch.equal(model.eval()(images), trained(images))


@pytest.mark.parametrize("name", [SLIM, f"{SLIM}.cifar10"])
def test_timm_creates_a_release_by_its_name(name, trained, images):
    assert gives_the_logits_of(timm.create_model(name, pretrained=True), trained, images[:8])


def test_timm_creates_what_the_zoo_creates_without_weights():
    for name in (SLIM, f"{SLIM}.cifar10", "spikformer_4_384"):
        with torch.device("meta"):
            by_timm, by_zoo = timm.create_model(name), zoo.create_model(name)
        assert hub.neuron_constants(by_timm) == hub.neuron_constants(by_zoo)
        for key in ("tag", "mean", "std", "num_classes", "label_names"):
            assert by_timm.pretrained_cfg.get(key) == by_zoo.pretrained_cfg.get(key)


def test_timm_lists_the_releases():
    expected = zoo.list_models("short_bp*", pretrained=True)
    assert timm.list_models("short_bp*", pretrained=True) == expected
    assert timm.list_pretrained("short_bp*") == expected
    cfg = timm.get_pretrained_cfg(SLIM)
    assert (cfg.tag, cfg.num_classes, len(cfg.label_names)) == ("cifar10", 10, 10)


def test_timm_fine_tunes_a_release_to_other_classes(trained, images):
    model = timm.create_model(SLIM, pretrained=True, num_classes=7).eval()
    with torch.inference_mode():
        features = model.forward_features(images[:8])
        assert torch.equal(features, trained.forward_features(images[:8]))
        assert model(images[:8]).shape == (8, 7)


def test_transformers_loads_a_folder(trained, images):
    model = AutoModelForImageClassification.from_pretrained(str(FOLDER)).eval()
    with torch.inference_mode():
        assert torch.equal(model(pixel_values=images).logits, trained(images))
    assert model.config.id2label[3] == "cat"


def test_a_folder_of_ones_own_loads_in_transformers(tmp_path, images):
    model = zoo.create_model(SLIM, num_classes=7, spike_layer={"decay": 0.25}, time_steps=2).eval()
    zoo.hub.save_pretrained(model, tmp_path)
    found = AutoModelForImageClassification.from_pretrained(str(tmp_path)).eval()
    with torch.inference_mode():
        assert torch.equal(found(pixel_values=images[:8]).logits, model(images[:8]))


def test_a_pipeline_of_transformers_labels_an_image_as_timm_prepares_it(photograph, trained):
    found = pipeline("image-classification", str(FOLDER))(photograph, top_k=10)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(trained))
    with torch.inference_mode():
        scores = trained(transform(Image.open(photograph))[None]).softmax(1)[0].tolist()
    expected = dict(zip(trained.pretrained_cfg["label_names"], scores, strict=True))
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(expected, abs=1e-6)


SAVERS = {
    "torch": lambda model, path: torch.save(model.state_dict(), path),
    "safetensors": lambda model, path: safetensors.torch.save_model(model, str(path)),
    "an average": lambda model, path: torch.save(ModelEmaV3(model).module.state_dict(), path),
    "half": lambda model, path: torch.save(zoo.create_model(SLIM, True).half().state_dict(), path),
}


@pytest.mark.parametrize("saver", SAVERS)
def test_weights_of_any_saver_load_into_their_neurons_alone(saver, trained, images, tmp_path):
    SAVERS[saver](trained, tmp_path / "weights")
    if saver == "safetensors":
        weights = safetensors.torch.load_file(tmp_path / "weights")
    else:
        weights = torch.load(tmp_path / "weights", weights_only=True)
    for other in ({}, {"spike_layer": {"decay": 1.0}, "time_steps": 4}):
        with pytest.raises(RuntimeError, match=r"got weights of .*'decay': 1\.0.*'subtract'"):
            zoo.create_model(SLIM, **other).load_state_dict(weights)
    model = zoo.create_model(f"{SLIM}.cifar10")
    model.load_state_dict(weights)
    if saver != "half":
        assert gives_the_logits_of(model, trained, images)


def test_safetensors_loads_a_file_into_its_neurons_alone(trained, images, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_model(trained, str(path))
    with pytest.raises(RuntimeError, match="got weights of"):
        safetensors.torch.load_model(zoo.create_model(SLIM), path)
    model = zoo.create_model(f"{SLIM}.cifar10")
    assert safetensors.torch.load_model(model, path) == (set(), [])
    assert gives_the_logits_of(model, trained, images)
    by_path = zoo.create_model(SLIM, checkpoint_path=path)  # takes the neurons from the file
    assert gives_the_logits_of(by_path, trained, images)


def test_timms_train_and_validate_keep_the_neurons(trained, images, tmp_path):
    # What its scripts use: train.py saves by CheckpointSaver, validate.py reads by load_checkpoint.
    model = timm.create_model(SLIM, pretrained=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(0, metric=1.0)
    again = timm.create_model(f"{SLIM}.cifar10", checkpoint_path=tmp_path / "last.pth.tar")
    assert gives_the_logits_of(again, trained, images[:8])
    with pytest.raises(RuntimeError, match="got weights of"):
        timm.create_model(SLIM, checkpoint_path=tmp_path / "last.pth.tar")


def test_files_of_before_load_as_they_did(trained, images):
    weights = safetensors.torch.load_file(FOLDER / hub.WEIGHTS)
    assert "neurons" not in weights
    model = zoo.create_model(f"{SLIM}.cifar10")
    model.load_state_dict(weights)
    assert gives_the_logits_of(model, trained, images)


class Task(lightning.LightningModule):
    def __init__(self, **arguments):
        super().__init__()
        self.net = zoo.create_model(SLIM, depths=(1, 1, 1), **arguments)

    def training_step(self, batch, _):
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_and_loads_into_the_same_neurons_alone(images, tmp_path):
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    task = Task(spike_layer={"decay": 0.25})
    batches = [(images[:8], torch.arange(8)), (images[8:16], torch.arange(8))]
    trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Task.load_from_checkpoint(tmp_path / "last.ckpt", spike_layer={"decay": 0.25})
    assert gives_the_logits_of(again.net, task.net.eval(), images[:8])
    with pytest.raises(RuntimeError, match=r"delete 'net\.neurons' from the weights"):
        Task.load_from_checkpoint(tmp_path / "last.ckpt")


def test_features_only_gives_the_stages_of_a_release_in_timm(images):
    with torch.inference_mode():
        maps = timm.create_model(SLIM, pretrained=True, features_only=True)(images[:2])
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


FAMILIES = (
    "short_bp_resnet20_slim",
    "short_bp_vgg16",
    "sew_resnet18_cifar",
    "ms_resnet18_cifar",
    "att_ms_resnet18",
    "gac_ms_resnet18",
    "spikformer_4_384",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_spike_layer_leaves_out_is_the_familys(family):
    with torch.device("meta"):
        own = hub.neuron_constants(zoo.create_model(family))
        assert (
            hub.neuron_constants(zoo.create_model(family, spike_layer={"backend": "eager"})) == own
        )
        for change in ({"v_threshold": 0.75}, partial(zoo.LIF, v_threshold=0.75)):
            found = hub.neuron_constants(zoo.create_model(family, spike_layer=change))
            assert found == own | {"v_threshold": 0.75}


def test_every_command_takes_every_name_of_a_network(run, tmp_path):
    plain = shutil.copytree(FOLDER, tmp_path / "plain")
    for name in (SLIM, f"{SLIM}.cifar10", str(plain), f"local-dir:{plain}", str(run)):
        model = zoo.create_model(name, pretrained=True)
        assert f"time steps  {model.time_steps}" in describe(name)
        assert load_source(name).model.time_steps == model.time_steps
        assert start_folder(Config(model=SLIM, start_from=name)).is_dir()
        if name != str(run):  # it has no graph
            assert zoo.load_onnx(name).size == (3, 32, 32)
            assert published_folder(name).is_dir()
