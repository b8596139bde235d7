"""The model card: README.md of a published folder, from its config.json and its checks."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from zoo import hub
from zoo.deployed import BITS

DATASETS = {
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    "digits": (None, "scikit-learn digits"),
    "image_folder": (None, "an image folder"),
}

BODY = """
# {name}

A spiking network of short-bp-zoo: {architecture} with {parameters:.2f} M parameters, run for
{time_steps} time steps, {classes} classes, images of {width} x {height}. {trained_with}

## Use

```python
import zoo

model = zoo.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:ORG/NAME"
logits = model(pixel_values)  # [B, {channels}, {height}, {width}] -> [B, {classes}]
```

```python
import onnxruntime

session = onnxruntime.InferenceSession("onnx/model.onnx")
(logits,) = session.run(["logits"], {{"pixel_values": pixel_values}})
```

`pixel_values` are (pixel - mean) / std with pixels from 0 to 255, mean {mean} and std {std}.
`onnx/model_uint8.onnx` takes the pixels themselves, as uint8; `onnx/model_readable.onnx` is the
first graph once more, each neuron one node.

## Accuracy

{accuracy}

## Neurons

Leaky integrate-and-fire: v = {decay} v + x, a spike where v >= {v_threshold}, reset to
{reset}. In SpikingJelly's terms tau = {tau:g}, no input decay. These constants change every output
and are not in the weight file; `config.json` holds them.

| layer | firing rate |
|---|---|
{rates}

## Exactness

{exactness}

## Verification

By the {rule} rule, on {images}; every figure is in `verification.json`.

| check | measured |
|---|---|
{checks}

Made with {versions}.

## Training

```json
{training}
```
"""


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Write README.md into a folder that has config.json and model.safetensors.

    Args:
        report: What verification.json will hold: checks, images, rule, made_with.
    """
    config = hub.read_config(folder)
    checks = {check["name"]: check["measured"] for check in report["checks"]}
    training = config.get("training", {})
    data = training.get("data", {"name": "image_folder"})
    text = _front_matter(config, checks, data) + _body(folder, config, report, training)
    ModelCard(text).save(folder / "README.md")


def _front_matter(config: dict[str, Any], checks: dict[str, Any], data: dict[str, Any]) -> str:
    dataset, title = DATASETS[data["name"]]
    arguments: dict[str, Any] = {}
    if accuracy := _measured_accuracy(checks):
        arguments["model_name"] = f"{config['architecture']}.{config['pretrained_cfg']['tag']}"
        arguments["eval_results"] = [
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset or data["name"],
                dataset_name=data.get("title") or title,
                metric_type="accuracy",
                metric_value=round(accuracy["onnxruntime_percent"], 2),
            )
        ]
    front = ModelCardData(
        library_name="short-bp-zoo",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=["spiking-neural-network", "image-classification", "onnx", "safetensors"],
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"] if accuracy else None,
        **arguments,
    )
    return f"---\n{front.to_yaml()}\n---\n"


def _body(folder: Path, config: dict[str, Any], report: dict[str, Any], training) -> str:
    cfg, args = config["pretrained_cfg"], config["model_args"]
    neuron = args["spike_layer"]
    checks = {check["name"]: check["measured"] for check in report["checks"]}
    channels, height, width = cfg["input_size"]
    return BODY.format(
        name=f"{config['architecture']}.{cfg['tag']}",
        architecture=config["architecture"],
        parameters=_parameters(folder) / 1e6,
        time_steps=args["time_steps"],
        classes=config["num_classes"],
        channels=channels,
        height=height,
        width=width,
        trained_with=_trained_with(training),
        mean=[round(255 * value) for value in cfg["mean"]],
        std=[round(255 * value) for value in cfg["std"]],
        accuracy=_accuracy(_measured_accuracy(checks), report["images"]),
        decay=neuron["decay"],
        v_threshold=neuron["v_threshold"],
        reset="zero" if neuron["reset"] == "zero" else "v - v_threshold",
        tau=1 / (1 - neuron["decay"]) if neuron["decay"] < 1 else float("inf"),
        rates="\n".join(
            f"| `{layer}` | {rate:.4f} |"
            for layer, rate in checks["every spiking layer fires"]["firing_rates"].items()
        ),
        exactness=_exactness(report, checks),
        rule=report["rule"],
        images=report["images"],
        checks="\n".join(f"| {name} | {_short(measured)} |" for name, measured in checks.items()),
        versions=", ".join(f"{name} {version}" for name, version in report["made_with"].items()),
        training=json.dumps(training, indent=2),
    )


EXACT = """The graphs give the same bits in every runtime that convolves in plain fp32, in every
batch size and number of threads, on any input: norms are folded into their convolutions, and every
weight is a whole multiple of a power of two, chosen so that no sum of a convolution needs more than
the 24 bits that fp32 has; a neuron adds two numbers at a time, which has no order.
`model.safetensors` holds the weights as they were trained; `zoo.deploy(model)` puts them on the
grid, which changed {changed} of {count} classes.

The certificate, for the worst that any input could bring about: no such sum needs more than
{needed} bits. The largest sum of any layer is {largest:.4g} (in `{where}`).

<details><summary>Layer by layer</summary>

| layer | largest sum | bits before the point | bits behind it | bits to spare |
|---|---|---|---|---|
{rows}

</details>"""

SPIKE_AWARE = """Not exact: {reason}. Another runtime may round a potential to the other side of the
threshold; how often onnxruntime does is measured below."""


def _exactness(report: dict[str, Any], checks: dict[str, Any]) -> str:
    if report["rule"] != "exact":
        return SPIKE_AWARE.format(reason=report["why_not_exact"])
    accuracy = checks["the grid keeps the accuracy"]
    layers = checks["no sum depends on its order"]["layers"]
    counted = [row for row in layers if row["fraction_bits"]]  # counts of spikes have none
    largest = max(counted, key=lambda row: row["largest"])
    return EXACT.format(
        needed=BITS - min(row["head_room"] for row in layers),
        largest=largest["largest"],
        where=largest["layer"],
        rows="\n".join(
            f"| `{row['layer']}` | {row['largest']:.4g} | {row['whole_bits']} | "
            f"{row['fraction_bits']} | {row['head_room']} |"
            for row in layers
        ),
        changed=accuracy["classes_that_changed"],
        count=accuracy["images"],
    )


def _trained_with(training: dict[str, Any]) -> str:
    if not training:
        return "How it was trained is not recorded."
    if training["loss"]["name"] == "vanilla":
        return "It was trained without shortcut heads."
    return "It was trained with shortcut heads; what is published here is the network alone."


def _parameters(folder: Path) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    count = 0
    with safe_open(folder / hub.WEIGHTS, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118  (safe_open is no mapping)
            if not name.endswith(buffers):
                count += weights.get_tensor(name).numel()
    return count


def _measured_accuracy(checks: dict[str, Any]) -> dict[str, Any] | None:
    """Of either rule; None where the images had no labels."""
    names = ("the grid keeps the accuracy", "accuracy is the same")
    found = [checks[name] for name in names if "onnxruntime_percent" in checks.get(name, {})]
    return found[0] if found else None


def _accuracy(measured: dict[str, Any] | None, images: str) -> str:
    if measured is None:
        return "Not measured: the network was verified on pixels without labels."
    return (
        f"Top-1 on {images}: {measured['trained_percent']:.2f} % as trained, in PyTorch, "
        f"{measured['onnxruntime_percent']:.2f} % in onnxruntime."
    )


def _short(measured: dict[str, Any]) -> str:
    plain = {k: v for k, v in measured.items() if not isinstance(v, dict | list)}
    return ", ".join(f"{key.replace('_', ' ')} {value:.6g}" for key, value in plain.items())
