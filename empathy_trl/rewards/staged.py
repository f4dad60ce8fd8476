"""Rewards for the three parts of a reply (see `tags`): reaction, response and reflection.

* `Response`: does the spoken text have a good length, relate to the user's turn, use its own words, and take little
  time to say?
* `Reaction`: is the reaction a physical one, short enough to be taken in at once, and does it fit the user's emotion?
* `Reflection`: is the thought for the next turn about this dialogue, does it go beyond what was said, and does it look
  ahead?
* `Foresight`: is the reflection more similar to the user's next turn than to other users' turns?

A small English lexicon of three closed lists decides whether a reaction fits; `griev*` stands for every word that
begins with `griev`. `FEELINGS` lists words of users that express an emotion: the emotion with the most words counts
(several if they tie), and a turn without such words is `neutral`. `EXPRESSIONS` lists what the words of a reaction
express. `FITTING` and `CLASHING` list which expressions fit which emotion, and which contradict it; anything in
neither, such as a surprised look at grief, is no evidence. Warmth fits every emotion, so it is safe if the words do not
reveal one.

A word after a negation ("not happy", "without judgment") does not count. A list does not recognise irony or context,
and most turns tell a story in plain words and are `neutral`. A classifier recognises more: `emotion_alignment` with
`reply_tags: [react]`.

For `Foresight`: a reflection is written before the user's next turn, and the data contain that turn. Subtracting the
similarity to turns of users in other dialogues removes what fits every dialogue. Those turns are a column of the data,
drawn once for each row, and not the other rows of the batch. Otherwise the reward of a completion would depend on its
batch, and the rewards within the group of a prompt on other prompts.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

import regex

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import Reward, band, check_band, needed_column, visible_or_none
from empathy_trl.rewards.learned import SemanticSimilarity
from empathy_trl.tags import REACT, REFLECT, RESPOND, part_text, user_text
from empathy_trl.text import content_words, cosine, is_visible, lower_words, ngrams, plain, words

WORDS_PER_MINUTE = 150  # a calm voice, as in audio books
PAUSE_SECONDS = 0.5  # after a sentence
ENOUGH_SHARED = 2  # content words, to be about what the user said

# not the point in 3.5; a script without spaces goes on right after its full stop
_SENTENCE_ENDS = regex.compile(r"[.!?]+(?![\p{L}\p{N}])|[\p{Sentence_Terminal}--[.!?]]+", regex.V1)


@dataclass
class Response(Reward):
    """Length × relevance × originality × pace of the part `<respond>`.

    * length: 1 from `min` to `max` words, falling linearly to 0 at a distance of `softness` words outside.
    * relevance: (1 + r) / 2, where r is the number of content words (`text.py`) shared with the user's turn,
      divided by 2 or by as many as the turn has, at most 1. A turn without any asks for none.
    * originality: 1, but less when more than a quarter of the word trigrams stand in the user's turn (`originality`).
    * pace: 1 up to `max_seconds` of speaking time, falling linearly to 0 at half as much again.

    The mean speaking time is logged as `response/speaking_seconds`.

    Range: [0, 1]; 0 where the part is missing, broken or without a word.

    Args:
        min: fewest words with full reward.
        max: most words with full reward.
        softness: width of each slope in words; 0 makes the band hard.
        max_seconds: longest speaking time with full reward.
    """

    min: int = 30
    max: int = 150
    softness: float = 15.0
    max_seconds: float = 75.0

    __name__ = "response"
    card = "an answer of fair length about what the user said, soon said"
    misses = "it compares words"
    tags = (RESPOND,)

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)
        if self.max_seconds <= 0:
            raise UserError(f"max_seconds: expected more than 0, got {self.max_seconds}")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        responses = [part_text(completion, RESPOND) for completion in completions]
        seconds = [speaking_seconds(response) for response in responses]
        spoken = [each for each in seconds if each > 0]
        if spoken and columns.get("log_metric") is not None:
            columns["log_metric"](f"{self.__name__}/speaking_seconds", fmean(spoken))
        return [
            self._score(response, user_text(prompt)) * band(duration, 0, self.max_seconds, self.max_seconds / 2)
            for prompt, response, duration in zip(prompts, responses, seconds, strict=True)
        ]

    def _score(self, response: str, turn: str) -> float:
        """Return length × relevance × originality."""
        spoken, heard = lower_words(response), lower_words(turn)
        if not spoken:
            return 0.0
        length = band(len(spoken), self.min, self.max, self.softness)
        return length * (1 + relevance(spoken, heard)) / 2 * originality(spoken, [heard])


# of a text's trigrams that may stand elsewhere without a loss: taking up somebody's phrase is a way of listening
FREE = 0.25


def originality(spoken: list[str], sources: Iterable[list[str]]) -> float:
    """Return 1 for a text of which at most a quarter is copied, falling linearly to 0 for one that is copied entirely.

    What counts as copied is a trigram of the text that stands in one of the sources; of a text of one or two words, all
    of it. Swapping words here and there breaks trigrams: a paraphrase is not found.

    Args:
        spoken: words of the text, as `text.lower_words` returns them.
        sources: words of what was said before.
    """
    n = min(3, len(spoken))
    if n == 0:
        return 0.0
    known = {gram for source in sources for gram in ngrams(source, n)}
    grams = ngrams(spoken, n)
    copied = sum(gram in known for gram in grams) / len(grams)
    return min(1.0, (1 - copied) / (1 - FREE))


def relevance(spoken: list[str], heard: list[str]) -> float:
    """Return in [0, 1] how much of what the user spoke of is taken up; 1 where the user spoke of nothing."""
    topics = content_words(heard)
    needed = min(ENOUGH_SHARED, len(topics))
    return min(1.0, len(content_words(spoken) & topics) / needed) if needed else 1.0


def speaking_seconds(text: str) -> float:
    """Return about how long a text takes to say, in seconds: 150 words a minute and half a second after a sentence."""
    return len(lower_words(text)) * 60 / WORDS_PER_MINUTE + PAUSE_SECONDS * len(_SENTENCE_ENDS.findall(plain(text)))


_STARRED = r"\*([^*]+)\*"
# *expression* + *posture*, where a word may stand behind a star: *curious* + *attentive* posture
_FORM = re.compile(rf"{_STARRED}(?:\s+\w+)?(?:\s*\+\s*{_STARRED}(?:\s+\w+)?)*")


@dataclass
class Reaction(Reward):
    """Grammar × brevity × fit of the part `<react>`.

    * grammar: 1 for `*expression* + *posture*`, two or more different phrases joined by + (or by commas inside the stars),
      where one word may stand behind a star; 0.5 for anything else with a starred phrase; 0 otherwise.
    * brevity: 1 up to `max_words` words, falling linearly to 0 at `softness` words more.
    * fit: (1 + f) / 2, where f is 1 for an expression that fits the emotion in the user's turn, 0 for one that contradicts
      it, 0.5 without evidence, by the lexicon below. By a classifier: `emotion_alignment` with
      `reply_tags: [react]`.

    Range: [0, 1]; 0 where the part is missing, broken or without a word.

    Args:
        max_words: most words with full reward.
        softness: width of the slope in words; 0 makes the limit hard.
    """

    max_words: int = 20
    softness: float = 10.0

    __name__ = "reaction"
    card = "a short reaction of face and posture that fits the user's emotion"
    misses = "a list of words decides what fits"
    tags = (REACT,)

    def __post_init__(self):
        if self.max_words < 1:
            raise UserError(f"max_words: expected 1 or more, got {self.max_words}")
        check_band(1, self.max_words, self.softness)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [
            self._score(part_text(completion, REACT), user_text(prompt))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _score(self, reaction: str, turn: str) -> float:
        brevity = band(len(words(reaction)), 1, self.max_words, self.softness) if reaction else 0.0
        return brevity and grammar(reaction) * brevity * (1 + fit(reaction, turn)) / 2


def grammar(reaction: str) -> float:
    """Return 1 for at least two starred phrases in the form that is asked for, 0.5 for one or another form, 0 for none."""
    phrases = {
        " ".join(words(phrase)).casefold()
        for starred in re.findall(_STARRED, reaction)
        for phrase in re.split(r"[,;+]", starred)
    } - {""}
    if not phrases:
        return 0.0
    return 1.0 if len(phrases) > 1 and _FORM.fullmatch(reaction) else 0.5


# words that look ahead, or leave open what is not known
_OUTLOOK = """
may might could will would they'll he'll she'll it'll i'll we'll perhaps maybe probably possibly likely unlikely next soon
later tomorrow expect expects hope hopes wonder wonders if unless whether
"""
OUTLOOK = frozenset(_OUTLOOK.split())


@dataclass
class Reflection(Reward):
    """Length × depth × originality of the part `<reflect>`.

    * length: 1 from `min` to `max` words, falling linearly to 0 at a distance of `softness` words outside.
    * depth: (1 + d) / 2, where d in [0, 1] is the mean of three:
      grounded, how much of the user's turn and the response it takes up (two shared content words are enough);
      new, twice the share of its content words that stand in neither, at most 1;
      outlook, 1 if a word looks ahead or leaves open (`OUTLOOK`), so that a list of words decides on a third at most.
    * originality: 1, but less when more than a quarter of the word trigrams stand in the response or in the user's turn
      (`originality`).

    Range: [0, 1]; 0 where the part is missing, broken or without a word. A missing or broken response counts as empty.

    Args:
        min: fewest words with full reward.
        max: most words with full reward.
        softness: width of each slope in words; 0 makes the band hard.
    """

    min: int = 20
    max: int = 100
    softness: float = 10.0

    __name__ = "reflection"
    card = "a thought of fair length, with depth, that copies nothing"
    misses = "words of reasoning count, not insight"
    tags = (RESPOND, REFLECT)

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [self._score(*pair) for pair in zip(prompts, completions, strict=True)]

    def _score(self, prompt, completion) -> float:
        thought = lower_words(part_text(completion, REFLECT))
        if not thought:
            return 0.0
        said = [lower_words(part_text(completion, RESPOND)), lower_words(user_text(prompt))]
        length = band(len(thought), self.min, self.max, self.softness)
        return length * (1 + depth(thought, said)) / 2 * originality(thought, said)


def depth(thought: list[str], said: list[list[str]]) -> float:
    """Return the mean of grounded, new and outlook, in [0, 1], see `Reflection`.

    Args:
        thought: words of the reflection, as `text.lower_words` returns them.
        said: words of each text that it may be about.
    """
    known = [word for text in said for word in text]
    topics = content_words(thought)
    grounded = relevance(thought, known) if topics else 0.0
    new = min(1.0, 2 * len(topics - content_words(known)) / len(topics)) if topics else 0.0
    return fmean([grounded, new, float(not OUTLOOK.isdisjoint(thought))])


FEELINGS = {
    "sad": """sad sadly sadness saddened sorrow* grief griev* mourn* cry crying cried tears tearful sob* weep* wept unhappy
        miserabl* depress* heartbr* hopeless* lonely loneliness alone empty miss missing lost died dead death funeral
        buried "passed away" "broke up" "left me" "let down" hurt* disappoint* devastat* asham* guilt* regret* gutted
        homesick rejected drowning worthless useless failed failure""",
    "joyful": """happy happily happiness happier joy joyful* glad delight* excited exciting thrilled ecstatic overjoyed
        proud* wonderful fantastic amazing awesome brilliant celebrat* yay hooray won promoted pregnant engaged married
        "can't wait" laugh* smil* relieved grateful thankful lucky fun""",
    "angry": """angry angrily anger mad furious rage raging annoy* irritat* frustrat* pissed hate* unfair betray* lied
        cheated rude insult* disrespect* shouted yell* resent* livid outrag* jealous disgust* ignored blamed stole
        "fed up" "sick of" """,
    "afraid": """afraid scared scary scares fear* fright* terrif* anxi* nervous* worr* panic* dread* stress* overwhelm*
        threat* nightmare* shaking trembl* unsure uneasy tense insecure paranoid intimidat* doubt* pressure desperat*
        "freak out" "freaking out" """,
}
EXPRESSIONS = {
    "warm": """warm* smil* gentl* kind kindly kindness tender* soft* affection* reassur* encourag* support* comfort* hug*
        welcom* compassion* empath* sympath* understand* caring friendly loving fond* sooth* patient* appreciat* valid*
        recogni* respect* proud* safe knowing* open* closer melt* moved "hand on heart" "hand to heart" "reaches out" """,
    "concerned": """concern* worr* frown* furrow* winc* sad sadly sadness sorrow* sigh* grave* serious* tear* pained heavy
        downcast solemn* somber* sombre* mourn* swallow* lower* sink* bow* troubled alarm* flinch* grimac* appalled mist*""",
    "calm": """calm* relax* steady steadi* slow* breath* exhal* settl* still quiet* grounded peace* serene compos* rest*
        unhurried even patient* ease* soft* gentl*""",
    "curious": """curious* curiosity attenti* listen* lean* tilt* nod* thoughtful* interest* focus* ponder* consider* wonder*
        intent* engaged contemplat* pensive* think* watch* alert observ* intrigu* knowing* straighten* upright
        brow* eyebrow* "sits up" """,
    "joyful": """joy* grin* beam* laugh* chuckl* giggl* cheer* celebrat* excit* delight* thrill* bright* enthusias* clap*
        bounc* jump* danc* sparkl* twinkl* playful* radian* gleeful* happy happily glad* merr* amus* glow*
        shin* marvel* applau* wink* "fist pump" "lights up" "lighting up" """,
    "surprised": "surpris* amaz* astonish* startl* wide widen* gasp* shock* stunned blink* awe disbelief",
    "hostile": """angr* anger glar* scowl* sneer* smirk* mock* disgust* cold* indifferen* bored boredom yawn* dismiss*
        contempt* impatien* hostil* scoff* annoy* irritat* shrug* aggressi* threaten* disinterest* uninterested
        "rolls eyes" "rolling eyes" "eye roll" "turns away" "looks away" "crossed arms" "crosses arms" "arms crossed" """,
}
FITTING = {
    "sad": {"warm", "concerned", "calm"},
    "joyful": {"joyful", "warm", "surprised"},
    "angry": {"concerned", "calm", "warm", "curious"},
    "afraid": {"warm", "calm", "concerned"},
    "neutral": {"warm", "curious", "calm"},
}
CLASHING = {
    "sad": {"joyful", "hostile"},
    "joyful": {"concerned", "hostile"},
    "angry": {"joyful", "hostile"},
    "afraid": {"joyful", "hostile"},
    "neutral": {"hostile"},
}

_NEGATED = re.compile(r"(?:\b(?:not|no|never|without|hardly)|n't)\s+(?:\w+\s+)?$")


def emotions(turn: str) -> set[str]:
    """Return the emotion of a user's turn, several where as many words speak of each, `neutral` where none does."""
    counts = {emotion: count for emotion, finder in _FEELING.items() if (count := _count(finder, turn))}
    most = max(counts.values(), default=0)
    return {emotion for emotion, count in counts.items() if count == most} or {"neutral"}


def expressions(reaction: str) -> set[str]:
    """Return what a reaction expresses: keys of `EXPRESSIONS`, none where it has no such word."""
    return {name for name, finder in _EXPRESSION.items() if _count(finder, reaction)}


def fit(reaction: str, turn: str) -> float:
    """Return 1 for a reaction that fits the user's emotion, 0 for one that contradicts it, 0.5 for neither or both.

    Of mixed emotions the one counts that the reaction fits best.
    """
    shown = expressions(reaction)
    return max(_fit(shown, emotion) for emotion in emotions(turn))


def _fit(shown: set[str], emotion: str) -> float:
    return (1 + bool(shown & FITTING[emotion]) - bool(shown & CLASHING[emotion])) / 2


def _count(finder: re.Pattern, text: str) -> int:
    """Return how often a pattern is found in a text, not counting where it is negated."""
    text = text.casefold().replace("’", "'")
    return sum(not _NEGATED.search(text[max(0, found.start() - 24) : found.start()]) for found in finder.finditer(text))


def _finder(entries: str) -> re.Pattern:
    """Return a pattern for the words and the quoted phrases of a list; * stands for the rest of a word."""
    listed = [phrase or word for phrase, word in re.findall(r'"([^"]+)"|(\S+)', entries)]
    alternatives = "|".join(re.escape(entry).replace(r"\*", r"\w*") for entry in listed)
    return re.compile(rf"\b(?:{alternatives})\b")


_FEELING = {emotion: _finder(entries) for emotion, entries in FEELINGS.items()}
_EXPRESSION = {name: _finder(entries) for name, entries in EXPRESSIONS.items()}


@dataclass
class Foresight(Reward):
    """(1 + s) / 2, where s is similarity(reflection, next turn) − mean similarity(reflection, others' turns).

    Similarity is, without a model, the cosine of the sets of content words (`text.py`), in which the words of the
    user's present turn do not count: what was said is not foreseen, and a reflection that repeats it earns 0.5. With
    `model` it is that of `semantic_similarity`, in which repeating pays; pair it with `reflection`, which does not pay for
    that.

    The means are logged as `foresight/next` and `foresight/others`.

    Range: [0, 1]; 0.5 for a reflection that is of no use, 0 where it is missing, broken or empty. A row without a next turn
    or without others' turns gets None. Needs the columns `next_user` (a text or null) and `other_users` (a list of texts).

    Args:
        model: Hub id or folder of a bi-encoder or a cross-encoder, see `semantic_similarity`; by default words are compared.
        revision: branch, tag or commit on the Hub.
        device: where the model is.
        dimension: name of the model's output, if it has several.
        label_range: [lowest, highest] raw output, for a model whose config does not say it.
    """

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dimension: str | None = None
    label_range: list[float] | None = None

    __name__ = "foresight"
    card = "a thought that has more in common with what the user says next than with what others say"
    misses = "it compares words"
    loads_model = True  # if it is given one, see `ModelReward`
    tags = (REFLECT,)

    def __post_init__(self):
        if self.model is not None:
            self._judge()
            return
        for name in ("revision", "device", "dimension", "label_range"):
            if getattr(self, name) is not None:
                raise UserError(f"{name}: {getattr(self, name)!r} applies to a model, but `model` is not given")

    async def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return what `score` returns, without blocking the other rewards of a step."""
        return await asyncio.to_thread(self.score, prompts, completions, **columns)

    def load(self):
        """Return the shared scorer of the model, which is loaded now if it was not before; None where there is no model.

        Raises:
            UserError: it cannot be loaded, or gives no similarity of two texts.
        """
        return None if self.model is None else self._judge().load()

    def score(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the data lacks a column or has something else in it, or the model cannot be used.
            RuntimeError: the model fails.
        """
        following = visible_or_none(self._column(columns, "next_user", "a text", lambda value: isinstance(value, str)))
        others = [
            [turn for turn in turns or [] if is_visible(turn)]
            for turns in self._column(columns, "other_users", "a list of texts", _are_texts)
        ]
        reflections = [part_text(completion, REFLECT) for completion in completions]
        rewards = [None if turn is None or not rest else 0.0 for turn, rest in zip(following, others, strict=True)]
        asked = [row for row, reward in enumerate(rewards) if reward is not None and is_visible(reflections[row])]
        triples = [
            (user_text(prompts[row]), reflections[row], turn)
            for row in asked
            for turn in (following[row], *others[row])
        ]
        similar = iter(_lexical(triples) if self.model is None else self._judged(triples, columns))
        near, far = [], []
        for row in asked:
            near.append(next(similar))
            far.append(fmean(next(similar) for _ in others[row]))
            rewards[row] = (1 + near[-1] - far[-1]) / 2
        if asked and columns.get("log_metric") is not None:
            columns["log_metric"](f"{self.__name__}/next", fmean(near))
            columns["log_metric"](f"{self.__name__}/others", fmean(far))
        return rewards

    def _column(self, columns: dict, name: str, expected: str, is_right: Callable) -> list:
        """Return a column whose values are None or right."""
        values = needed_column(self, columns, name)
        for value in values:
            if value is not None and not is_right(value):
                raise UserError(f"rewards.{self.__name__}: `{name}` holds {value!r}; expected {expected} or null")
        return values

    def _judge(self) -> SemanticSimilarity:
        """Return the reward that compares a text with the column `turn`; its model is shared and loaded once."""
        judge = SemanticSimilarity(
            model=self.model,
            revision=self.revision,
            device=self.device,
            dimension=self.dimension,
            label_range=self.label_range,
            column="turn",
            reply_tags=[],
        )
        judge.__name__ = self.__name__  # for messages and metrics
        return judge

    def _judged(self, triples: list[tuple[str, str, str]], columns: dict) -> list[float]:
        """Return the model's similarity of each reflection and turn."""
        log = {"log_metric": columns.get("log_metric")}
        _, reflections, turns = zip(*triples, strict=True) if triples else ((), (), ())
        return self._judge().score([""] * len(triples), list(reflections), turn=list(turns), **log)


def _are_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _lexical(triples: list[tuple[str, str, str]]) -> list[float]:
    """Return the similarity of each reflection and turn in content words, without those of the present turn."""
    stems = {text: content_words(lower_words(text)) for text in {text for triple in triples for text in triple}}
    return [cosine(stems[thought] - stems[present], stems[turn] - stems[present]) for present, thought, turn in triples]
