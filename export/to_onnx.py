"""A trained network -> a verified Hub repository folder.

    python export/to_onnx.py SOURCE --output DIR

SOURCE is a run folder, a checkpoint, or a name for zoo.create_model: the name of a network with
weights, local-dir:FOLDER or hf-hub:org/name. The command removes the shortcut heads, exports the
graphs, checks both against the trained network, and writes DIR only if every check passes.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.card.browser import add_browser_config
from export.card.card import write_card
from export.checks.images import check_asked, data_images, random_images
from export.checks.stripping import check_stripping
from export.deployed import deploy
from export.folder import (
    GRAPH,
    REPORT,
    check_target,
    move_into_place,
    scratch_beside,
)
from export.strip import load_source, write_stripped
from export.verify import failures, print_report, verify
from zoo.console import said_in_a_line
from zoo.data.config import EVENTS
from zoo.deployment.metadata import add_metadata
from zoo.hub.files import hashes
from zoo.inference.classifier import MODES


class ExportError(Exception):
    """One or more checks failed; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Options:
    source: Annotated[str, tyro.conf.Positional]
    """A run folder, a checkpoint, the name of a network with weights, local-dir:FOLDER or
    hf-hub:org/name."""
    output: str
    """The folder to write."""
    data_root: str = ""
    """Where the run's data set lies, if not where it was trained."""
    num_images: int = 2000
    """Test images to verify on."""
    random_images: bool = False
    """Verify on random pixels instead; then no accuracy is measured."""
    license: str = ""
    """License of the weights, by its name on the Hub, such as apache-2.0; the source's if empty."""
    notes: tuple[str, ...] = ()
    """Sentences on the training for the card, such as what chose its length; the source's if
    empty."""
    overwrite: bool = False
    """Replace the output folder if it is an exported and unchanged one."""


def export(options: Options) -> Path:
    """Strip, export, verify and write.

    Raises:
        ExportError: A check failed; the message lists every failed one.
        FileExistsError: The output exists, and overwrite is not set or does not apply.
        ValueError, FileNotFoundError: The source or its data are not usable.
    """
    output = Path(options.output).resolve()
    check_target("--output", output, options.overwrite)
    check_asked(options.num_images, options.data_root, options.random_images)
    source = load_source(options.source)
    model, config = source.model, source.config
    data = config.get("training", {}).get("data", {}).get("name")
    if data in EVENTS or model.in_chans not in MODES:
        raise ValueError(
            f"{options.source}: only networks of still images with 1 or 3 channels can be "
            f"exported, got {model.in_chans} channels of {data}"
        )
    if options.random_images:
        images = random_images(model, options.num_images)
    else:
        images = data_images(model, config, options.data_root, options.num_images)

    with scratch_beside("--output", output) as scratch:
        folder = scratch / output.name
        (folder / GRAPH).parent.mkdir(parents=True)
        stripped = write_stripped(source, folder, options.license, options.notes)
        deployed = deploy(stripped)
        add_browser_config(folder, is_int8=deployed.int8 is not None)
        for path, graph in deployed.graphs().items():
            add_metadata(graph, deployed.of(path))
            (folder / path).write_bytes(graph.SerializeToString(deterministic=True))
        report = verify(folder, stripped, images)
        if model.shortcut_heads is not None:
            stripping = check_stripping(model, stripped, images.values)
            report["checks"].insert(0, stripping.report())
            report["passed"] = report["passed"] and stripping.passed
        print_report(report)
        if not report["passed"]:
            raise ExportError(failures(report))
        write_card(folder, report)
        report["sha256"] = hashes(folder, REPORT)
        (folder / REPORT).write_text(json.dumps(report, indent=2))
        move_into_place("--output", folder, output, options.overwrite)
    return output


def main(prog: str | None = None) -> None:
    options = tyro.cli(Options, prog=prog, description=__doc__)
    with said_in_a_line(stopped="stopped, nothing was written"):
        try:
            print(f"wrote {export(options)}")
        except ExportError as error:
            sys.exit(f"error: checks failed, nothing was written:\n{error}")


if __name__ == "__main__":
    main()
