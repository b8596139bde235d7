"""A trained network -> a verified Hub repository folder.

    python export/to_onnx.py SOURCE --output DIR

SOURCE is a run folder, a checkpoint, or the name of a network with weights. The shortcut heads are
stripped, the graph is exported, both are checked against the network that was trained, and DIR is
written only if every check holds.
"""

import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import onnx
import onnxruntime
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import zoo
from export.card import write_card
from export.folder import GRAPH, REPORT, check_target, hashes, move_into_place
from export.strip import Source, load_source, write_stripped
from export.verify import Check, check_graph, check_liveness, check_stripping
from zoo.data import DataConfig, load_images, normalise

OPSET = 20


class ExportError(Exception):
    """One or more checks failed; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Options:
    source: Annotated[str, tyro.conf.Positional]
    """A run folder, a checkpoint, or the name of a network with weights."""
    output: str
    """The folder to write."""
    data_root: str = ""
    """Where the run's data set lies, if not where it was trained."""
    num_images: int = 2000
    """Test images to verify on."""
    random_images: bool = False
    """Verify on random pixels instead; no accuracy is measured then."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


def export(options: Options) -> Path:
    """Strip, export, verify and write.

    Raises:
        FileExistsError: The output exists and overwrite is not set, or it is no published folder.
        ExportError: A check failed; the message lists every failed one.
        ValueError, FileNotFoundError: The source or its data are not what they should be.
    """
    output = Path(options.output).resolve()
    check_target("--output", output, options.overwrite)
    if options.num_images < 1:
        raise ValueError(f"--num-images: expected at least 1, got {options.num_images}")
    source = load_source(options.source)
    images, labels, images_are = verification_images(source, options)

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        (folder / GRAPH).parent.mkdir(parents=True)
        stripped = write_stripped(source, folder)
        checks = [
            check_stripping(source.model, stripped, images),
            check_liveness(stripped, images),
        ]
        write_graph(stripped, folder / GRAPH)
        checks += [check_paths(folder / GRAPH)]
        checks += check_graph(stripped, folder / GRAPH, images, labels)
        print_checks(checks)
        if failed := [check for check in checks if not check.passed]:
            raise ExportError(
                "\n".join(f"{check.name}: {json.dumps(check.measured)}" for check in failed)
            )
        report = {
            "passed": True,
            "rule": "spike-aware",
            "images": images_are,
            "checks": [asdict(check) for check in checks],
            "made_with": versions(),
        }
        write_card(folder, report)
        report["sha256"] = hashes(folder)
        (folder / REPORT).write_text(json.dumps(report, indent=2))
        move_into_place(folder, output)
    return output


def verification_images(source: Source, options: Options) -> tuple[Tensor, Tensor | None, str]:
    """Normalised images [N, C, H, W], their labels [N] if they have any, and what they are."""
    cfg = source.model.pretrained_cfg
    mean, std = (_whole_pixels(key, cfg[key]) for key in ("mean", "std"))
    if options.random_images:
        shape = (options.num_images, *cfg["input_size"])
        pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(0))
        return normalise(pixels, mean, std), None, f"{options.num_images} of random pixels, seed 0"
    if "training" not in source.config:
        raise ValueError(
            f"{source.folder}: expected the data set in its config.json, found none; "
            "pass --random-images"
        )
    names = {f.name for f in fields(DataConfig)}
    data = {k: v for k, v in source.config["training"]["data"].items() if k in names}
    if options.data_root:
        data["root"] = options.data_root
    found = load_images(DataConfig(**data), "test")
    if list(found.classes) != source.config.get("label_names"):
        raise ValueError(
            f"{source.folder}: expected images of {source.config.get('label_names')}, "
            f"got classes {list(found.classes)}"
        )
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    found = found.subset(chosen[: options.num_images].sort().values)
    what = f"{len(found)} test images of {data.get('title') or data['name']}"
    return normalise(found.images, mean, std), found.labels, what


def _whole_pixels(key: str, values: Sequence[float]) -> list[int]:
    pixels = [round(255 * value) for value in values]
    if any(abs(255 * value - pixel) > 1e-6 for value, pixel in zip(values, pixels, strict=True)):
        raise ValueError(
            f"pretrained_cfg.{key}: expected whole numbers over 255, got {list(values)}"
        )
    return pixels


def write_graph(model: nn.Module, path: Path) -> None:
    """Export to ONNX: dynamic batch, weights inline, pixel_values [B, C, H, W] -> logits [B, K]."""
    example = torch.zeros(2, *model.pretrained_cfg["input_size"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamic_shapes=({0: "batch"},),
            input_names=["pixel_values"],
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    opset = {entry.domain: entry.version for entry in proto.opset_import}[""]
    if opset != OPSET:
        raise ExportError(f"opset: expected {OPSET}, got {opset}")
    graph = proto.graph
    for item in [proto, graph, *graph.node, *graph.input, *graph.output]:
        del item.metadata_props[:]  # stack traces, with the paths of this machine
    for item in [*graph.value_info, *graph.initializer]:
        del item.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    proto.producer_name, proto.producer_version = "short-bp-zoo", zoo.__version__
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def check_paths(path: Path) -> Check:
    """The file tells nothing of the machine that wrote it."""
    content = path.read_bytes()
    places = {str(Path.cwd()), str(Path.home()), str(Path(zoo.__file__).parent), sys.prefix}
    found = sorted(place for place in places if len(place) > 1 and place.encode() in content)
    return Check("graph holds no local path", not found, {"paths": found})


def versions() -> dict[str, str]:
    return {
        "short-bp-zoo": zoo.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def print_checks(checks: list[Check]) -> None:
    table = Table("check", "", "measured")
    for check in checks:
        short = {k: v for k, v in check.measured.items() if not isinstance(v, dict | list)}
        measured = ", ".join(f"{k.replace('_', ' ')} {v:.6g}" for k, v in short.items())
        table.add_row(check.name, "ok" if check.passed else "[red]FAILED[/red]", measured)
    Console().print(table)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    try:
        print(f"wrote {export(options)}")
    except ExportError as error:
        sys.exit(f"error: the export was refused, nothing was written:\n{error}")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
