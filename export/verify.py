"""Is an exported folder what it says it is? Its checks anew, each with what it measured.

    python export/verify.py DIR [--data-root FOLDER_OR_TAR] [--num-images 2000]
    python export/verify.py hf-hub:org/name  # all of it, as it comes from the Hub

The heads are not in the folder, so that stripping itself is checked by export/to_onnx.py alone,
where there are some. Accuracies are measured where --data-root has the images. What a folder's own
report and card say beside rule, certificate and pre-processing, accuracies included, is its
publisher's word, and so are the names of its classes and how images are cropped. A graph that is
not the weights' is never run.

One flipped spike changes a logit, so that closeness of logits proves nothing: it fails on correct
graphs and passes on wrong ones. A graph by the exact rule carries a proof that no sum in it depends
on its order (export/exact.py), and its bits are then compared. One that cannot be exact is held to
the spike-aware rule: images without a flip agree to 1e-5, every first flip starts no further from a
threshold than 1e-5 times it, and 99 % of the classes agree, or all but one of so few.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import onnx
import torch
import tyro
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, fx, nn

import zoo
from export.card.browser import BROWSER_KEYS, PREPROCESSOR, browser_config, preprocessor
from export.checks.check import STRIPPING, Check, batches, in_short, versions
from export.checks.equal_bits import CERTIFICATE, check_certificate, check_exact, that_differ
from export.checks.images import Images, check_asked, images_of, random_images
from export.checks.spike_aware import check_other_graphs, check_spike_aware
from export.folder import (
    GRAPH,
    GRAPHS,
    REPORT,
    changed_files,
    read_report,
)
from export.graph.writer import write_graphs
from zoo import hub
from zoo.console import check_output, said_in_a_line
from zoo.diagnostics import count_operations, firing_rates
from zoo.diagnostics.operations import SOURCE
from zoo.hub import files as disk
from zoo.hub.download import listed
from zoo.inference.classifier import tensors

SAMPLE = 1000  # images on which every layer has to fire, and whose operations are counted
NOT_A_GRAPH = (  # what onnx and onnxruntime raise, of no common kind
    DecodeError,
    onnx.checker.ValidationError,
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
)


def verify(
    folder: Path, model: nn.Module, images: Images, ledger: Path | None = None
) -> dict[str, Any]:
    """Check a folder's graphs against the network in it.

    Args:
        model: The folder's own network, in eval mode.
        ledger: A file for what is found of each setting; with the same file the check goes on
            after a kill.

    Returns:
        What verification.json holds, less the hashes: rule, images, checks, energy and versions.
    """
    deployed, reason = deploy_by_rule(model)
    rule = "exact" if reason is None else "spike-aware"
    graphs = check_graphs(folder, deployed)
    checks = [
        check_no_heads(folder),
        check_liveness(model, images.values[:SAMPLE]),
        check_paths(folder),
        graphs,
    ]
    if graphs.passed:  # to take somebody else's apart or run it might take all memory, or all time
        if reason is None:
            checks += [check_certificate(folder)]
            checks += check_exact(folder, model, deployed, images, ledger)
        else:
            checks += check_spike_aware(model, folder / GRAPH, images.values, images.labels)
            checks += [check_other_graphs(folder, images)]
        checks += [check_said(folder, rule, checks)]
    report = {
        "passed": all(check.passed for check in checks),
        "rule": rule,
        "images": images.are,
        "checks": [asdict(check) for check in checks],
        "energy": measure_energy(model, images.values[:SAMPLE]),
        "made_with": versions(),
    }
    return report | ({"why_not_exact": reason} if reason else {})


def deploy_by_rule(model: nn.Module) -> tuple[fx.GraphModule, str | None]:
    """The deployed network, on the grid if it can be, and why it cannot.

    Raises:
        NotExactError: It cannot, and its neurons give off rates, for which there is no other rule.
    """
    try:
        return zoo.deploy(model), None
    except zoo.NotExactError as error:
        if any(isinstance(module, zoo.LIF) and module.levels > 1 for module in model.modules()):
            raise zoo.NotExactError(f"{error}; rates are exported exactly or not at all") from None
        return zoo.deploy(model, exact=False), str(error)


def measure_energy(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Operations of one image over all time steps, and what they take by the usual estimate."""
    layers = count_operations(model, batches(images, "operations"))
    return {
        "images": len(images),
        "accumulates": sum(layer.accumulates for layer in layers),
        "multiply_accumulates": sum(layer.multiply_accumulates for layer in layers),
        "picojoules": sum(layer.energy for layer in layers),
        "source": SOURCE,
    }


def check_no_heads(folder: Path) -> Check:
    """What is published is the network alone."""
    heads = [name for name in hub.weight_tensors(folder) if "shortcut_heads" in name]
    return Check("weights hold no shortcut heads", not heads, {"heads": heads})


@torch.inference_mode()
def check_stripping(whole: nn.Module, stripped: nn.Module, images: Tensor) -> Check:
    """Logits and features with and without heads are the same bits."""
    different = 0
    for x in batches(images, "stripping"):
        different += that_differ(_both(whole, x), _both(stripped, x))
    return Check(
        STRIPPING,
        different == 0,
        {"images": len(images), "images_that_differ": different},
    )


def _both(model: nn.Module, x: Tensor) -> Tensor:
    """What the classifier gets, and the logits that it makes of it, in one pass, [B, all of it]."""
    seen = []
    with model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        logits = model(x)
    return torch.cat([seen[0].flatten(1), logits], 1)


def check_liveness(model: nn.Module, images: Tensor) -> Check:
    """Every spiking layer fires; a silent one would make any comparison after it hollow."""
    rates = firing_rates(model, batches(images, "firing rates"))
    silent = [name for name, rate in rates.items() if not rate > 0]
    measured = {
        "images": len(images),
        "silent_layers": silent,
        "lowest_rate": min(rates.values()),
        "firing_rates": rates,
    }
    return Check("every spiking layer fires", not silent, measured)


def check_paths(folder: Path) -> Check:
    """The graphs tell nothing of the machine that wrote them."""
    # Path.home() raises where there is none.
    places = {str(Path.cwd()), os.path.expanduser("~"), str(Path(zoo.__file__).parent), sys.prefix}
    words = [_words(folder / graph) for graph in GRAPHS]
    found = sorted(p for p in places if len(p) > 1 and any(p.encode() in told for told in words))
    return Check("graphs hold no local path", not found, {"paths": found})


def _words(path: Path) -> bytes:
    """A graph without the numbers of its tensors, in which any short name comes up by chance."""
    model = onnx.load(path)
    for tensor in tensors(model):
        tensor.ClearField("raw_data")
    return model.SerializeToString()


def check_graphs(folder: Path, deployed: fx.GraphModule) -> Check:
    """The graphs are those that the weight file gives, bit for bit, every constant and node."""
    wrong = []
    for path, expected in write_graphs(deployed).items():
        found = onnx.load(folder / path)
        expected.producer_version = found.producer_version
        if found != expected:
            wrong += [f"{path}: {name}" for name in _unlike(found, expected)] or [path]
    return Check("graphs hold the weights", not wrong, {"that_differ": wrong})


def _unlike(*models: onnx.ModelProto) -> list[str]:
    """Names of the constants, nodes and functions that two graphs do not share."""
    parts = [
        {
            part.name: part
            for part in (*model.graph.initializer, *model.graph.node, *model.functions)
        }
        for model in models
    ]
    return sorted(
        name for name in {*parts[0], *parts[1]} if parts[0].get(name) != parts[1].get(name)
    )


def check_said(folder: Path, rule: str, checks: list[Check]) -> Check:
    """What a folder says of itself beside its weights is what they give: its pre-processing, its
    labels in a browser, and with a report of its own the rule and the certificate in it.
    """
    path, expected, wrong = folder / PREPROCESSOR, preprocessor(folder), []
    if (path.read_bytes() if path.is_file() else None) != (expected and expected.encode()):
        wrong.append(PREPROCESSOR)
    config = hub.read_config(folder)
    browser = browser_config(config.get("label_names", []))
    for key in BROWSER_KEYS:
        wrong += [f"{hub.CONFIG}: {key}"] * (config.get(key) != browser.get(key))
    if (folder / REPORT).is_file():
        said = read_report(folder)
        theirs = [c for c in said.get("checks", []) if isinstance(c, dict)]
        theirs = [c for c in theirs if c.get("name") == CERTIFICATE]
        ours = json.loads(json.dumps([asdict(c) for c in checks if c.name == CERTIFICATE]))
        wrong += ["rule"] * (said.get("rule") != rule) + [CERTIFICATE] * (theirs != ours)
    name = "rule, certificate and pre-processing are as said"
    return Check(name, not wrong, {"that_differ": wrong})


def print_report(report: dict[str, Any]) -> None:
    table = Table(
        "check", "", "measured", title=f"{report['rule']} rule, {escape(report['images'])}"
    )
    for check in report["checks"]:
        passed = "ok" if check["passed"] else "[red]FAILED[/red]"
        table.add_row(check["name"], passed, in_short(check["measured"]))
    Console().print(table)
    if "why_not_exact" in report:
        print(f"not exact: {report['why_not_exact']}")


def failures(report: dict[str, Any]) -> str:
    """The failed checks with what they measured, a line each."""
    return "\n".join(
        f"{check['name']}: {json.dumps(check['measured'])}"
        for check in report["checks"]
        if not check["passed"]
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Annotated[str, tyro.conf.Positional]
    """An exported folder, by its path or as local-dir:FOLDER, or hf-hub:org/name[@revision]."""
    data_root: str = ""
    """Where the data set lies that the network was trained on; without it, random images, or for
    digits scikit-learn's own."""
    num_images: int = 2000
    """Images to verify on."""
    random_images: bool = False
    """Verify on random pixels, though the data set is at hand."""
    report: str = ""
    """Write what was found into this JSON file; the folder's own report stays as it is. A run by
    the exact rule that was cut goes on from the ledger beside it."""


def published_folder(name: str) -> Path:
    """The folder to verify; from the Hub with every file that its report names.

    Raises:
        FileNotFoundError: There is none, or a repository without report.
        ValueError: The repository has other files; offline nobody is asked for them.
        ValueError, PullError: As zoo.hub.locate.
    """
    if name.startswith("hf-hub:"):
        named = read_report(hub.locate(name, (hub.CONFIG,))).get("sha256", {})
        folder = hub.locate(name, (hub.CONFIG, *sorted(named.keys() - {hub.CONFIG})))
        place = name.removeprefix("hf-hub:")
        if others := listed(place, folder.name) - named.keys() - {REPORT}:
            raise ValueError(
                f"{name}: expected the files that {REPORT} names, got others: {sorted(others)}"
            )
        return folder
    if not (folder := Path(name.removeprefix("local-dir:"))).is_dir():
        raise FileNotFoundError(f"{folder}: expected an exported folder, found none")
    return folder


def check_report_place(report: Path, folder: Path) -> None:
    """Raise before anything is computed whose result could not be written.

    Raises:
        FileNotFoundError, ValueError: There is no such folder, it is the one that is verified or
            cannot be written to, or the file is another published folder's own report.
    """
    if not report.parent.is_dir():
        raise FileNotFoundError(f"--report: expected a file in a folder, found no {report.parent}")
    if report.is_dir():
        raise ValueError(f"--report: expected a file, got the folder {report}")
    if report.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--report: expected a file outside of {folder}, got {report}")
    if report.name == REPORT and (report.parent / hub.CONFIG).is_file():
        raise ValueError(
            f"--report: expected a file of its own, got {report}, which seals a published folder"
        )
    check_output(report.parent, "--report")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    stopped = (
        "stopped; by the exact rule, with --report, the same command goes on from what was compared"
    )
    with said_in_a_line(*NOT_A_GRAPH, stopped=stopped):
        report = _checked(options)
    if not report["passed"]:
        sys.exit(f"error: {options.folder} failed:\n{failures(report)}")


def _checked(options: Options) -> dict[str, Any]:
    """What verify found of a folder, printed and written where it is asked for."""
    asked = Path(options.report)
    check_asked(options.num_images, options.data_root, options.random_images)
    folder = published_folder(options.folder)
    if options.report:
        check_report_place(asked, folder)
    if changed := changed_files(folder):
        left_out = folder.resolve().parent == hub.BUNDLED and not {*changed} - {*GRAPHS}
        whole = f"python export/to_onnx.py {folder.resolve().name} --output FOLDER --random-images"
        raise ValueError(
            f"{folder / REPORT}: expected the files it names, got others: {changed}"
            + f"; {whole} makes all of them" * left_out
        )
    config = hub.read_config(folder)
    model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if options.random_images:
        images = random_images(model, options.num_images)
    else:
        images = images_of(model, config, options.data_root, options.num_images)
    ledger = Path(f"{asked}.ledger") if options.report else None
    report = verify(folder, model, images, ledger)
    print_report(report)
    if options.report:
        disk.write(asked, json.dumps(report, indent=2))
        ledger.unlink(missing_ok=True)
    return report


if __name__ == "__main__":
    main()
