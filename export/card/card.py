"""The model card: README.md of a published folder, from its config.json and its checks."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from export.card.browser import PREPROCESSOR
from export.card.history import CURVES, each_run, epochs, head_weights, history_and_notes
from export.card.measured import (
    how_measured,
    measured_accuracy,
    parameter_count,
    told_accuracy,
    told_operations,
)
from export.checks.check import STRIPPING, in_short
from export.checks.images import LAYOUT, in_a_layout
from zoo import hub
from zoo.deployment.grid import BITS, is_power_of_two
from zoo.hub.run_folder import all_runs
from zoo.inference.classifier import MODES

DATASETS = {
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    "digits": (None, "scikit-learn digits"),
    "image_folder": (None, "an image folder"),
    "imagenet": ("ILSVRC/imagenet-1k", "ImageNet"),
}

PAPERS = Path(__file__).parent / "papers.bib"
TEMPLATE = Path(__file__).parent / "card.md"

EPOCHS = """{curves}
<details><summary>Epoch by epoch</summary>

{table}

</details>
"""

BROWSER = """
By @huggingface/transformers in Node (in a browser it was not tried), with `folder` the name of a
repository on the Hub; without the comment signs, a folder on the disk of Node:

```js
import {{ AutoImageProcessor, AutoModel, RawImage, env }} from "@huggingface/transformers";

// env.allowRemoteModels = false;
// env.localModelPath = "";

const processor = await AutoImageProcessor.from_pretrained(folder);
const model = await AutoModel.from_pretrained(folder);
const {{ logits }} = await model(await processor(await RawImage.read("image.png")));
```
"""

ENERGY = """## Energy

An image takes {operations}, over all time
steps, counted on {images} of the images in the network as trained; the second convolution of pixels
that exact graphs have is not counted. That is arithmetic alone: memory, which costs more, is in no
such figure, and neither are norms, pooling and what goes on inside a neuron.

"""

LABELS = """
Logits are in the order of `label_names` in `config.json`: {names}.
"""
NAMED = 10  # labels on a card, of so many at most

LIMITS = """- It was trained on {data} and knows nothing else: any image gets one of its {classes}
  labels.
- {resolution}
- The probabilities are a softmax of the logits and are not calibrated.
- Robustness to noise, to other cameras and to attacks was not measured."""

STRIPPED = """, but for
the comparison with the network that had shortcut heads, which was made when they were stripped"""
DATA = "`DATA` is a folder or tar archive of the images, in `train/CLASS/` and `test/CLASS/`.\n"
RESOLUTION = "The graphs are made for {width} x {height} pixels."
FP32 = " What is proved is proved of fp32: TF32, fp16 or int8 give other bits."


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Write README.md into a folder that has config.json and model.safetensors.

    Args:
        report: What verification.json will hold: checks, images, rule, made_with.
    """
    config = hub.read_config(folder)
    checks = {check["name"]: check["measured"] for check in report["checks"]}
    text = _front_matter(config, checks, report["images"]) + _body(folder, config, report, checks)
    ModelCard(text).save(folder / "README.md")


def _in_other_terms(decay: float, v_threshold: float, reset: str, levels: int = 1, **_: Any) -> str:
    if levels > 1:
        return (
            "No leak, and no spikes: after the integer LIF of https://arxiv.org/abs/2407.20708, "
            "which leaks, and rounds to the nearest. "
        )
    if decay == 0:
        return "No potential is left for the next step. "
    leak = [] if decay == 1 else [f"tau={round(1 / (1 - decay), 6)}", "decay_input=False"]
    fires = [] if v_threshold == 1 else [f"v_threshold={v_threshold}"]  # which is theirs, too
    v_reset = "0.0" if reset == "zero" else "None"
    constants = " and ".join(filter(None, [", ".join(leak + fires), f"v_reset={v_reset}"]))
    rounding = "" if is_power_of_two(1 - decay) else ", but for rounding"
    return f"It is SpikingJelly's {'LIFNode' if leak else 'IFNode'} with {constants}{rounding}. "


def _given_off(v_threshold: float, levels: int = 1, **_: Any) -> str:
    if levels == 1:
        return f"a spike s = 1 where v >= {v_threshold}, else s = 0"
    return f"a rate s = floor({levels} v / {v_threshold}) / {levels}, between 0 and 1"


def _front_matter(config: dict[str, Any], checks: dict[str, Any], images: str) -> str:
    training = config.get("training", {})
    data = training.get("data", {"name": "image_folder"})
    dataset, folder = _on_the_hub(data, config), in_a_layout(data, config["num_classes"])
    found = dict.fromkeys(_on_the_hub(run["data"], config) for run in all_runs(training))
    arguments: dict[str, Any] = {}
    if accuracy := measured_accuracy(checks):
        arguments["model_name"] = _name(config)
        arguments["eval_results"] = [
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset or ("image_folder" if folder else data["name"]),
                dataset_name=_called(data, config["num_classes"]),
                metric_type="accuracy",
                metric_name=f"top-1 on {images}",
                metric_value=round(accuracy["onnxruntime_percent"], 2),
            )
        ]
    front = ModelCardData(
        library_name="short-bp-zoo",
        pipeline_tag="image-classification",
        license=config["pretrained_cfg"].get("license"),
        tags=["spiking-neural-network", "image-classification", "onnx", "safetensors"],
        datasets=[name for name in found if name] or None,
        metrics=["accuracy"] if accuracy else None,
        **arguments,
    )
    return f"---\n{front.to_yaml()}\n---\n"


def _body(
    folder: Path, config: dict[str, Any], report: dict[str, Any], checks: dict[str, Any]
) -> str:
    cfg, args, training = config["pretrained_cfg"], config["model_args"], config.get("training", {})
    neuron = args["spike_layer"]
    channels, height, width = cfg["input_size"]
    command = how_measured(report["images"], training)
    return TEMPLATE.read_text().format(
        name=_name(config),
        architecture=config["architecture"],
        parameters=parameter_count(folder) / 1e6,
        time_steps=args["time_steps"],
        classes=config["num_classes"],
        channels=channels,
        height=height,
        width=width,
        trained_with=_trained_with(training),
        mode=MODES[channels],
        browser=BROWSER.format() if (folder / PREPROCESSOR).is_file() else "",
        labels=_labels(config),
        command=command,
        stripping=STRIPPED * (STRIPPING in checks),
        data=DATA * ("--data-root" in command and training["data"]["name"] == "image_folder"),
        energy=ENERGY.format(
            operations=told_operations(report["energy"]), images=report["energy"]["images"]
        ),
        limits=LIMITS.format(
            data=_title(training, config["num_classes"]),
            classes=config["num_classes"],
            resolution=RESOLUTION.format(width=width, height=height)
            + FP32 * (report["rule"] == "exact"),
        ),
        history=history_and_notes(config),
        citation=_citation(cfg),
        mean=[round(255 * value) for value in cfg["mean"]],
        std=[round(255 * value) for value in cfg["std"]],
        accuracy=told_accuracy(checks, report["images"]),
        neuron="Integrate-and-fire" if neuron["decay"] == 1 else "Leaky integrate-and-fire",
        decay=neuron["decay"],
        given_off=_given_off(**neuron),
        reset="zero" if neuron["reset"] == "zero" else f"v - {neuron['v_threshold']} s",
        s="s" * (args["time_steps"] > 1),
        in_other_terms=_in_other_terms(**neuron),
        rates="\n".join(
            f"| `{layer}` | {rate:.4f} |"
            for layer, rate in checks["every spiking layer fires"]["firing_rates"].items()
        ),
        exactness=_exactness(report, checks),
        rule=report["rule"],
        images=report["images"],
        checks="\n".join(f"| {name} | {in_short(measured)} |" for name, measured in checks.items()),
        versions=", ".join(f"{name} {version}" for name, version in report["made_with"].items()),
        epochs=_epochs(folder, training),
        training=json.dumps(each_run(training, _without_log), indent=2),
    )


EXACT = """The graphs give the same bits in every runtime that convolves in plain fp32 and adds
tensors in the graph's order (XLA and TensorFlow's optimiser may not), in every batch size and
number of threads, on any numbers but NaN: norms are folded into convolutions, and every weight is a
whole multiple of a power of two, chosen so that no sum of a convolution needs more than the 24 bits
that fp32 has; a neuron adds two numbers at a time, which have one order only.
`model.safetensors` holds the weights as they were trained; `zoo.deploy(model)` puts them on the
grid, which changed the predicted class of {changed} of {count} images.

The certificate, for the worst that any input could bring about: no such sum needs more than
{needed} bits. The largest sum of any layer is {largest:.4g} (in `{where}`).

<details><summary>Layer by layer</summary>

| layer | largest sum | whole bits | fractional bits | bits to spare |
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
    largest = max(layers, key=lambda row: row["largest"])
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


def _epochs(folder: Path, training: dict[str, Any]) -> str:
    """The log of the training, where it is there."""
    table = epochs(training)
    curves = f"\n![loss and accuracy by epoch]({CURVES})\n"
    return table and EPOCHS.format(
        curves=curves if (folder / CURVES).is_file() else "", table=table
    )


def _labels(config: dict[str, Any]) -> str:
    """Which logit is which class, where that is known."""
    if not (names := config.get("label_names")):
        return ""
    told = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
    return LABELS.format(names=told)


def _without_log(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "log"}


def _title(training: dict[str, Any], classes: int) -> str:
    unknown = "a set of images that is not recorded"
    if not training:
        return unknown
    sets = [_called(run["data"], classes) for run in all_runs(training)]
    sets = [unknown] * _begins_unrecorded(training) + sets
    return " and ".join(dict.fromkeys(sets))


def _called(data: dict[str, Any], classes: int) -> str:
    """A set of images in words; of one that is none of ours, what the run calls it."""
    return data.get("title") or (LAYOUT if in_a_layout(data, classes) else _known(data)[1])


def _known(data: dict[str, Any]) -> tuple[str | None, str]:
    return DATASETS.get(data["name"], (None, data["name"]))


def _name(config: dict[str, Any]) -> str:
    tag = config["pretrained_cfg"].get("tag")
    return f"{config['architecture']}.{tag}" if tag else config["architecture"]


def _on_the_hub(data: dict[str, Any], config: dict[str, Any]) -> str | None:
    """The Hub's name of a set that a run says it was; none of one that is called otherwise, or is
    a folder in the layout of ImageNet alone.
    """
    other = data.get("title") or in_a_layout(data, config["num_classes"])
    return None if other else _known(data)[0]


def _citation(cfg: dict[str, Any]) -> str:
    """The paper that timm's pretrained_cfg names, by its number."""
    if not cfg.get("paper_ids") or not cfg.get("paper_name"):
        return "No paper is recorded for this network."
    number = cfg["paper_ids"].removeprefix("arXiv:")
    told = f"The network follows [{cfg['paper_name']}](https://arxiv.org/abs/{number})"
    entries = PAPERS.read_text().strip().split("\n\n")
    found = [entry for entry in entries if f"eprint = {{{number}}}" in entry]
    return f"{told}:\n\n```bibtex\n{found[0]}\n```" if found else f"{told}."


def _trained_with(training: dict[str, Any]) -> str:
    if not training:
        return "How it was trained is not recorded."
    told = []
    if weights := head_weights(training):
        told += [
            f"It was trained with shortcut heads of weight {weights}. What is published here is "
            "the network alone."
        ]
    if _begins_unrecorded(training):
        told += ["How the weights were trained that it began with is not recorded."]
    return " ".join(told) or "It was trained without shortcut heads."


def _begins_unrecorded(training: dict[str, Any]) -> bool:
    """Whether the first run that is recorded began with weights of which nothing is."""
    return "began_with" in next(all_runs(training))
