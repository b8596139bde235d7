"""Every fault between a client and the Hub, and how it ends: on a Hub of the loopback, with the
real huggingface_hub.

    python benchmarks/hub_faults.py

A network of 0.27 M parameters goes through each fault of tests/hub_faults.py, and is killed with
SIGKILL at three moments. short_bp_resnet18, whose weights take 45 MB, is published, pulled and
compared. Their weights are random: what is measured here is the way, not the network.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import report, run_script
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from exact_networks import awaken  # noqa: E402
from hub_client import Client, hub_client  # noqa: E402
from hub_faults import FAULTS, PUBLISH, PULL, run_fault  # noqa: E402
from hub_server import HubServer  # noqa: E402

import zoo  # noqa: E402
from export.to_onnx import Options, export  # noqa: E402
from zoo import hub as pretrained  # noqa: E402

MODEL, LARGE_MODEL, IMAGES = "short_bp_resnet20_slim", "short_bp_resnet18", 10
PULL_LINE = "import sys, zoo; zoo.create_model(sys.argv[1], pretrained=True)"


def published(name: str, scratch: Path) -> Path:
    """The verified folder of a network with random weights, at two time steps."""
    torch.manual_seed(0)
    source = scratch / f"{name}.source"
    source.mkdir()
    labels = [f"class {number}" for number in range(10)]
    network = awaken(zoo.create_model(name, time_steps=2))
    pretrained.save_pretrained(network, source, label_names=labels)
    return export(
        Options(
            source=str(source),
            output=str(scratch / f"{name}.random"),
            random_images=True,
            num_images=IMAGES,
        )
    )


def whole_way(hub: HubServer, client: Client, folder: Path) -> dict[str, str]:
    """Publish, pull and classify a large network; what came of it."""
    repo = "org/large"
    sent = client.run(PUBLISH, repo=repo, folder=str(folder), images=4)
    again = client.run(PUBLISH, repo=repo, folder=str(folder), images=4)
    client.run("import os; os.environ['SHORT_BP_ZOO_WEIGHTS'] = place", place=str(folder.parent))
    names = (f"local-dir:{folder}", folder.name, f"hf-hub:{repo}", f"hf-hub:{repo}@v1")
    pulled = [client.run(PULL, name=name) for name in names]
    classify = "value = zoo.load_onnx(name).classify(torch.zeros(32, 32, 3).byte().numpy())"
    classified = [client.run(classify, name=name) for name in (names[0], names[2])]
    failed = [answer for answer in (sent, again, *pulled, *classified) if answer.error]
    assert failed == []
    bits = {answer.value for answer in pulled}
    same = classified[0].value == classified[1].value
    size = (folder / pretrained.WEIGHTS).stat().st_size / 1e6
    key = f"{LARGE_MODEL}, weights of {size:.1f} MB"
    return {
        key: re.sub(" at .*", "", sent.value),
        f"{key}, published once more": re.sub(", as .*", "", again.value),
        f"{key}, by local-dir, bare name, hf-hub, hf-hub@v1": f"{len(bits)} set of bits",
        f"{key}, classified by local-dir and hf-hub": "the same" if same else "others",
    }


def kill_at(hub: HubServer, command: list[str], home: Path, sign: str, method: str) -> None:
    """Start a command, and kill it when its first request of a kind has come."""
    hub.requests.clear()
    process = subprocess.Popen(
        command, env=hub.env(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    while not any(r.method == method and re.search(sign, r.path) for r in hub.requests):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    hub.faults.clear()


def cache_is_whole(client: Client, repo: str) -> bool:
    """Whether a process that was killed left nothing but its place to download to, which nothing is
    read from.
    """
    left = client.snapshot(repo)
    return not any(name.startswith(("blobs/", "refs/", "snapshots/")) for name in left)


def kills(hub: HubServer, client: Client, folder: Path) -> list[dict[str, str]]:
    rows = []
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    line = [sys.executable, "export/publish.py", str(folder), "--confirm", "--num-images", "4"]
    for what, sign, method, committed in (
        ("killed while a large file is sent", r"^/lfs/", "PUT", False),
        ("killed while it is downloaded again", r"\.safetensors$", "GET", True),
    ):
        repo = f"org/{what.replace(' ', '-')}"
        hub.blobs.clear()
        before = hub.create_repo(repo).branches["main"]
        hub.slow(r"\.safetensors$", bytes_per_second=1000)
        if not committed:
            hub.slow(r"/objects/verify", bytes_per_second=1, method="POST")
        kill_at(hub, [*line, "--to", repo], client.cache.parent, sign, method)
        found = hub.repos[repo]
        there = {name: file.content for name, file in found.resolve("main").files.items()}
        stands = there.items() >= files.items() if committed else found.branches["main"] == before
        whole = cache_is_whole(client, repo)
        again = client.run(PUBLISH, repo=repo, folder=str(folder), images=4)
        done = again.error is None and len(found.commits) == 2 and [*found.tags] == ["v1"]
        rows.append(row("publish", what, "killed", stands and len(found.tags) == done, whole, done))
    repo = "org/killed-pull"
    before = hub.create_repo(repo, files).branches["main"]
    hub.slow(r"\.safetensors$", bytes_per_second=1000)
    pull = [sys.executable, "-c", PULL_LINE, f"hf-hub:{repo}"]
    kill_at(hub, pull, client.cache.parent, r"\.safetensors$", "GET")
    stands, whole = hub.repos[repo].branches["main"] == before, cache_is_whole(client, repo)
    expected = client.run(PULL, name=f"local-dir:{folder}")
    again = client.run(PULL, name=f"hf-hub:{repo}")
    done = again.error is expected.error is None and again.value == expected.value
    rows.append(row("pull", "killed while the weights come", "killed", stands, whole, done))
    return rows


def row(act: str, what: str, ends: str, repository: bool, cache: bool, after: bool) -> dict:
    return {
        "act": act,
        "what goes wrong": what,
        "ends": ends,
        "repository": "as it should be" if repository else "BROKEN",
        "cache": "whole" if cache else "BROKEN",
        "the same again, without": "works" if after else "FAILS",
    }


def shortened(error: str | None) -> str:
    """A message without what differs from run to run."""
    if error is None:
        return "well"
    error = re.sub(r"^\w+: |org/[\w-]+(@\w+)?:? ?", "", error)
    error = re.sub(r"http://[\d.:]+", "the Hub", error)
    return re.sub(r"\b[0-9a-f]{40,64}\b", "...", error).replace("\n", " ").replace("|", "/")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hub_faults_") as place, HubServer() as hub:
        scratch = Path(place)
        folder, large = published(MODEL, scratch), published(LARGE_MODEL, scratch)
        with hub_client(hub, scratch / "home", HF_HUB_DOWNLOAD_TIMEOUT="1") as client:
            rows = []
            for fault in track(FAULTS, "faults"):
                found = run_fault(fault, hub, client, folder, images=4)
                state = found.repository, found.cache, found.afterwards
                rows.append(row(fault.act, fault.what, shortened(found.error), *state))
                assert found.is_as_told(fault), (fault, found)
            rows += kills(hub, client, folder)
        # The client's patience of a second is not for 45 MB.
        with hub_client(hub, scratch / "home") as client:
            facts = whole_way(hub, client, large)
    facts["large files"] = "sent by git's LFS, HF_HUB_DISABLE_XET=1; by Xet nothing was tried"
    command = "python benchmarks/hub_faults.py"
    report("hub_faults", "Faults between a client and the Hub", rows, command, **facts)


if __name__ == "__main__":
    run_script(main)
