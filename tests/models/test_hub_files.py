"""Models from a Hub: names with a revision, an adapter's base, offline, and every way in which loading fails."""

import json
import shutil
import socket

import httpx
import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from peft import PeftModel, get_peft_model

from empathy_trl.chat.local import load_for_chat
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.reply_classifiers import check_configs
from empathy_trl.hub.pull import hub_requests
from empathy_trl.models.hub_files import hub_errors, join_revision, one_revision, split_revision
from empathy_trl.models.load import load_model, lora_config
from empathy_trl.models.scorer import shared_scorer
from empathy_trl.recipe import Lora

LORA = Lora(r=2, alpha=2)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """huggingface_hub tries again for half a minute."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def publish(repo, folder, tag=None):
    """Upload a folder as ann's; returns the commit."""
    HfApi().create_repo(repo, exist_ok=True)
    commit = HfApi().upload_folder(repo_id=repo, folder_path=folder).oid
    if tag:
        HfApi().create_tag(repo, tag=tag)
    return commit


@pytest.fixture
def base(hub_server, tiny_folder):
    """Id of a model with the tag v1; its main branch has another config, which does not fit the weights."""
    publish("ann/base", tiny_folder, tag="v1")
    changed = json.loads((tiny_folder / "config.json").read_text()) | {"intermediate_size": 7}
    HfApi().upload_file(path_or_fileobj=json.dumps(changed).encode(), path_in_repo="config.json", repo_id="ann/base")
    return "ann/base"


@pytest.fixture
def adapter(base, tiny, tmp_path):
    """Id of an adapter on the base's v1."""
    model, _ = tiny
    model.name_or_path = base
    adapted = get_peft_model(model, lora_config(LORA, "CAUSAL_LM", "v1"))
    adapted.save_pretrained(tmp_path / "adapter")
    publish("ann/adapter", tmp_path / "adapter", tag="a1")
    return "ann/adapter"


def test_a_model_by_its_revision(base):
    model, tokenizer = load_model(f"{base}@v1")
    assert model.config.intermediate_size != 7 and tokenizer.eos_token == "<eos>"
    with pytest.raises(UserError, match="ann/base: the weights do not fit config.json"):
        load_model(base)


def test_an_adapter_brings_its_base_at_its_revision(adapter):
    assert isinstance(load_model(f"{adapter}@a1")[0], PeftModel)
    model, tokenizer = load_for_chat(adapter, revision="a1")
    assert isinstance(model, PeftModel) and tokenizer.eos_token == "<eos>"


def test_chat_takes_a_base_and_an_adapter_with_their_revisions(adapter, base):
    assert isinstance(load_for_chat(f"{base}@v1", adapter=f"{adapter}@a1")[0], PeftModel)
    with pytest.raises(UserError, match="adapter ann/adapter@a9: no revision 'a9' of this model on the Hub"):
        load_for_chat(f"{base}@v1", adapter=f"{adapter}@a9")


def test_a_scorer_by_its_revision(hub_server, make_classifier):
    publish("ann/judge", make_classifier({"good": [0.0, 1.0], "bad": [1.0, 0.0]}), tag="v1")
    scorer = shared_scorer("ann/judge@v1")
    assert scorer is shared_scorer("ann/judge", "v1")
    assert scorer.score(["good"]).argmax() == 1
    with pytest.raises(UserError, match="ann/judge@v1: its revision is also given as 'v2'"):
        shared_scorer("ann/judge@v1", "v2")
    check_configs({"emotion": "ann/judge@v1"})
    with pytest.raises(UserError, match=r"evaluation.classifiers.emotion: ann/judge@v7: no revision 'v7'"):
        check_configs({"emotion": "ann/judge@v7"})


# Offline


def test_offline_with_a_filled_cache(adapter, hub_server, tmp_path):
    load_model(f"{adapter}@a1")
    asked = len(hub_server.log)
    with hub_server.in_this_process(tmp_path / "hub_home", offline=True):
        assert isinstance(load_model(f"{adapter}@a1")[0], PeftModel)
    assert len(hub_server.log) == asked


def test_a_cache_filled_by_the_command_that_the_error_names(base, hub_server, tmp_path):
    offline = hub_server.in_this_process(tmp_path / "home", offline=True)
    with offline, pytest.raises(UserError, match="run `hf download ann/base --revision v1` on a machine with network"):
        load_model(f"{base}@v1")
    with hub_server.in_this_process(tmp_path / "home"):
        snapshot_download(base, revision="v1")  # what the command does
    with hub_server.in_this_process(tmp_path / "home", offline=True):
        load_model(f"{base}@v1")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_offline_and_one_file_is_missing(base, hub_server, tmp_path, missing):
    snapshot_download(base, revision="v1", ignore_patterns=[missing])
    message = rf"^ann/base@v1: .*{missing}.*HF_HUB_OFFLINE is set.*`hf download ann/base --revision v1`"
    offline = hub_server.in_this_process(tmp_path / "hub_home", offline=True)
    with offline, pytest.raises(UserError, match=message):
        load_model(f"{base}@v1")


# Faults


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "answers HTTP 500"),
        (429, "answers HTTP 429"),
        (403, "the Hub answers HTTP 403: the token lacks the right to read it; run `hf auth login`"),
    ],
)
def test_what_the_hub_answers_instead(base, hub_server, status, message):
    hub_server.fail("*", "/ann/base/", status=status, times=50, headers={"Retry-After": "0"})
    with pytest.raises(UserError, match=rf"^ann/base@v1: .*{message}"):
        load_model(f"{base}@v1")


def test_a_gated_model(base, hub_server):
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}
    hub_server.fail("*", "/ann/base/", status=403, times=9, headers=headers)
    with pytest.raises(UserError, match="^ann/base@v1: gated model; accept the licence on .*`hf auth login`"):
        load_model(f"{base}@v1")


def test_a_private_model_of_somebody_else(hub_server, tiny_folder, tmp_path):
    HfApi().create_repo("ann/secret", private=True)
    publish("ann/secret", tiny_folder)
    message = "^ann/secret: no such .* model on the Hub; if it is private, .*`hf auth login`"
    somebody = hub_server.in_this_process(tmp_path / "home", token=hub_server.other_token)
    with somebody, pytest.raises(UserError, match=message):
        load_model("ann/secret")


def test_a_revision_that_is_not_there(base):
    with pytest.raises(UserError, match="^ann/base@v9: no revision 'v9' of this model on the Hub$"):
        load_model(f"{base}@v9")


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (lambda: f"http://127.0.0.1:{closed_port()}", "Connection refused"),
        (lambda: "http://hub.invalid", "hub.invalid: .*(not known|resolution|resolve)"),
    ],
)
def test_no_way_to_the_hub(base, monkeypatch, endpoint, message):
    url = endpoint()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(UserError, match=f"json is not in the local cache, and the Hub cannot be reached: .*{message}"):
        load_model(f"{base}@v1")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ALL_PROXY", ImportError("Using SOCKS proxy, but the 'socksio' package is not installed")),
        ("all_proxy", ValueError("Unknown scheme for proxy URL URL('socks://127.0.0.1:9')")),
        ("SSL_CERT_FILE", FileNotFoundError(2, "No such file or directory")),
    ],
)
def test_a_network_setting_that_cannot_be_used_is_named(monkeypatch, name, error):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv(name, "unusable")
    for block in (hub_errors("ann/base", None), hub_requests("ann/base: not pushed", "Try again")):
        with pytest.raises(UserError, match=f"{error.args[-1][:20]}.*check the environment variable .*{name}"), block:
            raise error


def test_a_hub_that_never_answers(base, monkeypatch):
    def late(*args, **kwargs):
        raise httpx.ReadTimeout("The read operation timed out")

    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", late)
    with pytest.raises(UserError, match="config.json is not in the local cache, and .* does not answer in time"):
        load_model(f"{base}@v1")


def test_a_download_that_is_cut_off_and_goes_on(base, hub_server):
    hub_server.cut("/resolve/.*/model.safetensors", after_bytes=1000, times=50, method="GET")
    with pytest.raises(UserError, match="^ann/base@v1: .*was interrupted; the same command continues it"):
        load_model(f"{base}@v1")
    hub_server.faults.clear()
    load_model(f"{base}@v1")


def test_damaged_weights_in_the_cache(base):
    path = hf_hub_download(base, "model.safetensors", revision="v1")
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="read.*`hf download ann/base --revision v1 --force-download` repeats it"):
        load_model(f"{base}@v1")


# Secrets


def test_a_token_in_what_the_server_says_is_not_repeated(base, hub_server):
    headers = {"X-Error-Message": f"bad token {hub_server.token}"}
    hub_server.fail("*", "/ann/base/", status=401, times=9, headers=headers)
    with pytest.raises(UserError) as caught:
        load_model(f"{base}@v1")
    assert hub_server.token not in str(caught.value)


def test_python_in_a_repository_is_not_even_asked_about(hub_server, tiny_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    evil = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | evil))
    (folder / "evil.py").write_text("class Evil: pass")
    publish("ann/evil", folder)
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    with pytest.raises(UserError, match="ann/evil: cannot be loaded: .*contains custom code"):
        load_model("ann/evil")
    assert not hub_server.requests("", r"evil\.py")


def test_an_adapter_from_the_hub_names_no_folder_of_this_machine(hub_server, tmp_path):
    HfApi().create_repo("ann/adapter")
    content = json.dumps({"base_model_name_or_path": str(tmp_path), "peft_type": "LORA"})
    HfApi().upload_file(path_or_fileobj=content.encode(), path_in_repo="adapter_config.json", repo_id="ann/adapter")
    with pytest.raises(UserError, match=f"adapter: the base of this adapter is {tmp_path}, a folder on its author's"):
        load_model("ann/adapter")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("me/model", ("me/model", None)),
        ("gpt2@v1", ("gpt2", "v1")),
        ("me/model@v1.0", ("me/model", "v1.0")),
        ("me/model@refs/pr/1", ("me/model", "refs/pr/1")),
        ("openai:NAME@x", ("openai:NAME@x", None)),
        ("stage:sft", ("stage:sft", None)),
        ("outputs/ed4@v1", ("outputs/ed4@v1", None)),
        ("./here@v1", ("./here@v1", None)),
        ("~/there@v1", ("~/there@v1", None)),
        ("a/b/c@v1", ("a/b/c@v1", None)),
        ("@v1", ("@v1", None)),
    ],
)
def test_what_stands_behind_the_at(name, parts):
    assert split_revision(name) == parts
    assert join_revision(*parts) == name


def test_a_folder_with_an_at_is_a_folder_and_one_without_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model@v1").mkdir()
    assert split_revision("model@v1") == ("model@v1", None)
    assert split_revision(str(tmp_path / "model@v1")) == (str(tmp_path / "model@v1"), None)
    (tmp_path / "model@v1").rename(tmp_path / "model")
    with pytest.raises(UserError, match="model@v1: model is a folder here, and only a model on the Hub has revisions"):
        split_revision("model@v1")


@pytest.mark.parametrize("name", ["me/model@", "me/model@../../x", "me/model@a b", "me/model@-x", "me/model@a@b"])
def test_what_is_no_revision(name):
    with pytest.raises(UserError, match="is not a revision; expected USER/REPO@ with a branch, a tag or a commit"):
        split_revision(name)


def test_two_revisions_have_to_be_the_same():
    assert one_revision("me/model@v1", "v1") == one_revision("me/model", "v1") == ("me/model", "v1")
    with pytest.raises(UserError, match="me/model@v1: its revision is also given as 'v2'; expected one of them"):
        one_revision("me/model@v1", "v2")
