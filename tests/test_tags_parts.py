"""What counts as a reply in three parts."""

import pytest

from empathy_trl.rewards.format import Format
from empathy_trl.tags import PARTS, read_parts, without_reflection, write_parts

WHOLE = "<react>*smiles* + *leans in*</react>\n<respond>Hello.</respond>\n<reflect>They are well.</reflect>"
REPLIES = [
    (WHOLE, True),
    (f"  {WHOLE}\n\n", True),
    (WHOLE.replace("\n", ""), True),
    (WHOLE.replace("Hello.", "Hello.\n\nYou < me > them <b>"), True),
    ("", False),
    ("Hello.", False),
    (f"Well. {WHOLE}", False),
    (f"{WHOLE} Bye.", False),
    (WHOLE.replace("</react>\n", "</react> and\n"), False),
    (WHOLE.replace("</react>", ""), False),
    (WHOLE.replace("</reflect>", ""), False),
    (WHOLE.replace("react>", "React>"), False),
    (WHOLE.replace("Hello.", " \n"), False),
    (WHOLE.replace("Hello.", "<react>Hello.</react>"), False),
    (WHOLE.replace("Hello.", "Hello.</respond><respond>You."), False),
    (WHOLE.replace("Hello.", "Hello <reflect> you"), False),
    ("\n".join(reversed(WHOLE.split("\n"))), False),
    (WHOLE.split("\n", 1)[1], False),
]


@pytest.mark.parametrize(("text", "well_formed"), REPLIES)
def test_well_formed_is_what_the_format_reward_pays_for(text, well_formed):
    assert (read_parts(text) is not None) == well_formed
    assert Format(tags=list(PARTS))([""], [text]) == [float(well_formed)]


def test_parts_are_read_and_written():
    parts = read_parts(WHOLE)
    assert parts == {"react": "*smiles* + *leans in*", "respond": "Hello.", "reflect": "They are well."}
    assert write_parts(parts) == WHOLE


def test_a_history_may_go_without_reflections():
    assert without_reflection(WHOLE) == WHOLE.rsplit("\n", 1)[0]
    assert without_reflection("<react>Hello.") == "<react>Hello."
