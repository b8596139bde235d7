"""Verify an exported folder: run all of its checks again.

    python export/verify.py DIR [--data-root DATA] [--num-images 2000]
    python export/verify.py hf-hub:org/name  # every file, as it comes from the Hub

One flipped spike changes a logit, so close logits prove nothing: the comparison fails on correct
graphs and passes on wrong ones. A graph that can be exact therefore carries a proof that no sum in
it depends on its order (export/graph/proof.py), and then its bits are compared. Other graphs follow
the agreement rule of export/checks/agreement.py. A graph that does not match the weights is
never run.

The check of stripping needs the network with heads, so only export/to_onnx.py makes it. Accuracies
need images with labels: pass --data-root. The names of the classes and how images are cropped are
the word of the publisher.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, fx, nn

import zoo
from export.checks.accuracy import check_accuracy, check_int8_accuracy, count_sums_cut_off
from export.checks.agreement import check_agreement, check_other_graphs
from export.checks.bits import check_bits, check_int8_bits, check_off_grid_floats
from export.checks.certificate import check_certificate
from export.checks.check import Check, batches, logits_of, numbers_in, versions
from export.checks.firing import check_firing
from export.checks.graphs import check_graphs
from export.checks.heads import check_heads
from export.checks.images import Images, check_asked, describe_images, images_of
from export.checks.metadata import check_metadata
from export.deployed import deploy
from export.folder import (
    GRAPH,
    REPORT,
    changed_files,
    read_report,
)
from zoo import hub
from zoo.console import said_in_a_line
from zoo.deployment.metadata import add_metadata
from zoo.diagnostics import count_operations
from zoo.diagnostics.operations import SOURCE

SAMPLE = 1000  # images on which firing rates and operations are counted
NOT_A_GRAPH = (DecodeError,)


def verify(folder: Path, model: nn.Module, images: Images) -> dict[str, Any]:
    """Check a folder's graphs against the network in it.

    Args:
        model: The folder's own network, in eval mode.

    Returns:
        The content of verification.json without the hashes.
    """
    deployed = deploy(model)
    rule = "agreement" if deployed.why_not_exact else "exact"
    sample = images.values[:SAMPLE]
    graphs = check_graphs(folder, deployed)
    checks = [check_heads(folder), check_firing(model, sample), graphs]
    certificate = None
    if graphs.passed:  # another graph might take all memory, or all time
        exact = [graph for graph in deployed.graphs() if deployed.is_exact(graph)]
        if exact:
            certificate = check_certificate(folder, exact)
            checks += [certificate]
        trained = logits_of(model, images.values, "as trained")
        if deployed.why_not_exact:
            checks += check_agreement(trained, folder / GRAPH, images.values, images.labels)
            if not deployed.int8:
                checks += [check_other_graphs(folder, images)]
        else:
            checks += check_exact(folder, trained, deployed.fp32, images)
        if deployed.int8:
            checks += check_int8(folder, trained, deployed.int8, images)
        checks += [check_metadata(folder, rule, certificate, deployed.int8 is not None)]
    report = {
        "passed": all(check.passed for check in checks),
        "rule": rule,
        "images": images.report(),
        "checks": [check.report() for check in checks],
        "energy": measure_energy(model, sample),
        "made_with": versions(),
    }
    reasons = {"why_not_exact": deployed.why_not_exact, "why_not_int8": deployed.why_not_int8}
    return report | {key: reason for key, reason in reasons.items() if reason}


def check_exact(
    folder: Path, trained: Tensor, deployed: fx.GraphModule, images: Images
) -> list[Check]:
    """The checks of the exact rule that run the graphs.

    Args:
        trained: Logits of the network as it was trained, [N, K].
        deployed: The same network on the grid.
    """
    with count_sums_cut_off(deployed) as cut_off:
        exact = logits_of(deployed, images.values, "PyTorch")
    return [
        check_bits(folder, deployed, images, exact),
        check_off_grid_floats(folder, deployed, images),
        # The logits of onnxruntime are those of exact, or check_bits fails.
        check_accuracy(trained, exact, images.labels, sum(cut_off)),
    ]


def check_int8(folder: Path, trained: Tensor, whole: fx.GraphModule, images: Images) -> list[Check]:
    """The checks that run the graphs of whole numbers; arguments as check_exact's."""
    exact = logits_of(whole, images.pixels, "PyTorch, whole numbers")
    return [
        check_int8_bits(folder, whole, images, exact),
        check_int8_accuracy(trained, exact, images.labels),
    ]


def measure_energy(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Operations of one image over all time steps, and an estimate of their energy."""
    layers = count_operations(model, batches(images, "operations"))
    return {
        "images": len(images),
        "accumulates": sum(layer.accumulates for layer in layers),
        "multiply_accumulates": sum(layer.multiply_accumulates for layer in layers),
        "picojoules": sum(layer.energy for layer in layers),
        "source": SOURCE,
    }


def print_report(report: dict[str, Any]) -> None:
    title = f"{report['rule']} rule, {escape(describe_images(report['images']))}"
    table = Table("check", "", "figures", title=title)
    for check in report["checks"]:
        passed = "ok" if check["passed"] else "[red]FAILED[/red]"
        table.add_row(check["title"], passed, numbers_in(check["figures"]))
    Console().print(table)
    if "why_not_exact" in report:
        print(f"not exact: {report['why_not_exact']}")


def failures(report: dict[str, Any]) -> str:
    """The failed checks with their figures, one line each."""
    return "\n".join(
        f"{check['title']}: {json.dumps(check['figures'])}"
        for check in report["checks"]
        if not check["passed"]
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Annotated[str, tyro.conf.Positional]
    """An exported folder, arch.tag of the package, or hf-hub:org/name[@revision]."""
    data_root: str = ""
    """The data set that the network was trained on; without it, random images, or for digits
    scikit-learn's own."""
    num_images: int = 2000
    """Images to verify on."""
    random_images: bool = False
    """Verify on random pixels even for digits."""


def published_folder(name: str) -> Path:
    """The folder to verify; from the Hub with every file that its report names."""
    if name.startswith("hf-hub:"):
        named = read_report(hub.locate(name, (hub.CONFIG,))).get("sha256", {})
        return hub.locate(name, (hub.CONFIG, *sorted(named.keys() - {hub.CONFIG})))
    return hub.locate(name, ())


def check_files(folder: Path) -> None:
    """Raise unless the files of a folder are those that its report names by their hashes."""
    if changed := changed_files(folder):
        raise ValueError(
            f"{folder / REPORT}: these files were changed, added or removed: {changed}"
        )


@contextmanager
def with_graphs(folder: Path) -> Iterator[Path]:
    """A release of the package with the graphs that the package leaves out, in a copy."""
    report = read_report(folder) if folder.resolve().parent == hub.BUNDLED else {"sha256": {}}
    missing = [name for name in report["sha256"] if not (folder / name).is_file()]
    if not missing:
        yield folder
        return
    deployed = deploy(zoo.create_model(str(folder), pretrained=True).eval())
    with TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / folder.name))
        for name, graph in deployed.graphs().items():
            if name in missing:
                graph.producer_version = report["made_with"]["short-bp-zoo"]
                add_metadata(graph, deployed.of(name))
                (copy / name).parent.mkdir(exist_ok=True)
                (copy / name).write_bytes(graph.SerializeToString(deterministic=True))
        yield copy


def verify_folder(options: Options) -> dict[str, Any]:
    """Verify a folder and print the report."""
    check_asked(options.num_images, options.data_root, options.random_images)
    with with_graphs(published_folder(options.folder)) as folder:
        check_files(folder)
        model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
        images = images_of(
            model,
            hub.read_config(folder),
            options.data_root,
            options.num_images,
            options.random_images,
        )
        report = verify(folder, model, images)
    print_report(report)
    return report


def main(prog: str | None = None) -> None:
    options = tyro.cli(Options, prog=prog, description=__doc__)
    with said_in_a_line(*NOT_A_GRAPH):
        report = verify_folder(options)
    if not report["passed"]:
        sys.exit(f"error: {options.folder} failed:\n{failures(report)}")


if __name__ == "__main__":
    main()
