"""What can go wrong between a client and the Hub, and how it ends.

tests/test_hub_faults.py holds the product to this list; benchmarks/hub_faults.py runs it at full
size and writes docs/results/hub_faults.md.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hub_client import Client
from hub_server import HubServer

ALWAYS, NOW = math.inf, {"Retry-After": "0"}
INFO, LARGE = r"^/api/models/[^/]+/[^/]+(/revision/[^/]+)?$", r"\.safetensors$"
PULL = """
import hashlib
model = zoo.create_model(name, pretrained=True).eval()
x = torch.randn(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    value = hashlib.sha256(model(x).numpy().tobytes()).hexdigest()
"""
PUBLISH = """
from export.publish import Options, publish_to_hub
value = publish_to_hub(Options(folder=folder, to=repo, confirm=True, num_images=images))
"""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Args:
        happen: Makes it so, for a repository of a Hub.
        error: What the message says, a regular expression; none where it ends well.
        committed: Of publishing: the commit has happened, whole, though it is not called published.
    """

    act: Literal["pull", "publish"]
    what: str
    happen: Callable[[HubServer, str], None]
    error: str = ""
    committed: bool = False


def strangers_token(hub: HubServer, repo: str) -> None:
    hub.accounts.clear()


def readers_token(hub: HubServer, repo: str) -> None:
    hub.accounts[hub.token] = "guest"


def private_and_not_ours(hub: HubServer, repo: str) -> None:
    hub.repos[repo].private = True
    readers_token(hub, repo)


def no_repository(hub: HubServer, repo: str) -> None:
    del hub.repos[repo]


def bad_name(hub: HubServer, repo: str) -> None:
    hub.commit(repo, {"onnx/../../evil.json": b"{}"})


def no_weights(hub: HubServer, repo: str) -> None:
    files = dict(hub.repos[repo].resolve("main").files)
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    hub.repos[repo].commit("main", files, "Replace the weights with a pickle")


def absurd_config(hub: HubServer, repo: str) -> None:
    hub.commit(repo, {"config.json": b" " * (2**24 + 1)})


def lying_headers(hub: HubServer, repo: str) -> None:
    headers = {"ETag": '"../../../../planted"', "X-Repo-Commit": "f" * 40}
    for method in ("HEAD", "GET"):  # a client need not ask for a HEAD
        hub.lie(
            r"/config\.json",
            lambda response: response._replace(headers=response.headers | headers),
            method=method,
            times=ALWAYS,
        )


def more_bytes(hub: HubServer, repo: str) -> None:
    hub.lie(r"/config\.json", lambda response: response._replace(body=b" " * 2**25), times=ALWAYS)


def wordy_sizes(hub: HubServer, repo: str) -> None:
    hub.lie(
        INFO,
        lambda response: response._replace(
            body=re.sub(rb'"size": \d+', b'"size": "much"', response.body)
        ),
        times=ALWAYS,
    )


FAULTS = [
    Fault("pull", "nothing", lambda hub, repo: None),
    Fault("pull", "no such repository", no_repository, "expected a repository, found none"),
    Fault("pull", "a private repository", private_and_not_ours, "if it is private, log in with"),
    Fault(
        "pull",
        "terms not accepted (403, GatedRepo)",
        lambda hub, repo: hub.fail(INFO, 403, {"X-Error-Code": "GatedRepo"}),
        "asks for terms to be accepted",
    ),
    Fault("pull", "401, a token of nobody", strangers_token, r"refuses this token \(401"),
    Fault("pull", "400", lambda hub, repo: hub.fail(INFO, 400), r"refuses that \(400"),
    Fault("pull", "403", lambda hub, repo: hub.fail(INFO, 403), r"forbids that .*\(403"),
    Fault(
        "pull",
        "404, no such revision",
        lambda hub, repo: hub.fail(INFO, 404, {"X-Error-Code": "RevisionNotFound"}),
        "expected a branch, a tag or a commit",
    ),
    Fault("pull", "429 with Retry-After, once", lambda hub, repo: hub.fail(INFO, 429, NOW)),
    Fault(
        "pull",
        "429 with Retry-After, always",
        lambda hub, repo: hub.fail(INFO, 429, NOW, times=ALWAYS),
        r"asks to wait \(429",
    ),
    Fault(
        "pull",
        "429 with Retry-After, once, on the weights",
        lambda hub, repo: hub.fail(LARGE, 429, NOW, method="GET"),
    ),
    Fault("pull", "500, once", lambda hub, repo: hub.fail(INFO, 500)),
    Fault(
        "pull",
        "500, always",
        lambda hub, repo: hub.fail(INFO, 500, NOW, times=ALWAYS),
        r"answers with an error \(500",
    ),
    Fault(
        "pull",
        "500, always, on the weights",
        lambda hub, repo: hub.fail(LARGE, 500, times=ALWAYS),
        r"answers with an error \(500",
    ),
    Fault(
        "pull",
        "no answer at all",
        lambda hub, repo: hub.cut(INFO, after=0, times=ALWAYS),
        "no answer from http",
    ),
    Fault("pull", "weights cut, once", lambda hub, repo: hub.cut(LARGE, after=100_000)),
    Fault(
        "pull",
        "weights cut by a reset, once",
        lambda hub, repo: hub.cut(LARGE, after=100_000, reset=True),
    ),
    Fault(
        "pull",
        "weights cut by a reset, always",
        lambda hub, repo: hub.cut(LARGE, after=100_000, reset=True, times=ALWAYS),
        "no answer from http",
    ),
    Fault("pull", "one bit of the weights flipped, once", lambda hub, repo: hub.corrupt(LARGE)),
    Fault(
        "pull",
        "one bit of the weights flipped, always",
        lambda hub, repo: hub.corrupt(LARGE, times=ALWAYS),
        r"expected model\.safetensors with hash \w+, got other bytes twice",
    ),
    Fault(
        "pull",
        "one bit of config.json flipped, always",
        lambda hub, repo: hub.corrupt(r"/config\.json", times=ALWAYS),
        r"expected config\.json with hash \w+, got other bytes twice",
    ),
    Fault(
        "pull",
        "one bit of verification.json flipped, always",
        lambda hub, repo: hub.corrupt(r"/verification\.json", times=ALWAYS),
        r"expected verification\.json with hash \w+, got other bytes twice",
    ),
    Fault(
        "pull",
        "weights that stop coming, once",
        lambda hub, repo: hub.slow(LARGE, bytes_per_second=0.1),
    ),
    Fault(
        "pull",
        "an answer that stops coming, once",
        lambda hub, repo: hub.slow(INFO, bytes_per_second=0.1),
    ),
    Fault(
        "pull",
        "an answer that stops coming, always",
        lambda hub, repo: hub.slow(INFO, bytes_per_second=0.1, times=ALWAYS),
        "no answer from http",
    ),
    Fault(
        "pull", "a file named ../../evil.json", bad_name, "expected plain file names, got 'onnx/"
    ),
    Fault("pull", "a pickle in place of the weights", no_weights, "are pickles and are never load"),
    Fault("pull", "an ETag of ../../../../planted, another commit", lying_headers),
    Fault(
        "pull",
        "32 MB in place of a config.json",
        more_bytes,
        r"expected config\.json with hash \w+, got other bytes twice",
    ),
    Fault("pull", "sizes that are no numbers", wordy_sizes, "up to 16777216 bytes, got 'much'"),
    Fault("pull", "a config.json of 16 MB", absurd_config, r"expected config\.json up to 16777216"),
    Fault("publish", "nothing", lambda hub, repo: None),
    Fault("publish", "401, a token of nobody", strangers_token, r"refuses this token \(401"),
    Fault("publish", "403, a token that only reads", readers_token, r"forbids that .*\(403"),
    Fault(
        "publish",
        "404 on the commit",
        lambda hub, repo: hub.fail(r"/commit/", 404, {"X-Error-Code": "RepoNotFound"}),
        "expected a repository, found none",
    ),
    Fault(
        "publish",
        "409 on the commit",
        lambda hub, repo: hub.fail(r"/commit/", 409),
        r"refuses that \(409: .*; the repository stands as it did",
    ),
    Fault(
        "publish",
        "412 on the commit",
        lambda hub, repo: hub.fail(r"/commit/", 412),
        r"refuses that \(412: .*; the repository stands as it did",
    ),
    Fault(
        "publish",
        "429 with Retry-After, once on each call",
        lambda hub, repo: [
            hub.fail(call, 429, NOW)
            for call in ("whoami", INFO, "/preupload/", "/batch", "/commit/", "/refs", "/tag/")
        ],
    ),
    Fault(
        "publish",
        "an answer that stops coming, once on each call",
        lambda hub, repo: [
            hub.slow(call, bytes_per_second=0.1, method=method)
            for call, method in (
                ("whoami", "GET"),
                (INFO, "GET"),
                ("/refs", "GET"),
                ("/commit/", "POST"),
            )
        ],
    ),
    Fault(
        "publish",
        "an answer that stops coming, always",
        lambda hub, repo: hub.slow("whoami", bytes_per_second=0.1, times=ALWAYS),
        "no answer from http.*nothing was sent",
    ),
    Fault("publish", "500 on the commit, once", lambda hub, repo: hub.fail(r"/commit/", 500, NOW)),
    Fault(
        "publish",
        "500 on the commit, always",
        lambda hub, repo: hub.fail(r"/commit/", 500, NOW, times=ALWAYS),
        r"answers with an error \(500.*; the repository stands as it did",
    ),
    Fault(
        "publish",
        "403 on a large file",
        lambda hub, repo: hub.fail(r"/lfs/", 403, method="PUT"),
        "the repository stands as it did",
    ),
    Fault(
        "publish",
        "a large file cut, once",
        lambda hub, repo: hub.cut(r"/lfs/", after=100_000, method="PUT"),
    ),
    Fault(
        "publish",
        "the commit's answer cut",
        lambda hub, repo: hub.cut(r"/commit/", after=5, method="POST"),
    ),
    Fault(
        "publish",
        "a download with one bit flipped, once",
        lambda hub, repo: hub.corrupt(LARGE),
    ),
    Fault(
        "publish",
        "downloads with one bit flipped, always",
        lambda hub, repo: hub.corrupt(LARGE, times=ALWAYS),
        "got other bytes twice.*has no tag, since it did not come back whole",
        committed=True,
    ),
    Fault(
        "publish",
        "403 on the tag",
        lambda hub, repo: hub.fail(r"/tag/", 403),
        "whole and verified, but may have no tag",
        committed=True,
    ),
]


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Args:
        error: None if it ended well.
        repository: Stands as it should.
        cache: Holds what it did before, if it ended badly.
        afterwards: Without the fault the same works.
    """

    error: str | None
    repository: bool
    cache: bool
    afterwards: bool

    def is_as_told(self, fault: Fault) -> bool:
        told = re.search(fault.error, self.error or "") if fault.error else self.error is None
        return bool(told) and self.repository and self.cache and self.afterwards


def run_fault(
    fault: Fault, hub: HubServer, client: Client, folder: Path, images: int = 20
) -> Outcome:
    """Let one thing go wrong for a repository of its own, on a Hub with no other faults."""
    repo = f"org/{re.sub(r'[^a-z0-9]+', '-', f'{fault.act} {fault.what}'.lower()).strip('-')}"
    accounts = dict(hub.accounts)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

    def act():
        if fault.act == "pull":
            return client.run(PULL, name=f"hf-hub:{repo}")
        return client.run(PUBLISH, repo=repo, folder=str(folder), images=images)

    expected = client.run(PULL, name=f"local-dir:{folder}").value
    assert expected is not None
    hub.blobs.clear()  # so that large files are sent again
    hub.create_repo(repo, files if fault.act == "pull" else None)
    before, cached = hub.repos[repo].branches["main"], client.snapshot(repo)
    fault.happen(hub, repo)
    answer = act()
    unused = [f for f in hub.faults if not math.isinf(f.times)]
    assert unused == [], "the fault never happened"
    hub.faults.clear()
    hub.accounts |= accounts
    cache = answer.error is None or client.snapshot(repo) == cached

    if fault.act == "pull":
        repository = answer.error is not None or answer.value == expected
        hub.create_repo(repo, files)
        return Outcome(answer.error, repository, cache, act().value == expected)
    found = hub.repos[repo]
    there = {name: file.content for name, file in found.resolve("main").files.items()}
    published = there.items() >= files.items() and found.resolve("main").parent == before
    tagged = found.tags == {"v1": found.branches["main"]}
    if answer.error is None:
        repository = published and tagged and answer.value.startswith(f"published {repo} as v1")
    elif fault.committed:
        repository = published and not found.tags
    else:
        repository = found.branches["main"] == before and not found.tags
    again = act()
    done = found.tags == {"v1": found.branches["main"]} and again.error is None
    return Outcome(answer.error, repository, cache, done and len(found.commits) == 2)
