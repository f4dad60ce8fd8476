"""Pushing over HTTP to a server that fails in every way: what arrives, what is said, and what is not lost."""

import errno
import hashlib
import json
import re
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import HfApi, hf_hub_download, parse_eval_result_entries
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from empathy_trl.errors import UserError
from empathy_trl.hub import pull as requests
from empathy_trl.hub import push as push_module
from empathy_trl.hub.push import PushCheckpoints, check_pushes, preview_push, push, push_dataset
from empathy_trl.hub.results import ENTRIES_FILE
from empathy_trl.models.tiny import build_model, build_tokenizer
from empathy_trl.recipe import load_recipe
from tests.hub.folders import NOT_PUBLISHED, make_stage_folder, stage_folder

REPO = "ann/tiny"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return make_stage_folder(tiny_folder, tmp_path / "outputs" / "grpo")


@pytest.fixture
def waits(monkeypatch):
    """Nobody waits; the list says for how long one would have."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def failed(folder) -> str:
    """Push, which has to fail and to leave the folder as it was; return what is said."""
    before = digests(folder)
    with pytest.raises(UserError) as error:
        push(folder, REPO)
    assert digests(folder) == before
    said = str(error.value)
    assert said.startswith(f"{REPO}: not pushed: ") and f"{folder} is unchanged" in said
    assert said.endswith(f"run: empathy-trl hub push {folder} --repo_id {REPO}")
    return said


def test_what_is_published(hub_server, folder):
    (folder / "notes.md").write_text("We like it.")
    assert push(folder, REPO) == f"{hub_server.url}/ann/tiny"
    files = hub_server.files("ann/tiny")
    assert set(files) == {
        ".gitattributes", "README.md", "chat_template.jinja", "config.json", "eval_test.json", "generation_config.json",
        "metrics.jsonl", "model.safetensors", "notes.md", "recipe.yaml", "reward_curve.png", "run.json", "samples.md", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert not {name.split("/")[-1] for name in NOT_PUBLISHED} & {name.split("/")[-1] for name in files}
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.faults
def test_a_push_deletes_nothing_of_the_users(hub_server, folder):
    push(folder, REPO)
    for name in ("assets/logo.png", "onnx/config.json", "banner.png", "eval_runs/a.json", "confusion_test.png"):
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=REPO)
    push(folder, REPO)
    kept = {name for name, content in hub_server.files(REPO).items() if content == b"x"}
    assert kept == {"assets/logo.png", "onnx/config.json", "banner.png", "eval_runs/a.json"}


@pytest.mark.faults
def test_weights_and_results_of_an_earlier_push_do_not_stay_beside_a_checkpoint(hub_server, folder):
    push(folder, REPO)
    for name in ("adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors", "LICENSE"):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO)
    checkpoint = folder / "checkpoint-7"
    for name in ("config.json", "model.safetensors"):
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes((folder / name).read_bytes())
    hub, state = (
        SimpleNamespace(repo_id=REPO, private=False),
        SimpleNamespace(is_world_process_zero=True, global_step=7),
    )
    PushCheckpoints(hub).on_save(SimpleNamespace(output_dir=folder), state, None)
    there = {".gitattributes", "LICENSE", "config.json", "metrics.jsonl", "model.safetensors", "recipe.yaml"}
    assert set(hub_server.files(REPO)) == there
    push(folder, REPO)
    assert {"README.md", "eval_test.json"} <= set(hub_server.files(REPO))


def test_what_is_published_names_no_place_on_this_machine(hub_server, folder, monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: type(folder)("/home/ann"))
    (folder / "samples.md").write_text("from /home/ann/corpus, not /home/anna/corpus; hf_abcDEF0123456789")
    push(folder, REPO)
    files = hub_server.files("ann/tiny")
    assert files["samples.md"] == b"from ~/corpus, not /home/anna/corpus; [token]"
    assert json.loads(files["eval_test.json"])["model"] == "ann/tiny"
    assert json.loads(files["eval_test.json"])["metrics"]["accuracy"]["value"] == 0.5
    assert b"ann/elsewhere" not in files["recipe.yaml"] and b"hub: null" in files["recipe.yaml"]


def test_a_token_that_is_none_is_not_shown(hub_server, folder, tmp_path):
    with hub_server.in_this_process(tmp_path, token="hf_größeres"):
        said = failed(folder)
    assert "your token contains invalid characters" in said and "\\x" not in said


def test_a_name_without_a_user_is_of_who_is_logged_in(hub_server, folder):
    assert push(folder, "tiny", private=True) == f"{hub_server.url}/ann/tiny"
    assert HfApi().model_info("ann/tiny").private


def test_a_second_push_sends_no_weights_and_makes_no_commit(hub_server, folder):
    push(folder, REPO)
    before, sent = HfApi().model_info("ann/tiny").sha, len(hub_server.requests("PUT"))
    push(folder, REPO)
    assert HfApi().model_info("ann/tiny").sha == before and len(hub_server.requests("PUT")) == sent


def test_what_an_earlier_push_left_goes_and_what_others_put_there_stays(hub_server, folder):
    push(folder, REPO)
    for name in ("adapter_config.json", "eval_valid.json", "LICENSE"):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="ann/tiny")
    push(folder, REPO)
    files = hub_server.files("ann/tiny")
    assert "LICENSE" in files and not {"adapter_config.json", "eval_valid.json"} & files.keys()


BENCHMARK = "evaluation_framework: empathy-trl\ntasks:\n- {id: accuracy, config: default, split: test}\n"


def evaluated_on(folder, source, value=0.5, **data):
    evaluation = json.loads((folder / "eval_test.json").read_text())
    evaluation["data"] |= {"source": source, "decoding": "greedy decoding"} | data
    evaluation["metrics"]["accuracy"]["value"] = value
    (folder / "eval_test.json").write_text(json.dumps(evaluation))


def make_benchmark(content):
    HfApi().create_repo("ann/rows", repo_type="dataset", exist_ok=True)
    settings = {"repo_id": "ann/rows", "repo_type": "dataset", "path_in_repo": "eval.yaml"}
    HfApi().upload_file(path_or_fileobj=content.encode(), **settings)


def test_a_figure_that_a_benchmark_asks_for_is_in_its_results_once(hub_server, folder, capsys):
    make_benchmark(BENCHMARK)
    evaluated_on(folder, "ann/rows", revision="a" * 40)
    (preview,) = re.findall(r"(?s)\n  (.*)", preview_push(folder, REPO))
    assert ("models", REPO) not in hub_server.repositories
    push(folder, REPO)
    assert preview.split("\n  ") == sorted(hub_server.files(REPO).keys() - {".gitattributes"})
    assert f"eval_test.json: {ENTRIES_FILE} has accuracy for the benchmark ann/rows" in capsys.readouterr().out
    HfApi().upload_file(path_or_fileobj=b"[]", path_in_repo=".eval_results/own.yaml", repo_id=REPO)
    evaluated_on(folder, "ann/rows", 0.55)
    push(folder, REPO)
    files = {name: content for name, content in hub_server.files(REPO).items() if name.startswith(".eval_results/")}
    assert set(files) == {ENTRIES_FILE, ".eval_results/own.yaml"}
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[ENTRIES_FILE]))
    assert (entry.dataset_id, entry.task_id, entry.value, entry.dataset_revision) == (
        "ann/rows",
        "accuracy",
        0.55,
        "a" * 40,
    )
    assert entry.source_url == f"{hub_server.url}/ann/tiny/blob/main/eval_test.json"
    about = "95 % interval 0.400 to 0.600, n = 40; greedy decoding; stage grpo of recipe ed4_tiny, seed 42"
    assert entry.notes == about
    evaluated_on(folder, "sample")
    assert f"  {ENTRIES_FILE} (deleted)" in preview_push(folder, REPO)
    push(folder, REPO)
    assert ENTRIES_FILE not in hub_server.files(REPO) and ".eval_results/own.yaml" in hub_server.files(REPO)


@pytest.mark.parametrize(
    ("data", "benchmark", "reason"),
    [
        ({"source": "sample"}, BENCHMARK, "of sample, because the embedded corpora are not on the Hub"),
        (
            {"source": "../ann/rows"},
            BENCHMARK,
            "of rows, because it is local; expected the id of a data set on the Hub",
        ),
        (
            {"source": "ann/none"},
            BENCHMARK,
            "of ann/none, because it is no benchmark on the Hub .its repository has no",
        ),
        ({}, None, "of ann/rows, because it is no benchmark on the Hub"),
        ({}, "tasks: []", "because its eval.yaml names null as evaluation_framework, not empathy-trl"),
        ({}, "- x", "eval.yaml: the top level is a list"),
        ({}, BENCHMARK.replace("test", "train"), r"has split test and a metric as id \(tasks: accuracy \(train\)\)"),
        ({}, BENCHMARK.replace("accuracy", "ed4"), r"tasks: ed4 \(test\)\)"),
        ({"limit": 40}, BENCHMARK, r"only 40 rows of the split were evaluated \(limit\)"),
    ],
)
def test_what_is_no_result_of_a_benchmark_is_left_out_with_the_reason(
    hub_server, folder, capsys, data, benchmark, reason
):
    if benchmark is not None:
        make_benchmark(benchmark)
    evaluated_on(folder, **{"source": "ann/rows"} | data)
    push(folder, REPO)
    assert re.search(f"eval_test.json: {ENTRIES_FILE} has no value .*{reason}", capsys.readouterr().out)
    assert ENTRIES_FILE not in hub_server.files(REPO) and "eval_test.json" in hub_server.files(REPO)


def test_a_benchmark_that_cannot_be_asked_fails_the_push(hub_server, folder):
    make_benchmark(BENCHMARK)
    evaluated_on(folder, "ann/rows")
    hub_server.fail("*", "/datasets/ann/rows/resolve", status=500, times=1000)
    assert "the Hub reports an error (HTTP 500" in failed(folder)


@pytest.mark.faults
@pytest.mark.parametrize("place", [".", ".."], ids=["stage", "run"])
def test_a_folder_that_is_being_trained_in_is_not_published(hub_server, folder, holder, place):
    other = holder("folder", (folder / place).resolve())
    with pytest.raises(UserError, match=f"process {other.pid} on .* is writing there; wait until it has finished"):
        push(folder, REPO)
    assert hub_server.log == []
    other.kill()
    other.wait()
    push(folder, REPO)


FAULTS = {
    "401": ({"status": 401}, r"does not accept your token.*hf auth login.*HF_TOKEN"),
    "403": ({"status": 403}, r"no right to do this \(HTTP 403.*name before the /.*hf auth login"),
    "409": ({"status": 409}, r"it was changed at the same time"),
    "413": ({"status": 413}, r"the Hub refuses \(HTTP 413"),
    "429": ({"status": 429, "headers": {"Retry-After": "7"}}, r"too many requests.*wait 7 s"),
    "429 too long": ({"status": 429, "headers": {"Retry-After": "3600"}}, r"too many requests.*wait 3600 s"),
    "429 of the Hub, too long": ({"status": 429, "headers": {"RateLimit": '"api";r=0;t=3600'}}, r"wait 3600 s"),
    "500": ({"status": 500}, r"the Hub reports an error \(HTTP 500"),
    "503": ({"status": 503}, r"the Hub reports an error \(HTTP 503"),
    "a page of a proxy": ({"status": 502, "body": b"<html>Bad gateway</html>"}, r"HTTP 502|does not answer as the Hub"),
}
PLACES = {
    "info": ("GET", r"/api/models/ann/tiny$"),
    "create": ("POST", "/api/repos/create"),
    "card": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "upload": ("PUT", "/lfs/"),
    "verify": ("POST", "/lfs/verify"),
    "commit": ("POST", "/commit/main"),
}


def lasting_faults():
    """Every fault in a request that we repeat and in one that huggingface_hub repeats, and one fault in every request."""
    pairs = [(fault, place) for fault in FAULTS for place in ("commit", "upload")] + [
        ("500", place) for place in PLACES
    ]
    return [(fault, place) for fault, place in dict.fromkeys(pairs) if ("too long" in fault, place) != (True, "upload")]


@pytest.mark.parametrize(("fault", "place"), lasting_faults())
def test_a_lasting_fault_is_reported_and_the_same_push_works_when_it_is_over(
    hub_server, folder, waits, capfd, caplog, fault, place
):
    settings, message = FAULTS[fault]
    hub_server.fail(*PLACES[place], times=1000, **settings)
    error = failed(folder)
    assert re.search(message, error), error
    assert len(waits) <= 2 * 5, "huggingface_hub tries five times for each of two files"
    assert ("too long" in fault) <= (waits == [])
    hub_server.faults.clear()
    push(folder, REPO)
    assert "model.safetensors" in hub_server.files(REPO)
    everything = error + "".join(capfd.readouterr()) + caplog.text + repr(hub_server.log) + repr(hub_server.files(REPO))
    assert hub_server.token not in everything


@pytest.mark.parametrize(("fault", "place"), [("429", "commit"), *(("503", place) for place in PLACES)])
def test_a_fault_that_passes_is_waited_for(hub_server, folder, waits, capsys, fault, place):
    hub_server.fail(*PLACES[place], times=2, **FAULTS[fault][0])
    push(folder, REPO)
    assert len(waits) == 2 and all(wait >= 7 for wait in waits if fault == "429")
    assert len(hub_server.repositories["models", "ann/tiny"].commits) == 2, "the first, and ours"


@pytest.mark.parametrize("place", ["create", "commit"])
@pytest.mark.parametrize("status", [409, 412])
def test_a_conflict_is_tried_again_once(hub_server, folder, waits, place, status):
    hub_server.fail(*PLACES[place], status=status)
    push(folder, REPO)
    assert waits == [1] and len(hub_server.repositories["models", "ann/tiny"].commits) == 2


def test_an_upload_cut_off_goes_on(hub_server, folder, waits):
    hub_server.cut("/lfs/[0-9a-f]{64}", after_bytes=2000, times=2, method="PUT")
    push(folder, REPO)
    assert hub_server.files("ann/tiny")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_an_upload_that_stays_cut_off_is_resumed_by_the_next_push(hub_server, folder, waits):
    (folder / "confusion_test.png").write_bytes(b"\x89PNG" * 1000)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    hub_server.cut(weights, after_bytes=2000, times=1000, method="PUT")
    assert "broke off" in failed(folder)
    arrived = set(hub_server.blobs)
    assert arrived and weights not in arrived
    hub_server.faults.clear()
    before = len(hub_server.requests("PUT"))
    push(folder, REPO)
    again = {request.path.split("/")[-1] for request in hub_server.requests("PUT")[before:]}
    assert weights in again and not again & arrived, "what had arrived was not sent again"


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub_server, folder, waits):
    def lost(handler, *arguments):
        status, content, headers = commit(handler, *arguments)
        if len(waits) == 0:
            raise ConnectionResetError
        return status, content, headers

    from tests.hub_server import Handler

    commit, Handler.commit = Handler.commit, lost
    try:
        push(folder, REPO)
    finally:
        Handler.commit = commit
    assert len(waits) == 1 and len(hub_server.repositories["models", "ann/tiny"].commits) == 2


def test_a_server_that_says_nothing_is_given_up(hub_server, folder, waits, monkeypatch):
    monkeypatch.setattr(requests, "SILENCE", 0.2)
    with hub_server.lock:  # without which it answers nobody
        assert "does not answer" in failed(folder)


def test_a_server_that_is_not_there(hub_server, folder, waits, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in failed(folder)


def test_offline(hub_server, folder, tmp_path):
    with hub_server.in_this_process(tmp_path, offline=True):
        assert "HF_HUB_OFFLINE=1" in failed(folder)
    assert hub_server.log == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "does not accept your token, or you have none"),
        ("hf_unknown0123456789", "does not accept your token"),
        ("read_token", "no right to do this.*read"),
        ("other_token", "no right to do this.*namespace"),
    ],
)
def test_who_may_not_write_is_told(hub_server, folder, tmp_path, token, message):
    with hub_server.in_this_process(tmp_path, token=getattr(hub_server, token, token)):
        assert re.search(message, failed(folder))


def test_nothing_private_goes_where_all_can_see_it(hub_server, folder):
    HfApi().create_repo("ann/tiny")
    with pytest.raises(UserError, match="public, but must be private.*--repo_id ann/tiny --private$"):
        push(folder, REPO, private=True)
    assert list(hub_server.files("ann/tiny")) == [".gitattributes"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "no such folder; expected the folder of a trained stage"),
        (lambda folder: folder.parent, r"holds the stages grpo: name one of these"),
        (lambda folder: folder / "checkpoint-2", "holds no model; expected adapter_config.json or config.json"),
    ],
)
def test_a_folder_without_a_model(hub_server, folder, make, message):
    with pytest.raises(UserError, match=message):
        push(make(folder), REPO)
    assert hub_server.log == []


def test_a_data_set(hub_server, tmp_path):
    for name in ("README.md", "tables/a.csv", "other.txt"):
        (tmp_path / "table" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "table" / name).write_text(name)
    settings = {"private": True, "message": "Table", "again": "do it again"}
    url = push_dataset(tmp_path / "table", "ann/table", ["README.md", "tables/a.csv"], **settings)
    assert url == f"{hub_server.url}/datasets/ann/table"
    assert set(hub_server.files("ann/table", kind="datasets")) == {".gitattributes", "README.md", "tables/a.csv"}
    assert HfApi().list_repo_commits("ann/table", repo_type="dataset")[0].title == "Table"
    with pytest.raises(UserError, match="has no b.csv.*run: do it again$"):
        push_dataset(tmp_path / "table", "ann/table", ["b.csv"], **settings)


class TestAdapter:
    @pytest.fixture
    def adapter(self, tiny_folder, tmp_path, folder):
        """A stage's folder that holds an adapter of a base on this machine, in place of a whole model."""
        base = AutoModelForCausalLM.from_pretrained(tiny_folder)
        model = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"]))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.fill_(0.5)
        for name in ("model.safetensors", "config.json", "generation_config.json"):
            (folder / name).unlink()
        model.save_pretrained(folder)
        return folder, model

    def test_merged_it_is_one_model_with_the_same_outputs(self, hub_server, adapter):
        folder, model = adapter
        before = digests(folder)
        push(folder, REPO, merge_adapter=True)
        assert digests(folder) == before
        files = hub_server.files("ann/tiny")
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= files.keys()
        assert not [name for name in files if name.startswith("adapter")]
        assert files["tokenizer_config.json"] == (folder / "tokenizer_config.json").read_bytes()
        tokens = torch.arange(1, 9)[None]
        merged = AutoModelForCausalLM.from_pretrained("ann/tiny")
        with torch.no_grad():
            torch.testing.assert_close(merged(tokens).logits, model.eval()(tokens).logits)

    @pytest.mark.faults
    @pytest.mark.parametrize(
        "lines", ["", '{"text": "I lost my keys.", "completion": "Oh no!"}\n'], ids=["", "own rows"]
    )
    def test_an_adapter_of_a_tied_embedding_is_untied_and_the_difference_said(
        self, hub_server, tiny_folder, folder, capsys, lines
    ):
        base = AutoModelForCausalLM.from_pretrained(tiny_folder)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False))
        for name in ("model.safetensors", "config.json"):
            (folder / name).unlink()
        model.save_pretrained(folder)
        (folder / "predictions_test.jsonl").write_text(lines)
        push(folder, REPO, merge_adapter=True)
        assert f"{folder}: adapter and base merged: outputs differ by at most " in capsys.readouterr().out
        tokens, merged = torch.arange(1, 9)[None], AutoModelForCausalLM.from_pretrained("ann/tiny")
        with torch.no_grad():
            torch.testing.assert_close(merged(tokens).logits, model.eval()(tokens).logits)
        assert not merged.config.tie_word_embeddings

    @pytest.mark.faults
    def test_trained_in_4_bits_it_is_also_compared_with_that(self, hub_server, tmp_path, capsys, monkeypatch):
        pytest.importorskip("bitsandbytes")
        folder = stage_folder(tmp_path / "qlora", model={"load_in_4bit": True, "lora": {"r": 2}})
        tokenizer = build_tokenizer(["I lost my keys, and nobody helped me."], 300)
        shape = SimpleNamespace(architecture="llama", hidden_size=64, layers=1, heads=4, max_length=64)
        for part in (build_model(shape, tokenizer, 0), tokenizer):
            part.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        get_peft_model(base, LoraConfig(r=2, init_lora_weights=False)).save_pretrained(folder)
        push(folder, REPO, merge_adapter=True)
        words = r"compared with the adapter on the 4-bit base that it was trained on: outputs differ by at most \d"
        assert re.search(words, capsys.readouterr().out)
        monkeypatch.setattr(push_module, "find_spec", lambda name: None)
        push(folder, REPO, merge_adapter=True)
        assert "because bitsandbytes is not installed" in capsys.readouterr().out

    def test_a_base_that_only_this_machine_has_is_refused_with_the_way_out(self, hub_server, adapter):
        with pytest.raises(
            UserError, match="which exists only on this machine; publish both as one model with --merge_adapter"
        ):
            push(adapter[0], REPO)
        assert hub_server.log == []

    @pytest.mark.faults
    def test_an_adapter_of_a_model_on_the_hub_goes_up_as_it_is_but_not_in_place_of_its_base(
        self, hub_server, adapter, tiny_folder
    ):
        folder, _ = adapter
        HfApi().create_repo("ann/base")
        HfApi().upload_folder(repo_id="ann/base", folder_path=tiny_folder)
        config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": "ann/base"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        push(folder, REPO)
        files = hub_server.files("ann/tiny")
        assert {"adapter_config.json", "adapter_model.safetensors"} <= files.keys() and "model.safetensors" not in files
        assert json.loads(open(hf_hub_download("ann/tiny", "adapter_config.json")).read()) == config  # noqa: SIM115
        before = hub_server.files("ann/base")
        with pytest.raises(
            UserError, match="base: not pushed: the repository holds the base of this adapter, .* --merge_adapter"
        ):
            push(folder, "base")
        assert hub_server.files("ann/base") == before

    @pytest.mark.parametrize(("lora", "local"), [("null", None), ("{r: 4}", "stage:sft, merged with its adapter")])
    def test_trained_further_its_local_base_is_known_before_the_training(
        self, adapter, tmp_path, monkeypatch, lora, local
    ):
        monkeypatch.setattr(push_module, "_check_rights", lambda hub, folder: None)
        folder, model = adapter
        start = f"{{name_or_path: {folder}, from_scratch: null}}"
        flags = ["--stages.sft.model", start, "--stages.grpo.model.lora", lora, "--hub.repo_id", "me/model"]
        base = local or model.peft_config["default"].base_model_name_or_path
        with pytest.raises(UserError, match=re.escape(f"the base of the adapter ({base}) is only on this machine")):
            check_pushes(load_recipe("ed4_tiny", flags), tmp_path)

    def test_no_room_for_the_merged_model(self, hub_server, adapter, monkeypatch):
        def full(*arguments, **settings):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        before = digests(adapter[0])
        with pytest.raises(UserError, match=r"cannot be written to .*No space left.*TMPDIR.*--merge_adapter$"):
            push(adapter[0], REPO, merge_adapter=True)
        assert digests(adapter[0]) == before


LORA = ["--stages.sft.model", "{name_or_path: me/base, from_scratch: null, lora: {r: 4}}"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("flags", "local"),
    [
        (LORA, None),
        ([*LORA, "--stages.grpo.model.lora", "{r: 4}"], None),
        ([*LORA, "--stages.grpo.model.lora", "{r: 8}"], "stage:sft, merged with its adapter"),
        ([*LORA, "--stages.grpo.model.lora", "{r: 8}", "--hub.merge_adapter", "true"], None),
        (["--stages.sft.model", "{name_or_path: me/base}", "--stages.grpo.model.lora", "{r: 8}"], "stage:sft"),
    ],
)
def test_an_adapter_whose_base_is_merged_is_known_not_to_be_published_alone(monkeypatch, tmp_path, flags, local):
    monkeypatch.setattr(push_module, "_check_rights", lambda hub, folder: None)
    recipe = load_recipe("ed4_tiny", [*flags, "--hub.repo_id", "me/model"])
    if local is None:
        return check_pushes(recipe, tmp_path)
    with pytest.raises(UserError, match=re.escape(f"the base of the adapter ({local}) is only on this machine")):
        check_pushes(recipe, tmp_path)
