"""The Hub on this machine, asked as everybody asks the Hub: with huggingface_hub."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download, list_models, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import HubServer

CARD = "---\ntags:\n- empathy-trl\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n# Tiny\n"
WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture
def no_waiting(monkeypatch):
    """Retries at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def tiny_repo(hub_server, tmp_path):
    """ann/tiny with a small file, a large one and a card; returns the server and the commit."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_text(CARD)
    HfApi().create_repo("ann/tiny")
    commit = HfApi().upload_folder(repo_id="ann/tiny", folder_path=folder, commit_message="First")
    return hub_server, commit.oid


def test_what_is_uploaded_is_downloaded(tiny_repo):
    hub, sha = tiny_repo
    folder = snapshot_download("ann/tiny")
    assert hub.files("ann/tiny")["model.safetensors"] == WEIGHTS
    assert Path(f"{folder}/model.safetensors").read_bytes() == WEIGHTS
    assert Path(f"{folder}/config.json").read_text() == '{"a": 1}'
    assert folder.endswith(sha)


def test_information(tiny_repo):
    _, sha = tiny_repo
    info = HfApi().model_info("ann/tiny", files_metadata=True)
    files = {file.rfilename: file for file in info.siblings}
    assert (info.id, info.author, info.sha, info.private) == ("ann/tiny", "ann", sha, False)
    assert set(info.tags) == {"empathy-trl", "transformers", "text-generation"}
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert files["model.safetensors"].lfs.size == len(WEIGHTS) and files["config.json"].lfs is None
    assert ModelCard.load("ann/tiny").data.library_name == "transformers"
    assert {file.path for file in HfApi().list_repo_tree("ann/tiny")} == set(files)
    assert [commit.title for commit in HfApi().list_repo_commits("ann/tiny")] == ["First", "initial commit"]
    assert HfApi().whoami()["name"] == "ann"


@pytest.mark.parametrize("kind", ["tag", "branch", "sha", "short sha"])
def test_a_download_by_revision(tiny_repo, kind):
    _, sha = tiny_repo
    HfApi().create_tag("ann/tiny", tag="v1.0")
    HfApi().create_branch("ann/tiny", branch="old/one", revision=sha)
    HfApi().upload_file(path_or_fileobj=b'{"a": 2}', path_in_repo="config.json", repo_id="ann/tiny")
    revision = {"tag": "v1.0", "branch": "old/one", "sha": sha, "short sha": sha[:8]}[kind]
    assert Path(hf_hub_download("ann/tiny", "config.json", revision=revision)).read_text() == '{"a": 1}'
    assert Path(hf_hub_download("ann/tiny", "config.json")).read_text() == '{"a": 2}'
    refs = HfApi().list_repo_refs("ann/tiny")
    assert {ref.name for ref in refs.branches} == {"main", "old/one"} and [ref.name for ref in refs.tags] == ["v1.0"]


def test_listing_by_author_and_tag(tiny_repo):
    HfApi().create_repo("ann/hidden", private=True)
    HfApi().create_repo("bob/other", token=tiny_repo[0].other_token)
    assert {model.id for model in list_models(author="ann")} == {"ann/tiny", "ann/hidden"}
    assert {model.id for model in list_models(author="ann", token=False)} == {"ann/tiny"}
    assert [model.id for model in list_models(filter="empathy-trl")] == ["ann/tiny"]
    assert [model.id for model in list_models(filter=["empathy-trl", "other"])] == []
    with_cards = list(list_models(filter="empathy-trl", cardData=True))
    assert with_cards[0].card_data.pipeline_tag == "text-generation"


def test_datasets_have_a_name_space_of_their_own(tiny_repo):
    HfApi().create_repo("ann/tiny", repo_type="dataset", private=True)
    HfApi().upload_file(
        path_or_fileobj=b"a,b\n",
        path_in_repo="t/a.csv",
        repo_id="ann/tiny",
        repo_type="dataset",
        commit_message="Table",
    )
    assert Path(hf_hub_download("ann/tiny", "t/a.csv", repo_type="dataset")).read_text() == "a,b\n"
    assert [found.id for found in HfApi().list_datasets(author="ann")] == ["ann/tiny"]
    assert HfApi().dataset_info("ann/tiny").private


def test_what_is_not_there(tiny_repo):
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("ann/tiny", "nothing.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("ann/tiny", "config.json", revision="v9")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("ann/nothing")
    with pytest.raises(HfHubHTTPError, match="409"):
        HfApi().create_repo("ann/tiny")
    assert HfApi().create_repo("ann/tiny", exist_ok=True).repo_id == "ann/tiny"


def test_who_may_do_what(hub_server):
    HfApi().create_repo("ann/hidden", private=True)
    for token in (False, hub_server.other_token):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).model_info("ann/hidden")
    assert HfApi(token=hub_server.read_token).model_info("ann/hidden").private
    for token in (hub_server.read_token, hub_server.other_token):
        with pytest.raises(HfHubHTTPError, match="403"):
            HfApi(token=token).create_repo("ann/new")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token="hf_unknown").create_repo("ann/new")


def test_a_commit_on_an_old_parent_is_refused(tiny_repo):
    _, sha = tiny_repo
    HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="ann/tiny", parent_commit=sha)
    with pytest.raises(HfHubHTTPError, match="412"):
        HfApi().upload_file(path_or_fileobj=b"2", path_in_repo="b.txt", repo_id="ann/tiny", parent_commit=sha)


def test_a_card_must_be_yaml(tiny_repo):
    with pytest.raises((ValueError, BadRequestError), match="metadata"):
        HfApi().upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id="ann/tiny")


def test_faults_happen_as_often_as_told(tiny_repo, no_waiting):
    hub, _ = tiny_repo
    hub.fail("GET", "/api/models/ann/tiny", status=429, headers={"Retry-After": "7"}, times=1)
    with pytest.raises(HfHubHTTPError) as error:
        HfApi().model_info("ann/tiny")
    assert error.value.response.headers["Retry-After"] == "7"
    assert HfApi().model_info("ann/tiny").id == "ann/tiny"


def test_an_upload_cut_off_is_not_stored(tiny_repo, no_waiting):
    hub, _ = tiny_repo
    hub.cut("/lfs/", after_bytes=1000, times=1, method="PUT")
    other = WEIGHTS[::-1]
    HfApi().upload_file(path_or_fileobj=other, path_in_repo="model.safetensors", repo_id="ann/tiny")
    puts = hub.requests("PUT")[-2:]
    assert [(put.received, put.status) for put in puts] == [(1000, None), (len(other), 200)]
    assert hub.files("ann/tiny")["model.safetensors"] == other


def test_a_large_file_that_arrived_is_not_asked_for_again(tiny_repo):
    hub, _ = tiny_repo
    HfApi().upload_file(path_or_fileobj=WEIGHTS, path_in_repo="copy.safetensors", repo_id="ann/tiny")
    assert len(hub.requests("PUT")) == 1
    assert hub.files("ann/tiny")["copy.safetensors"] == WEIGHTS


def test_a_download_cut_off_goes_on_where_it_was(tiny_repo, no_waiting):
    hub, _ = tiny_repo
    hub.cut("/resolve/.*safetensors", after_bytes=300_000, method="GET", reset=False)
    assert Path(hf_hub_download("ann/tiny", "model.safetensors")).read_bytes() == WEIGHTS
    sent = [request.sent for request in hub.requests("GET", "safetensors")]
    assert sent[0] == 300_000 and sum(sent) <= len(WEIGHTS) + 300_000


def test_offline_the_cache_is_all_there_is(tiny_repo, tmp_path):
    hub, _ = tiny_repo
    with hub.in_this_process(tmp_path / "hub_home", offline=True), pytest.raises(LocalEntryNotFoundError):
        hf_hub_download("ann/tiny", "config.json")
    hf_hub_download("ann/tiny", "config.json")
    asked = len(hub.log)
    with hub.in_this_process(tmp_path / "hub_home", offline=True):
        assert Path(hf_hub_download("ann/tiny", "config.json")).read_text() == '{"a": 1}'
    assert len(hub.log) == asked


def test_another_process_asks_it_too(tmp_path):
    code = "from huggingface_hub import HfApi; print(HfApi().create_repo('ann/new'))"
    with HubServer() as hub:
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, env=hub.env(tmp_path), capture_output=True, text=True
        )
        assert done.stdout.strip() == f"{hub.url}/ann/new", done.stderr


def test_the_log_knows_no_tokens(tiny_repo):
    hub, _ = tiny_repo
    assert not re.search("hf_[A-Za-z]", repr(hub.log))
