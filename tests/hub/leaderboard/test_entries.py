"""Results from files, from model cards on the Hub and from `published.yaml`: what is read, and what is named."""

import json
import os

import pytest
import yaml
from huggingface_hub import HfApi, ModelCardData

from empathy_trl.data import CORPORA
from empathy_trl.errors import UserError
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.evaluation.base import read_eval
from empathy_trl.evaluation.compare import compare
from empathy_trl.hub.leaderboard.entries import FILE, make_entry, read_hub, read_paths, read_published
from empathy_trl.hub.leaderboard.ranking import group
from empathy_trl.hub.leaderboard.render import csv_text, markdown_text, write_board
from empathy_trl.hub.leaderboard.table import build_board
from empathy_trl.hub.results import to_results
from tests.evaluation.test_compare import emotions
from tests.hub.leaderboard.results import evaluation, figure, saved, with_predictions


def test_files_and_folders_of_any_depth_each_once(tmp_path):
    for name in ("run/sft", "run/grpo", "other", ".hidden", "run/.cache"):
        saved(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path)  # not entered, or there is no end
    paths = [tmp_path, tmp_path / "run", tmp_path / "other" / "eval_test.json", tmp_path / "run" / ".." / "other"]
    entries = read_paths(paths).entries
    assert [os.path.relpath(entry.folder, tmp_path) for entry in entries] == ["other", "run/grpo", "run/sft"]
    assert entries[0].main["value"] == 0.5


def test_a_split(tmp_path):
    saved(tmp_path / "a")
    (tmp_path / "a" / "eval_valid.json").write_text(json.dumps(evaluation("a", data={"split": "valid"})))
    assert len(read_paths([tmp_path]).entries) == 2
    assert [entry.evaluation["data"]["split"] for entry in read_paths([tmp_path], "valid").entries] == ["valid"]
    with pytest.raises(UserError, match="no results; looked for eval_train.json, there and in all folders below"):
        read_paths([tmp_path], "train")


def test_a_broken_file_is_named_and_the_others_count(tmp_path):
    saved(tmp_path / "good")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "eval_test.json").write_text('{"recipe": ')
    found = read_paths([tmp_path])
    assert len(found.entries) == 1 and len(found.problems) == 1
    assert f"{tmp_path}/cut/eval_test.json, line 1: not valid JSON" in found.problems[0]


def test_nothing_left_is_an_error_with_every_reason(tmp_path):
    (tmp_path / "eval_test.json").write_text("[]")
    (tmp_path / "eval_valid.json").write_text("\x00")
    with pytest.raises(UserError, match=r"(?s)no results that can be read:.*is not an evaluation.*NUL byte"):
        read_paths([tmp_path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder; expected eval_<split>.json, or a folder"),
        ("report.md", "report.md: expected a file named eval_train.json, eval_valid.json, eval_test.json, or a folder"),
        ("empty", "empty: no results; looked for eval_test.json or another split's"),
    ],
)
def test_paths_without_results(tmp_path, name, message):
    (tmp_path / "report.md").write_text("# Report")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_paths([tmp_path / name])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([1], "is not an evaluation"),
        ("text", "is not an evaluation"),
        (evaluation(kind="songs"), "is not an evaluation"),
        ({key: value for key, value in evaluation().items() if key != "metrics"}, "is not an evaluation; expected .*metrics"),
        (evaluation(metrics={}), "metrics is .*at least one"),
        (evaluation(metrics={"macro_f1": {"value": 1.0}}), "metrics has no accuracy, by which evaluations of emotions"),
        (evaluation(metrics={"accuracy": {"value": True}}), "metrics.accuracy is "),
        (evaluation(metrics={"accuracy": {"value": 0.5, "low": "0"}}), "metrics.accuracy is .*expected numbers as value"),
        (evaluation(metrics={"accuracy": {"value": float("nan")}}), "metrics.accuracy is .*expected numbers"),
        (evaluation(metrics={"accuracy": {"value": 10**400}}), "metrics.accuracy is .*expected numbers"),
        (evaluation(baselines=[]) | {"baselines": ["x"]}, "baselines is .*; expected a mapping of mappings"),
        (evaluation(baselines={"majority": {"accuracy": 1}}), "baselines.majority.accuracy is 1; expected numbers"),
        (evaluation(data={"split": "../x"}), "data.split is '../x'; expected train, valid, test"),
        (evaluation(data={"source": 5}), "data.source is 5; expected a text"),
        (evaluation(data={"n": "many"}), "data.n is 'many'; expected a whole number"),
        (evaluation(data={"rows": ["x"]}), r"data.rows is .*; expected a text"),
        (evaluation(judged_by=["bleu"]), "judged_by is .*expected a mapping of mappings"),
    ],
)  # fmt: skip
def test_what_is_no_evaluation_is_refused_by_key_and_value(made, message):
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        make_entry(made, "here")


def test_a_card_has_a_digest_in_place_of_the_rewards():
    assert make_entry(evaluation(judged_by="0123"), "user/model").evaluation["judged_by"] == "0123"


def test_texts_play_no_tricks_on_a_screen():
    made = make_entry(evaluation("a\x1b[2Jb\u202ec\ud800"), "here")
    assert made.evaluation["model"] == "a\\x1b[2Jbc\ufffd"


@pytest.mark.parametrize("figure", read_published(), ids=lambda figure: figure.name)
def test_every_entry_can_be_shown(figure):
    assert figure.kind in EVALUATORS and figure.data in CORPORA and figure.split in ("train", "valid", "test")
    assert figure.metrics and all(isinstance(value, float) for value in figure.metrics.values())
    assert figure.source and figure.measured_on
    # what has rows stands in a table, which is sorted by the main metric, and has to be comparable
    assert figure.rows is None or (
        evaluator(figure.kind).main_metric in figure.metrics and figure.metrics_version is not None
    )


def test_names_are_unlike_each_other():
    names = [figure.name for figure in read_published()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.pop("source"), "entry 2: missing or unknown: source; expected data, kind"),
        (lambda entry: entry.update(colour="red"), "entry 2: missing or unknown: colour"),
    ],
)
def test_a_field_that_is_missing_or_unknown_is_named(tmp_path, change, message):
    entries = yaml.safe_load(FILE.read_text())
    change(entries[1])
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "own.yaml")


def publish(repo_id, *evaluations, card=None):
    HfApi().create_repo(repo_id, exist_ok=True)
    if card is None:
        results = [result for made in evaluations for result in to_results(made)]
        data = ModelCardData(tags=["empathy-trl"], model_name=repo_id, eval_results=results or None)
        card = f"---\n{data.to_yaml()}\n---\n# Model\n"
    HfApi().upload_file(repo_id=repo_id, path_in_repo="README.md", path_or_fileobj=card.encode())


@pytest.fixture
def models(hub_server):
    """Three models of ann: two with results, one without; one of another tag."""
    publish("ann/one", evaluation("local/folder", 0.5, baselines={"majority": {"accuracy": figure(0.25)}}))
    publish("ann/two", evaluation("x", 0.9), evaluation("x", 0.8, data={"split": "valid", "rows": "bb"}))
    publish("ann/plain", card="---\ntags:\n- other\n---\n# Model\n")
    return hub_server


@pytest.mark.parametrize("name", ["ann", "empathy-trl"])
def test_an_author_or_a_tag(models, name):
    found = read_hub(name)
    shown = {(each.origin, each.evaluation["data"]["split"], each.main["value"]) for each in found.entries}
    assert shown == {("ann/one", "test", 0.5), ("ann/two", "test", 0.9), ("ann/two", "valid", 0.8)}
    without = ["1 of 3 models of author ann: no evaluation results"] if name == "ann" else []
    assert found.problems == without
    first = build_board(found, []).tables[0]
    assert [(row.rank, row.name) for row in first.rows] == [(1, "ann/two"), (2, "ann/one"), (None, "majority class")]


def test_a_split_from_cards(models):
    assert [each.main["value"] for each in read_hub("ann", "valid").entries] == [0.8]
    with pytest.raises(
        UserError, match=r"--hub ann: 3 model\(s\) of author ann, and none with evaluation results of split train"
    ):
        read_hub("ann", "train")


def test_a_card_that_cannot_be_read_is_named_and_the_others_count(models):
    publish("ann/broken", card="---\nmodel-index:\n- name: x\n  results:\n  - oops\n---\n")
    found = read_hub("ann")
    assert len(found.entries) == 3
    assert [line.partition(":")[0] for line in found.problems] == ["ann/broken", "1 of 4 models of author ann"]


def test_a_card_without_figures_we_can_rank_is_named(models):
    publish("ann/odd", evaluation("x", metrics={"macro_f1": figure(0.5)}))
    assert any(
        line.startswith("ann/odd: its card cannot be read: ann/odd: metrics has no accuracy")
        for line in read_hub("ann").problems
    )


def test_nobody_and_nothing_of_that_name(models):
    with pytest.raises(
        UserError, match="--hub nobody: no model on the Hub has this author or tag; if they are private"
    ):
        read_hub("nobody")


def test_a_server_that_fails_is_no_missing_card(models, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    models.fail("*", "ann/two/resolve", status=500, times=50)
    with pytest.raises(UserError, match="--hub ann: the Hub reports an error .HTTP 500.*can be given instead"):
        read_hub("ann")


def test_a_model_that_is_closed_is_named_and_the_others_count(models):
    models.fail("*", "ann/two/resolve", status=403, times=50)
    found = read_hub("ann")
    assert [each.origin for each in found.entries] == ["ann/one"]
    assert any(line.startswith("ann/two: you may not see its README.md (HTTP 403)") for line in found.problems)


def test_without_a_network(tmp_path, hub_server):
    with (
        hub_server.in_this_process(tmp_path, offline=True),
        pytest.raises(
            UserError, match="--hub ann: HF_HUB_OFFLINE=1 forbids requests to the Hub; unset it. Folders with"
        ),
    ):
        read_hub("ann")


STATED = """\
- dataset: {id: ann/rows, task_id: accuracy}
  value: 0.5
- dataset: {id: cais/hle, task_id: default}
  value: 20.9
  date: "2026-01-15"
  source: {url: "https://example.org/logs", name: Logs}
  notes: "*no* tools"
- dataset: {id: cais/hle}
  value: 1
"""


def state(folder, content=STATED):
    (folder / ".eval_results").mkdir(parents=True)
    (folder / ".eval_results" / "x.yaml").write_text(content)
    return folder


def check_stated(found, where, model):
    """One evaluation of ann/rows, which `.eval_results/` repeats; one other value; one entry that is malformed."""
    assert [each.main["value"] for each in found.entries] == [0.5]
    assert f"{where}/.eval_results/x.yaml, line 8: dataset.task_id: missing; expected a text" in found.problems
    ours, benchmark = build_board(found, []).tables
    assert len(ours.rows) == 1 and benchmark.heading == "Benchmark cais/hle, task default"
    (row,) = benchmark.rows
    assert (row.name, row.rank, row.figures) == (model, None, {"stated value": {"value": 20.9}})
    assert (row.note, row.url) == ("Logs; 2026-01-15; *no* tools", "https://example.org/logs")


def test_a_repository_s_card_and_results_of_benchmarks_without_repeats(hub_server):
    publish("ann/one", evaluation("x", 0.5, data={"source": "ann/rows"}))
    for name, content in (("x.yaml", STATED), ("notes.md", "no results")):
        path = f".eval_results/{name}"
        HfApi().upload_file(repo_id="ann/one", path_in_repo=path, path_or_fileobj=content.encode())
    check_stated(read_hub("ann"), "ann/one", "ann/one")
    assert not read_hub("ann", "test").stated  # they name no split


@pytest.mark.parametrize("as_card", [False, True])
def test_a_folder_s_card_and_results_of_benchmarks_without_repeats(tmp_path, as_card):
    made, folder = evaluation("x", 0.5, data={"source": "ann/rows"}), state(tmp_path / "run")
    card = ModelCardData(model_name="m", eval_results=to_results(made if as_card else evaluation("x", 0.9)))
    (folder / "README.md").write_text(f"---\n{card.to_yaml()}\n---\n# Model\n")
    (tmp_path / "README.md").write_text("# No card\n\nmodel-index: none\n")
    if not as_card:
        saved(folder, made)  # what it says comes before what the card says
    (folder / "pull.json").write_text('{"repo_id": "ann/one"}')
    check_stated(read_paths([tmp_path]), folder, "ann/one")
    assert read_paths([tmp_path], "test").entries


def test_only_values_of_benchmarks_are_a_leaderboard_too(tmp_path):
    found = read_paths([state(tmp_path / "only" / "run", STATED.replace("  value: 1\n", ""))])
    assert [each.result.value for each in found.stated] == [0.5, 20.9] and len(found.problems) == 2
    lines = write_board(build_board(found, []), tmp_path)["csv"].read_text().splitlines()[1:]
    assert len(lines) == 2 and all(",published,only/run,,,stated value,True," in line for line in lines)
    state(tmp_path / "bad", "- 5")
    with pytest.raises(UserError, match=r"(?s)no results that can be read:.*x.yaml, line 1: 5; expected a mapping"):
        read_paths([tmp_path / "bad"])


def seeds(run, *shares, **changes):
    """Write one result per share of right answers, as a run with several seeds would."""
    for seed, share in enumerate(shares, start=1):
        model = {"model": f"outputs/{run.name}/seed_{seed}/grpo", "recipe": run.name, "stage": "grpo"}
        decoding = {"decoding": f"sampled at temperature 1, seed {seed}"}
        with_predictions(run / f"seed_{seed}" / "grpo", emotions, share, seed, data=decoding, **model, **changes)


def test_several_seeds_are_one_row_with_their_spread(tmp_path):
    seeds(tmp_path / "good", 0.80, 0.84, 0.82)
    seeds(tmp_path / "bad", 0.2, 0.3, 0.25)
    with_predictions(tmp_path / "one", emotions, 0.3, 9, data={"decoding": "sampled at temperature 1, seed 4"})
    found = read_paths([tmp_path])
    assert len(found.entries) == 3 and not found.problems + found.unpooled
    board = build_board(found)
    (table,) = board.tables
    assert [row.name for row in table.rows] == ["good/grpo, 3 seeds", "models/one", "bad/grpo, 3 seeds"]
    assert [row.rank for row in table.rows] == [1, 2, 2]  # each pair row by row: 3 seeds with 3, and 3 with one result
    assert "3 pairs of models compared row by row" in "".join(table.notes)
    first = table.rows[0].figures["accuracy"]
    change = compare(tmp_path / "good/grpo", tmp_path / "bad/grpo")["metrics"]["accuracy"]
    assert first["value"] == pytest.approx(change["a"]) and first["low"] < first["value"] < first["high"]
    assert f"{first['value']:.3f} ± {first['sd']:.3f} [{first['low']:.3f}" in markdown_text(board)
    line = csv_text(board).splitlines()[1]
    assert line.endswith(f"{first['sd']},1 2 3")


def test_a_single_seed_and_one_that_seeds_json_leaves_out_are_rows_of_their_own(tmp_path):
    seeds(tmp_path / "run", 0.8, 0.7, 0.6)
    assert [entry.seeds for entry in read_paths([tmp_path / "run" / "seed_2"]).entries] == [{}]
    (tmp_path / "run" / "seeds.json").write_text('{"seeds": [1, 2]}')
    assert sorted(len(entry.seeds) for entry in read_paths([tmp_path]).entries) == [0, 2]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"rows": "bb"}}, "data.rows differs: aa, bb"),
        ({"data": {"decoding": "greedy decoding"}}, "data.decoding differs: greedy decoding, sampled at temperature 1"),
        ({"metrics_version": 2}, "metrics_version differs"),
    ],
)
def test_seeds_that_cannot_be_pooled_are_shown_one_by_one_with_the_reason(tmp_path, changes, reason):
    seeds(tmp_path / "run", 0.8, 0.7)
    folder = tmp_path / "run" / "seed_2" / "grpo"
    made = read_eval(folder, "test")
    saved(folder, made | changes | {"data": made["data"] | changes.get("data", {})})
    found = read_paths([tmp_path])
    assert len(found.entries) == 2
    assert found.unpooled[0].startswith(f"{tmp_path}/run/grpo: the seeds are shown one by one: {reason}")
    assert build_board(found).problems == found.unpooled


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [("seeds.json", '{"seeds": 2}', "seeds is 2"), ("seed_2/grpo/recipe.yaml", "a: [1", "seed_2/grpo/recipe.yaml:1")],
)
def test_a_broken_file_of_several_seeds_is_named_once_and_all_results_are_shown(tmp_path, file, text, reason):
    seeds(tmp_path / "run", 0.8, 0.7)
    (tmp_path / "run" / "seed_1" / "grpo" / "recipe.yaml").write_text("stages: {grpo: {}}")
    (tmp_path / "run" / file).write_text(text)
    found = read_paths([tmp_path])
    assert len(found.entries) == 2 and len(found.unpooled) == 1 and reason in found.unpooled[0]


def test_seeds_with_reward_models_of_their_own_share_a_table_with_their_other_stages_only(tmp_path):
    judge = lambda weights: {"judged_by": {"empathy_model": {"weight": 1.0, "weights": weights, "import": None}}}
    for name, judges in (("sft", "ab"), ("grpo", "ab"), ("else", "aa")):
        for seed, weights in enumerate(judges, start=1):
            with_predictions(tmp_path / "r" / f"seed_{seed}" / name, emotions, 0.5, seed, model=name, **judge(weights))
    groups = [[entry.evaluation["model"] for entry in each.entries] for each in group(read_paths([tmp_path]).entries)]
    assert groups == [["grpo", "sft"], ["else"]]
