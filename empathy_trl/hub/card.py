"""Where training data come from and under which licence: what is known of the corpora that the recipes use.

Nothing is guessed: rows in somebody's folder may be any, whatever the folder is called, so their licence is not known.

The licence in a card's front matter: from the base model and the training data, or said to be unknown.

What a card asks to cite: this package, the papers of its systems, corpora and methods.

What a card says in words: of the systems, the ways to train, the rewards and their gaps. No figures, nothing of a run.

The model card of a trained stage: front matter for programs, the rest for people.

A card is made of what lies in the stage's folder and nothing else, so that it can be made anew at any time. What is missing
there (an evaluation, samples, a curve, a newer version's keys in `run.json`) is left out or said to be missing. Values come from
recipes and models of anybody: each goes through `escape` or, in the front matter, through YAML.

How to use a published model: code that needs transformers (and peft for an adapter) alone, and the package's commands.

The front matter of a model card: what the Hub and programs read.

A card's part on training: the stages, the rewards and their weights, and the main settings.

A card's words on the machine, the time and the energy, from `run.json` (see `consumption`).

A card's tables of results: every figure with its interval, the model beside its baselines.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from huggingface_hub import ModelCardData

from empathy_trl import __version__
from empathy_trl.data import on_hub
from empathy_trl.errors import UserError
from empathy_trl.evaluation.base import NAMES, Evaluator, markdown
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.hub.results import source_name, to_results
from empathy_trl.hub.stage_folder import StageFiles, code, fenced, lineage, local_name, origin, read_stage_files, text
from empathy_trl.recipe.layers import RECIPE_FILE, stage_of
from empathy_trl.recipe.schema import HUB_MODEL, SAMPLE
from empathy_trl.rewards import REWARDS


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


ENTRIES = {
    "empathy_trl": f"""@software{{empathy_trl,
  title   = {{empathy-trl: recipes that train language models to respond with empathy}},
  author  = {{{{The empathy-trl authors}}}},
  version = {{{__version__}}},
  license = {{Apache-2.0}}
}}""",
    "rashkin2019": """@inproceedings{rashkin2019,
  title     = {Towards Empathetic Open-domain Conversation Models: A New Benchmark and Dataset},
  author    = {Rashkin, Hannah and Smith, Eric Michael and Li, Margaret and Boureau, Y-Lan},
  booktitle = {Proceedings of ACL},
  year      = {2019}
}""",
    "you2025": """@article{you2025,
  title   = {R2ec: Towards Large Recommender Models with Reasoning},
  author  = {You, Runyang and others},
  journal = {arXiv:2505.16994},
  year    = {2025}
}""",
    "giorgi2024": """@inproceedings{giorgi2024,
  title     = {Findings of WASSA 2024 Shared Task on Empathy and Personality Detection in Interactions},
  author    = {Giorgi, Salvatore and Sedoc, Jo{\\~a}o and Barriere, Valentin and Tafreshi, Shabnam},
  booktitle = {Proceedings of WASSA},
  year      = {2024}
}""",
    "li2018": """@inproceedings{li2018,
  title     = {Towards Deep Conversational Recommendations},
  author    = {Li, Raymond and Kahou, Samira and Schulz, Hannes and Michalski, Vincent and Charlin, Laurent and Pal, Chris},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018}
}""",
    "zhang2024": """@inproceedings{zhang2024,
  title     = {Towards Empathetic Conversational Recommender Systems},
  author    = {Zhang, Xiaoyu and others},
  booktitle = {Proceedings of RecSys},
  year      = {2024}
}""",
    "peng2022": """@article{peng2022,
  title   = {GODEL: Large-Scale Pre-Training for Goal-Directed Dialog},
  author  = {Peng, Baolin and others},
  journal = {arXiv:2206.11309},
  year    = {2022}
}""",
    "sharma2020": """@inproceedings{sharma2020,
  title     = {A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health Support},
  author    = {Sharma, Ashish and Miner, Adam S. and Atkins, David C. and Althoff, Tim},
  booktitle = {Proceedings of EMNLP},
  year      = {2020}
}""",
    "welivita2020": """@inproceedings{welivita2020,
  title     = {A Taxonomy of Empathetic Response Intents in Human Social Conversations},
  author    = {Welivita, Anuradha and Pu, Pearl},
  booktitle = {Proceedings of COLING},
  year      = {2020}
}""",
    "shao2024": """@article{shao2024,
  title   = {DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models},
  author  = {Shao, Zhihong and others},
  journal = {arXiv:2402.03300},
  year    = {2024}
}""",
    "schulman2017": """@article{schulman2017,
  title   = {Proximal Policy Optimization Algorithms},
  author  = {Schulman, John and Wolski, Filip and Dhariwal, Prafulla and Radford, Alec and Klimov, Oleg},
  journal = {arXiv:1707.06347},
  year    = {2017}
}""",
}
OF_TASK = {"grpo": ("shao2024",), "ppo": ("schulman2017",)}
OF_BUILDER = {
    "ed4": ("you2025",),
    "wassa": ("giorgi2024",),
    "redial": ("zhang2024",),
    "epitome": ("sharma2020",),
    "intents": ("welivita2020",),
}


def bibtex(keys) -> str:
    """Return the entries of some keys, this package first, each once."""
    return "\n\n".join(ENTRIES[key] for key in dict.fromkeys(("empathy_trl", *keys)))


# data.name -> what a model that writes does
WRITES = {
    "ed4": "reads a short description of a situation, writes a line of reasoning, and names the emotion that the situation "
    "expresses: sad, joyful, angry or afraid",
    "wassa": "answers what somebody says, in one or two sentences that are meant to show empathy, after a line of reasoning",
    "dialogues": "answers what somebody tells in a conversation, in one or two sentences that are meant to show empathy",
    "redial": "talks with somebody who looks for a film, responds to how they feel, and recommends one",
    "empath": "answers in a conversation in three parts: a reaction that shows at once (face and posture), what is said, and a "
    "thought that is not said and that its next answer builds on",
}
# data.name -> what a model that scores does
SCORES = {
    "wassa": "reads one turn of a conversation and rates it: how intense the emotion is, whether it is positive or negative, and "
    "how much empathy it shows",
    "rated_replies": "reads what somebody said and a reply to it, and rates the reply",
    "emotions": "reads a short description of a situation and names which of 32 emotions it expresses",
    "intents": "reads what a listener answers and names what the answer does: console, question, encourage and so on, nine in all",
    "epitome": "reads the post of somebody in trouble and a response to it, and rates three ways in which the response may show "
    "empathy, each from 0 to 2: emotional reactions, interpretations, explorations",
}
PAIRWISE = "reads what somebody said and a reply to it, and gives the reply a score; of two replies, the better one gets the higher score"
TRAINED = {
    "sft": "It learned by imitation (supervised fine-tuning): from examples of prompts and good answers.",
    "grpo": "It learned by reinforcement (GRPO): for each prompt it wrote several answers, programs scored each of them, and "
    "what scored better than the other answers to the same prompt became more likely.",
    "ppo": "It learned by reinforcement (PPO): it wrote answers, programs scored them, and what scored better than a second "
    "network had expected became more likely.",
    "regress": "It learned from texts with ratings.",
    "classify": "It learned from texts with labels.",
}
SHORT = {
    "sft": "imitation of examples (supervised fine-tuning)",
    "grpo": "reinforcement from rewards (GRPO)",
    "ppo": "reinforcement from rewards, with a learned critic (PPO)",
    "regress": "learning of ratings",
    "classify": "learning of labels",
}
PAIRWISE_SHORT = "learning of which reply is better (pairs)"
# a published system that the builder's recipes follow
SYSTEMS = {
    "ed4": "RREC-Emotion on ED_easy_4",
    "wassa": "a system for the WASSA shared task on empathy",
    "dialogues": "RLHF-GODEL",
    "redial": "ECR (empathetic conversational recommendation)",
    "empath": "EMPATH (react, respond, reflect) by Leon van Bokhorst",
}
OPINION = "it is a model's opinion, and texts that please a model need not help a person"
# reward -> what it pays for, and how an answer pleases it without being any better
REWARD_WORDS = {
    "bleu": ("wording shared with what a person answered", "other right answers earn little"),
    "distinct": ("words that are not repeated within the answer", "short answers score high"),
    "emotion_accuracy": ("the right emotion", "the reasoning before it may be nonsense"),
    "emotion_alignment": ("an answer that fits the user's emotion, by a classifier", OPINION),
    "emotion_confidence": (
        "how sure the model itself is of the right emotion",
        "the reasoning before it may be nonsense",
    ),
    "empathy_model": ("a high rating, by a model of ratings", OPINION),
    "epitome": ("a high level of one mechanism of empathy, by a classifier", OPINION),
    "foresight": (
        "a thought that has more in common with what the user says next than with what others say",
        "it compares words",
    ),
    "format": ("the tags in their order", "what stands between them does not matter"),
    "format_penalty": ("nothing: it takes away for an empty or malformed answer", ""),
    "length": ("a length within bounds, in words", "what is said does not matter"),
    "llm_judge": ("good grades by a language model", "language models like long, smooth and flattering answers"),
    "quality_critic": ("high ratings, by a model of ratings", OPINION),
    "reaction": (
        "a short reaction of face and posture that fits the user's emotion",
        "a list of words decides what fits",
    ),
    "reasoning_length": ("reasoning of a length within bounds", "what is reasoned does not matter"),
    "recommendation": ("recommending a film when it is time to", "hardly which film"),
    "reflection": (
        "a thought of fair length, with depth, that copies nothing",
        "words of reasoning count, not insight",
    ),
    "repetition_penalty": (
        "nothing: it takes away for what the answer repeats",
        "it sees no repetition across answers",
    ),
    "response": ("an answer of fair length about what the user said, soon said", "it compares words"),
    "reward_model": ("a high score, by a model that was trained on rated answers", OPINION),
    "safety": ("nothing: it takes away for phrases of a list", "harm in other words"),
    "safety_classifier": ("nothing: it takes away for what a classifier calls harmful", OPINION),
    "semantic_similarity": (
        "nearness in meaning to what the user said, by a model",
        "repeating what was said scores high",
    ),
    "sentence_end": ("an answer that ends like a sentence", "what is said does not matter"),
    "stage_format": ("the three parts in their order", "what stands in them does not matter"),
}
WRITING_LIMITS = """\
- **Not a therapist.** It was made for research on how language models learn to respond with empathy. It understands nobody, has no
  training in counselling, and nobody has tested whether its answers do good. Do not use it for advice on health, in emergencies, or
  where somebody may take it for a person.
- **Feelings and people.** Tell whoever talks to it that it is a program. What it writes may be wrong, hurtful or made up, with a warm
  voice: that makes it easier to believe, not truer.
- **English only**, in the manner of the training data. Empathy is shown differently in other languages and cultures, and the model
  repeats the biases of what it learned from."""
SCORING_LIMITS = """\
- **A measure for research**, such as a reward or a metric for language models. Do not judge people by it: neither employees, patients
  or applicants, nor what somebody feels.
- **English only**, in the manner of the training data. It repeats the habits and biases of those who labelled them, and a text that it
  rates high need not help anybody.
- A model that is trained against it finds texts that it likes for no good reason (reward hacking): look at samples too."""
REWARD_HACKING = """\
- **Rewards are programs and can be pleased without doing any good.** Read the samples before you believe the figures."""
CRISIS = """\
> **If you or somebody near you is in danger or thinks of suicide, do not turn to a language model.** Call the local emergency number
> (112 in the EU, 911 in the US and Canada, 999 in the UK) or a helpline: 988 in the US and Canada, 116 123 (Samaritans) in the
> UK and Ireland; for other countries, [findahelpline.com](https://findahelpline.com)."""
FROM_SCRATCH = (
    "It is made from nothing, without a pretrained model: it shows that the way works, and is of no use beyond that."
)


NOTES_FILE = "notes.md"


def model_card(folder: Path, repo_id: str, merged: bool = False) -> str:
    """Return the text of README.md for a stage's model: front matter in YAML, and Markdown.

    Args:
        folder: the stage's, as `run.py` leaves it.
        repo_id: where the model is, or will be, on the Hub: `user/name`.
        merged: the adapter in the folder is published as a whole model.

    Raises:
        UserError: the folder is not that of a stage, or `repo_id` is no Hub id.
    """
    if not HUB_MODEL.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is not a Hub id; expected name or user/name")
    files = read_stage_files(Path(folder))
    corpora = list(dict.fromkeys(corpus(stage["data"]) for stage in lineage(files.recipe, files.name).values()))
    keys, words = licence(files.base, files.from_scratch, corpora)
    parts = [
        f"# {text(repo_id.split('/')[-1])}",
        _summary(files, merged),
        "## How to use it",
        _use(files, repo_id, merged),
        "## Results",
        scores(files),
        "## Intended use and limits",
        _limits(files),
        "## Training data and licence",
        _data_table(corpora),
        f"Licence of this model: {words}",
        "## How it was trained",
        procedure(files),
        "## Hardware and carbon",
        _machine(files),
        "## Reproduce it",
        _reproduce(files, repo_id),
        *_notes(files),
        "## Cite",
        fenced(bibtex(_citations(files, corpora)), "bibtex"),
    ]
    front = front_matter(files, repo_id, merged, corpora, keys)
    return f"---\n{front}\n---\n\n" + "\n\n".join(parts) + "\n"


def _summary(files: StageFiles, merged: bool) -> str:
    """Return what the model is, for somebody who has never heard of any of it."""
    builder = files.data.get("name")
    does = (SCORES if files.scores_texts else WRITES).get(builder, "works on texts")
    does = PAIRWISE if files.is_pairwise else does
    what = "model" if files.scores_texts else "language model"
    sentences = [f"This {what} {does}.", TRAINED.get(files.task, ""), _base_sentence(files, merged)]
    system = None if files.scores_texts else SYSTEMS.get(builder)
    sentences += [f"Its recipe follows {system}."] if system else []
    return " ".join(filter(None, [*sentences, FROM_SCRATCH * files.from_scratch]))


def _base_sentence(files: StageFiles, merged: bool) -> str:
    if files.from_scratch:
        return ""
    name = origin(files.recipe, files.name).get("name_or_path")
    base = f"[{code(name)}](https://huggingface.co/{files.base})" if files.base else f"the local model {code(name)}"
    if files.is_adapter and not merged:
        return f"It is a LoRA adapter: small weights on top of {base}, which is loaded along with it."
    return f"It was made from {base}."


def _use(files: StageFiles, repo_id: str, merged: bool) -> str:
    needs = "peft transformers torch" if files.is_adapter and not merged else "transformers torch"
    parts = [f"With `pip install {needs}`:", fenced(snippet(files, repo_id, merged), "python")]
    parts += ["With empathy-trl, in its folder:", fenced(commands(files, repo_id), "bash")]
    if files.config.get("text_normalization"):
        parts.append(
            "`empathy_trl.models.scorer.predict` cleans texts as they were in training (addresses, mentions and so on) before the "
            "model reads them; the lines above do not."
        )
    return "\n\n".join(parts)


def _limits(files: StageFiles) -> str:
    if files.scores_texts:
        return SCORING_LIMITS
    hacking = [REWARD_HACKING] * bool(files.stage.get("rewards"))
    return "\n".join([WRITING_LIMITS, *hacking, "", CRISIS])


def _data_table(corpora: list[Corpus]) -> str:
    rows = [[each.name, each.licence_words, each.source] for each in corpora]
    return markdown([["data", "licence", "where the texts are from"], *rows])


def _machine(files: StageFiles) -> str:
    earlier = len(lineage(files.recipe, files.name)) > 1
    return f"{machine(files.record)}{' Earlier stages are not counted.' * earlier}\n\n{carbon(files.record)}"


def _reproduce(files: StageFiles, repo_id: str) -> str:
    command = f"accelerate launch recipes/run.py --recipe hub:{repo_id} --yes"
    parts = ["In the folder of empathy-trl, with its requirements installed:", fenced(command, "bash")]
    stages = lineage(files.recipe, files.name).values()
    paths = dict.fromkeys(str(stage["data"].get("path", SAMPLE)) for stage in stages)
    local = [path for path in paths if path != SAMPLE and source_name(path) != path]
    if local:
        names = ", ".join(code(local_name(path)) for path in local)
        parts.append(f"The data {names} are not published here; say where yours are, with `--data.path`.")
    return "\n\n".join([*parts, _versions(files.record)])


def _versions(record: dict) -> str:
    """Return with which code the model was made."""
    commit, versions = record.get("git_commit"), record.get("versions")
    changed = isinstance(commit, str) and commit.endswith("+changes")
    at = f"commit {code(str(commit).removesuffix('+changes'))}" if commit else "a commit that is not known"
    also = " with changes that were not committed, so nobody else can have exactly this code" if changed else ""
    listed = [f"{text(name)} {text(number)}" for name, number in versions.items()] if isinstance(versions, dict) else []
    with_these = f", with {', '.join(listed)}" if listed else ""
    return f"Made with empathy-trl at {at}{also}{with_these}. Other versions and machines give slightly other numbers."


def _notes(files: StageFiles) -> list[str]:
    """Return the author's own section: their file as it is, for they answer for it."""
    path = files.folder / NOTES_FILE
    return ["## Notes of the author", path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def _citations(files: StageFiles, corpora: list[Corpus]) -> list[str]:
    keys = [*OF_BUILDER.get(files.data.get("name"), ()), *OF_TASK.get(files.task, ())]
    keys += ["peng2022"] * ("GODEL" in (files.base or ""))
    return keys + [key for each in corpora for key in each.cite]


# data.name -> what somebody says, in an example
SAYS = {
    "ed4": "Somebody broke into our car last night and I still check every lock twice.",
    "wassa": "Our street was flooded, and my grandmother had to be carried out of her house.",
    "dialogues": "I did not get the job that I was hoping for.",
    "redial": "Hi! I had an awful week. Which film would cheer me up?",
    "empath": "I keep thinking about the exam that I failed yesterday.",
}
# data.name -> text, and its pair where the model reads two
SCORED = {
    "wassa": ("I am so sorry that you lost your home. Is your family safe?",),
    "emotions": ("I open the letter box every hour, although the answer is not due before Friday.",),
    "intents": ("That must have been a hard year for you.",),
    "epitome": ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?"),
    "rated_replies": ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?"),
}
PAIRED = ("epitome", "rated_replies")
TAGS = {"empath": ("react", "respond", "reflect"), "ed4": ("reasoning", "answer"), "wassa": ("reasoning", "answer")}


def snippet(files: StageFiles, repo_id: str, merged: bool) -> str:
    """Return Python that loads the model and shows what it says to an example."""
    return _scoring(files, repo_id) if files.scores_texts else _writing(files, repo_id, merged)


def _writing(files: StageFiles, repo_id: str, merged: bool) -> str:
    kind = "Seq2SeqLM" if files.is_encoder_decoder else "CausalLM"
    if files.is_adapter and not merged:
        imports = f"from peft import AutoPeftModelFor{kind}\nfrom transformers import AutoTokenizer"
        load = f"AutoPeftModelFor{kind}.from_pretrained(name)  # the adapter, and by itself the model it is for"
    else:
        imports = f"from transformers import AutoModelFor{kind}, AutoTokenizer"
        load = f"AutoModelFor{kind}.from_pretrained(name)"
    new = "output[0]" if files.is_encoder_decoder else 'output[0, inputs["input_ids"].shape[1] :]'
    tags = TAGS.get(files.data.get("name"))
    return dedent(
        """
        {imports}

        name = {name}
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = {load}

        messages = [
        {messages}
        ]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, {sampling})
        reply = tokenizer.decode({new}, skip_special_tokens=True)
        {show}
        """
    ).format(
        imports="import re\n\n" * (tags is not None) + imports,
        name=_literal(repo_id),
        load=load,
        messages="\n".join(map(_message, example_messages(files.data))),
        sampling=_sampling(files.stage.get("evaluation") or {}),
        new=new,
        show=_show(tags),
    )


def example_messages(data: dict) -> list[dict]:
    """Return a prompt as the model was trained on, for what `SAYS` has of its data."""
    from empathy_trl.chat.setup import Prompts

    name = data.get("name")
    said = SAYS.get(name, "I did not sleep last night.")
    return Prompts(name=name, data=data).messages([{"role": "user", "content": said}])


def _message(message: dict) -> str:
    """Return a message as Python, a line of its text in each line."""
    lines = [_literal(line) for line in message["content"].splitlines(keepends=True)] or ['""']
    content = "\n        ".join(["(", *lines]) + "\n    )" if len(lines) > 1 else lines[0]
    return f'    {{"role": {_literal(message["role"])}, "content": {content}}},'


def _literal(content: str) -> str:
    """Return a text as Python writes it, in double quotes."""
    return json.dumps(content, ensure_ascii=False)


def _sampling(evaluation: dict) -> str:
    """Return the arguments of `generate` with which the model was evaluated."""
    temperature = evaluation.get("temperature", 0.0)
    arguments = {"max_new_tokens": evaluation.get("max_new_tokens", 300), "do_sample": bool(temperature)}
    if temperature:
        arguments |= {
            "temperature": temperature,
            "top_p": evaluation.get("top_p", 1.0),
            "top_k": evaluation.get("top_k", 0),
        }
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _show(tags: tuple[str, ...] | None) -> str:
    if tags is None:
        return "print(reply)"
    pattern = f'r"<({"|".join(tags)})>(.*?)</\\1>"'
    return f'print(reply)\nparts = dict(re.findall({pattern}, reply, flags=re.DOTALL))\nprint(parts.get("{tags[1]}"))'


def _scoring(files: StageFiles, repo_id: str) -> str:
    name = files.data.get("name")
    texts = SCORED.get(name, SCORED["emotions"])
    said = "  # what somebody says, and an answer to it" if name in PAIRED else ""
    return dedent(
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        name = {name}
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(name)

        texts = {texts}{said}
        inputs = tokenizer(*texts, truncation=True, max_length={length}, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        {show}
        """
    ).format(
        name=_literal(repo_id),
        texts=f"[{', '.join(map(_literal, texts))}]",
        said=said,
        length=files.config.get("text_max_length", 512),
        show=_show_scores(files),
    )


def _show_scores(files: StageFiles) -> str:
    if files.task == "regress":
        return "print({model.config.id2label[i]: round(x, 2) for i, x in enumerate(logits.tolist())})"
    # several groups of labels stand side by side, each with a softmax of its own
    return dedent(
        """\
        start = 0
        for group, labels in model.config.label_groups:
            shares = logits[start : start + len(labels)].softmax(dim=0)
            start += len(labels)
            print(group, {label: round(share, 3) for label, share in zip(labels, shares.tolist())})"""
    )


def commands(files: StageFiles, repo_id: str) -> str:
    """Return the command lines of this package for the model."""
    recipe = f"hub:{repo_id}"
    lines = [] if files.scores_texts else [f"python recipes/chat.py --model {repo_id}"]
    stage = f" --stage {files.name}" if files.name != list(files.recipe["stages"])[-1] else ""
    return "\n".join([*lines, f"python recipes/evaluate.py --recipe {recipe}{stage} --model {repo_id} --split test"])


TAG = "empathy-trl"  # by which the Hub finds our models


def front_matter(files: StageFiles, repo_id: str, merged: bool, corpora: list[Corpus], licence: dict) -> str:
    """Return the front matter as YAML, without its fences.

    Args:
        licence: keys of the front matter, from `licences.licence`.
    """
    adapter = files.is_adapter and not merged
    results = [result for evaluation in files.evaluations.values() for result in to_results(evaluation)]
    relation = "adapter" if adapter else "finetune"
    data = ModelCardData(
        language="en",
        **licence,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification" if files.scores_texts else "text-generation",
        base_model=files.base,
        base_model_relation=relation if files.base else None,
        tags=[TAG, "trl", str(files.task)],
        datasets=list(dict.fromkeys(each.hub for each in corpora if each.hub)) or None,
        co2_eq_emissions=_emissions(files.record),
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
    )
    return data.to_yaml()


def _emissions(record: dict) -> dict | None:
    """Return what the Hub shows of the carbon; None where it was not measured."""
    grams = emissions(record)
    if grams is None:
        return None
    return {
        "emissions": grams,
        "source": "energy counters of the GPUs, times the carbon intensity that the author states",
        "training_type": "fine-tuning",
        "hardware_used": ", ".join(map(str, (record.get("hardware") or {}).get("gpus") or [])),
    }


# keys of `trainer` in the order of the card -> what they are called
SETTINGS = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "learning rate schedule",
    "max_steps": "optimizer steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch per device",
    "gradient_accumulation_steps": "batches accumulated",
    "num_generations": "answers per prompt",
    "num_iterations": "passes over each batch of answers",
    "max_completion_length": "tokens of an answer at most",
    "max_length": "tokens of a text at most",
    "temperature": "temperature of the answers",
    "beta": "weight of the KL penalty",
    "kl_coef": "weight of the KL penalty",
    "epsilon": "clipping range",
    "loss_type": "loss",
    "loss": "loss",
    "bf16": "bfloat16",
}
PICTURES = {
    "reward_curve.png": "The training, step by step",
    "critic_curves.png": "Whether PPO was well, step by step",
}


def procedure(files: StageFiles) -> str:
    """Return stages, rewards and settings as Markdown, with links to what lies beside the card."""
    stages = lineage(files.recipe, files.name)
    parts = [_stages(files, stages)]
    if files.stage.get("rewards"):
        parts += [_rewards(files.stage["rewards"])]
    parts += [_settings(files)]
    parts += [f"![{words}]({name})" for name, words in PICTURES.items() if files.has(name)]
    links = [f"[every setting]({RECIPE_FILE})"]
    links += ["[answers from the training, with their rewards](samples.md)"] * files.has("samples.md")
    return "\n\n".join([*parts, f"See also: {', '.join(links)}."])


def _stages(files: StageFiles, stages: dict[str, dict]) -> str:
    """Return the stages that led to this model, as a table."""
    rows = [["stage", "how", "starts from", "data"]]
    for name, stage in stages.items():
        here = "**" * (name == files.name)
        pairwise = (stage.get("trainer") or {}).get("objective") == "pairwise"
        how = PAIRWISE_SHORT if pairwise else SHORT.get(stage.get("task"), text(stage.get("task")))
        rows.append(
            [f"{here}{text(name)}{here}", how, _start(stage.get("model") or {}), _data(stage.get("data") or {})]
        )
    role = " This model is the one in bold." if len(stages) > 1 else ""
    if files.record.get("status") != "complete":
        role += " **Its training was not finished when it was published.**"
    return f"Recipe {code(files.recipe.get('name'))} of empathy-trl.{role}\n\n{markdown(rows)}"


def _start(model: dict) -> str:
    parent = stage_of(model.get("name_or_path"))
    scratch = model.get("from_scratch")
    if parent is not None:
        start = f"stage {text(parent)}"
    elif scratch:
        shape = ", ".join(f"{key.replace('_', ' ')} {text(scratch.get(key))}" for key in ("layers", "hidden_size"))
        start = f"nothing ({text(scratch.get('architecture'))}, {shape})"
    else:
        start = code(model.get("name_or_path"))
    lora = model.get("lora")
    return (
        start
        + (f", LoRA of rank {text(lora.get('r'))}" if lora else "")
        + (", in 4 bits" if model.get("load_in_4bit") else "")
    )


def _data(data: dict) -> str:
    low, high = data.get("portion") or (0, 1)
    part = f", part {low:.0%} to {high:.0%} of the training rows" if (low, high) != (0, 1) else ""
    return f"{code(data.get('name'))} from {code(data.get('path'))}{part}"


def _rewards(rewards: dict[str, dict]) -> str:
    rows = [["reward", "weight", "what it pays for", "what it misses", "settings"]]
    for name, entry in rewards.items():
        rows.append([code(name), weight(entry.get("weight", 1.0)), *_meaning(name, entry), _parameters(name, entry)])
    return "What an answer earned is the weighted sum of these rewards.\n\n" + markdown(rows)


def weight(value: Any) -> str:
    """Return a reward's weight in words; a schedule says where it goes."""
    if isinstance(value, dict):
        share = f"{value['until']:.0%}" if isinstance(value.get("until"), (int, float)) else text(value.get("until"))
        return f"{text(value.get('start'))} to {text(value.get('end'))} over the first {share} of the training"
    return text(value)


def _meaning(name: str, entry: dict) -> tuple[str, str]:
    """Return what a reward pays for, and what it misses; of the author's own only that it is one."""
    if entry.get("import"):
        return f"the author's own: {code(entry['import'])}", ""
    return REWARD_WORDS.get(name, ("", ""))


def _parameters(name: str, entry: dict) -> str:
    """Return the parameters that decide the reward, without addresses, time limits and the like."""
    hidden = {"weight", "import", *getattr(REWARDS.get(name), "operational", ())}
    return ", ".join(code(f"{key}: {value}") for key, value in entry.items() if key not in hidden)


def _settings(files: StageFiles) -> str:
    trainer = files.stage.get("trainer") or {}
    settings = {words: trainer[key] for key, words in SETTINGS.items() if trainer.get(key) not in (None, False)}
    settings["seed"] = files.record.get("seed", files.stage.get("seed"))
    return "Main settings: " + "; ".join(f"{words} {text(value)}" for words, value in settings.items()) + "."


def machine(record: dict) -> str:
    """Return a sentence on what trained the model and for how long."""
    hardware = record.get("hardware") if isinstance(record.get("hardware"), dict) else {}
    gpus = [str(gpu) for gpu in hardware.get("gpus") or []]
    counted = [f"{gpus.count(name)} × {text(name)}" for name in dict.fromkeys(gpus)]
    parts = counted or (["no GPU"] if hardware else [])
    if hardware.get("cpu"):
        parts.append(f"{text(hardware.get('cores'))} cores of {text(hardware['cpu'])}")
    if hardware.get("memory_gb"):
        parts.append(f"{text(hardware['memory_gb'])} GB of memory")
    on = f"on a machine with {', '.join(parts)}" if parts else "on a machine that is not known"
    processes = record.get("processes")
    several = f", in {text(processes)} processes" if isinstance(processes, int) and processes > 1 else ""
    seconds, sessions = record.get("train_seconds"), record.get("sessions")
    took = f"for {duration(seconds)}" if _is_number(seconds) else "for a time that is not known"
    took += f" (in {sessions} sessions)" if isinstance(sessions, int) and sessions > 1 else ""
    return f"Trained {took} {on}{several}."


def carbon(record: dict) -> str:
    """Return what is known of energy and CO2: measured figures, or that there are none and how to get them."""
    energy = _energy(record)
    if energy is None:
        return (
            "Energy and carbon: not measured. On NVIDIA GPUs, `pip install nvidia-ml-py` before the training measures the "
            "energy, and `CARBON_INTENSITY` (grams of CO2 per kWh of your electricity) turns it into grams."
        )
    what = f"Energy: {energy['kwh']:.4g} kWh, measured ({text(energy.get('of', 'GPUs'))}); processors, memory and cooling are not in it."
    grams = emissions(record)
    if grams is None:
        return f"{what} Multiply it with the grams of CO2 per kWh of the electricity to get the carbon."
    return f"{what} At {energy['grams_per_kwh']:g} g of CO2-equivalent per kWh, as the author states it, that is {grams:.4g} g."


def emissions(record: dict) -> float | None:
    """Return grams of CO2-equivalent, from measured energy; None where either factor is not known."""
    energy = _energy(record)
    if energy is None or not _is_number(energy.get("grams_per_kwh")):
        return None
    return round(energy["kwh"] * energy["grams_per_kwh"], 3)


def duration(seconds: float) -> str:
    """Return seconds in words: `95 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _energy(record: dict) -> dict | None:
    energy = record.get("energy")
    return energy if isinstance(energy, dict) and _is_number(energy.get("kwh")) else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def scores(files: StageFiles) -> str:
    """Return a table for each split that was evaluated, and what one has to know to read it."""
    parts = [_table(evaluation) for evaluation in files.evaluations.values()]
    parts += [
        f"{code(name)} in the folder of this model cannot be read; its figures are left out."
        for name in files.unreadable
    ]
    if not files.evaluations:
        return "\n\n".join(["This model has not been evaluated.", *parts])
    how = "Brackets are 95 % intervals. Programs find all figures in the metadata of this card, under `model-index`."
    return "\n\n".join([*parts, how])


def _table(evaluation: dict) -> str:
    from empathy_trl.evaluation import evaluator

    data, metrics, baselines = evaluation["data"], evaluation["metrics"], evaluation["baselines"]
    shown_by = evaluator(evaluation["kind"])
    try:
        headings = shown_by.column_titles(evaluation)
    except (KeyError, TypeError):  # an evaluation of another version
        headings = {key: key.replace("_", " ") for key in metrics}
    head = ["", "**this model**", *(text(NAMES.get(name, name)) for name in baselines), "n"]
    rows = [head]
    for key, heading in headings.items():
        if key not in metrics:
            continue
        cells = [with_interval(row[key]) if key in row else "" for row in baselines.values()]
        rows.append([text(heading), f"**{with_interval(metrics[key])}**", *cells, metrics[key]["n"]])
    decoded = f", {text(data['decoding'])}" if data.get("decoding") else ""
    source = source_name(data["source"])
    of = (
        f"the embedded corpus {code(data['name'])}"
        if source == SAMPLE
        else f"{code(source)}, read as {code(data['name'])}"
    )
    intro = f"Split {code(data['split'])} of {of}: {data['n']} rows{decoded}."
    return f"{intro}\n\n{markdown(rows)}\n\n{_note(shown_by)}"


def _note(evaluator: Evaluator) -> str:
    """Return what the report says below such a table."""
    return evaluator.note.replace("`docs/figures.md`", "`docs/figures.md` of empathy-trl")
