"""The model card: README.md of a published folder, from its config.json and its report."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from export.card.browser import PREPROCESSOR
from export.card.history import (
    CURVES,
    begins_unrecorded,
    change_each_run,
    epochs,
    head_weights,
    history_and_notes,
)
from export.card.measured import (
    command_to_measure,
    describe_accuracy,
    describe_operations,
    parameter_count,
)
from export.checks.check import figures_by_id, numbers_in
from export.checks.images import dataset_names, describe_images
from zoo import hub
from zoo.deployment.grid import BITS, is_power_of_two
from zoo.diagnostics.curves import measured_key, measured_title
from zoo.hub.run_folder import all_runs
from zoo.inference.classifier import MODES

PAPERS = Path(__file__).parent / "papers.bib"
TEMPLATE = Path(__file__).parent / "card.md"
UNRECORDED = "a set of images that is not recorded"


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Write README.md into a folder that has config.json and model.safetensors.

    Args:
        report: The content of verification.json.
    """
    config = hub.read_config(folder)
    front = f"---\n{front_matter(config, report).to_yaml()}\n---\n\n"
    text = front + render(TEMPLATE, **facts_of_card(folder, config, report))
    ModelCard(text).save(folder / "README.md")


def render(template: Path, **facts: Any) -> str:
    """A page with its blanks filled in; a blank without a fact raises."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    return environment.from_string(template.read_text()).render(facts)


def front_matter(config: dict[str, Any], report: dict[str, Any]) -> ModelCardData:
    """The metadata that the Hub reads."""
    training, classes = config.get("training"), config["num_classes"]
    datasets = [dataset_names(run["data"], classes)[0] for run in all_runs(training)]
    arguments: dict[str, Any] = {}
    figures = figures_by_id(report)
    accuracy = figures.get("int8_accuracy", figures.get("accuracy", {}))  # of the default graph
    if "onnxruntime_percent" in accuracy:
        hub_name, title = dataset_names(training["data"], classes)
        result = EvalResult(
            task_type="image-classification",
            dataset_type=hub_name or training["data"]["name"],
            dataset_name=title,
            metric_type="accuracy",
            metric_name=f"top-1 on {describe_images(report['images'])}",
            metric_value=round(accuracy["onnxruntime_percent"], 2),
        )
        arguments = {
            "model_name": name_of(config),
            "eval_results": [result],
            "metrics": ["accuracy"],
        }
    return ModelCardData(
        library_name="short-bp-zoo",
        pipeline_tag="image-classification",
        license=config["pretrained_cfg"].get("license"),
        tags=["spiking-neural-network", "image-classification", "onnx", "safetensors"],
        datasets=[name for name in dict.fromkeys(datasets) if name] or None,
        **arguments,
    )


def facts_of_card(folder: Path, config: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Everything that the template shows."""
    training, cfg = config.get("training"), config["pretrained_cfg"]
    figures, log = figures_by_id(report), epochs(training)
    recipes = training and change_each_run(training, _without_log)
    return {
        "config": config,
        "cfg": cfg,
        "args": config["model_args"],
        "neuron": {"levels": 1} | config["model_args"]["spike_layer"],
        "training": training,
        "report": report,
        "figures": figures,
        "name": name_of(config),
        "parameters": parameter_count(folder),
        "mode": MODES[cfg["input_size"][0]],
        "has_preprocessor": (folder / PREPROCESSOR).is_file(),
        "has_curves": (folder / CURVES).is_file(),
        "accuracy": describe_accuracy(report),
        "operations": describe_operations(report["energy"]),
        "images": describe_images(report["images"]),
        "command": command_to_measure(report["images"], training),
        "in_other_terms": in_other_terms(**config["model_args"]["spike_layer"]),
        "bits": BITS,
        "int8": _whole_numbers(figures),
        "numbers_in": numbers_in,
        "head_weights": head_weights(training),
        "begins_unrecorded": bool(training) and begins_unrecorded(training),
        "history": history_and_notes(config),
        "epochs": log,
        "measured_key": measured_key,
        "measured_title": measured_title([entry for _, entry in log]),
        "recipes": json.dumps(recipes or {}, indent=2),
        "datasets": titles_of_datasets(training, config["num_classes"]),
        "citation": citation(cfg),
    }


def in_other_terms(decay: float, v_threshold: float, reset: str, levels: int = 1, **_: Any) -> str:
    """The neuron in the terms of SpikingJelly, or what it is near to."""
    if levels > 1:
        return (
            "No leak, and no spikes: after the integer LIF of https://arxiv.org/abs/2407.20708, "
            "which leaks, and rounds to the nearest. "
        )
    if decay == 0:
        return "No potential is left for the next step. "
    leak = [] if decay == 1 else [f"tau={round(1 / (1 - decay), 6)}", "decay_input=False"]
    fires = [] if v_threshold == 1 else [f"v_threshold={v_threshold}"]  # 1 is their default, too
    v_reset = "0.0" if reset == "zero" else "None"
    constants = " and ".join(filter(None, [", ".join(leak + fires), f"v_reset={v_reset}"]))
    rounding = "" if is_power_of_two(1 - decay) else ", but for rounding"
    return f"It is SpikingJelly's {'LIFNode' if leak else 'IFNode'} with {constants}{rounding}. "


def titles_of_datasets(training: dict[str, Any] | None, classes: int) -> str:
    if not training:
        return UNRECORDED
    titles = [UNRECORDED] if begins_unrecorded(training) else []
    titles += [dataset_names(run["data"], classes)[1] for run in all_runs(training)]
    return " and ".join(dict.fromkeys(titles))


def name_of(config: dict[str, Any]) -> str:
    tag = config["pretrained_cfg"].get("tag")
    return f"{config['architecture']}.{tag}" if tag else config["architecture"]


def citation(cfg: dict[str, Any]) -> str:
    """The paper that timm's pretrained_cfg names, with its BibTeX entry."""
    if not cfg.get("paper_ids") or not cfg.get("paper_name"):
        return "No paper is recorded for this network."
    number = cfg["paper_ids"].removeprefix("arXiv:")
    told = f"The network follows [{cfg['paper_name']}](https://arxiv.org/abs/{number})"
    entries = PAPERS.read_text().strip().split("\n\n")
    found = [entry for entry in entries if f"eprint = {{{number}}}" in entry]
    return f"{told}:\n\n```bibtex\n{found[0]}\n```" if found else f"{told}."


def _whole_numbers(figures: dict[str, Any]) -> dict[str, int] | None:
    """How many bits the sums of the int8 graph take."""
    layers = figures.get("certificate", {}).get("int8_layers")
    sums = [BITS - row["head_room"] for row in layers or () if row["layer"].endswith(".sum")]
    return {"bits": max(sums)} if sums else None


def _without_log(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "log"}
