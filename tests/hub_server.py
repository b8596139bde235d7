"""A Hub for tests: what publishing and pulling need of the Hugging Face Hub protocol.

    with HubServer() as hub:
        hub.create_repo("org/name", {"config.json": b"{}"})
        hub.fail(r"config\\.json", status=500)
        subprocess.run([sys.executable, "-c", code], env=hub.env(tmp_path))

All state is in memory, all traffic on the loopback. LFS blobs have an origin of their own,
localhost instead of 127.0.0.1, as on the Hub they are on a CDN: a client that takes its
token there is seen in `hub.requests`.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

OWNER = "owner"  # may write everywhere; any other account may only read what is public
LFS_SUFFIXES = (".safetensors", ".onnx", ".bin")
LFS_SIZE = 10 * 2**20  # from here on a file goes to LFS whatever its name
GITATTRIBUTES = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LFS_SUFFIXES)
LICENSES = ("apache-2.0", "mit", "other")  # of many more
ROOM = (
    '"api";r=489;t=189'  # the Hub says with each answer how many more it will give, and until when
)
COMMIT_DATE = "2025-01-01T00:00:00.000Z"  # constant, so that equal histories have equal shas
MAX_PAUSE = 30.0  # seconds between two pieces of a slow answer
MAX_ANSWER = 60.0  # seconds for all of it


class HubError(Exception):
    """A refusal; the client picks its exception by the error code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **headers}
        if code is not None:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class File:
    content: bytes = field(repr=False)
    blob_id: str  # git's name for it: of an LFS file, the sha1 of its pointer
    sha256: str | None = None  # of an LFS file
    pointer_size: int | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id


def make_file(content: bytes, lfs: bool) -> File:
    if not lfs:
        return File(content, git_blob_id(content))
    sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(content, git_blob_id(pointer.encode()), sha256, len(pointer))


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size >= LFS_SIZE


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    message: str
    files: dict[str, File]


@dataclass
class Repo:
    repo_id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a full sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, "Invalid rev id", "RevisionNotFound")
        return self.commits[sha]

    def commit(self, branch: str, files: dict[str, File], title: str, message: str = "") -> str:
        """Put a commit with exactly these files on top of a branch, and return its sha."""
        parent = self.branches.get(branch)
        etags = {path: file.etag for path, file in files.items()}
        identity = json.dumps([self.repo_id, parent, title, message, etags], sort_keys=True)
        sha = hashlib.sha1(identity.encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, message, files)
        self.branches[branch] = sha
        return sha


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    host: str  # by which the client came: 127.0.0.1 to the Hub, localhost to the blobs
    range: str | None
    token: str | None = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def had_auth(self) -> bool:
        return self.token is not None

    def has_flag(self, name: str) -> bool:
        return parse_qs(self.query).get(name, [""])[0].lower() in ("true", "1")

    def json(self) -> dict:
        return json.loads(self.body)

    def json_lines(self) -> list[dict]:
        return [json.loads(line) for line in self.body.splitlines()]


class Response(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


def json_response(data: object, status: int = 200, **headers: str) -> Response:
    headers = {"Content-Type": "application/json", **headers}
    return Response(status, json.dumps(data).encode(), headers)


def file_response(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """All of `content`, or the part of it that the request's Range asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
    if asked is None:
        return Response(200, content, headers)
    start = int(asked[1])
    stop = min(int(asked[2]) + 1 if asked[2] else len(content), len(content))
    if start >= stop:
        return Response(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
    part = f"bytes {start}-{stop - 1}/{len(content)}"
    return Response(206, content[start:stop], headers | {"Content-Range": part})


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match."""

    kind: str  # the method of HubServer that asks for it
    path: str  # a regular expression, searched for
    method: str  # a regular expression, matched in full
    times: float  # math.inf for always
    error: HubError | None = None
    after: int = 0
    reset: bool = False
    bytes_per_second: float = 0
    change: Callable[[Response], Response] | None = None

    def matches(self, kind: str, method: str, path: str) -> bool:
        same_method = re.fullmatch(self.method, method)
        return bool(kind == self.kind and same_method and re.search(self.path, path))


def flip_bit(content: bytes, bit: int) -> bytes:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


Route = Callable[..., Response]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, path: str) -> Callable[[Route], Route]:
    """Register one call of the protocol; {repo} is two segments, {path} the rest, others one."""
    widths = {"repo": "[^/]+/[^/]+", "path": ".+"}
    pattern = re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{widths.get(m[1], '[^/]+')})", path)

    def register(function: Route) -> Route:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(hub: HubServer, request: Request) -> Response:
    user = {"type": "user", "name": hub.known_account(request), "orgs": []}
    return json_response({**user, "auth": {"type": "access_token"}})


@route("POST", "/api/repos/create")
def create_repo(hub: HubServer, request: Request) -> Response:
    hub.check_owner(request)
    asked = request.json()
    if asked.get("type", "model") != "model":
        raise HubError(400, f"type: expected 'model', got {asked['type']!r}")
    repo = f"{asked['organization'] or OWNER}/{asked['name']}"
    answer = {"url": f"{hub.url}/{repo}", "id": repo, "name": repo}
    if repo in hub.repos:  # for exist_ok the client reads the url from this refusal, too
        return json_response({"error": "You already created this model repo", **answer}, 409)
    hub.create_repo(repo, private=asked.get("visibility") == "private")
    return json_response(answer)


@route("GET", "/api/models/{repo}")
@route("GET", "/api/models/{repo}/revision/{revision}")
def model_info(hub: HubServer, request: Request, repo: str, revision: str = "main") -> Response:
    found = hub.readable(request, repo)
    commit = found.resolve(revision)
    siblings = [{"rfilename": path} for path in commit.files]
    if request.has_flag("blobs"):
        siblings = [describe(path, file) for path, file in commit.files.items()]
    info = {"id": repo, "sha": commit.sha, "private": found.private, "gated": False}
    return json_response({**info, "tags": [], "siblings": siblings})


def describe(path: str, file: File) -> dict:
    size = len(file.content)
    entry = {"type": "file", "rfilename": path, "size": size, "blobId": file.blob_id}
    if file.sha256 is not None:
        entry["lfs"] = {"sha256": file.sha256, "size": size, "pointerSize": file.pointer_size}
    return entry


@route("GET", "/api/models/{repo}/refs")
def list_refs(hub: HubServer, request: Request, repo: str) -> Response:
    found = hub.readable(request, repo)
    answer = {"converts": []}
    for key, folder, refs in (("branches", "heads", found.branches), ("tags", "tags", found.tags)):
        answer[key] = [
            {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha}
            for name, sha in refs.items()
        ]
    return json_response(answer)


@route("GET", "/api/models/{repo}/commits/{revision}")
def list_commits(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    found = hub.readable(request, repo)
    history = [found.resolve(revision)]
    while history[-1].parent is not None:
        history.append(found.commits[history[-1].parent])
    common = {"authors": [{"user": OWNER}], "date": COMMIT_DATE}
    return json_response(
        [{"id": c.sha, "title": c.title, "message": c.message, **common} for c in history]
    )


@route("POST", "/api/models/{repo}/tag/{revision}")
def create_tag(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    found = hub.writable(request, repo)
    tag = request.json()["tag"]
    if tag in found.tags:
        raise HubError(409, "Tag reference exists already")
    found.tags[tag] = found.resolve(revision).sha
    return json_response({})


@route("POST", "/api/validate-yaml")
def validate_card(hub: HubServer, request: Request) -> Response:
    found = re.search(r"^license: (.*)$", request.json()["content"], re.M)
    if found and found[1] not in LICENSES:
        error = {"message": f'"license" must be one of [{", ".join(LICENSES)}]'}
        return json_response({"errors": [error], "warnings": []}, 400)
    return json_response({"errors": [], "warnings": []})


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    """Say which files go to LFS, which a .gitignore leaves out, and what the Hub has under their
    paths already.
    """
    present = hub.writable(request, repo).resolve(revision).files
    own = present[".gitignore"].content.decode() if ".gitignore" in present else ""
    ignored = (request.json().get("gitIgnore") or own).split()
    answers = []
    for asked in request.json()["files"]:
        path = asked["path"]
        mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
        ignore = any(fnmatch.fnmatch(path, pattern) for pattern in ignored)
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": ignore})
        if path in present:
            answers[-1]["oid"] = present[path].etag
    return json_response({"files": answers})


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def lfs_batch(hub: HubServer, request: Request, repo: str) -> Response:
    """Say where to put each blob; one that is there already needs no action."""
    hub.writable(request, repo)
    verify = {"href": f"{hub.url}/{repo}.git/info/lfs/objects/verify"}
    answers = []
    for asked in request.json()["objects"]:
        answers.append({"oid": asked["oid"], "size": asked["size"]})
        if asked["oid"] not in hub.blobs:
            upload = {"href": f"{hub.blob_url}/lfs/{asked['oid']}"}
            answers[-1]["actions"] = {"upload": upload, "verify": verify}
    return json_response({"transfer": "basic", "objects": answers})


@route("POST", "/{repo}.git/info/lfs/objects/verify")
def lfs_verify(hub: HubServer, request: Request, repo: str) -> Response:
    hub.writable(request, repo)
    asked = request.json()
    if len(hub.blobs.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, "No such blob of that size")
    return json_response({})


@route("PUT", "/lfs/{sha256}")
def put_blob(hub: HubServer, request: Request, sha256: str) -> Response:
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, "The content does not have the promised sha256")
    hub.blobs[sha256] = request.body
    return json_response({})


@route("GET", "/lfs/{sha256}/{path}")
def get_blob(hub: HubServer, request: Request, sha256: str, path: str) -> Response:
    """No token needed: on the Hub the signature in the url is the permission."""
    if sha256 not in hub.blobs:
        raise HubError(404, "No such blob")
    return file_response(request, hub.blobs[sha256], {"ETag": f'"{sha256}"'})


@route("POST", "/api/models/{repo}/commit/{branch}")
def make_commit(hub: HubServer, request: Request, repo: str, branch: str) -> Response:
    """All operations or none: the branch moves once, after the last of them."""
    found = hub.writable(request, repo)
    if request.has_flag("create_pr"):
        raise HubError(400, "create_pr: expected false, pull requests are not modelled")
    if branch not in found.branches:
        raise HubError(404, "Invalid rev id", "RevisionNotFound")
    header, *operations = request.json_lines()
    about, head = header["value"], found.branches[branch]
    if about.get("parentCommit", head) != head:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(found.commits[head].files)
    for operation in operations:
        apply_operation(hub, files, operation["key"], operation["value"])
    sha = found.commit(branch, files, about["summary"], about["description"])
    return json_response({"commitOid": sha, "commitUrl": f"{hub.url}/{repo}/commit/{sha}"})


def apply_operation(hub: HubServer, files: dict[str, File], key: str, value: dict) -> None:
    path = value["path"]
    if key == "file":
        files[path] = make_file(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in hub.blobs:
            raise HubError(400, "LFS pointer to a blob that was not uploaded")
        files[path] = make_file(hub.blobs[value["oid"]], lfs=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
    else:
        raise HubError(400, f"key: expected an operation, got {key!r}")


@route("GET", "/{repo}/resolve/{revision}/{path}")
def resolve_file(hub: HubServer, request: Request, repo: str, revision: str, path: str) -> Response:
    commit = hub.readable(request, repo).resolve(revision)
    headers = {"X-Repo-Commit": commit.sha}
    if path not in commit.files:
        raise HubError(404, "Entry not found", "EntryNotFound", **headers)
    file = commit.files[path]
    headers["ETag"] = f'"{file.etag}"'
    if file.sha256 is None:
        return file_response(request, file.content, headers)
    headers["X-Linked-ETag"] = headers["ETag"]
    headers["X-Linked-Size"] = str(len(file.content))
    headers["Location"] = f"{hub.blob_url}/lfs/{file.sha256}/{quote(path)}"
    return Response(302, b"", headers)


class Handler(BaseHTTPRequestHandler):
    """Reads one request, answers it and closes the connection, as HTTP/1.0 does."""

    server: HubServer
    timeout = 10  # seconds that a silent client may hold a thread

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client may leave when it likes
            super().handle()

    def answer(self) -> None:
        url, size = urlsplit(self.path), int(self.headers.get("Content-Length", 0))
        cut = self.server.take_fault("cut", "PUT", url.path) if self.command == "PUT" else None
        request = Request(
            method=self.command,
            path=url.path,
            query=url.query,
            host=self.headers.get("Host", "").partition(":")[0],
            range=self.headers.get("Range"),
            token=self.headers.get("Authorization", "").removeprefix("Bearer ") or None,
            body=self.rfile.read(min(size, cut.after) if cut else size),
        )
        self.server.requests.append(request)
        if len(request.body) == size:  # else the connection broke, and nothing has happened
            self.send(request, self.server.respond(request))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def send(self, request: Request, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("RateLimit", ROOM)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if request.method == "HEAD":
            return
        if response.status < 300:
            self.send_faulty(request, response.body)
        else:  # a redirect or a refusal uses up no fault meant for the file
            self.wfile.write(response.body)

    def send_faulty(self, request: Request, body: bytes) -> None:
        corrupt, cut, slow = (
            self.server.take_fault(kind, request.method, request.path)
            for kind in ("corrupt", "cut", "slow")
        )
        if corrupt and body:
            body = flip_bit(body, len(body) * 4)
        if cut:
            body = body[: cut.after]
        if slow:
            self.write_slowly(body, slow.bytes_per_second)
        else:
            self.wfile.write(body)
        if cut and cut.reset:
            self.reset()

    def write_slowly(self, body: bytes, bytes_per_second: float) -> None:
        """About ten pieces a second, until the body, MAX_ANSWER or the Hub's life ends."""
        size = max(1, round(bytes_per_second / 10))
        deadline = time.monotonic() + MAX_ANSWER
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            pause = min(size / bytes_per_second, MAX_PAUSE)
            if self.server.stopping.wait(pause) or time.monotonic() > deadline:
                return

    def reset(self) -> None:
        """Close with a TCP reset; the client may lose what was still on its way."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def log_message(self, *args: object) -> None:
        """Print nothing: the log is HubServer.requests."""


class HubServer(ThreadingHTTPServer):
    """The Hub, on a free port of the loopback from the beginning to the end of a `with` block.

    `repos`, `blobs` (by sha256), `requests` and `faults` are there to be looked at. Faults are
    asked for by `fail`, `cut`, `corrupt`, `lie` and `slow`; one that has happened leaves `faults`.
    """

    daemon_threads = False  # so that leaving the block waits for answers under way
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.blob_url = f"http://localhost:{self.server_port}"
        self.token = "owner-token"
        self.accounts = {self.token: OWNER}
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def env(self, home: Path, **overrides: str) -> dict[str, str]:
        """Environment of a client that keeps its cache in `home`; HF_TOKEN="" is anonymous.

        It is for a new process, since the client reads these variables once, on import.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",  # an upload by Xet has no fallback, and is not modelled
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **overrides,
        }

    def create_repo(
        self, repo: str, files: Mapping[str, bytes] | None = None, private: bool = False
    ) -> Repo:
        """A repository with the Hub's own first commit and, if there are files, a second."""
        self.repos[repo] = Repo(repo, private)
        initial = {".gitattributes": make_file(GITATTRIBUTES.encode(), lfs=False)}
        self.repos[repo].commit("main", initial, "initial commit")
        if files:
            self.commit(repo, files)
        return self.repos[repo]

    def commit(self, repo: str, files: Mapping[str, bytes], title: str = "Add files") -> str:
        """Add files, of any name and content, on top of main; return the commit's sha."""
        added = {path: make_file(data, is_lfs(path, len(data))) for path, data in files.items()}
        self.blobs |= {file.sha256: file.content for file in added.values() if file.sha256}
        present = self.repos[repo].resolve("main").files
        return self.repos[repo].commit("main", present | added, title)

    def read(self, repo: str, path: str, revision: str = "main") -> bytes:
        return self.repos[repo].resolve(revision).files[path].content

    def fail(
        self,
        path: str,
        status: int,
        headers: Mapping[str, str] | None = None,
        method: str = ".*",
        times: float = 1,
    ) -> None:
        """Refuse a request, and do nothing else."""
        error = HubError(status, "fault on demand", **(headers or {}))
        self.faults.append(Fault("fail", path, method, times, error=error))

    def cut(
        self, path: str, after: int, method: str = "GET", times: float = 1, reset: bool = False
    ) -> None:
        """Close the connection after so many bytes of the body.

        A PUT loses the end of its request, and stores nothing. Anything else loses the end of
        its answer: a cut POST has done its work, and only the client does not know.
        """
        self.faults.append(Fault("cut", path, method, times, after=after, reset=reset))

    def corrupt(self, path: str, method: str = "GET", times: float = 1) -> None:
        """Flip the middle bit of the answer; its size stays right."""
        self.faults.append(Fault("corrupt", path, method, times))

    def lie(
        self,
        path: str,
        change: Callable[[Response], Response],
        method: str = "GET",
        times: float = 1,
    ) -> None:
        """Answer otherwise."""
        self.faults.append(Fault("lie", path, method, times, change=change))

    def slow(
        self, path: str, bytes_per_second: float, method: str = "GET", times: float = 1
    ) -> None:
        fault = Fault("slow", path, method, times, bytes_per_second=bytes_per_second)
        self.faults.append(fault)

    def take_fault(self, kind: str, method: str, path: str) -> Fault | None:
        """The first fault of that kind that matches, used once."""
        with self.lock:
            fault = next((f for f in self.faults if f.matches(kind, method, path)), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
            return fault

    def respond(self, request: Request) -> Response:
        try:
            if fault := self.take_fault("fail", request.method, request.path):
                raise fault.error
            with self.lock:
                response = self.dispatch(request)
            lie = self.take_fault("lie", request.method, request.path)
            return lie.change(response) if lie else response
        except HubError as error:
            return json_response({"error": str(error)}, error.status, **error.headers)

    def dispatch(self, request: Request) -> Response:
        wanted = "GET" if request.method == "HEAD" else request.method
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == wanted:
                names = {name: unquote(part) for name, part in match.groupdict().items()}
                return function(self, request, **names)
        raise HubError(404, f"no such call: {request.method} {request.path}")

    def account(self, request: Request) -> str | None:
        """Whose token the request carries; None if it carries none."""
        if request.token is None:
            return None
        if request.token not in self.accounts:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.accounts[request.token]

    def known_account(self, request: Request) -> str:
        account = self.account(request)
        if account is None:
            raise HubError(401, "Invalid username or password.")
        return account

    def check_owner(self, request: Request) -> None:
        if self.known_account(request) != OWNER:
            raise HubError(403, "You don't have the rights to write here")

    def readable(self, request: Request, repo: str) -> Repo:
        """The repository; who may not see a private one is told that there is none."""
        account = self.account(request)
        found = self.repos.get(repo)
        if found is None or (found.private and account != OWNER):
            # The client reads such a 401 as RepoNotFound over https; over http it needs the code.
            raise HubError(401 if account is None else 404, "Repository not found", "RepoNotFound")
        return found

    def writable(self, request: Request, repo: str) -> Repo:
        found = self.readable(request, repo)
        self.check_owner(request)
        return found
