"""What a graph says of itself, for people and programs that have no config.json."""

import json

import onnx
from onnx import helper
from torch import fx

from zoo.deployment.layers import SpikeCountHead


def add_metadata(graph: onnx.ModelProto, deployed: fx.GraphModule) -> None:
    """Add metadata_props: the title, and as JSON time_steps, mean and std in fractions of 255 and,
    if they are known, labels.
    """
    cfg = deployed.pretrained_cfg
    (head,) = (module for module in deployed.modules() if isinstance(module, SpikeCountHead))
    found = {"time_steps": head.time_steps, "mean": cfg["mean"], "std": cfg["std"]}
    if labels := cfg.get("label_names"):
        found["labels"] = labels
    title = ".".join(filter(None, (cfg["architecture"], cfg.get("tag"))))
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}
    helper.set_model_props(graph, {"title": title} | values)
