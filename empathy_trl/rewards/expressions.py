"""Does a bodily reaction fit what the user feels? A small lexicon, English, for the reward `reaction`.

Three closed lists, in which `griev*` stands for every word that begins so:

* `FEELINGS`: what users' words say of their emotion. The emotion with the most words counts, several if they tie; a turn
  without any is `neutral`.
* `EXPRESSIONS`: what the words of a reaction express.
* `FITTING` and `CLASHING`: which expressions fit which emotion, and which contradict it. Whatever is in neither, such as a
  surprised look at grief, is no evidence. Warmth fits every emotion, so it is safe where the words do not tell which.

A word after a negation ("not happy", "without judgment") does not count. A list knows neither irony nor context, and finds
only what is on it: most turns tell a story in plain words and are `neutral`. A classifier sees more: `emotion_alignment`
with `reply_tags: [react]`.
"""

import re

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
