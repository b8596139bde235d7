"""A trained network -> a verified Hub repository folder.

    python export/to_onnx.py SOURCE --output DIR

SOURCE is a run folder, a checkpoint, or what zoo.create_model takes: the name of a network with
weights, local-dir:FOLDER or hf-hub:org/name. The shortcut heads are
stripped, the graph is exported, both are checked against the network that was trained, and DIR is
written only if every check holds.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

from export.card.card import write_card
from export.checks.check import STRIPPING
from export.checks.images import Images, check_asked, data_images, random_images
from export.folder import (
    GRAPH,
    REPORT,
    check_target,
    move_into_place,
    read_report,
    scratch_beside,
)
from export.graph.writer import write_graphs
from export.strip import Source, load_source, write_stripped
from export.verify import check_stripping, deploy_by_rule, failures, print_report, verify
from zoo.console import said_in_a_line
from zoo.data.config import EVENTS
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
    """Verify on random pixels instead; no accuracy is measured then."""
    license: str = ""
    """Of the weights, by the Hub's name for it, such as apache-2.0; as the source says if empty."""
    notes: tuple[str, ...] = ()
    """What else the card shall say of the training, in sentences, such as what chose its length; as
    the source says if none."""
    overwrite: bool = False
    """Replace the output folder if it is an exported one, as it was verified; no other is ever
    replaced."""


def export(options: Options) -> Path:
    """Strip, export, verify and write.

    Raises:
        FileExistsError: The output exists and overwrite is not set, or it is no exported folder, or
            one that was changed since.
        ExportError: A check failed; the message lists every failed one.
        ValueError, FileNotFoundError: The source or its data are not what they should be.
    """
    output = Path(options.output).resolve()
    check_target("--output", output, options.overwrite)
    check_asked(options.num_images, options.data_root, options.random_images)
    source = load_source(options.source)
    data = source.config.get("training", {}).get("data", {}).get("name")
    if data in EVENTS:
        raise ValueError(f"{options.source}: expected a network of still images, got one of {data}")
    if (channels := source.model.in_chans) not in MODES:
        raise ValueError(f"{options.source}: expected a network of 1 or 3 channels, got {channels}")
    if options.random_images:
        images = random_images(source.model, options.num_images)
    else:
        images = data_images(source.model, source.config, options.data_root, options.num_images)

    with scratch_beside("--output", output) as scratch:
        folder = scratch / output.name
        (folder / GRAPH).parent.mkdir(parents=True)
        stripped = write_stripped(source, folder, options.license, options.notes)
        deployed, _ = deploy_by_rule(stripped)
        for path, graph in write_graphs(deployed).items():
            (folder / path).write_bytes(graph.SerializeToString(deterministic=True))
        ledger = output.with_name(f".{output.name}.ledger")
        report = verify(folder, stripped, images, ledger)
        if stripping := stripping_of(source, stripped, images):
            report["checks"].insert(0, stripping)
            report["passed"] = report["passed"] and stripping["passed"]
        print_report(report)
        if not report["passed"]:
            ledger.unlink(missing_ok=True)
            raise ExportError(failures(report))
        write_card(folder, report)
        report["sha256"] = hashes(folder, REPORT)
        (folder / REPORT).write_text(json.dumps(report, indent=2))
        move_into_place("--output", folder, output, options.overwrite)
        ledger.unlink(missing_ok=True)
    return output


def stripping_of(source: Source, stripped: nn.Module, images: Images) -> dict[str, Any] | None:
    """The check that nothing changed with the heads; of weights that came without them, as it was
    when they had them, if their folder's report says that it held.
    """
    if source.model.shortcut_heads is not None:
        return asdict(check_stripping(source.model, stripped, images.values))
    if not (source.folder / REPORT).is_file():
        return None
    checks = [c for c in read_report(source.folder).get("checks", []) if isinstance(c, dict)]
    held = (c for c in checks if c.get("name") == STRIPPING and c.get("passed") is True)
    return next((c for c in held if isinstance(c.get("measured"), dict)), None)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with said_in_a_line(stopped="stopped, nothing was written; the same command goes on"):
        try:
            print(f"wrote {export(options)}")
        except ExportError as error:
            sys.exit(f"error: the export was refused, nothing was written:\n{error}")


if __name__ == "__main__":
    main()
