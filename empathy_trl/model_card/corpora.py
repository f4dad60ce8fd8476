"""Where training data come from and under which licence: what is known of the corpora that the recipes use.

Nothing is guessed: rows in somebody's folder may be any, whatever the folder is called, so their licence is not known.
"""

from dataclasses import dataclass

from empathy_trl.data import on_hub
from empathy_trl.model_card.escape import code, local_name
from empathy_trl.recipe.schema import SAMPLE


@dataclass(frozen=True)
class Corpus:
    """A row of the card's table of training data.

    Attributes:
        name: Markdown.
        licence: an identifier of the Hub, or None where it is not known.
        licence_words: Markdown, for people.
        source: Markdown: who wrote the texts.
        cite: keys of `citations.ENTRIES`.
        hub: the Hub id, or None.
    """

    name: str
    licence: str | None
    licence_words: str
    source: str
    cite: tuple[str, ...] = ()
    hub: str | None = None


_ED = "conversations of crowd workers about their feelings (Rashkin et al. 2019)"
# Hub id -> licence, words for it, source, citation
ON_HUB = {
    "facebook/empathetic_dialogues": ("cc-by-nc-4.0", "CC BY-NC 4.0: no commercial use", _ED, ("rashkin2019",)),
    "community-datasets/re_dial": (
        "cc-by-4.0",
        "CC BY 4.0",
        "conversations of crowd workers who recommend films to each other (ReDial, Li et al. 2018)",
        ("li2018",),
    ),
    "leonvanbokhorst/react-respond-reflect-v1": (
        None,
        "its page names none",
        "written dialogues, mostly by a language model, for the system EMPATH",
        (),
    ),
}
# builder -> what its files usually hold, for somebody who wonders about a local folder
USUAL = {
    "ed4": ("ED_easy_4, which comes from EmpatheticDialogues, CC BY-NC 4.0 applies", ("rashkin2019",)),
    "wassa": ("the turns of the WASSA shared task, they are to be had from its organisers only", ("giorgi2024",)),
    "dialogues": ("EmpatheticDialogues, CC BY-NC 4.0 applies", ("rashkin2019",)),
    "redial": ("ReDial, CC BY 4.0 applies", ("li2018",)),
    "empath": ("react-respond-reflect, see the licence of its repository", ()),
    "emotions": ("EmpatheticDialogues, CC BY-NC 4.0 applies", ("rashkin2019",)),
    "intents": ("EmpatheticIntents, which comes from EmpatheticDialogues, CC BY-NC 4.0 applies", ("welivita2020",)),
    "epitome": ("the pairs of EPITOME, they are to be had from their authors only", ("sharma2020",)),
}


def corpus(data: dict) -> Corpus:
    """Return what is known of a `data` section of a resolved recipe."""
    builder, path = str(data.get("name")), str(data.get("path", SAMPLE))
    if path == SAMPLE:
        source = "written for empathy-trl; no texts of real people, labels and ratings by their authors"
        return Corpus(f"embedded corpus {code(builder)} of empathy-trl", "apache-2.0", "Apache-2.0", source)
    if on_hub(path):
        licence, words, source, cite = ON_HUB.get(path, (None, "see its page", "see its page", ()))
        revision = f", revision {code(data['revision'])}" if data.get("revision") else ""
        return Corpus(
            f"[{code(path)}](https://huggingface.co/datasets/{path}){revision}", licence, words, source, cite, path
        )
    usual, cite = USUAL.get(builder, (None, ()))
    hint = f"; if it is {usual}" if usual else ""
    name = f"local data {code(local_name(path))} (read as {code(builder)})"
    return Corpus(name, None, f"not stated{hint}", "the author's own data", cite)
