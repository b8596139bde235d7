"""Pulling from the Hub: huggingface_hub against a server on 127.0.0.1."""

import json
import math
import re
from pathlib import Path

import pytest
from hub_client import hub_client
from hub_server import HubServer

import zoo
from zoo import hub as pretrained
from zoo.hub.files import hashes

RELEASE = "short_bp_resnet20_slim.digits"
WEIGHTS = r"/model\.safetensors$"
OFFLINE = "import huggingface_hub.constants; huggingface_hub.constants.HF_HUB_OFFLINE = {}\n"
PULL = """
import hashlib
model = zoo.create_model(name, pretrained=True).eval()
x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    value = hashlib.sha256(model(x).numpy().tobytes()).hexdigest()
"""
REGISTER = """
import sys; from pathlib import Path
sys.modules["zoo.hub.locate"].BUNDLED = Path(bundled)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with hub_client(hub, home, HF_HUB_DOWNLOAD_TIMEOUT="1") as client:
        yield client


@pytest.fixture(scope="module")
def bits(client, exported) -> str:
    """The hash of the logits of the exported network."""
    return client.run(PULL, name=f"local-dir:{exported}").value


@pytest.fixture
def no_faults(hub):
    """Faults end with the test."""
    accounts = dict(hub.accounts)
    yield
    hub.faults.clear()
    hub.accounts = accounts


def test_only_needed_files_are_downloaded_and_without_a_token_at_the_blobs(
    hub, client, exported, bits
):
    pickled = {"pytorch_model.bin": b"a pickle", "train.py": b"code"}
    hub.create_repo("org/some", content(exported) | pickled)
    hub.requests.clear()
    assert client.run(PULL, name="hf-hub:org/some").value == bits
    names = {Path(request.path).name for request in hub.requests if request.method == "GET"}
    assert names == {"config.json", "verification.json", "model.safetensors"}
    assert {r.had_auth for r in hub.requests if r.host == "127.0.0.1"} == {True}
    assert {r.had_auth for r in hub.requests if r.host == "localhost"} == {False}  # as on a CDN
    labels = client.run("value = zoo.load_onnx('hf-hub:org/some').labels").value
    assert labels == [str(digit) for digit in range(10)]


def test_a_cached_commit_needs_no_request(hub, client, exported, bits):
    sha = hub.create_repo("org/once", content(exported)).branches["main"]
    assert client.run(PULL, name=f"hf-hub:org/once@{sha}").value == bits
    hub.requests.clear()
    assert client.run(PULL, name=f"hf-hub:org/once@{sha}").value == bits
    assert hub.requests == []


def test_a_repository_without_hashes_needs_no_request_once_cached(hub, client, exported, bits):
    files = content(exported)
    del files["verification.json"]
    sha = hub.create_repo("org/bare", files).branches["main"]
    assert client.run(PULL, name=f"hf-hub:org/bare@{sha}").value == bits
    hub.requests.clear()
    assert client.run(PULL, name=f"hf-hub:org/bare@{sha}").value == bits
    assert hub.requests == []


def test_a_revision_pins_all_files(hub, client, exported, bits):
    repo = hub.create_repo("org/versions", content(exported))
    repo.tags["v1"] = repo.branches["main"]
    hub.commit("org/versions", {"model.safetensors": b"of another version"})
    assert client.run(PULL, name="hf-hub:org/versions@v1").value == bits
    error = client.run(PULL, name="hf-hub:org/versions").error
    assert "model.safetensors: its sha256" in error
    assert "is not the one in verification.json" in error
    error = client.run(PULL, name="hf-hub:org/versions@v9").error
    assert error == "PullError: org/versions@v9: the repository has no such branch, tag or commit"


def test_offline_the_cache_is_used(hub, client, exported, bits):
    hub.create_repo("org/offline", content(exported))
    assert client.run(PULL, name="hf-hub:org/offline").value == bits
    hub.requests.clear()
    client.run(OFFLINE.format(True))
    offline = client.run(PULL, name="hf-hub:org/offline").value
    error = client.run(PULL, name="hf-hub:org/unknown").error
    graph = client.run("zoo.load_onnx('hf-hub:org/offline')").error
    client.run(OFFLINE.format(False))
    assert offline == bits
    for name, said in (("org/unknown", error), ("org/offline", graph)):
        assert said == (
            f"PullError: {name}: not fully cached, and HF_HUB_OFFLINE is set; run once online"
        )
    assert hub.requests == []


def test_without_a_network_the_cache_is_used(exported, tmp_path):
    with HubServer() as hub, hub_client(hub, tmp_path) as client:
        hub.create_repo("org/slim", content(exported))
        expected = client.run(PULL, name="hf-hub:org/slim").value
        hub.__exit__()
        assert client.run(PULL, name="hf-hub:org/slim").value == expected is not None
        error = client.run(PULL, name="hf-hub:org/other").error
        assert error.startswith("PullError: org/other: no answer from http://127.0.0.1")
        assert "check the network. HF_HUB_OFFLINE=1 loads what is in the cache" in error


def test_a_repository_lacks_a_file(hub, client, exported):
    files = content(exported)
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    hub.create_repo("org/pickled", files)
    error = client.run(PULL, name="hf-hub:org/pickled").error
    assert error == "PullError: org/pickled: the repository has no model.safetensors"


def test_an_unknown_or_private_repository(hub, client, exported):
    hub.create_repo("org/secret", content(exported), private=True)
    hub.accounts[hub.token] = "guest"
    errors = [client.run(PULL, name=f"hf-hub:org/{name}").error for name in ("none", "secret")]
    hub.accounts[hub.token] = "owner"
    for error in errors:
        assert "no such repository on the Hub; if it is private, log in with `hf auth" in error
    assert "Repo id must" in client.run(PULL, name="hf-hub:org/a b").error


FAULTS = {
    "503": lambda hub, times: hub.fail(WEIGHTS, 503, method="GET|HEAD", times=times),
    "429": lambda hub, times: hub.fail(
        "/config.json", 429, {"Retry-After": "0"}, method="HEAD", times=times
    ),
    "truncated": lambda hub, times: hub.cut(WEIGHTS, after=1000, times=times),
    "reset": lambda hub, times: hub.cut(WEIGHTS, after=1000, reset=True, times=times),
    "timeout": lambda hub, times: hub.slow(WEIGHTS, bytes_per_second=0.1, times=times),
    "wrong bytes": lambda hub, times: hub.corrupt(WEIGHTS, times=times),
    "wrong hashes": lambda hub, times: hub.corrupt(r"/verification\.json", times=times),
}


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"reset"}))
def test_a_passing_fault_is_retried(hub, client, exported, bits, fault):
    name = f"org/{fault.replace(' ', '-')}-once"
    hub.create_repo(name, content(exported))
    FAULTS[fault](hub, 1)
    assert client.run(PULL, name=f"hf-hub:{name}").value == bits
    assert hub.faults == []


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("503", "the Hub answered 503: fault on demand; try again later"),
        ("429", "the Hub answered 429: fault on demand; try again later"),
        ("reset", "no answer from http"),
        ("wrong bytes", "model.safetensors: its sha256 .* is not the one in verification.json"),
    ],
)
def test_a_lasting_fault_is_one_line_and_goes_with_its_cause(
    hub, client, exported, bits, fault, said
):
    name = f"org/{fault.replace(' ', '-')}-always"
    hub.create_repo(name, content(exported))
    FAULTS[fault](hub, math.inf)
    error = client.run(PULL, name=f"hf-hub:{name}").error
    assert re.search(said, error), error
    assert "\n" not in error
    hub.faults.clear()
    assert client.run(PULL, name=f"hf-hub:{name}").value == bits


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, None, r"the Hub answered 401: .*; log in with `hf auth login` or set HF_TOKEN"),
        (403, "GatedRepo", "accept the terms of the repository on the Hub first, then log in"),
    ],
)
def test_a_refusal_says_what_to_do(hub, client, exported, status, code, said):
    name = f"org/refused{status}"
    hub.create_repo(name, content(exported))
    headers = {"X-Error-Code": code} if code else {}
    hub.fail(f"/{name}/", status, headers, method="HEAD", times=math.inf)
    error = client.run(PULL, name=f"hf-hub:{name}").error
    assert re.search(f"^PullError: {name}: {said}", error), error


def test_a_damaged_cache_is_downloaded_again(hub, client, exported, bits):
    hub.create_repo("org/rot", content(exported))
    for file in ("verification.json", "config.json", "model.safetensors"):
        assert client.run(PULL, name="hf-hub:org/rot").value == bits
        (path,) = client.cache.glob(f"models--org--rot/snapshots/*/{file}")
        changed = bytearray(path.read_bytes())
        changed[len(changed) // 2] ^= 4
        path.resolve().write_bytes(changed)
    client.run(OFFLINE.format(True))
    offline = client.run(PULL, name="hf-hub:org/rot").error
    client.run(OFFLINE.format(False))
    assert "is not the one in verification.json" in offline
    assert client.run(PULL, name="hf-hub:org/rot").value == bits


def test_a_full_disk_leaves_nothing_that_loads(hub, client, exported, bits):
    hub.create_repo("org/full", content(exported))
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({}, r.RLIM_INFINITY))"
    client.run("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)")
    client.run(limit.format(9999))
    error = client.run(PULL, name="hf-hub:org/full").error
    client.run(limit.format("r.RLIM_INFINITY"))
    assert "File too large" in error
    assert client.run(PULL, name="hf-hub:org/full").value == bits


def test_a_cache_dir_of_ones_own(hub, client, exported, tmp_path):
    hub.create_repo("org/own", content(exported))
    code = "value = zoo.{}('hf-hub:org/own', cache_dir=own{}) is not None"
    for call in (("create_model", ", pretrained=True"), ("load_onnx", "")):
        assert client.run(code.format(*call), own=str(tmp_path)).value
    assert (tmp_path / "models--org--own/snapshots").is_dir()
    assert client.snapshot("org/own") == {}


def test_the_package_holds_every_release_but_graphs_that_can_be_written_again():
    folders = {path.parent.name: path.parent for path in pretrained.BUNDLED.glob("*/config.json")}
    assert folders.keys() == set(zoo.list_models(pretrained=True))
    for folder in folders.values():
        known = json.loads((folder / "verification.json").read_text())["sha256"]
        found = hashes(folder, "verification.json")
        assert found.items() <= known.items()
        assert all(name.startswith("onnx/") for name in known.keys() - found.keys())
