"""Model cards: what they say, that nothing breaks them, and that their code runs."""

import json
import re
import runpy
import shutil
from ast import literal_eval
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

from empathy_trl.errors import UserError
from empathy_trl.evaluation.evaluate import write_eval
from empathy_trl.hub import card as card_module
from empathy_trl.hub.card import model_card, write_card
from empathy_trl.hub.results import from_results, to_entries
from empathy_trl.hub.stage_folder import read_stage_files
from empathy_trl.recipe import load_recipe
from empathy_trl.rewards import REWARDS
from tests.hub.folders import STAGE, stage_folder, write_stage
from tests.hub.test_results import evaluation
from tests.recipes.scripts import ROOT

SCRATCH = {"name_or_path": None, "from_scratch": {"architecture": "qwen2", "hidden_size": 16, "layers": 1}}


def front(card: str) -> dict:
    return ModelCard(card).data.to_dict()


def block(card: str, language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)[1]


def run_snippet(card: str, folder, capsys) -> str:
    """Execute the card's Python with a folder in place of the repository; return what it prints."""
    source = block(card, "python")
    assert source.count('"user/model"') == 1
    capsys.readouterr()
    script = Path(folder) / "snippet.py"
    script.write_text(source.replace('"user/model"', repr(str(folder))), encoding="utf-8")
    runpy.run_path(str(script))
    return capsys.readouterr().out


def test_a_card_has_all_a_reader_looks_for(tmp_path):
    folder = stage_folder(tmp_path)
    write_eval(folder, "test", evaluation())
    for name in ("reward_curve.png", "samples.md"):
        (folder / name).write_text("x")
    assert "Warnings" not in model_card(folder, "user/model")
    record = json.loads((folder / "run.json").read_text())
    record["advice"] = [{"step": 20, "cause": "longer", "message": f"rewards.words rose {'and so on ' * 20}"}]
    (folder / "run.json").write_text(json.dumps(record))
    card = model_card(folder, "user/model")
    assert f"Warnings during the training:\n\n- step 20: rewards.words rose {'and so on ' * 20}".rstrip() in card
    for heading in ("How to use it", "Results", "Intended use and limits", "Training data and licence", "How it was trained",
                    "Hardware and carbon", "Reproduce it", "Cite"):  # fmt: skip
        assert f"\n## {heading}\n" in card
    assert "names the emotion" in card and "Not a therapist" in card
    assert "findahelpline.com" in card and "988" in card and "116 123" in card and "112" in card
    assert "| accuracy | **0.775 [0.700, 0.842]** | 0.250 [0.175, 0.325] |" in card
    assert (
        "![The training, step by step](reward_curve.png)" in card and "(samples.md)" in card and "(recipe.yaml)" in card
    )
    assert "empathy-trl run --recipe hub:user/model\n" in card
    assert "`0123abc`" in card and "trl 1.16.0" in card
    assert "@software{empathy_trl" in card and "@article{shao2024" in card


def test_front_matter_is_what_the_hub_reads(tmp_path):
    write_eval(stage_folder(tmp_path), "test", evaluation())
    card = ModelCard(model_card(tmp_path, "user/model"))
    data = card.data.to_dict()
    assert data["tags"] == ["empathy-trl", "trl", "grpo"]
    expected = {"library_name": "transformers", "pipeline_tag": "text-generation", "language": "en"}
    assert data.items() >= expected.items()
    assert data["base_model"] == "Qwen/Qwen2.5-1.5B-Instruct" and data["base_model_relation"] == "finetune"
    assert data["license"] == "apache-2.0" and "co2_eq_emissions" not in data and "datasets" not in data
    back = from_results(card.data.eval_results, "user/model")[0]
    assert back["metrics"] == evaluation()["metrics"] and back["baselines"] == evaluation()["baselines"]


def test_every_split_has_its_table_and_its_results(tmp_path):
    stage_folder(tmp_path)
    for split in ("valid", "test"):
        write_eval(tmp_path, split, evaluation(data={"split": split}))
    card = model_card(tmp_path, "user/model")
    assert re.findall(r"^Split `(\w+)`", card, flags=re.MULTILINE) == ["test", "valid"]
    assert [each["data"]["split"] for each in from_results(ModelCard(card).data.eval_results, "m")] == ["test", "valid"]


def test_a_stage_of_one_of_several_seeds_has_the_mean_of_all(tmp_path):
    folder = stage_folder(tmp_path / "seed_2" / "grpo")
    (folder / "eval_test.json").write_text(json.dumps(evaluation()))
    value = evaluation()["metrics"]["accuracy"]["value"]
    figure = {"value": 0.8, "sd": 0.0123, "low": 0.7, "high": 0.9, "n": 120, "values": {"1": 0.825, "2": value}}
    other = figure | {"values": {"1": 0.1, "2": 0.2}}  # of an earlier evaluation
    content = {
        "seeds": [1, 2],
        "split": "test",
        "stages": {"grpo": {"metrics": {"accuracy": figure, "invalid_share": other}}},
    }
    assert "one seed" not in model_card(folder)
    (tmp_path / "seeds.json").write_text(json.dumps(content))
    card = model_card(folder)
    assert "| **this model** | seeds 1, 2 |" in card and "The figures of this model are those of one seed." in card
    assert "| **0.775 [0.700, 0.842]** | 0.800 ± 0.012 [0.700, 0.900] |" in card and "0.000]** |  |" in card
    seeds, figures = read_stage_files(folder).over_seeds(evaluation())
    benchmark = {"evaluation_framework": "empathy-trl", "tasks": [{"id": "accuracy", "split": "test"}]}
    (entry,) = to_entries(evaluation(), benchmark, "ann/tiny", seeds, figures)
    assert entry.notes.endswith("seed 42; one of seeds 1, 2, whose mean ± standard deviation is 0.800 ± 0.012")
    assert read_stage_files(folder).over_seeds(evaluation(data={"split": "valid"})) == ([], {})
    for broken in ('{"seeds"', '{"stages": 5}', '{"split": "test", "stages": {"grpo": {"metrics": 5}}}'):
        (tmp_path / "seeds.json").write_text(broken)
        assert "one seed" not in model_card(folder)


def test_a_card_of_an_unfinished_stage_with_a_run_json_of_another_version_and_a_broken_evaluation(tmp_path):
    stage_folder(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"fingerprint": "f", "status": "running", "stage": "grpo"}))
    (tmp_path / "eval_test.json").write_text("{")
    card = model_card(tmp_path, "user/model")
    assert "`eval_test.json` in the folder of this model cannot be read" in card and "has not been evaluated" in card
    assert ".png" not in card and "samples.md" not in card and "model-index" not in front(card)
    assert "not finished when this card was written" in card and "a machine that is not known" in card
    assert "a commit that is not known" in card and "not measured" in card


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shutil.rmtree, "no run.json and recipe.yaml that can be read; expected the folder of a"),
        (lambda folder: (folder / "run.json").write_text("[1]"), "no run.json and recipe.yaml"),
        (lambda folder: (folder / "recipe.yaml").unlink(), "no run.json and recipe.yaml"),
        (lambda folder: (folder / "recipe.yaml").write_text("stages: 3\n"), "has no stage 'grpo' with a task, a model"),
        (lambda folder: (folder / "recipe.yaml").write_text("a: [\n"), r"recipe.yaml:\d+: "),
    ],
)
def test_a_folder_that_is_no_stage_s_is_refused(tmp_path, break_it, message):
    folder = stage_folder(tmp_path / "stage")
    break_it(folder)
    with pytest.raises(UserError, match=message):
        model_card(folder, "user/model")


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "user/mo del", 'user/"; rm -rf'])
def test_a_repo_id_that_is_none_is_refused(tmp_path, repo_id):
    with pytest.raises(UserError, match="is not a Hub id; expected name or user/name"):
        model_card(stage_folder(tmp_path), repo_id)


NASTY = (
    "x|y\n---\ntags: [evil]\n# Heading <script>alert(1)</script> [click](http://10.0.0.7/a) ``` *b* hf_abcdefghijklmnop"
)


def test_values_of_others_stay_text(tmp_path):
    folder = stage_folder(
        tmp_path,
        record={
            "git_commit": NASTY,
            "hardware": {"cpu": NASTY, "gpus": [NASTY], "cores": NASTY},
            "versions": {NASTY: NASTY},
        },
        model={"name_or_path": NASTY},
        data={"name": "empath", "path": f"/home/somebody/{NASTY}", "instruction": NASTY},
        rewards={NASTY: {"weight": {"start": NASTY, "end": 1, "until": NASTY}, "import": NASTY, "prompt": NASTY}},
        trainer={"learning_rate": NASTY},
    )
    clean, card = model_card(stage_folder(tmp_path / "clean"), "user/model"), model_card(folder, "user/model")
    data = front(card)
    assert data["tags"] == ["empathy-trl", "trl", "grpo"] and data["license"] == "unknown" and "base_model" not in data
    prose = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", card.split("\n---\n", 1)[1], flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    for harmful in ("<script", "](http://10", "10.0.0.7", "hf_abc", "/home", "\n---", "*b*", "\n# Heading"):
        assert harmful not in prose, harmful
    assert len(re.findall(r"^#", prose, flags=re.MULTILINE)) == len(re.findall(r"^#", clean, flags=re.MULTILINE))
    for table in re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    compile(re.search(r"^(`{3,})python\n(.*?)^\1$", card, flags=re.DOTALL | re.MULTILINE)[2], "snippet", "exec")


def test_local_places_and_secrets_are_not_told(tmp_path):
    card = model_card(
        stage_folder(
            tmp_path,
            model={"name_or_path": str(tmp_path / "bases" / "my_base")},
            data={"path": "/home/somebody/rows"},
            rewards={
                "llm_judge": {
                    "weight": 1.0,
                    "base_url": "http://me:pw@10.0.0.7/v1",
                    "model": "judge-1",
                    "timeout": 3,
                    "api_key_env": "MY_KEY",
                    "file": "~/words/list.txt",
                }
            },
        ),
        "user/model",
    )
    for secret in (str(tmp_path), "/home", "10.0.0.7", "pw@", "MY_KEY", "~/words", "timeout"):
        assert secret not in card, secret
    assert "my_base" in card and "`rows`" in card and "`model: judge-1`" in card and "list.txt" in card
    assert "The data `rows` are not published here" in card


def test_the_author_s_notes_stand_as_they_are(tmp_path):
    stage_folder(tmp_path)
    (tmp_path / "notes.md").write_text("We **like** it. <b>Really</b>.\n", encoding="utf-8")
    assert "\n## Notes of the author\n\nWe **like** it. <b>Really</b>.\n" in model_card(tmp_path, "user/model")


ED, REDIAL = {"path": "facebook/empathetic_dialogues"}, {"name": "redial", "path": "community-datasets/re_dial"}
GEMMA, QWEN = {"name_or_path": "google/gemma-2-2b-it"}, {"name_or_path": "Qwen/Qwen2.5-3B-Instruct"}


@pytest.mark.parametrize(
    ("stage", "expected", "words"),
    [
        ({"model": SCRATCH}, {"license": "apache-2.0"}, "apache-2.0"),
        ({"model": SCRATCH, "data": ED}, {"license": "cc-by-nc-4.0"}, "commercial use is not allowed"),
        ({"model": SCRATCH, "data": REDIAL}, {"license": "cc-by-4.0"}, "cc-by-4.0"),
        ({"data": REDIAL}, {"license": "apache-2.0"}, "Licence of this model: apache-2.0"),
        ({"model": GEMMA}, {"license": "gemma"}, "gemma"),
        (
            {"model": GEMMA, "data": ED},
            {"license": "other", "license_name": "several"},
            "cc-by-nc-4.0, gemma. Keep to all",
        ),
        ({"model": QWEN}, {"license": "other", "license_name": "qwen-research"}, "qwen-research"),
        (
            {"model": {"name_or_path": "who/knows"}},
            {"license": "unknown"},
            "no licence is recorded for the base model",
        ),
        (
            {"model": GEMMA, "data": {"path": "/my/rows"}},
            {"license": "unknown"},
            "The licence of the base model is gemma",
        ),
        ({"data": {"path": "/my/rows"}}, {"license": "unknown"}, "the author's own data"),
        ({"data": {"path": "who/knows"}}, {"license": "unknown"}, "see its page"),
    ],
)
def test_a_licence_is_known_or_said_to_be_unknown(tmp_path, stage, expected, words):
    card = model_card(stage_folder(tmp_path, **stage), "user/model")
    assert front(card).items() >= expected.items() and words in card


def test_data_of_the_models_that_reward_count_too(tmp_path):
    reward = {"task": "regress", "model": {"name_or_path": "roberta-base"}, "data": {"name": "emotions", **ED}}
    unused = {"task": "sft", "model": SCRATCH, "data": {"name": "ed4", "path": "/my/rows"}}
    rewards = {"empathy_model": {"weight": 1.0, "model": "stage:judge"}}
    card = model_card(stage_folder(tmp_path, earlier={"judge": reward, "other": unused}, rewards=rewards), "user/model")
    assert front(card)["datasets"] == ["facebook/empathetic_dialogues"] and front(card)["license"] == "cc-by-nc-4.0"
    assert "| judge |" in card and "| other |" not in card


def test_the_base_is_that_of_the_first_stage(tmp_path):
    sft = {"task": "sft", "model": {"name_or_path": "google/gemma-2-2b-it"}, "data": {"name": "ed4", "path": "sample"}}
    card = model_card(stage_folder(tmp_path, earlier={"sft": sft}, model={"name_or_path": "stage:sft"}), "user/model")
    assert front(card)["base_model"] == "google/gemma-2-2b-it" and "| sft |" in card and "| **grpo** |" in card


def test_weights_that_change_are_told_in_words(tmp_path):
    rewards = {"bleu": {"weight": {"start": 2.0, "end": 1.0, "until": 0.5}}, "length": {"weight": 0.3, "min": 5}}
    card = model_card(stage_folder(tmp_path, rewards=rewards), "user/model")
    assert "| `bleu` | 2.0 to 1.0 over the first 50% of the training | wording shared" in card
    assert "| `length` | 0.3 | a length within bounds, in words | what is said does not matter | `min: 5` |" in card


def test_every_reward_has_words_and_its_papers_are_in_the_bibliography():
    known = card_module.CITATIONS.read_text(encoding="utf-8")
    for name, reward in REWARDS.items():
        assert reward.card and (reward.misses or reward.range[1] == 0), name
        assert all(f"{{{key}," in known for key in reward.citations), name


def test_measured_energy_and_hardware_are_told(tmp_path):
    record = {
        "hardware": {"cpu": "Some CPU", "cores": 64, "memory_gb": 512.0, "gpus": ["NVIDIA H100"] * 2},
        "train_seconds": 9000, "sessions": 3, "processes": 2, "git_commit": "0123+changes",
        "energy": {"kwh": 1.5, "of": "GPUs, by their own counters (NVML)", "grams_per_kwh": 400},
    }  # fmt: skip
    card = model_card(stage_folder(tmp_path, record=record), "user/model")
    assert "Trained for 2.5 h (in 3 sessions) on a machine with 2 × NVIDIA H100, 64 cores of Some CPU" in card
    assert "Energy: 1.5 kWh, measured" in card and "that is 600 g" in card
    assert "`0123` with changes that were not committed" in card
    assert front(card)["co2_eq_emissions"]["emissions"] == 600.0
    record["energy"].pop("grams_per_kwh")
    card = model_card(stage_folder(tmp_path, record=record), "user/model")
    assert "Energy: 1.5 kWh, measured" in card and "co2_eq_emissions" not in front(card)


def test_a_card_has_the_figures_while_training(tmp_path):
    best = {"figure": "accuracy", "step": 20, "value": 0.75, "last_step": 40, "last_value": 0.5, "n": 64}
    record = {"best": best | {"evaluations": 4, "kept_step": 20}}
    card = " ".join(model_card(stage_folder(tmp_path, record=record), "user/model").split())
    assert "training: 4, on 64 rows of `valid`, with accuracy 0.750 at best (step 20) and 0.500 at step 40" in card
    assert "The weights are those of step 20." in card


def test_the_citation_is_that_of_the_project(tmp_path):
    project = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entry = block(model_card(stage_folder(tmp_path), "user/model"), "bibtex").split("\n\n")[0]
    assert project["title"] in entry and project["version"] in entry and project["authors"][0]["name"] in entry


# ---- the code runs ----


@pytest.fixture
def decoder(tiny_folder, tmp_path):
    """A stage's folder with the tiny decoder."""
    return shutil.copytree(tiny_folder, tmp_path / "decoder")


def test_snippet_of_a_language_model(decoder, capsys):
    card = model_card(stage_folder(decoder, model=SCRATCH), "user/model")
    assert run_snippet(card, decoder, capsys).endswith("None\n")  # random weights give no answer in tags
    assert "empathy-trl chat --model user/model" in card


def test_a_card_in_the_stage_s_folder_calls_the_model_by_its_folder_or_by_its_repository(decoder, capsys):
    card = write_card(stage_folder(decoder, model=SCRATCH)).read_text()
    assert "\n# mine-grpo\n" in card and f"--recipe {decoder}/recipe.yaml" in card
    capsys.readouterr()
    (decoder / "snippet.py").write_text(block(card, "python"), encoding="utf-8")
    runpy.run_path(str(decoder / "snippet.py"))
    assert capsys.readouterr().out.endswith("None\n")
    pushed = write_card(stage_folder(decoder, model=SCRATCH, hub={"repo_id": "user/model"})).read_text()
    assert pushed == model_card(decoder, "user/model") and str(decoder) not in pushed


def test_snippet_samples_as_the_evaluation_did(decoder, capsys):
    evaluation = {"temperature": 0.7, "top_p": 0.9, "top_k": 5}
    card = model_card(stage_folder(decoder, model=SCRATCH, evaluation=evaluation), "user/model")
    assert "do_sample=True, temperature=0.7, top_p=0.9, top_k=5" in card
    assert run_snippet(card, decoder, capsys)


def test_snippet_of_a_staged_reply_shows_what_is_said(decoder, capsys, monkeypatch):
    card = model_card(stage_folder(decoder, model=SCRATCH, data={"name": "empath"}), "user/model")
    said = "<react>*nods*</react>\n<respond>I am here.</respond>\n<reflect>They are sad.</reflect>"
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.decode", lambda *arguments, **settings: said)
    assert run_snippet(card, decoder, capsys).splitlines()[-1] == "I am here."


def test_snippet_of_an_adapter_and_of_the_same_merged(tiny, tiny_folder, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny
    folder, merged = tmp_path / "adapter", tmp_path / "merged"
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    adapted.save_pretrained(folder)
    adapted.merge_and_unload().save_pretrained(merged)
    for place in (folder, merged):
        tokenizer.save_pretrained(place)
    section = {"name_or_path": "Qwen/Qwen2.5-1.5B-Instruct", "lora": {"r": 8}}
    of_base = model_card(stage_folder(folder, model=section | {"chat_template": "chatml"}), "user/model")
    card = model_card(stage_folder(folder, model=section), "user/model")
    assert "stop_strings=tokenizer.eos_token" in of_base and "stop_strings" not in card
    assert run_snippet(of_base, folder, capsys) == run_snippet(card, folder, capsys)
    assert front(card)["library_name"] == "peft" and front(card)["base_model_relation"] == "finetune"  # of a local copy
    assert (
        f"LoRA adapter: small weights on top of the local model `{tiny_folder.name}`" in card
        and "pip install peft" in card
    )
    whole = model_card(folder, "user/model", merged=True)
    assert front(whole)["library_name"] == "transformers" and front(whole)["base_model_relation"] == "finetune"
    assert "peft" not in block(whole, "python")
    assert run_snippet(card, folder, capsys) == run_snippet(whole, merged, capsys)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("base", "relation", "words"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", "adapter", "on top of [`Qwen/Qwen2.5-1.5B-Instruct`]"),
        ("outputs/mine/grpo/merged_base", "finetune", "on top of the local model `merged_base`"),
    ],
)
def test_a_card_reads_the_adapter_not_the_recipe(tmp_path, base, relation, words):
    folders = {name: tmp_path / name for name in ("sft", "grpo")}
    earlier = {
        "sft": {**STAGE, "task": "sft", "model": {"name_or_path": "Qwen/Qwen2.5-1.5B-Instruct", "lora": {"r": 4}}}
    }
    stage_folder(folders["grpo"], earlier=earlier, model={"name_or_path": "stage:sft", "lora": {"r": 16}})
    folders["sft"].mkdir()
    for rank, folder in enumerate(folders.values(), start=7):
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "base_model_name_or_path": base}))
    card = model_card(folders["grpo"], "user/model")
    assert "LoRA of rank 7 |" in card and "stage sft, LoRA of rank 8 |" in card
    assert front(card)["base_model_relation"] == relation and words in card


@pytest.mark.faults
def test_a_card_names_no_epochs_where_steps_end_the_training(tmp_path):
    assert "epochs 4" in model_card(stage_folder(tmp_path / "a", trainer={"num_train_epochs": 4, "max_steps": -1}))
    card = model_card(stage_folder(tmp_path / "b", trainer={"num_train_epochs": 4, "max_steps": 20}))
    assert "optimizer steps 20" in card and "epochs 4" not in card


def test_snippet_of_an_encoder_decoder(tmp_path, capsys):
    from empathy_trl.models.templates import set_template
    from empathy_trl.models.tiny import build_model, build_tokenizer

    tokenizer = build_tokenizer(["I lost my keys.", "I am sorry."], vocab_size=300, tags=[])
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    shape = SimpleNamespace(architecture="t5", hidden_size=16, layers=1, heads=2, max_length=256)
    build_model(shape, tokenizer, seed=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    card = model_card(
        stage_folder(tmp_path, model={**SCRATCH, "chat_template": "godel"}, data={"name": "dialogues"}), "user/model"
    )
    assert "AutoModelForSeq2SeqLM" in card
    assert run_snippet(card, tmp_path, capsys)


def test_snippet_of_a_regressor(make_classifier, capsys):
    ratings = {0: "Emotion", 1: "Empathy"}
    folder = make_classifier(
        {"I am so sorry": [1.0, 4.0], "whatever": [0.0, 0.5]}, problem_type="regression", id2label=ratings
    )
    card = model_card(stage_folder_of(folder, task="regress", data={"name": "wassa"}, rewards={}), "user/model")
    assert (
        front(card)["pipeline_tag"] == "text-classification"
        and "empathy-trl chat" not in card
        and "Do not judge people" in card
    )
    assert set(literal_eval(run_snippet(card, folder, capsys))) == {"Emotion", "Empathy"}


def test_snippet_of_a_classifier_of_pairs_with_groups(make_classifier, capsys):
    groups = [["warmth", ["0", "1"]], ["questions", ["0", "1", "2"]]]
    folder = make_classifier({("i am sad", "poor you"): [0, 1, 2, 3, 4.0]}, label_groups=groups, text_max_length=32)
    card = model_card(stage_folder_of(folder, task="classify", data={"name": "epitome"}, rewards={}), "user/model")
    printed = [line.split(" ", 1) for line in run_snippet(card, folder, capsys).splitlines()]
    assert [group for group, _ in printed] == ["warmth", "questions"]
    assert all(sum(literal_eval(shares).values()) == pytest.approx(1, abs=0.01) for _, shares in printed)
    assert "max_length=32" in card


def stage_folder_of(folder: str, **stage):
    return stage_folder(Path(folder), model={"name_or_path": "roberta-base"}, **stage)


# ---- every recipe ----


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stage_of_every_recipe_has_a_card(path, tmp_path):
    recipe = load_recipe(path).resolved()
    for name, stage in recipe["stages"].items():
        card = model_card(write_stage(tmp_path / name, recipe, name), "user/model")
        data, source = front(card), block(card, "python")
        assert data["tags"] == ["empathy-trl", "trl", stage["task"]]
        compile(source, "snippet", "exec")
        scores = stage["task"] in ("regress", "classify")
        assert data["pipeline_tag"] == ("text-classification" if scores else "text-generation")
        assert ("AutoModelForSequenceClassification" in source) == scores
        assert (
            ("AutoPeftModelForCausalLM" in source)
            == (data["library_name"] == "peft")
            == bool(stage["model"]["lora"] and not scores)
        )
        assert ("Seq2SeqLM" in source) == (path.stem in ("godel", "godel_tiny") and not scores)
        assert "works on texts" not in card and "None" not in card.split("```")[0]
        assert ("base_model" in data) != ("without a pretrained model" in card)
