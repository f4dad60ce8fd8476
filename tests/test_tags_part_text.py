"""One part of a reply, whatever the others look like."""

import pytest

from empathy_trl.tags import part_text
from tests.rewards.three_parts import REPLY, RESPONSE


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        (REPLY, RESPONSE, "as asked"),
        ("<respond> Hi. </respond>", "Hi.", "alone"),
        ("<react>*a* <respond>Hi.</respond> <reflect>", "Hi.", "the other parts are broken"),
        ("<respond>1 < 2 <b>é</b></respond>", "1 < 2 <b>é</b>", "other markup"),
        ("", "", "empty"),
        ("Hi.", "", "no tags"),
        ("<answer>Hi.</answer>", "", "another format"),
        ("<respond>Hi.", "", "unclosed"),
        ("Hi.</respond>", "", "unopened"),
        ("</respond>Hi.<respond>", "", "closed first"),
        ("<respond>Hi.</respond><respond>You.</respond>", "", "twice"),
        ("<respond>Hi.<respond>You.</respond></respond>", "", "inside itself"),
        ("<respond>Hi. <reflect>Well.</reflect></respond>", "", "another part inside"),
        ("<respond>Hi. </react></respond>", "", "a stray mark inside"),
        ("<Respond>Hi.</Respond>", "", "tags are case-sensitive"),
        ([{"role": "assistant", "content": "<respond>Hi.</respond>"}], "Hi.", "messages"),
        ([{"role": "assistant", "content": None}], "", "no content"),
    ],
)
def test_table(text, expected, why):
    assert part_text(text, "respond") == expected, why
