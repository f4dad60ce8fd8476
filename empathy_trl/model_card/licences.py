"""The licence in a card's front matter: from the base model and the training data, or said to be unknown."""

from empathy_trl.model_card.corpora import Corpus

# what ask for no more than to be named
PERMISSIVE = ("apache-2.0", "mit", "cc-by-4.0")
# of the base models of our recipes; `bsd`, `gemma` and so on are the Hub's identifiers
OF_BASE = {
    "google/gemma-2-2b-it": "gemma",
    "Qwen/Qwen2.5-1.5B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-3B-Instruct": "qwen-research",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
    "meta-llama/Llama-2-7b-chat-hf": "llama2",
    "microsoft/GODEL-v1_1-base-seq2seq": "mit",
    "FacebookAI/roberta-base": "mit",
    "roberta-base": "mit",
}
# licences for which the Hub has no identifier -> its page
NAMED = {"qwen-research": "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE"}


def licence(base: str | None, from_scratch: bool, corpora: list[Corpus]) -> tuple[dict, str]:
    """Return the front matter's keys about the licence, and a sentence for people.

    Args:
        base: Hub id of the base model, None for one that is not on the Hub.
        from_scratch: whether there is no base model at all.
        corpora: the training data.
    """
    of_base = OF_BASE.get(base)
    found = {corpus.licence for corpus in corpora} | (set() if from_scratch else {of_base})
    if None in found:
        gaps = [corpus.name for corpus in corpora if corpus.licence is None]
        gaps += ["the base model"] * (not from_scratch and of_base is None)
        known = f" That of the base model is {of_base}." if of_base else ""
        words = f"unknown, because nothing is recorded here of that of {', '.join(dict.fromkeys(gaps))}.{known}"
        return {"license": "unknown"}, f"{words} Ask the author before you use the model."
    strict = sorted(found.difference(PERMISSIVE))
    if len(strict) > 1:
        keys = {"license": "other", "license_name": "several"}
        return keys, f"several at once: {', '.join(strict)}. Keep to all of them."
    if strict and strict[0] in NAMED:
        return {"license": "other", "license_name": strict[0], "license_link": NAMED[strict[0]]}, f"{strict[0]}."
    only = strict[0] if strict else of_base or min(found, key=PERMISSIVE[::-1].index)
    careful = only == "cc-by-nc-4.0"
    words = f"{only}." + (
        " That is the licence of the training data; whether it binds a model is disputed, and this is the careful reading: no "
        "commercial use." if careful else ""
    )  # fmt: skip
    return {"license": only}, words
