"""What the cache holds, what a network that is gone leaves, and weights by their bare name."""

import errno
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from hub_client import hub_client
from hub_faults import PULL
from hub_server import HubServer
from huggingface_hub import constants, errors
from waiting import LONGEST

import zoo
from zoo import hub as pretrained
from zoo.hub import files as disk
from zoo.hub.download import COMMIT, Promise, PullError, asked_wait, explain, fetch, pull, retried

FIRST, SECOND = "short_bp_resnet20_slim.digits", "short_bp_resnet20_slim.first"
HOSTS = ("127.0.0.1", "localhost")  # of the Hub and of the files themselves
OFFLINE = "import huggingface_hub.constants; huggingface_hub.constants.HF_HUB_OFFLINE = {}\n"
REGISTER = "from zoo.hub import locate; from pathlib import Path; locate.BUNDLED = Path(bundled)"


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
    with hub_client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(scope="module")
def bits(client, exported) -> str:
    """Of the logits of the exported network."""
    return client.run(PULL, name=f"local-dir:{exported}").value


@pytest.mark.parametrize("etag", ["../../../victim", "/{home}/victim", "config.json"])
def test_a_header_names_no_file(hub, client, exported, bits, etag):
    home = client.cache.parent
    (home / "victim").write_text("precious")
    before = {*home.rglob("*")}
    headers = {"ETag": f'"{etag.format(home=home)}"', "X-Repo-Commit": "f" * 40}
    hub.create_repo("org/headers", content(exported))
    sha = hub.repos["org/headers"].branches["main"]
    for method in ("HEAD", "GET"):
        hub.lie(
            "/config.json",
            lambda response: response._replace(headers=response.headers | headers),
            method=method,
            times=math.inf,
        )
    assert client.run(PULL, name="hf-hub:org/headers").value == bits
    hub.faults.clear()
    storage = client.cache / "models--org--headers"
    made = {path for path in {*home.rglob("*")} - before if path.is_file()}
    locks = client.cache / ".locks"
    assert all(path.is_relative_to(storage) or path.is_relative_to(locks) for path in made)
    assert (home / "victim").read_text() == "precious"
    assert [path.name for path in (storage / "snapshots").iterdir()] == [sha]
    shutil.rmtree(storage)


def test_no_more_bytes_are_kept_than_were_told(monkeypatch, tmp_path):
    kept = []

    def pour(url, file, **kwargs):
        for _ in range(100):
            kept.append(file.write(b"x" * 1000))

    monkeypatch.setattr("zoo.hub.download.http_get", pour)
    with pytest.raises(PullError, match="got other bytes twice"):
        fetch("org/pour", "0" * 40, {"config.json": Promise("0" * 40, 2500)}, tmp_path)
    assert kept == [1000, 1000] * 2
    assert [path for path in (tmp_path / "models--org--pour").rglob("*") if path.is_file()] == []


def test_a_whole_commit_in_the_cache_costs_no_request(hub, client, exported, bits):
    sha = hub.create_repo("org/once", content(exported)).branches["main"]
    for _ in range(2):
        assert client.run(PULL, name=f"hf-hub:org/once@{sha}").value == bits
        hub.requests.clear()
    assert client.run(PULL, name=f"hf-hub:org/once@{sha}").warnings == []
    assert hub.requests == []


def test_nothing_is_fetched_but_what_is_needed(hub, client, exported):
    hub.create_repo("org/some", content(exported))
    hub.requests.clear()
    client.run(PULL, name="hf-hub:org/some")
    names = {request.path.rpartition("/")[2] for request in hub.requests if "/lfs/" in request.path}
    assert names == {"model.safetensors"}
    answer = client.run("value = zoo.load_onnx('hf-hub:org/some').labels")
    assert answer.value == [str(digit) for digit in range(10)]
    assert hub.requests[-1].path.endswith("onnx/model_uint8.onnx")


def test_no_token_goes_to_where_the_files_lie(hub, client, exported):
    hub.create_repo("org/blobs", content(exported))
    hub.requests.clear()
    client.run(PULL, name="hf-hub:org/blobs")
    sent = {host: [r.had_auth for r in hub.requests if r.host == host] for host in HOSTS}
    assert all(sent["127.0.0.1"])
    assert sent["localhost"]
    assert not any(sent["localhost"])


def test_a_bit_that_flips_in_the_cache_is_told_and_fetched_anew(hub, client, exported, bits):
    sha = hub.create_repo("org/rot", content(exported)).branches["main"]
    for name in (f"hf-hub:org/rot@{sha}", "hf-hub:org/rot"):
        for file in ("model.safetensors", "config.json", "verification.json"):
            assert client.run(PULL, name=name).value == bits
            path = client.cache / "models--org--rot/snapshots" / sha / file
            changed = bytearray(path.read_bytes())
            changed[len(changed) // 2] ^= 4
            path.resolve().write_bytes(changed)
            assert client.run(PULL, name=name).value == bits
            assert client.snapshot("org/rot")[f"snapshots/{sha}/{file}"] == content(exported)[file]
    path.resolve().write_bytes(changed)
    offline = client.run(OFFLINE.format(True) + PULL, name=name)
    client.run(OFFLINE.format(False))
    assert "verification.json: changed in the cache since and not used" in offline.warnings[0]
    assert "HF_HUB_OFFLINE forbids to ask the Hub; load it once without" in offline.error
    assert client.run(PULL, name=name).value == bits


@pytest.mark.parametrize("place", ["@{sha}", ""])
def test_a_file_in_the_place_of_a_link_is_told_and_fetched_anew(
    hub, client, exported, bits, tmp_path, place
):
    sha = hub.create_repo("org/edited", content(exported)).branches["main"]
    name = "hf-hub:org/edited" + place.format(sha=sha)
    assert client.run(PULL, name=name).value == bits
    path = client.cache / "models--org--edited/snapshots" / sha / "config.json"
    edited = tmp_path / "mine.json"
    edited.write_bytes(path.read_bytes().replace(b'"decay": 0.5', b'"decay": 0.25'))
    for stand_in in (lambda: shutil.copy(edited, path), lambda: path.symlink_to(edited)):
        path.unlink()
        stand_in()
        assert path.read_bytes() != content(exported)["config.json"]
        assert client.run(PULL, name=name).value == bits
        assert path.read_bytes() == content(exported)["config.json"]
    path.unlink()
    shutil.copy(edited, path)
    offline = client.run(OFFLINE.format(True) + PULL, name=name)
    client.run(OFFLINE.format(False))
    assert "config.json: changed in the cache since and not used" in offline.warnings[0]
    assert path.read_bytes() == edited.read_bytes()  # somebody's work, and no network to replace it


def test_a_copy_of_the_cache_with_files_for_links_is_whole(hub, client, exported, bits, tmp_path):
    hub.create_repo("org/copied", content(exported))
    assert client.run(PULL, name="hf-hub:org/copied").value == bits
    storage = client.cache / "models--org--copied"
    copy = shutil.copytree(storage, tmp_path / "copy")  # as cp -rL does, or rsync -L
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    shutil.rmtree(storage)
    copy.rename(storage)
    before = client.snapshot("org/copied")
    done = client.run(OFFLINE.format(True) + PULL, name="hf-hub:org/copied")
    client.run(OFFLINE.format(False))
    assert (done.value, done.warnings) == (bits, [])
    assert client.snapshot("org/copied") == before


def test_what_is_in_its_place_is_not_touched_while_more_is_fetched(hub, client, exported, bits):
    """Other processes may be reading it."""
    hub.create_repo("org/more", content(exported))
    assert client.run(PULL, name="hf-hub:org/more").value == bits
    storage = client.cache / "models--org--more"
    before = {path: path.lstat() for path in storage.glob("snapshots/*/*.*")}
    assert len(before) == 3
    assert client.run("value = zoo.load_onnx('hf-hub:org/more') is not None").value
    for path, stat in before.items():
        assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


FILES = {"config.json": b"{}", "model.safetensors": 50_000 * b"w", "onnx/model.onnx": b"graph"}
SHA = "c" * 40


@pytest.fixture
def promises():
    return {n: Promise(hashlib.sha256(b).hexdigest(), len(b)) for n, b in FILES.items()}


@pytest.fixture
def served(monkeypatch):
    """What is downloaded without a Hub, file by file; a test may put something before it."""

    def get(url, file, **kwargs):
        name = url.partition(SHA + "/")[2]
        served.before(name)
        for at in range(0, len(FILES[name]), 1000):
            file.write(FILES[name][at : at + 1000])

    served.before = lambda name: None
    monkeypatch.setattr("zoo.hub.download.http_get", get)
    return served


def test_processes_that_nothing_locks_do_not_break_each_other(
    served, promises, monkeypatch, tmp_path
):
    """As on a network's disk where flock does nothing; one of them fails on the way."""
    monkeypatch.setattr("zoo.hub.download.WeakFileLock", lambda path, timeout: nullcontext())
    together = threading.Barrier(4)

    def before(name):
        together.wait(timeout=60)
        if name == "onnx/model.onnx" and threading.current_thread().name == "fails":
            raise OSError(errno.EDQUOT, "quota")

    served.before, ended = before, {}

    def run():
        try:
            ended[threading.current_thread().name] = fetch("org/x", SHA, promises, tmp_path)
        except PullError as error:
            ended[threading.current_thread().name] = error

    threads = [threading.Thread(target=run, name=name) for name in ("a", "b", "c", "fails")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "expected room for it" in str(ended.pop("fails"))
    folder = tmp_path / "models--org--x" / "snapshots" / SHA
    assert [*ended.values()] == [folder] * 3
    assert content(folder) == FILES
    assert not [*folder.parent.parent.glob(".pull.*")]


def test_a_lock_that_nobody_lets_go_of_holds_nobody_up_for_ever(
    served, promises, monkeypatch, tmp_path
):
    """As on a disk without flock, where the file of a process that was killed stays."""
    monkeypatch.setattr("zoo.hub.download.LONGEST_LOCK", 0.5)
    lock = tmp_path / ".locks" / "models--org--x" / "fetch.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.warns(UserWarning, match=r"fetch\.lock: expected a lock within"):
        folder = fetch("org/x", SHA, promises, tmp_path)
    assert content(folder) == FILES


def test_what_another_program_brought_meanwhile_stays(served, promises, tmp_path):
    storage = tmp_path / "models--org--x"
    blob = storage / "blobs" / promises["config.json"].digest
    path = storage / "snapshots" / SHA / "config.json"

    def before(name):
        if name == "model.safetensors":
            for parent in (blob.parent, path.parent):
                parent.mkdir(parents=True)
            blob.write_bytes(FILES["config.json"])
            path.symlink_to(blob)
            raise OSError(errno.EDQUOT, "quota")

    served.before = before
    with pytest.raises(PullError, match="expected room for it"):
        fetch("org/x", SHA, promises, tmp_path)
    assert path.read_bytes() == FILES["config.json"]
    assert {p for p in storage.rglob("*") if p.is_file()} == {blob, path}


def test_what_a_killed_process_had_downloaded_is_cleared_away_in_time(served, promises, tmp_path):
    storage = tmp_path / "models--org--x"
    for name in ("dead", "alive"):
        (storage / f".pull.{name}").mkdir(parents=True)
        (storage / f".pull.{name}" / "model.safetensors").write_bytes(b"half")
    for path in (storage / ".pull.dead").rglob("*"):
        os.utime(path, (0, 0))
    os.utime(storage / ".pull.dead", (0, 0))
    fetch("org/x", SHA, promises, tmp_path)
    assert [path.name for path in storage.glob(".pull.*")] == [".pull.alive"]


def test_where_there_are_no_links_files_stand_for_them(served, promises, monkeypatch, tmp_path):
    def forbidden(*args):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    folder = fetch("org/x", SHA, promises, tmp_path)
    assert content(folder) == FILES
    assert not (folder.parent.parent / "blobs").exists()
    served.before = lambda name: pytest.fail("it is there")
    assert fetch("org/x", SHA, promises, tmp_path) == folder


def test_files_that_stood_for_links_are_links_once_there_are_any(
    served, promises, monkeypatch, tmp_path
):
    few = {name: promise for name, promise in promises.items() if name != "onnx/model.onnx"}
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
        folder = fetch("org/x", SHA, few, tmp_path)
    assert not (folder / "config.json").is_symlink()
    served.before = lambda name: name == "onnx/model.onnx" or pytest.fail("it is there")
    assert fetch("org/x", SHA, promises, tmp_path) == folder
    assert all((folder / name).is_symlink() for name in FILES)
    assert content(folder) == FILES
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pull(f"org/x@{SHA}", FILES, cache_dir=tmp_path) == folder


def test_files_that_stand_for_links_beside_others_links_are_not_taken_for_changed(
    served, promises, monkeypatch, tmp_path
):
    few = {name: promise for name, promise in promises.items() if name != "onnx/model.onnx"}
    folder = fetch("org/x", SHA, few, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    assert fetch("org/x", SHA, promises, tmp_path) == folder
    assert not (folder / "onnx/model.onnx").is_symlink()
    served.before = lambda name: pytest.fail("it is there")
    assert fetch("org/x", SHA, promises, tmp_path) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pull(f"org/x@{SHA}", FILES, cache_dir=tmp_path) == folder


def test_a_link_that_finds_no_room_is_said_and_breaks_nothing(
    served, promises, monkeypatch, tmp_path
):
    def full(path, target):
        if path.name == "model.onnx":
            raise OSError(errno.EDQUOT, "quota")
        os.symlink(target, path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", full)
        with pytest.raises(PullError, match=r"expected room for it in .* got .*quota; set TMPD"):
            fetch("org/x", SHA, promises, tmp_path, elsewhere="TMPDIR")
    assert content(tmp_path / "models--org--x" / "snapshots" / SHA).items() <= FILES.items()
    served.before = lambda name: pytest.fail("all of it had come")
    assert content(fetch("org/x", SHA, promises, tmp_path)) == FILES


def test_what_is_no_network_of_ours_is_refused_before_its_weights_come(hub, client, exported):
    files = content(exported)
    config = json.loads(files["config.json"]) | {"architecture": "resnet18"}
    hub.create_repo("org/theirs", files | {"config.json": json.dumps(config).encode()})
    hub.requests.clear()
    error = client.run(PULL, name="hf-hub:org/theirs").error
    assert error.startswith("ValueError: org/theirs/config.json: expected an architecture of zoo")
    assert not any("model.safetensors" in request.path for request in hub.requests)
    assert client.snapshot("org/theirs") == {}


@pytest.mark.parametrize("token", ["hf_SEC\x0bRET", "hf_SEC\x0cRET", "hf_SÉCRET", "hf SECRET"])
def test_a_token_that_no_header_can_hold_is_not_said_aloud(monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PullError) as refusal:
        retried(lambda: pytest.fail("asked"))
    assert str(refusal.value) == (
        "HF_TOKEN: expected visible ASCII in the token, got other characters"
    )


@pytest.mark.skipif(not hasattr(errors, "OIDCError"), reason="an older huggingface_hub")
def test_a_token_that_does_not_come_is_said(monkeypatch):
    def refuse():
        raise errors.OIDCError("no id token in this job")

    monkeypatch.setattr("zoo.hub.download.get_token", refuse)
    with pytest.raises(PullError, match="HF_OIDC_RESOURCE: expected a token for it, got: no id"):
        retried(lambda: pytest.fail("asked"))


def test_a_commit_that_leads_elsewhere_is_refused(hub, client, exported):
    sha = hub.create_repo("org/astray", content(exported)).branches["main"].encode()
    hub.lie("^/api/models/org/astray", lambda r: r._replace(body=r.body.replace(sha, b"../../out")))
    error = client.run(PULL, name="hf-hub:org/astray").error
    hub.faults.clear()
    assert "PullError: org/astray: expected hashes, got '../../out'" in error
    assert client.snapshot("org/astray") == {}


@pytest.mark.parametrize(
    "file", ["/etc/x.json", "a\\b", "..", "a/../../b", ".", "./x", "a//b", "a/"]
)
def test_a_file_whose_name_leads_elsewhere_or_is_not_plain_is_refused(hub, client, exported, file):
    hub.create_repo("org/names", content(exported) | {file: b"{}"})
    error = client.run(PULL, name="hf-hub:org/names").error
    assert error == f"PullError: org/names: expected plain file names, got {file!r}; do not use it"
    assert client.snapshot("org/names") == {}


@pytest.mark.parametrize(
    ("file", "size"),
    [
        *(("config.json", size) for size in (math.nan, -1, None, "12", True, 2**24 + 1)),
        ("model.safetensors", 2**32 + 1),
    ],
)
def test_a_size_that_is_none_or_absurd_is_refused(hub, client, exported, file, size):
    if "org/sizes" not in hub.repos:
        hub.create_repo("org/sizes", content(exported))

    def lie(response):
        info = json.loads(response.body)
        for sibling in info["siblings"]:
            if sibling["rfilename"] == file:
                sibling["size"] = size
        return response._replace(body=json.dumps(info).encode())

    hub.lie(r"^/api/models/org/sizes", lie, times=math.inf)
    error = client.run(PULL, name="hf-hub:org/sizes").error
    hub.faults.clear()
    most = {"config.json": 16777216, "model.safetensors": 4294967296}[file]
    assert f"PullError: org/sizes: expected {file} up to {most} bytes, got" in error
    assert client.snapshot("org/sizes") == {}


def test_a_cache_may_lie_in_ones_home(served, promises, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("org/x", SHA, promises, "~/own").is_relative_to(tmp_path / "own")


def test_a_cache_that_shares_its_blobs_is_whole(hub, client, exported, bits):
    sha = hub.create_repo("org/shared", content(exported)).branches["main"]
    assert client.run(PULL, name="hf-hub:org/shared").value == bits
    for blob in (client.cache / "models--org--shared/blobs").iterdir():
        store = client.cache / "blobs" / "ab" / f"ab{blob.name[2:]}"  # another name, as Xet's are
        store.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(store)
        blob.symlink_to(f"../../blobs/ab/{store.name}")
    before, count = client.snapshot("org/shared"), len(hub.requests)
    done = client.run(PULL, name=f"hf-hub:org/shared@{sha}")
    assert (done.value, done.warnings) == (bits, [])
    assert (client.snapshot("org/shared"), len(hub.requests)) == (before, count)


def test_a_wait_is_the_one_that_is_asked_for():
    def wait(status=429, **headers):
        error = OSError()
        error.response = SimpleNamespace(status_code=status, headers=headers)
        return asked_wait(error, 2.0)

    assert wait() == asked_wait(OSError(), 2.0) == 2.0
    assert wait(**{"Retry-After": "7"}) == 7
    assert wait(ratelimit='"api";r=0;t=55') == 55
    assert wait(status=503, ratelimit='"api";r=0;t=55') == 2.0  # not why it fails
    assert wait(ratelimit='"api";r=489;t=55') == 2.0
    assert wait(**{"Retry-After": "86400"}) == 60
    assert wait(**{"Retry-After": "²"}) == 2.0


def test_what_fails_midway_leaves_the_version_before(hub, client, exported, bits):
    files = content(exported)
    old = hub.create_repo("org/two", files).branches["main"]
    assert client.run(PULL, name="hf-hub:org/two").value == bits
    before = client.snapshot("org/two")
    hub.commit("org/two", {"README.md": b"new", "model.safetensors": files["onnx/model.onnx"]})
    hub.cut(r"model\.safetensors", after=1000, reset=True, times=9)
    assert "no answer from" in client.run(PULL, name="hf-hub:org/two").error
    assert client.snapshot("org/two") == before
    assert before["refs/main"] == old.encode()
    hub.faults.clear()
    changed = client.run(PULL, name="hf-hub:org/two")
    assert "model.safetensors: expected sha256" in changed.error
    assert "as verification.json says" in changed.error


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses this token (401: fault on demand)"),
        (403, "the Hub forbids that to this token (403: fault on demand)"),
        (404, "expected a repository, found none"),
    ],
)
def test_a_refusal_is_never_answered_from_the_cache(hub, client, exported, bits, status, said):
    name = f"org/refused{status}"
    hub.create_repo(name, content(exported))
    assert client.run(PULL, name=f"hf-hub:{name}").value == bits
    if status == 404:
        del hub.repos[name]
    else:
        hub.fail(f"^/api/models/{name}", status)
    assert said in client.run(PULL, name=f"hf-hub:{name}").error
    hub.faults.clear()


@pytest.mark.parametrize("status", [500, 520, 429])
def test_a_hub_that_is_broken_or_busy_is_answered_for_by_the_cache(
    hub, client, exported, bits, status
):
    name = f"org/broken{status}"
    hub.create_repo(name, content(exported))
    assert client.run(PULL, name=f"hf-hub:{name}").value == bits
    hub.fail(f"^/api/models/{name}", status, times=9, headers={"Retry-After": "0"})
    answer = client.run(PULL, name=f"hf-hub:{name}")
    hub.faults.clear()
    assert answer.value == bits
    assert any(name in warning for warning in answer.warnings)


@pytest.mark.parametrize("status", [408, 503, 520])
def test_what_passes_is_tried_again(hub, client, exported, bits, status):
    name = f"org/passing{status}"
    hub.create_repo(name, content(exported))
    hub.fail(f"^/api/models/{name}", status, headers={"Retry-After": "0"})
    assert client.run(PULL, name=f"hf-hub:{name}").value == bits


def test_what_a_hub_refuses_is_said_in_its_words(hub, client, exported):
    hub.create_repo("org/full", content(exported))
    hub.fail("^/api/models/org/full", 400)
    error = client.run(PULL, name="hf-hub:org/full").error
    assert "org/full: the Hub refuses that (400: fault on demand); what it says has to be" in error


@pytest.mark.parametrize(
    "revision", ["@../../up", "@", "@a b", "@a/../../up", "@.hidden", "@/etc", "@a\\b"]
)
def test_a_revision_that_leads_elsewhere_is_refused(hub, client, exported, revision):
    if "org/known" not in hub.repos:
        hub.create_repo("org/known", content(exported))
    hub.requests.clear()
    error = client.run(PULL, name=f"hf-hub:org/known{revision}").error
    assert "expected a branch, a tag or a commit" in error
    assert hub.requests == []
    assert not list(client.cache.glob("*up*"))


@pytest.mark.parametrize("name", ["../x", "org/../x/y", "org/x y"])
def test_a_repository_whose_name_leads_elsewhere_is_refused(hub, client, name):
    hub.requests.clear()
    assert "HFValidationError" in client.run(PULL, name=f"hf-hub:{name}").error
    assert hub.requests == []


def test_a_cache_that_holds_it_all_is_only_read(hub, client, exported, bits):
    hub.create_repo("org/read", content(exported))
    assert client.run(PULL, name="hf-hub:org/read").value == bits
    storage = client.cache / "models--org--read"
    shutil.rmtree(client.cache / ".locks" / storage.name)
    before = (storage / "refs/main").stat().st_mtime_ns
    assert client.run(PULL, name="hf-hub:org/read").value == bits
    assert (storage / "refs/main").stat().st_mtime_ns == before
    assert not (client.cache / ".locks" / storage.name / "fetch.lock").exists()


WAITING = """
import signal, sys, zoo
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
sys.stdin.readline()
zoo.create_model("hf-hub:org/both", pretrained=True)
"""


def test_two_pulls_at_once_leave_each_other_alone(hub, exported, tmp_path):
    """The first is held in its download; the second, which waits for it, is interrupted."""
    held, let_go = threading.Event(), threading.Event()

    def hold(response):
        held.set()
        let_go.wait(LONGEST)
        return response

    hub.create_repo("org/both", content(exported))
    hub.lie(r"^/org/both/.*/config\.json$", hold)
    command, env = [sys.executable, "-c", WAITING], hub.env(tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="999")
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    first, second = (subprocess.Popen(command, env=env, **pipes) for _ in range(2))
    for process in (first, second):
        assert process.stdout.readline() == b"ready\n"

    def begin(process):
        process.stdin.write(b"\n")
        process.stdin.flush()

    try:
        begin(first)
        assert held.wait(LONGEST), "it downloaded nothing"
        asked, end = len(hub.requests), time.monotonic() + LONGEST
        begin(second)
        while not any("/models/org/both" in r.path for r in hub.requests[asked:]):
            assert time.monotonic() < end, "it asked nothing"
            time.sleep(0.05)
        time.sleep(0.5)  # in which it would begin to download
        assert first.poll() is second.poll() is None
        assert len([r for r in hub.requests if r.path.startswith("/org/both/")]) == 1
        second.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in second.communicate()[1]
    finally:
        let_go.set()
    said = first.communicate()[1].decode()
    assert first.returncode == 0, said


def test_a_cache_of_ones_own_is_used_for_all_of_it(hub, client, exported, bits, tmp_path):
    hub.create_repo("org/own", content(exported))
    code = "value = zoo.{}('hf-hub:org/own', cache_dir=own{}) is not None"
    for call in (("create_model", ", pretrained=True"), ("load_onnx", "")):
        assert client.run(code.format(*call), own=str(tmp_path)).value
    assert (tmp_path / "models--org--own/snapshots").is_dir()
    assert client.snapshot("org/own") == {}


def test_another_commit_than_was_asked_for_is_refused(hub, client, exported):
    repo, asked = hub.create_repo("org/moved", content(exported)), "a" * 40
    repo.tags[asked] = repo.branches["main"]
    error = client.run(PULL, name=f"hf-hub:org/moved@{asked}").error
    assert f"expected that commit from {hub.url}, got {repo.branches['main']!r}" in error
    assert client.snapshot("org/moved") == {}


def test_what_is_no_answer_of_a_hub_is_said(hub, client):
    hub.fail("/api/models/org/portal", 200, times=9)
    error = client.run(PULL, name="hf-hub:org/portal").error
    hub.faults.clear()
    assert "PullError: org/portal: expected an answer of the Hub from http://127.0.0.1" in error


def test_the_password_of_a_mirror_is_not_echoed(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://user:hunter2@mirror:8080/hub")
    said = explain(ConnectionError("refused"), "org/x")
    assert "no answer from http://mirror:8080/hub (ConnectionError" in said


def test_a_full_disk_is_said_and_leaves_nothing(hub, client, exported):
    hub.create_repo("org/full", content(exported))
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({}, r.RLIM_INFINITY))"
    client.run(
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + limit.format(9999)
    )
    error = client.run(PULL, name="hf-hub:org/full").error
    client.run(limit.format("r.RLIM_INFINITY"))
    assert f"expected room for it in {client.cache} and leave to write there, got" in error
    assert client.snapshot("org/full") == {}


def test_without_a_network_the_cache_is_used_and_said(exported, tmp_path):
    with HubServer() as hub, hub_client(hub, tmp_path) as client:
        sha = hub.create_repo("org/slim", content(exported)).branches["main"]
        bits = client.run(PULL, name="hf-hub:org/slim").value
        hub.__exit__()
        by_name, by_commit = (
            client.run(PULL, name=f"hf-hub:org/slim{revision}") for revision in ("", f"@{sha}")
        )
        assert by_name.value == by_commit.value == bits is not None
        assert by_commit.warnings == []
        (warning,) = by_name.warnings
        assert "no answer from http://127.0.0.1" in warning
        assert f"took what the cache holds, {sha}" in warning
        other = client.run(PULL, name="hf-hub:org/other").error
        assert other.startswith("PullError: org/other: no answer")

        client.run(OFFLINE.format(True))
        assert client.run(PULL, name="hf-hub:org/slim").value == bits
        other = client.run(PULL, name="hf-hub:org/other").error
        assert "HF_HUB_OFFLINE forbids to ask the Hub; load it once without" in other


@pytest.fixture
def register(hub, client, exported, tmp_path):
    """A package whose one release lies on the Hub."""
    sha = hub.create_repo("org/released", content(exported)).branches["main"]
    (tmp_path / FIRST).mkdir(parents=True)
    for name in ("config.json", "verification.json"):
        shutil.copy(exported / name, tmp_path / FIRST)
    (tmp_path / "hub.json").write_text(json.dumps({FIRST: f"org/released@{sha}"}))
    original = client.run("from zoo.hub import locate; value = str(locate.BUNDLED)").value
    client.run(REGISTER, bundled=str(tmp_path))
    yield tmp_path
    client.run(REGISTER, bundled=original)


def test_a_bare_name_pulls_the_release_that_the_package_pins(hub, client, register, bits):
    hub.commit("org/released", {"model.safetensors": b"main has moved on"})
    assert client.run("value = zoo.list_models(pretrained=True)").value == [FIRST]
    for name in (FIRST, "short_bp_resnet20_slim"):
        assert client.run(PULL, name=name).value == bits
    answer = client.run(
        f"value = zoo.load_onnx({FIRST!r}).classify(torch.zeros(8, 8).byte().numpy())"
    )
    assert len(answer.value) == 5


def test_a_release_at_hand_stands_before_one_on_the_hub(hub, client, register, exported, bits):
    shutil.copytree(exported, register / SECOND)
    hub.requests.clear()
    assert client.run(PULL, name="short_bp_resnet20_slim").value == bits
    assert hub.requests == []
    assert client.run("value = zoo.list_models(pretrained=True)").value == [FIRST, SECOND]


def test_a_repository_that_was_swapped_under_its_name_is_refused(client, register):
    report = register / FIRST / "verification.json"
    report.write_text(report.read_text().replace("exact", "exakt"))
    error = client.run(PULL, name=FIRST).error
    assert "expected the verification.json that this package was released with" in error


def test_every_release_is_whole_or_pinned():
    released = pretrained.released_on_hub()
    folders = {path.parent.name: path.parent for path in pretrained.BUNDLED.glob("*/config.json")}
    assert folders.keys() == set(zoo.list_models(pretrained=True))
    for name, folder in folders.items():
        listed = json.loads((folder / "verification.json").read_text())["sha256"]
        there = disk.hashes(folder, "verification.json")
        if name in released:
            assert COMMIT.fullmatch(released[name].partition("@")[2])
            assert there == {"config.json": listed["config.json"]}
        else:
            lacks = listed.keys() - there.keys()
            assert lacks <= {"onnx/model.onnx", "onnx/model_readable.onnx"}
            assert there == {file: listed[file] for file in listed.keys() - lacks}
    assert released.keys() <= folders.keys()
