"""timm's own model tests, run on networks of every family."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm

import zoo

# TorchScript cannot script an autograd.Function, and torch deprecated it in 2.13.
NOT_APPLICABLE = ["test_model_forward_torchscript", "test_model_forward_fx_torchscript"]
EXPECTED = [
    "test_model_forward[1-{}]",
    "test_model_backward[2-{}]",
    "test_model_default_cfgs[1-{}.untrained]",
    "test_model_forward_features[1-{}]",
    "test_model_forward_intermediates_features[1-{}]",
    "test_model_forward_intermediates[1-{}]",
    "test_prune_intermediate_layers_contract[{}]",
    "test_model_forward_fx[1-{}]",
    "test_model_backward_fx[2-{}]",
]
FAMILIES = zoo.models.__all__
# They span families, blocks and stems.
NETWORKS = [
    "short_bp_resnet20_slim",
    "short_bp_resnet50",
    "short_bp_resnet20",
    "short_bp_resnet18_imagenet",
    "short_bp_vgg16",
    "sew_resnet18",
    "spikformer_4_384",
    "ms_resnet18_cifar_2222",
    "gac_ms_resnet18",
]

# -k selects by parts of names, which these have in common with the networks above.
OTHERS = [
    name
    for name in zoo.list_models()
    if name not in NETWORKS and any(selected in name for selected in NETWORKS)
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """tests/test_models.py of the installed timm, with our families among those it looks into."""
    folder = tmp_path_factory.mktemp("timm")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", f"timm=={timm.__version__}", "--dest", str(folder)]
    download = subprocess.run(command, capture_output=True, text=True)
    if download.returncode:
        if "CI" in os.environ:
            pytest.fail(f"timm's sdist did not download: {download.stderr}")
        pytest.skip("timm's sdist did not download; the suite is not in its wheel")
    (archive,) = folder.glob("timm-*.tar.gz")
    with tarfile.open(archive) as files:
        (member,) = [m for m in files if m.name.endswith("tests/test_models.py")]
        text = files.extractfile(member).read().decode()
    text, count = re.subn(
        r"^FEAT_INTER_FILTERS = \[", f"FEAT_INTER_FILTERS = {FAMILIES} + [", text, flags=re.M
    )
    assert count == 1
    # Smaller images than timm's; what a test asks of shapes follows its input.
    text, count = re.subn(
        r"if target and max\(input_size\) > target:\n +"
        r"input_size = tuple\(\[min\(x, target\) for x in input_size\]\)",
        "input_size = tuple(min(x, 64 if x > 32 else 16) for x in input_size)",
        text,
    )
    assert count == 1
    (folder / "test_models.py").write_text(text)
    (folder / "conftest.py").write_text("import zoo\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_networks_pass_timms_own_tests(suite):
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "test_models.py"),
            *("-k", f"({' or '.join(NETWORKS)}) and not ({' or '.join(OTHERS)})"),
            *(f"--deselect=test_models.py::{test}" for test in NOT_APPLICABLE),
        ],
        cwd=suite,
        capture_output=True,
        text=True,
    )
    passed = set(re.findall(r"^PASSED test_models\.py::(\S+)", run.stdout, flags=re.M))
    expected = {test.format(name) for test in EXPECTED for name in NETWORKS}
    assert passed >= expected, run.stdout[-4000:]
    assert run.returncode == 0, run.stdout[-4000:]
