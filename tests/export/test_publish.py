"""What is sent to the Hub and what is not; tests/test_hub_faults.py has what goes wrong there."""

import json
import shutil
from pathlib import Path

import pytest
from hub_client import hub_client
from hub_server import HubServer

from export.publish import Options, PublishError, publish_to_folder, publish_to_hub
from zoo.hub import files as disk

PUBLISH = """
from export.publish import Options, publish_to_hub
value = publish_to_hub(Options(**{"num_images": 10} | options))
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    with hub_client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "slim")


def publish(client, folder: Path, repo: str, confirm: bool = True, **options):
    options |= {"folder": str(folder), "to": repo, "confirm": confirm}
    return client.run(PUBLISH, options=options)


def reseal(folder: Path) -> None:
    """Sign a changed folder anew, as only an export may."""
    from zoo.hub.files import hashes

    report = json.loads((folder / "verification.json").read_text())
    report["sha256"] = hashes(folder, "verification.json")
    (folder / "verification.json").write_text(json.dumps(report))


def planned(rehearsed: str) -> dict[str, list[str]]:
    """Names of files by what would become of them."""
    said: dict[str, list[str]] = {}
    for line in rehearsed.splitlines()[1:-1]:
        what, name, *_ = line.split()
        said.setdefault(what, []).append(name)
    return said


def test_a_new_version_replaces_all_files_in_one_commit_and_is_the_next_tag(hub, client, folder):
    (folder / "training.png").write_bytes(b"left out of the next version")
    reseal(folder)
    first = publish(client, folder, "org/versions").value
    head = hub.repos["org/versions"].branches["main"]
    assert first == f"published org/versions as v1 at {head}"
    (folder / "README.md").write_text("Another card.")
    (folder / "training.png").unlink()
    reseal(folder)
    rehearsed = publish(client, folder, "org/versions", confirm=False).value
    assert "one commit tagged v2" in rehearsed
    assert planned(rehearsed) == {
        "replace": ["README.md", "verification.json"],
        "delete": ["training.png"],
    }
    second = publish(client, folder, "org/versions").value
    assert second.startswith("published org/versions as v2 at ")
    found = hub.repos["org/versions"]
    assert {*found.resolve("main").files} - {".gitattributes"} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*.*")
    }
    assert found.tags["v1"] == head
    assert hub.read("org/versions", "README.md", "v1") != b"Another card."
    (folder / "training.png").write_bytes(b"there again")
    reseal(folder)
    rehearsed = publish(client, folder, "org/versions", confirm=False).value
    assert planned(rehearsed) == {"add": ["training.png"], "replace": ["verification.json"]}


def test_a_repository_that_holds_something_else_stays_as_it_is(hub, client, folder):
    hub.create_repo("org/mine", {"thesis.pdf": b"years"})
    head = hub.repos["org/mine"].branches["main"]
    for confirm in (False, True):
        error = publish(client, folder, "org/mine", confirm).error
        assert (
            "['thesis.pdf'], which are no files of one that was published there, or changed since; "
            "it stays as it is" in error
        )
    assert hub.repos["org/mine"].branches["main"] == head


@pytest.mark.parametrize("confirm", [False, True])
def test_a_repository_with_a_file_whose_name_leads_elsewhere_is_let_be(
    hub, client, folder, confirm
):
    head = hub.create_repo("org/names", {"onnx/../../x": b""}).branches["main"]
    error = publish(client, folder, "org/names", confirm).error
    assert "org/names: expected plain file names, got 'onnx/../../x'; do not use it" in error
    assert hub.repos["org/names"].branches["main"] == head


@pytest.mark.parametrize("report", [b"[]", b"{}", b'{"sha256": {"model.bin": ""}}', b"no JSON"])
def test_files_that_no_report_names_stay_as_they_are(hub, client, folder, report):
    mine = {"thesis.pdf": b"years", "model.bin": b"epochs", "verification.json": report}
    hub.create_repo("org/theirs", mine)
    head = hub.repos["org/theirs"].branches["main"]
    for confirm in (False, True):
        error = publish(client, folder, "org/theirs", confirm).error
        assert "'thesis.pdf'" in error
        assert "which are no files of one that was published there, or changed since; it" in error
    assert hub.repos["org/theirs"].branches["main"] == head


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])  # a small file, a large
def test_a_published_file_that_somebody_changed_stays_as_it_is(hub, client, folder, name):
    repo = f"org/changed-{name.partition('.')[0]}"
    publish(client, folder, repo)
    head = hub.commit(repo, {name: hub.read(repo, name) + b" "})
    for confirm in (False, True):
        error = publish(client, folder, repo, confirm).error
        assert f"['{name}'], which are no files of one that was published there, or chang" in error
    assert hub.repos[repo].branches["main"] == head


def test_private_is_never_public(hub, client, folder):
    assert publish(client, folder, "org/secret", private=True).error is None
    assert hub.repos["org/secret"].private
    hub.create_repo("org/open")
    error = publish(client, folder, "org/open", private=True).error
    assert "--private: expected a private repository, org/open is public" in error
    assert len(hub.repos["org/open"].commits) == 1


def test_a_crash_before_the_tag_is_made_good_by_the_same_command(hub, client, folder):
    publish(client, folder, "org/crash")
    hub.repos["org/crash"].tags.clear()
    commits = dict(hub.repos["org/crash"].commits)
    rehearsed = publish(client, folder, "org/crash", confirm=False).value
    assert rehearsed == "org/crash holds this network and no tag; --confirm verifies and tags it"
    assert publish(client, folder, "org/crash").value.startswith("published org/crash as v1")
    assert hub.repos["org/crash"].commits == commits


def test_what_does_not_verify_is_not_sent(hub, client, folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x10  # of the last float; the graphs no longer hold it
    weights.write_bytes(content)
    reseal(folder)
    error = publish(client, folder, "org/other-weights").error
    assert "graphs hold the weights" in error
    assert "it is not published, since these checks failed" in error
    assert "org/other-weights" not in hub.repos
    with pytest.raises(PublishError, match="it is not published, since these checks failed"):
        publish_to_folder(Options(folder=str(folder), to_folder=str(folder.parent / "out")))
    assert not (folder.parent / "out").exists()


def test_a_graph_that_is_none_is_not_sent(folder):
    (folder / "onnx/model.onnx").write_bytes(b"none")
    reseal(folder)
    with pytest.raises(PublishError, match=r"; it is not published$"):
        publish_to_folder(Options(folder=str(folder), to_folder=str(folder.parent / "out")))
    assert not (folder.parent / "out").exists()


def test_what_could_not_be_verified_afterwards_is_not_sent(hub, client, folder):
    error = publish(client, folder, "org/unsent", num_images=0).error
    assert "--num-images: expected 1 to 1048576, got 0" in error
    client.run(
        "import export.publish as p; p.images_of = lambda *a: (_ for _ in ()).throw(OSError())"
    )
    error = publish(client, folder, "org/unsent").error
    client.run("from export.images import images_of; p.images_of = images_of")
    assert error.startswith("OSError")
    assert "org/unsent" not in hub.repos


def test_a_check_that_breaks_leaves_a_commit_that_is_named(hub, client, folder):
    client.run(
        "import export.publish as p; passed = iter([{'passed': True}]); p.verify = lambda *a: "
        "next(passed)"
    )
    error = publish(client, folder, "org/broken").error
    client.run("from export.verify import verify; p.verify = verify")
    sha = hub.repos["org/broken"].branches["main"]
    assert f"the commit {sha} is in org/broken and has no tag, since it could not be" in error


def test_a_commit_that_comes_back_and_fails_a_check_has_no_tag(hub, client, folder):
    client.run(
        "import export.publish as p; found = iter([{'passed': True}, {'passed': False, 'checks': "
        "[{'title': 'some check', 'passed': False, 'figures': {}}]}]); p.verify = lambda *a: "
        "next(found)"
    )
    error = publish(client, folder, "org/failed").error
    client.run("from export.verify import verify; p.verify = verify")
    repo = hub.repos["org/failed"]
    assert "some check: {}" in error
    assert f"the commit {repo.branches['main']} is in org/failed and has no tag, since it" in error
    assert repo.tags == {}


def test_a_tag_that_somebody_took_meanwhile_is_not_ours(hub, client, folder):
    client.run(
        "import export.publish as p; real = p.verify_published\n"
        "def taken(repo_id, sha, *a):\n"
        "    real(repo_id, sha, *a)\n"
        "    parent = p.HfApi().list_repo_commits(repo_id, revision=sha)[-1].commit_id\n"
        "    p.HfApi().create_tag(repo_id, tag='v1', revision=parent)\n"
        "p.verify_published = taken"
    )
    error = publish(client, folder, "org/taken").error
    client.run("p.verify_published = real")
    assert "org/taken: somebody has taken the tag v1 for another commit" in error


RACED = """
from huggingface_hub import CommitOperationAdd
import export.publish as p
def raced(api, folder, repo_id, found):
    note = CommitOperationAdd("note.txt", b"mine")
    api.create_commit(repo_id, [note], commit_message="somebody else's")
    return commit(api, folder, repo_id, found)
commit, p.commit = p.commit, raced
"""


def test_somebody_elses_commit_in_between_is_not_overwritten(hub, client, folder):
    publish(client, folder, "org/raced")
    (folder / "README.md").write_text("another card")
    reseal(folder)
    client.run(RACED)
    error = publish(client, folder, "org/raced").error
    client.run("p.commit = commit")
    repo = hub.repos["org/raced"]
    assert f"somebody has committed {repo.branches['main']} since" in error
    assert repo.resolve("main").files["note.txt"].content == b"mine"
    assert set(repo.tags) == {"v1"}


def test_a_tag_that_is_no_version_says_nothing(hub, client, folder):
    publish(client, folder, "org/tagged")
    repo = hub.repos["org/tagged"]
    repo.tags = {"wip": repo.branches["main"]}
    assert publish(client, folder, "org/tagged").value.startswith("published org/tagged as v1")


def test_a_folder_that_is_written_anew_meanwhile_is_sent_as_it_was(hub, client, folder):
    card = (folder / "README.md").read_bytes()
    client.run(
        "import export.publish as p; real = p.images_of\n"
        "def edit(*a): (p.Path(options['folder']) / 'README.md').write_text('x'); return real(*a)\n"
        "p.images_of = edit"
    )
    publish(client, folder, "org/edited")
    client.run("p.images_of = real")
    assert (folder / "README.md").read_bytes() == b"x"
    assert hub.repos["org/edited"].resolve("main").files["README.md"].content == card


REPLACED = """
import json
import export.publish as p
def replaced(folder):
    check_card(folder)
    (folder / "README.md").write_text("another export's")
    report = json.loads((folder / p.REPORT).read_text()) | {"sha256": p.hashes(folder, p.REPORT)}
    (folder / p.REPORT).write_text(json.dumps(report))
check_card, p.check_card = p.check_card, replaced
"""


def test_another_export_than_was_looked_at_is_not_sent(hub, client, folder):
    client.run(REPLACED)
    error = publish(client, folder, "org/replaced").error
    client.run("p.check_card = check_card")
    assert error == f"PublishError: {folder}: another export took its place; publish again"
    assert "org/replaced" not in hub.repos


BREAKING = """
import export.publish as p
fails, create_commit = list(range(2)), p.HfApi.create_commit
def breaking(*args, **kwargs):
    if fails:
        fails.pop()
        raise {error}
    return create_commit(*args, **kwargs)
p.HfApi.create_commit = breaking
"""


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        ("ConnectionError('network error: 503')", "published org/breaks as v"),  # as hf_xet's are
        ("__import__('json').JSONDecodeError('no JSON', '<html>', 0)", "published org/breaks as v"),
        ("PermissionError('not yours')", "not yours; the repository stands as it did"),
    ],
)
def test_an_upload_that_breaks_is_tried_again_or_told(hub, client, folder, error, ends):
    (folder / "README.md").write_text(error)
    reseal(folder)
    client.run(BREAKING.format(error=error))
    done = publish(client, folder, "org/breaks")
    client.run("p.HfApi.create_commit = create_commit")
    assert ends in (done.value or done.error)


DOWNLOADED = """
from pathlib import Path
from huggingface_hub import hf_hub_download, model_info
from export.folder import changed_files
from export.verify import published_folder
for file in model_info(repo).siblings:
    hf_hub_download(repo, file.rfilename, local_dir=here)
for_verify = published_folder(f"hf-hub:{repo}")
(for_verify / ".gitattributes").write_text("as huggingface_hub has it there")
value = [changed_files(folder) for folder in (Path(here), for_verify)]
"""


def test_what_was_published_can_be_verified_by_who_downloads_it(hub, client, folder, tmp_path):
    assert publish(client, folder, "org/fetched").value
    here = tmp_path / "here"
    found = client.run(DOWNLOADED, repo="org/fetched", here=str(here))
    assert (found.error, found.value) == (None, [[], []])
    assert (here / ".cache").is_dir()
    run = publish_to_folder(Options(folder=str(here), to_folder=str(tmp_path / "there")))
    assert run == f"published {tmp_path / 'there'}"
    assert not (tmp_path / "there" / ".cache").exists()


def test_a_version_is_one_more_than_the_highest(hub, client, folder):
    publish(client, folder, "org/many")
    repo = hub.repos["org/many"]
    repo.tags = dict.fromkeys(("v2", "v10"), repo.resolve("main").parent)
    assert publish(client, folder, "org/many").value.startswith("published org/many as v11 at ")


def test_hidden_files_on_the_hub_are_nobodys_business(hub, client, folder):
    files = {name: (folder / name).read_bytes() for name in disk.files(folder)}
    hidden = {".gitignore": b"*.onnx\n*.png\n*.md\n", ".eval_results/first.yaml": b"of the Hub"}
    hub.create_repo("org/dotted", hidden)
    assert "as v1 at" in publish(client, folder, "org/dotted").value
    assert "holds this very network already, as v1" in publish(client, folder, "org/dotted").value
    there = hub.repos["org/dotted"].resolve("main").files
    assert {*there} - {".gitattributes"} == {*files, *hidden}


def test_files_on_the_hub_that_the_report_does_not_name_are_refused(hub, client, folder):
    files = {name: (folder / name).read_bytes() for name in disk.files(folder)}
    code = "from export.verify import published_folder\nvalue = str(published_folder(name))"
    hub.create_repo("org/hidden", files | {".gitattributes": b"the Hub's own"})
    assert client.run(code, name="hf-hub:org/hidden").error is None
    hub.create_repo("org/more", files | {"onnx/model_quantized.onnx": b"of another"})
    error = client.run(code, name="hf-hub:org/more").error
    assert "names, got others: ['onnx/model_quantized.onnx']" in error


def test_a_repository_without_a_report_is_nothing_to_verify(hub, client, folder):
    hub.create_repo("org/bare", {"config.json": (folder / "config.json").read_bytes()})
    code = "from export.verify import published_folder\npublished_folder('hf-hub:org/bare')"
    assert "expected a verification report, found none" in client.run(code).error


def test_a_page_in_the_place_of_the_hub_is_said(hub, client, folder):
    hub.lie("whoami", lambda answer: answer._replace(body=b"<html>"))
    error = publish(client, folder, "org/portal").error
    assert f"expected an answer of the Hub from {hub.url}, got JSONDecodeError" in error


@pytest.mark.parametrize("confirm", [False, True])
def test_a_card_that_the_hub_does_not_take_is_told_before_anything_is_made(
    hub, client, folder, confirm
):
    (folder / "README.md").write_text("---\nlicense: nobodys\n---\nA card.")
    reseal(folder)
    error = publish(client, folder, "org/unlicensed", confirm=confirm).error
    assert 'README.md: expected metadata that the Hub takes, got: "license" must be one of' in error
    assert "org/unlicensed" not in hub.repos
    assert not any(b"A card." in request.body for request in hub.requests)


def test_a_new_repository_that_does_not_show_is_left_for_later(hub, client, folder):
    missing = {"X-Error-Code": "RepoNotFound"}
    hub.fail("^/api/models/org/late$", 404, headers=missing, times=2)
    error = publish(client, folder, "org/late").error
    assert "org/late: expected the repository that was just made, found none yet; the same" in error
    assert len(hub.repos["org/late"].commits) == 1
    assert publish(client, folder, "org/late").value.startswith("published org/late as v1 at ")


def test_a_repository_that_may_not_be_made_is_told_and_nothing_is_sent(hub, client, folder):
    hub.fail("/repos/create", 403)
    error = publish(client, folder, "org/forbidden").error
    assert error.startswith("PublishError: org/forbidden: the Hub forbids that to this token (403:")
    assert error.endswith("take one with the right to it; nothing was sent")
    assert "org/forbidden" not in hub.repos


def test_a_repository_whose_making_was_not_answered_is_published_to(hub, client, folder):
    hub.cut("/repos/create", after=5, method="POST")
    assert publish(client, folder, "org/unanswered").value.startswith("published org/unanswered as")
    assert hub.faults == []


@pytest.mark.parametrize("confirm", [False, True])
def test_publishing_without_a_token_says_how_to_get_one(hub, client, folder, confirm):
    client.run("import os; token = os.environ.pop('HF_TOKEN')")
    error = publish(client, folder, "org/nobodys", confirm).error
    client.run("os.environ['HF_TOKEN'] = token")
    assert error == (
        "PublishError: org/nobodys: expected a token of the Hub, found none; log in with `hf auth "
        "login` or set HF_TOKEN; nothing was sent"
    )
    assert "org/nobodys" not in hub.repos


def test_a_gated_repository_is_not_taken_for_none(hub, client, folder):
    hub.create_repo("org/gated")
    hub.fail("^/api/models/org/gated", 403, headers={"X-Error-Code": "GatedRepo"})
    error = publish(client, folder, "org/gated", confirm=False).error
    assert "its owner asks for terms to be accepted on the Hub first" in error


def test_a_name_without_its_owner_is_refused(hub, client, folder):
    error = publish(client, folder, "slim").error
    assert error == "ValueError: --to: expected org/name, got 'slim'"
    assert not any(name.endswith("/slim") for name in hub.repos)


def test_a_new_repository_that_takes_nothing_is_named(hub, client, folder):
    hub.fail("/commit/", 403, times=9)
    error = publish(client, folder, "org/new").error
    hub.faults.clear()
    assert "the repository stands as it did" in error
    assert error.endswith("; the repository org/new is new")


@pytest.mark.parametrize("kind", ["file", "folder", "inside"])
def test_links_are_not_followed_out_of_a_folder(folder, tmp_path, kind):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("mine")
    target = {
        "file": tmp_path / "secret" / "key.txt",
        "folder": tmp_path / "secret",
        "inside": folder / "README.md",
    }[kind]
    (folder / "link").symlink_to(target)
    reseal(folder)
    with pytest.raises(PublishError, match=r"expected plain files, got links: .*/link"):
        publish_to_folder(Options(folder=str(folder), to_folder=str(tmp_path / "out")))
    with pytest.raises(PublishError, match="expected plain files"):
        publish_to_hub(Options(folder=str(folder), to="org/links", confirm=True))
    assert not (tmp_path / "out").exists()
