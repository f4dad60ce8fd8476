"""The file of published figures is sound, and a wrong entry is named."""

import pytest
import yaml

from empathy_trl.data import CORPORA
from empathy_trl.errors import UserError
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.hub.leaderboard.entries import FILE, read_published


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
