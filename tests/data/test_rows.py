"""The text column: the wanted one, the only candidate, or an error that lists what is there."""

import pytest

from empathy_trl.data.wassa import text_column
from empathy_trl.errors import DataError


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (["id", "text", "Empathy"], None, "text"),
        (["utterance", "speaker"], None, "utterance"),
        (["Response"], None, "Response"),
        (["text", "essay"], "essay", "essay"),
        (["body", "text"], "body", "body"),
    ],
)
def test_the_column_is_found(found, wanted, expected):
    assert text_column("x.csv", found, wanted) == expected


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (["text", "id", "essay"], None, r"x\.csv: 2 columns may hold the text: 'text', 'essay'; .* data\.text_column"),
        (
            ["body", "id"],
            None,
            r"no column is called text, utterance, .*data\.text_column \(columns found: body, id",
        ),
        ([], None, r"no column is called text"),
        (["text", "boddy"], "body", r"no column 'body'; did you mean boddy\? \(columns found: text, boddy\)"),
    ],
)
def test_what_cannot_be_decided_is_an_error(found, wanted, message):
    with pytest.raises(DataError, match=message):
        text_column("x.csv", found, wanted)
