"""The Hub of the tests does what it is told; the tests of publishing and pulling hold the rest."""

import math
import urllib.error
import urllib.request

import numpy as np
import pytest
from hub_server import HubServer
from safetensors.numpy import save

REPO = "org/model"
WEIGHTS = save({"weight": np.arange(750_000, dtype=np.float32)})  # 3 MB
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy in between


@pytest.fixture
def hub():
    with HubServer() as hub:
        yield hub


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with DIRECT.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_token_at_the_blobs_would_be_seen(hub):
    hub.create_repo(REPO, {"model.safetensors": WEIGHTS})
    (sha256,) = hub.blobs
    fetch(f"{hub.blob_url}/lfs/{sha256}/model.safetensors", Authorization="Bearer leaked")
    assert [(r.host, r.had_auth) for r in hub.requests] == [("localhost", True)]
    assert "leaked" not in repr(hub.requests)


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
