"""Publishing: huggingface_hub against a server on 127.0.0.1."""

import json
import shutil
from pathlib import Path

import pytest
from hub_client import hub_client
from hub_server import HubServer

from export.publish import Options, PublishError, publish_to_folder
from zoo.hub.files import files, hashes

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


def test_private_is_never_public(hub, client, folder):
    assert publish(client, folder, "org/secret", private=True).error is None
    assert hub.repos["org/secret"].private
    hub.create_repo("org/open")
    error = publish(client, folder, "org/open", private=True).error
    assert "--private: org/open is public" in error
    assert len(hub.repos["org/open"].commits) == 1


def test_a_repository_that_holds_something_else_stays_as_it_is(hub, client, folder):
    hub.create_repo("org/mine", {"thesis.pdf": b"years"})
    hub.create_repo("org/theirs", {"config.json": b"{}", "model.safetensors": b"of others"})
    for repo, file in (("org/mine", "thesis.pdf"), ("org/theirs", "config.json")):
        head = hub.repos[repo].branches["main"]
        error = publish(client, folder, repo).error
        assert f"expected an empty repository or one published by this command, found ['{file}" in (
            error
        )
        assert hub.repos[repo].branches["main"] == head


def test_a_cut_publication_is_finished_by_the_same_command(hub, client, folder):
    publish(client, folder, "org/cut")
    repo = hub.repos["org/cut"]
    repo.tags = {"wip": repo.branches["main"]}
    commits = dict(repo.commits)
    assert publish(client, folder, "org/cut").value.startswith("published org/cut as v1")
    assert repo.commits == commits
    assert publish(client, folder, "org/cut").value.startswith("org/cut holds this network already")


def test_without_confirm_nothing_is_sent(hub, client, folder):
    rehearsed = publish(client, folder, "org/dry", confirm=False).value
    assert {*planned(rehearsed)["add"]} == {*files(folder)}
    assert "org/dry" not in hub.repos


def test_what_does_not_verify_is_not_published(hub, client, folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x10  # of the last float; the graphs no longer hold it
    weights.write_bytes(content)
    with pytest.raises(PublishError, match=r"changed since its verification: .'model.safetensors'"):
        publish_to_folder(Options(folder=str(folder), to_folder=str(folder.parent / "out")))
    reseal(folder)
    error = publish(client, folder, "org/other-weights").error
    assert "not published, since these checks failed" in error
    assert "org/other-weights" not in hub.repos
    with pytest.raises(PublishError, match="not published, since these checks failed"):
        publish_to_folder(Options(folder=str(folder), to_folder=str(folder.parent / "out")))
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda hub: hub.corrupt(r"\.safetensors$"), "other bytes came back from the Hub"),
        (lambda hub: hub.fail("/tag/", 403), "the Hub answered 403"),
    ],
)
def test_what_does_not_come_back_whole_has_no_tag(hub, client, folder, fault, said):
    name = f"org/{said.split()[0]}"
    fault(hub)
    error = publish(client, folder, name).error
    repo = hub.repos[name]
    assert said in error
    assert f"the commit {repo.branches['main']} is in {name} without a tag; run the same" in error
    assert repo.tags == {}
    assert publish(client, folder, name).value.startswith(f"published {name} as v1")


RACED = """
import export.publish as p
def raced(api, folder, repo_id, found):
    from huggingface_hub import CommitOperationAdd
    note = CommitOperationAdd("note.txt", b"mine")
    api.create_commit(repo_id, [note], commit_message="of another person")
    return commit(api, folder, repo_id, found)
commit, p._commit = p._commit, raced
"""


def test_a_commit_in_between_is_not_overwritten(hub, client, folder):
    hub.create_repo("org/raced")
    client.run(RACED)
    error = publish(client, folder, "org/raced").error
    client.run("p._commit = commit")
    repo = hub.repos["org/raced"]
    assert "the Hub answered 412" in error
    assert repo.resolve("main").files["note.txt"].content == b"mine"


@pytest.mark.parametrize(
    ("happen", "said"),
    [
        (lambda hub: hub.accounts.clear(), "the Hub answered 401"),
        (lambda hub: hub.fail("/repos/create", 403), "the token lacks the right to do this"),
        (lambda hub: hub.fail("/commit/", 403), "the token lacks the right to do this"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(hub, client, folder, happen, said):
    accounts = dict(hub.accounts)
    happen(hub)
    error = publish(client, folder, "org/refused").error
    hub.accounts = accounts
    assert error.startswith("PullError: org/refused: ")
    assert said in error
    assert "org/refused" not in hub.repos or not hub.repos["org/refused"].tags
    hub.repos.pop("org/refused", None)


def test_publishing_without_a_token_says_how_to_get_one(hub, client, folder):
    client.run("import os; token = os.environ.pop('HF_TOKEN')")
    error = publish(client, folder, "org/nobodys").error
    client.run("os.environ['HF_TOKEN'] = token")
    assert "log in with `hf auth login` or set HF_TOKEN" in error
    assert "org/nobodys" not in hub.repos


def test_hidden_files_on_the_hub_are_ignored(hub, client, folder):
    hidden = {".eval_results/first.yaml": b"of the Hub"}
    hub.create_repo("org/dotted", hidden)
    assert "as v1 at" in publish(client, folder, "org/dotted").value
    assert "holds this network already, as v1" in publish(client, folder, "org/dotted").value
    there = hub.repos["org/dotted"].resolve("main").files
    assert {*there} - {".gitattributes"} == {*files(folder), *hidden}


def test_a_published_folder_is_replaced_only_when_unchanged(folder, tmp_path):
    options = {"folder": str(folder), "to_folder": str(tmp_path / "out"), "num_images": 10}
    assert publish_to_folder(Options(**options)) == f"published {tmp_path / 'out'}"
    assert "holds this network already" in publish_to_folder(Options(**options))
    (folder / "README.md").write_text("Another card.")
    reseal(folder)
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        publish_to_folder(Options(**options))
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"would delete: .'mine.txt'"):
        publish_to_folder(Options(**options, overwrite=True))
    (tmp_path / "out" / "mine.txt").unlink()
    publish_to_folder(Options(**options, overwrite=True))
    assert (tmp_path / "out" / "README.md").read_text() == "Another card."
