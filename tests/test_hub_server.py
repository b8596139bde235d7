"""The test Hub against the real client: each test runs huggingface_hub or timm in a process."""

import json
import math
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from safetensors.numpy import save

REPO = "org/model"
README = b"---\nlicense: mit\n---\n# A model\n"
WEIGHTS = save({"weight": np.arange(750_000, dtype=np.float32)})  # 3 MB
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy in between

CLIENT = """
import hashlib, json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub import snapshot_download

repo, folder, api = "org/model", Path(os.environ["HF_HOME"], "folder"), HfApi()

def add(*paths):
    return [CommitOperationAdd(path, folder / path) for path in paths]

def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

def refusal(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, response.status_code if response is not None else None]

def report(**results):
    print(json.dumps(results))
"""


@pytest.fixture
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def home(tmp_path):
    """A client's home with an empty cache and a folder to publish."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_bytes(README)
    (folder / "config.json").write_bytes(b'{"time_steps": 4}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return tmp_path


def run_client(hub: HubServer, home: Path, code: str, **env: str) -> dict:
    """What `code` reports, run by the real client."""
    process = subprocess.run(
        [sys.executable, "-c", CLIENT + textwrap.dedent(code)],
        env=hub.env(home, **env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with DIRECT.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def seen(hub: HubServer, method: str, part: str) -> list:
    return [r for r in hub.requests if r.method == method and part in r.path]


# Publishing


def test_one_commit_publishes_all_files_and_they_come_back_equal(hub, home):
    results = run_client(
        hub,
        home,
        """
        api.create_repo(repo)
        parent = api.model_info(repo).sha
        files = "README.md", "config.json", "model.safetensors"
        sha = api.create_commit(repo, add(*files), commit_message="v1", parent_commit=parent).oid
        api.create_tag(repo, tag="v1", revision=sha)
        local = snapshot_download(repo, revision=sha, local_dir=folder.parent / "local")
        check = api.verify_repo_checksums(repo, revision=sha, local_dir=local)
        report(
            sha=sha,
            parent=parent,
            history=[commit.commit_id for commit in api.list_repo_commits(repo)],
            tags={tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags},
            files=sorted(api.list_repo_files(repo, revision="v1")),
            by_sha=sha256(hf_hub_download(repo, "model.safetensors", revision=sha)),
            by_tag=sha256(hf_hub_download(repo, "model.safetensors", revision="v1")),
            lfs=[s.lfs.sha256 for s in api.model_info(repo, files_metadata=True).siblings if s.lfs],
            checked=check.checked_count,
            wrong=check.mismatches + check.missing_paths,
            published=sha256(folder / "model.safetensors"),
        )
        """,
    )
    assert len(results["sha"]) == 40
    assert results["history"] == [results["sha"], results["parent"]]
    assert results["tags"] == {"v1": results["sha"]}
    assert results["files"] == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert results["by_sha"] == results["by_tag"] == results["published"]
    assert results["lfs"] == [results["published"]]
    assert (results["checked"], results["wrong"]) == (4, [])
    assert hub.repos[REPO].branches == {"main": results["sha"]}
    assert hub.read(REPO, "model.safetensors") == WEIGHTS
    assert hub.read(REPO, "README.md", revision="v1") == README
    assert len(seen(hub, "POST", "/commit/")) == 1


def test_stale_parent_commit_is_refused_and_head_stays(hub, home):
    stale = hub.create_repo(REPO).branches["main"]
    head = hub.commit(REPO, {"config.json": b"{}"})
    results = run_client(
        hub,
        home,
        f"""
        commit = dict(commit_message="late", parent_commit="{stale}")
        report(refusal=refusal(api.create_commit, repo, add("model.safetensors"), **commit))
        """,
    )
    assert results["refusal"] == ["HfHubHTTPError", 412]
    assert hub.repos[REPO].branches == {"main": head}


def test_committing_the_same_content_again_makes_no_commit(hub, home):
    hub.create_repo(REPO, {"README.md": README, "model.safetensors": WEIGHTS})
    head = hub.repos[REPO].branches["main"]
    results = run_client(
        hub,
        home,
        """
        operations = add("README.md", "model.safetensors")
        report(sha=api.create_commit(repo, operations, commit_message="again").oid)
        """,
    )
    assert results["sha"] == head
    assert seen(hub, "POST", "/commit/") == seen(hub, "PUT", "/lfs/") == []


def test_commit_deletes_files_and_folders(hub, home):
    hub.create_repo(REPO, {"old.txt": b"1", "onnx/model.onnx": b"2", "onnx.txt": b"3"})
    run_client(
        hub,
        home,
        """
        operations = [CommitOperationDelete("old.txt"), CommitOperationDelete("onnx/")]
        report(sha=api.create_commit(repo, operations, commit_message="clean").oid)
        """,
    )
    assert list(hub.repos[REPO].resolve("main").files) == [".gitattributes", "onnx.txt"]


# Who may do what


def test_unknown_token_is_refused(hub, home):
    hub.create_repo(REPO, {"config.json": b"{}"})
    results = run_client(
        hub,
        home,
        """
        report(
            whoami=refusal(api.whoami),
            create=refusal(api.create_repo, "org/other"),
            download=refusal(hf_hub_download, repo, "config.json"),
        )
        """,
        HF_TOKEN="nobody-token",
    )
    assert set(map(tuple, results.values())) == {("HfHubHTTPError", 401)}
    assert list(hub.repos) == [REPO]


def test_private_repo_looks_missing_to_all_but_its_owner(hub, home):
    results = run_client(
        hub,
        home,
        f"""
        api.create_repo(repo, private=True)
        def ask(token, name=repo):
            return refusal(hf_hub_download, name, ".gitattributes", token=token)
        report(
            private=api.model_info(repo).private,
            anonymous=[ask(False), ask(False, "org/missing")],
            guest=[ask("{hub.guest_token}"), ask("{hub.guest_token}", "org/missing")],
            owner=ask(None),
        )
        """,
    )
    assert results["private"] is True
    assert results["anonymous"] == [["RepositoryNotFoundError", 401]] * 2
    assert results["guest"] == [["RepositoryNotFoundError", 404]] * 2
    assert results["owner"] is None


def test_guest_reads_public_repos_and_writes_nothing(hub, home):
    hub.create_repo(REPO, {"config.json": b"{}"})
    head = hub.repos[REPO].branches["main"]
    results = run_client(
        hub,
        home,
        """
        report(
            name=api.whoami()["name"],
            download=refusal(hf_hub_download, repo, "config.json"),
            create=refusal(api.create_repo, "guest/model"),
            commit=refusal(api.create_commit, repo, add("README.md"), commit_message="mine"),
            tag=refusal(api.create_tag, repo, tag="mine"),
        )
        """,
        HF_TOKEN=hub.guest_token,
    )
    assert (results["name"], results["download"]) == ("guest", None)
    assert results["create"] == results["commit"] == results["tag"] == ["HfHubHTTPError", 403]
    assert list(hub.repos) == [REPO]
    assert (hub.repos[REPO].branches, hub.repos[REPO].tags) == ({"main": head}, {})


def test_missing_and_existing_things_are_told_apart(hub, home):
    hub.create_repo(REPO, {"config.json": b"{}"})
    hub.repos[REPO].tags["v1"] = hub.repos[REPO].branches["main"]
    results = run_client(
        hub,
        home,
        """
        report(
            file=refusal(hf_hub_download, repo, "nothing.json"),
            revision=refusal(hf_hub_download, repo, "config.json", revision="v2"),
            repo=refusal(api.create_repo, repo),
            repo_exist_ok=refusal(api.create_repo, repo, exist_ok=True),
            tag=refusal(api.create_tag, repo, tag="v1"),
            pull_request=refusal(
                api.create_commit, repo, add("README.md"), commit_message="x", create_pr=True
            ),
        )
        """,
    )
    assert results == {
        "file": ["RemoteEntryNotFoundError", 404],
        "revision": ["RevisionNotFoundError", 404],
        "repo": ["HfHubHTTPError", 409],
        "repo_exist_ok": None,
        "tag": ["HfHubHTTPError", 409],
        "pull_request": ["BadRequestError", 400],
    }


def test_token_does_not_follow_the_redirect_to_the_blobs(hub, home):
    hub.create_repo(REPO, {"model.safetensors": WEIGHTS}, private=True)
    run_client(
        hub,
        home,
        """
        hf_hub_download(repo, "model.safetensors")
        api.create_commit(repo, [CommitOperationAdd("m.onnx", b"onnx")], commit_message="onnx")
        report()
        """,
    )
    blob_requests = [(r.method, r.had_auth) for r in hub.requests if r.host == "localhost"]
    assert blob_requests == [("GET", False), ("PUT", False)]
    assert all(r.had_auth for r in seen(hub, "HEAD", "/resolve/"))


def test_token_at_the_blobs_would_be_seen(hub):
    hub.create_repo(REPO, {"model.safetensors": WEIGHTS})
    (sha256,) = hub.blobs
    fetch(f"{hub.blob_url}/lfs/{sha256}/model.safetensors", Authorization="Bearer leaked")
    assert [(r.host, r.had_auth) for r in hub.requests] == [("localhost", True)]
    assert "leaked" not in repr(hub.requests)


# Faults


def test_upload_is_tried_again_after_an_error_a_rate_limit_and_a_cut(hub, home):
    hub.create_repo(REPO)
    hub.fail(r"/preupload/", 500)
    hub.fail(r"/objects/batch", 429, {"Retry-After": "0"})
    hub.cut(r"/lfs/", after=1_000_000, method="PUT")
    results = run_client(
        hub,
        home,
        """
        sha = api.create_commit(repo, add("model.safetensors"), commit_message="v1").oid
        report(sha=sha)
        """,
    )
    assert hub.faults == []
    assert [len(r.body) for r in seen(hub, "PUT", "/lfs/")] == [1_000_000, len(WEIGHTS)]
    assert len(seen(hub, "POST", "/preupload/")) == len(seen(hub, "POST", "/objects/batch")) == 2
    assert hub.repos[REPO].branches == {"main": results["sha"]}
    assert hub.read(REPO, "model.safetensors") == WEIGHTS


def test_refused_calls_leave_head_where_it_was(hub, home):
    head = hub.create_repo(REPO).branches["main"]
    hub.fail(r"/lfs/", 403, method="PUT")
    hub.fail(r"/commit/", 409)
    hub.fail(r"/commit/", 500)
    results = run_client(
        hub,
        home,
        """
        def commit():
            return refusal(api.create_commit, repo, add("model.safetensors"), commit_message="v1")
        report(refusals=[commit(), commit(), commit()])
        """,
    )
    assert results["refusals"] == [
        ["RuntimeError", None],
        ["HfHubHTTPError", 409],
        ["HfHubHTTPError", 500],
    ]
    assert hub.faults == []
    assert hub.repos[REPO].branches == {"main": head}


def test_cut_answer_hides_a_commit_that_has_happened(hub, home):
    head = hub.create_repo(REPO).branches["main"]
    hub.cut(r"/commit/", after=5, method="POST")
    results = run_client(
        hub,
        home,
        """
        report(refusal=refusal(api.create_commit, repo, add("README.md"), commit_message="v1"))
        """,
    )
    assert results["refusal"] == ["RemoteProtocolError", None]
    assert hub.repos[REPO].resolve("main").parent == head


def test_cut_download_resumes_where_the_client_had_got_to(hub, home):
    content = bytes(range(256)) * 49_152  # 12 MiB; the client keeps pieces of 10 MiB
    hub.create_repo(REPO, {"model.onnx": content})
    hub.cut(r"model\.onnx", after=11 * 2**20)
    results = run_client(
        hub,
        home,
        """
        report(sha256=sha256(hf_hub_download(repo, "model.onnx")))
        """,
    )
    assert results["sha256"] in hub.blobs
    assert [r.range for r in seen(hub, "GET", "/lfs/")] == [None, f"bytes={10 * 2**20}-"]


def test_stalled_and_rate_limited_downloads_are_tried_again(hub, home):
    hub.create_repo(REPO, {"config.json": b"{}", "model.safetensors": WEIGHTS})
    hub.fail(r"config\.json", 500, method="HEAD")
    hub.fail(r"config\.json", 429, {"Retry-After": "0"}, method="GET")
    hub.slow(r"model\.safetensors", bytes_per_second=0.1)
    results = run_client(
        hub,
        home,
        """
        hf_hub_download(repo, "config.json")
        report(sha256=sha256(hf_hub_download(repo, "model.safetensors")))
        """,
        HF_HUB_DOWNLOAD_TIMEOUT="1",
    )
    assert hub.faults == []
    assert results["sha256"] in hub.blobs
    assert [len(seen(hub, method, "config.json")) for method in ("HEAD", "GET")] == [2, 2]


def test_corrupt_bytes_pass_the_download_but_not_the_checksums(hub, home):
    hub.create_repo(REPO, {"config.json": b'{"time_steps": 4}', "model.safetensors": WEIGHTS})
    hub.corrupt(r"model\.safetensors")
    hub.corrupt(r"config\.json", bit=0)
    results = run_client(
        hub,
        home,
        """
        files = [Path(hf_hub_download(repo, f)) for f in ("config.json", "model.safetensors")]
        check = api.verify_repo_checksums(repo)
        report(
            sizes=[file.stat().st_size for file in files],
            config=files[0].read_text(),
            mismatches=[[wrong["path"], wrong["algorithm"]] for wrong in check.mismatches],
        )
        """,
    )
    assert results["sizes"] == [17, len(WEIGHTS)]
    assert results["config"] == 'z"time_steps": 4}'
    assert results["mismatches"] == [["config.json", "git-sha1"], ["model.safetensors", "sha256"]]


def test_reset_ends_a_download_at_once(hub, home):
    hub.create_repo(REPO, {"model.safetensors": WEIGHTS})
    hub.cut(r"model\.safetensors", after=1000, reset=True)
    results = run_client(
        hub,
        home,
        """
        report(refusal=refusal(hf_hub_download, repo, "model.safetensors"))
        """,
    )
    assert results["refusal"] == ["ReadError", None]
    assert len(seen(hub, "GET", "/lfs/")) == 1


def test_fault_happens_as_often_as_asked_and_no_redirect_uses_it_up(hub):
    hub.create_repo(REPO, {"model.safetensors": WEIGHTS})
    url = f"{hub.url}/{REPO}/resolve/main/model.safetensors"
    hub.fail(r"/resolve/", 403, times=2)
    hub.corrupt(r"model\.safetensors")
    answers = [fetch(url) for _ in range(4)]
    assert [status for status, _ in answers] == [403, 403, 200, 200]
    assert len(answers[2][1]) == len(WEIGHTS)
    assert [body == WEIGHTS for _, body in answers[2:]] == [False, True]
    hub.fail(r"/resolve/", 500, times=math.inf)
    assert [fetch(url)[0] for _ in range(3)] == [500] * 3


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=2-", 206, b"cdef"),
        ("bytes=1-3", 206, b"bcd"),
        ("bytes=4-99", 206, b"ef"),
        ("bytes=6-", 416, b""),
        ("lines=1-2", 200, b"abcdef"),
    ],
)
def test_range_gives_that_part_of_a_file(hub, asked, status, part):
    hub.create_repo(REPO, {"a.txt": b"abcdef"})
    assert fetch(f"{hub.url}/{REPO}/resolve/main/a.txt", Range=asked) == (status, part)


def test_stopped_hub_is_gone_even_in_the_middle_of_a_slow_answer():
    with HubServer() as hub:
        assert hub.server_address[0] == "127.0.0.1"
        hub.create_repo(REPO, {"a.txt": b"abcdef"})
        hub.slow(r"a\.txt", bytes_per_second=0.01)
        answer = DIRECT.open(f"{hub.url}/{REPO}/resolve/main/a.txt", timeout=10)
    with answer:
        assert answer.read1() == b"a"
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(hub.url)


# timm


def test_timm_pushes_a_model_and_loads_it_back_equal(hub, home):
    results = run_client(
        hub,
        home,
        """
        import timm, torch
        from timm.models import push_to_hf_hub

        torch.set_num_threads(1)
        model = timm.create_model("test_resnet", num_classes=10).eval()
        push_to_hf_hub(model, repo, safe_serialization=True)
        loaded = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
        image = torch.randn(1, 3, 32, 32)
        report(equal=torch.equal(model(image), loaded(image)))
        """,
    )
    assert results["equal"] is True
    assert {"config.json", "model.safetensors"} <= hub.repos[REPO].resolve("main").files.keys()
