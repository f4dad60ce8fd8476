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


def real_turns(dialogues: list[dict]) -> list[dict]:
    """Return one row per assistant turn: prompt, completion, the next user turn, and four of other dialogues."""
    turns = [[each["content"] for each in dialogue["messages"][::2]] for dialogue in dialogues]
    rows = []
    for number, dialogue in enumerate(dialogues):
        elsewhere = [turn for other, them in enumerate(turns) if other != number for turn in them]
        messages = dialogue["messages"]
        for index in range(1, len(messages), 2):
            rows.append(
                {
                    "prompt": messages[:index],
                    "completion": messages[index]["content"],
                    "next_user": messages[index + 1]["content"] if index + 1 < len(messages) else None,
                    "other_users": elsewhere[len(rows) % 7 :: len(elsewhere) // 4][:4],
                }
            )
    return rows
