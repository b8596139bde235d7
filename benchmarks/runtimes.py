"""Which runtimes give the bits of zoo.deploy on the exported graphs of a released network?

    pip install MNN apache-tvm iree-base-compiler iree-base-runtime onnx2torch \\
        opencv-python-headless openvino tinygrad
    python benchmarks/runtimes.py --network short_bp_resnet18.cifar10 --root DATA

onnxruntime-web runs in Node, from npm; tinygrad needs clang. Every runtime has a process of its
own and gets the same normalised test images. One that is not installed, does not load a graph or
fails on it keeps its row, with the reason.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from measure import ROOT, release_hashes, report, run_script
from onnx.reference import ReferenceEvaluator
from rich.progress import track
from torch import Tensor

import zoo
from export.checks.check import logits_of, session
from zoo.data import DataConfig, load_images, normalise
from zoo.deployment.writer import write_graph

BATCH, SHAPE = 8, (3, 32, 32)
ALL, SOME, FEW = 10_000, 1000, 200  # images, by how fast a runtime is
PACKAGES = ROOT / "tests" / "export" / "browser" / "package.json"
Run = Callable[[np.ndarray], np.ndarray]


def onnxruntime(path: Path) -> Run:
    running = session(path)
    return lambda x: running.run(["logits"], {"pixel_values": x})[0]


def reference_evaluator(path: Path) -> Run:
    graph = ReferenceEvaluator(str(path))
    return lambda x: graph.run(None, {"pixel_values": x})[0]


def openvino_in_fp32(path: Path) -> Run:
    return _openvino(path, {"INFERENCE_PRECISION_HINT": "f32"})


def openvino_as_it_comes(path: Path) -> Run:
    return _openvino(path, {})


def _openvino(path: Path, options: dict[str, str]) -> Run:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    return lambda x: compiled(x)[0]


def opencv(path: Path) -> Run:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))

    def run(x: np.ndarray) -> np.ndarray:
        network.setInput(x)
        return network.forward().copy()

    return run


def onnx2torch(path: Path) -> Run:
    import onnx2torch

    model = onnx2torch.convert(str(path)).eval()
    return lambda x: model(torch.from_numpy(x)).detach().numpy()


def tinygrad(path: Path) -> Run:
    import tinygrad
    from tinygrad.nn.onnx import OnnxRunner

    runner = OnnxRunner(str(path))
    return lambda x: runner({"pixel_values": tinygrad.Tensor(x)})["logits"].numpy()


def iree(path: Path) -> Run:
    from iree import compiler, runtime

    imported = path.with_suffix(".mlir")
    script = "iree.compiler.tools.import_onnx"
    line = [sys.executable, "-m", script, str(path), "-o", str(imported)]
    subprocess.run(line, check=True, capture_output=True)
    target = {"target_backends": ["llvm-cpu"], "extra_args": ["--iree-llvmcpu-target-cpu=host"]}
    compiled = compiler.compile_file(str(imported), **target)
    module = runtime.load_vm_flatbuffer(compiled, driver="local-task")
    main = getattr(module, onnx.load(path).graph.name)
    return lambda x: main(x).to_host()


def tvm(path: Path) -> Run:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(path), shape_dict={"pixel_values": [BATCH, *SHAPE]})
    machine = relax.VirtualMachine(relax.build(module, target="llvm"), tvm.cpu())
    return lambda x: machine["main"](tvm.runtime.tensor(x)).numpy()


def mnn(path: Path) -> Run:
    import MNN

    converted = path.with_suffix(".mnn")
    line = ["mnnconvert", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted)]
    told = subprocess.run([*line, "--bizCode", "x"], check=True, capture_output=True, text=True)
    if "Error" in told.stdout:
        raise ValueError(next(line for line in told.stdout.splitlines() if "Error" in line))
    module = MNN.nn.load_module_from_file(str(converted), ["pixel_values"], ["logits"])

    def run(x: np.ndarray) -> np.ndarray:
        given = MNN.expr.const(x, x.shape, MNN.expr.NCHW, MNN.expr.float)
        logits = module.forward([MNN.expr.convert(given, MNN.expr.NC4HW4)])[0]
        return np.array(MNN.expr.convert(logits, MNN.expr.NCHW).read())

    return run


def onnxruntime_web(path: Path) -> Run:
    """All images in one call of Node."""
    folder = path.parent
    for file in (PACKAGES, Path(__file__).with_name("wasm.mjs")):
        shutil.copy(file, folder)
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)

    def run(x: np.ndarray) -> np.ndarray:
        x.tofile(folder / "pixels")
        line = ["node", "wasm.mjs", path.name, "pixels", str(BATCH), "logits"]
        subprocess.run(line, cwd=folder, check=True, capture_output=True)
        return np.fromfile(folder / "logits", dtype=np.float32).reshape(len(x), -1)

    return run


RUNTIMES: dict[str, tuple[Callable[[Path], Run], str, int]] = {  # its package, and how many images
    "onnxruntime": (onnxruntime, "onnxruntime", ALL),
    "onnxruntime-web, wasm": (onnxruntime_web, "", ALL),
    "OpenVINO, fp32": (openvino_in_fp32, "openvino", ALL),
    "OpenVINO as it comes": (openvino_as_it_comes, "openvino", ALL),
    "OpenCV": (opencv, "opencv-python-headless", ALL),
    "TVM": (tvm, "apache-tvm", FEW),
    "IREE": (iree, "iree-base-compiler", SOME),
    "onnx's ReferenceEvaluator": (reference_evaluator, "onnx", FEW),
    "tinygrad": (tinygrad, "tinygrad", 16),
    "MNN": (mnn, "MNN", SOME),
    "onnx2torch": (onnx2torch, "onnx2torch", SOME),
}


def measure(name: str, graph: Path, images: Path, logits: Path) -> None:
    """Write the logits that a runtime gives of these images."""
    load, _, count = RUNTIMES[name]
    x = np.load(images)[:count]
    run = load(graph)
    parts = [x] if load is onnxruntime_web else np.split(x, len(x) // BATCH)
    np.save(logits, np.concatenate([run(part) for part in parts]))


def row(name: str, kind: str, graph: Path, images: Path, expected: Tensor) -> dict[str, Any]:
    """What a runtime did, in a process of its own."""
    with TemporaryDirectory() as folder:
        path, logits = Path(folder) / graph.name, Path(folder) / "logits.npy"
        shutil.copy(graph, path)
        line = [sys.executable, __file__, name, str(path), str(images), str(logits)]
        run = subprocess.run(line, capture_output=True, text=True)
        found = {"runtime": name, "version": _version(name), "graph": kind}
        if not logits.exists():
            reason = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
            return found | {"images": None, "differ": None, "another class": None, "why": reason}
        values = torch.from_numpy(np.load(logits))
    same = expected[: len(values)]
    return found | {
        "images": len(values),
        "differ": int((values != same).any(1).sum()),
        "another class": int((values.argmax(1) != same.argmax(1)).sum()),
        "why": "",
    }


def _version(name: str) -> str:
    package = RUNTIMES[name][1]
    if not package:
        return json.loads(PACKAGES.read_text())["dependencies"]["onnxruntime-web"]
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(network: str, root: str) -> None:
    """Run both graphs of a release in every runtime.

    Args:
        network: Its name with its tag.
        root: A folder with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    pixels = load_images(DataConfig(name="image_folder", root=root), "test").images[:ALL]
    model = zoo.create_model(network, pretrained=True).eval()
    mean, std = (
        tuple(round(255 * value) for value in model.pretrained_cfg[key]) for key in ("mean", "std")
    )
    rows = []
    with TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, normalise(pixels, mean, std).numpy())
        for kind, bits in (("int8", 8), ("fp32", 24)):
            deployed, graph = zoo.deploy(model, bits=bits), Path(folder) / "model.onnx"
            expected = logits_of(deployed, pixels, kind)
            onnx.save(write_graph(deployed), graph)
            for name in track(RUNTIMES, kind):
                found = row(name, kind, graph, images, expected)
                rows.append({"network": network} | found)
    report(
        "runtimes",
        "The bits of exported graphs in other runtimes",
        f"python benchmarks/runtimes.py --network {network} --root DATA",
        rows,
        key=("network",),
        network=network,
        **release_hashes([network]),
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case [name, graph, images, logits] if name in RUNTIMES:
            measure(name, Path(graph), Path(images), Path(logits))
        case _:
            run_script(main)
