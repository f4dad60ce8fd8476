"""Replies in three parts, for the tests of the rewards that read them."""

from empathy_trl.tags import write_parts

TURN = "My sister moved to Oslo on Sunday and the flat is so quiet now, I cried over her empty shelf."
REACTION = "*soft, concerned look* + *leans in*"
RESPONSE = (
    "An empty shelf can say it louder than the goodbye did. You two shared that flat for a long time, and now every "
    "room seems to ask where your sister went. What did you put on the shelf, or is it still waiting?"
)
REFLECTION = (
    "The shelf stands for her sister, so the evenings may be the worst. If she rings home tonight she might be glad of "
    "a plan for a visit; I could ask what they used to cook together."
)
NEXT = "We cooked every evening, and I thought about booking a visit, but tonight I just ate toast."
OTHERS = ["My boss shouted at me in front of everyone.", "I won the raffle!", "Which bus goes to the lake?"]
PROMPT = [{"role": "user", "content": TURN}]
REPLY = write_parts({"react": REACTION, "respond": RESPONSE, "reflect": REFLECTION})


def reply(**parts: str) -> str:
    """Return the reply above with other texts in some of its parts."""
    return write_parts({"react": REACTION, "respond": RESPONSE, "reflect": REFLECTION} | parts)
