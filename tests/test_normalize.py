"""Normalisation: every step and switch, what must not be touched, idempotence, huge and hostile texts."""

import time

import pytest

from empathy_trl.text import normalize

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
WAVE = "\U0001f44b\U0001f3fd"  # with a skin tone
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
SHALOM = "\u05e9\u05dc\u05d5\u05dd"
PERSIAN = "\u0645\u06cc\u200c\u0631\u0648\u0645"
HINDI = "\u0915\u094d\u092f\u093e"

ROWS = [
    # NFKC
    ("\uff28\uff45\uff4c\uff4c\uff4f \u2460 \ufb01ne", "Hello 1 fine", "full width, circled, ligature"),
    ("cafe\u0301", "caf\u00e9", "composed"),
    ("wait\u2026", "wait...", "ellipsis"),
    ("x\u0302 and q\u0323\u0307", "x\u0302 and q\u0323\u0307", "marks without a composed form stay"),
    ("\u1112\u1161\u11ab", "\ud55c", "Hangul"),
    # addresses
    ("see https://a.org/x?y=1#z now", "see <url> now", "address"),
    ("HTTP://A.ORG and ftp://a.org and www.a.org", "<url> and <url> and <url>", "every scheme, any case"),
    ("read http://a.org.", "read <url>.", "full stop behind"),
    ("http://a.org, or (http://b.org)?", "<url>, or (<url>)?", "comma, bracket, question mark"),
    ("http://a.org/x_(film)", "<url>", "bracket that the address opens"),
    ("(see http://a.org/x_(film))", "(see <url>)", "one of two brackets"),
    ("http://a.org/!!!)))", "<url>!!!)))", "a lot behind"),
    ("<http://a.org> \"http://b.org\" 'http://c.org'", "<<url>> \"<url>\" '<url>'", "quoted addresses"),
    ('<a href="http://a.org/">it</a>', '<a href="<url>">it</a>', "in a tag"),
    ("http\uff1a//a.org", "<url>", "full-width colon"),
    ("ht\u200btp://a.org", "<url>", "hidden in the middle"),
    ("\u770bhttp://a.org\u5427", "\u770b<url>\u5427", "Chinese around"),
    ("http://m\u00fcnchen.de/stra\u00dfe", "<url>", "other letters"),
    ("http://a.org\U0001f600", "<url>\U0001f600", "emoji behind"),
    (f"http://a.org {SHALOM}", f"<url> {SHALOM}", "right to left behind"),
    ("http:// and www. are parts", "http:// and www. are parts", "nothing behind the scheme"),
    ("swww.a.org, xhttp://a.org", "swww.a.org, xhttp://a.org", "inside a word"),
    ("https://bob@a.org/@ann#tag", "<url>", "nothing inside an address is looked at"),
    ("a.org", "a.org", "no scheme: a name with a dot"),
    # e-mail
    ("write to ann.lee+x@mail.a-b.org.", "write to <email>.", "e-mail, full stop behind"),
    ("mailto:ann@a.org", "mailto:<email>", "with a scheme"),
    ("ann@a.org,bob@b.org;(cy@c.org)", "<email>,<email>;(<email>)", "several"),
    ("wait...ann@a.org", "wait...<email>", "dots before are no part"),
    ("ann\uff20a.org", "<email>", "full-width at"),
    ("a@b.c is short", "a@b.c is short", "no top-level name of one letter, and no mention"),
    ("ann@a.org2 ann@a ann@", "ann@a.org2 ann@a ann@", "no e-mail, no mention"),
    ("ann@a.org@b.org", "<email>@USER.org", "two at signs"),
    # mentions
    ("@ann hi @bob_2, .@cy!", "@USER hi @USER, .@USER!", "mentions"),
    ("(@ann) \u201c@bob\u201d", "(@USER) \u201c@USER\u201d", "in brackets and quotes"),
    ("@ann@a.social @ann@server", "@<email> @USER", "names with a server"),
    ("@5 @ 6 pm, @", "@5 @ 6 pm, @", "no letter"),
    ("a.org/@ann", "a.org/@ann", "in a path"),
    (f"@{HINDI} @jos\u00e9", "@USER @USER", "letters with marks"),
    ("@\u200bann", "@USER", "hidden"),
    ("@USER", "@USER", "already done"),
    # hashtags
    ("#happy days", "happy days", "hashtag"),
    ("#self_care #2good (#yes) \U0001f600#no", "self_care 2good (yes) \U0001f600no", "several"),
    ("#one#two##three", "one two three", "a chain keeps its words apart"),
    ("\u2764\ufe0f#love", "\u2764\ufe0flove", "behind a variation selector"),
    (f"#{HINDI} #{PERSIAN}", f"{HINDI} {PERSIAN}", "marks and joiners"),
    ("#1 is C# or F#, &#39;x&#39; # x", "#1 is C# or F#, &#39;x&#39; # x", "other signs"),
    ("a.org/page#part a.org/#part", "a.org/page#part a.org/#part", "parts of a page"),
    ("a@b.#org", "a@b.#org", "taking # away would make an address"),
    ("\uff03tag", "tag", "full-width sign"),
    # control characters
    ("bad\x00bell\x07esc\x1b[0m\x7f\x9f", "badbellesc[0m", "control characters"),
    (
        "zero\u200bwidth\ufeff \u202eevil\u202c \u2066x\u2069 so\u00adft \u061cy",
        "zerowidth evil x soft y",
        "formatting",
    ),
    ("lone \ud83d surrogate", "lone surrogate", "not encodable as UTF-8"),
    (f"{FAMILY} {WAVE} \u2764\ufe0f {ENGLAND}", f"{FAMILY} {WAVE} \u2764\ufe0f {ENGLAND}", "emoji stay whole"),
    (PERSIAN, PERSIAN, "the non-joiner inside a word"),
    ("a \u200d b\u200c \u200d", "a b", "joiners that join nothing"),
    (f"\u200f{SHALOM}\u200e", SHALOM, "direction marks"),
    # white space
    (" a\u00a0b\u2028c\x85d\r\n\te\u3000f ", "a b c d e f", "every kind"),
    ("", "", "empty"),
    ("\u200b\ufeff \u200d\n", "", "nothing visible"),
]


@pytest.mark.parametrize(("raw", "expected", "why"), ROWS, ids=[row[2] for row in ROWS])
def test_normalize(raw, expected, why):
    assert normalize(raw) == expected
    assert normalize(expected) == expected, "twice is once"
    expected.encode("utf-8")


SWITCHES = [
    ("nfkc", "\uff21 \u2460"),
    ("urls", "at http://a.org"),
    ("emails", "to ann@a.org"),
    ("mentions", "hi @ann"),
    ("hashtags", "so #happy"),
    ("control", "a\u200bb\x07"),
    ("whitespace", " a  b\n"),
]


@pytest.mark.parametrize(("switch", "text"), SWITCHES)
def test_every_step_can_be_left_out(switch, text):
    assert normalize(text) != text
    assert normalize(text, **{switch: False}) == text


@pytest.mark.parametrize("switch", [name for name, _ in SWITCHES])
def test_twice_is_once_without_any_step(switch):
    for raw, _, why in ROWS:
        once = normalize(raw, **{switch: False})
        assert normalize(once, **{switch: False}) == once, why


UNITS = ["word ", "a", "a.", "a-", "a..", "@", "@a", "a@", "a@b.", "a@b.cc@", "#", "#a", "#1", "##", "# ", "http://"]
UNITS += ["http://a", "www.", "(", "\u200d", "a\u200d", "\u0301", "\u0345\u0301\u0327", "\U0001f600", "\x00", " "]


def seconds(text):
    started = time.process_time()  # what other processes do does not count
    normalize(text)
    return time.process_time() - started


def test_a_megabyte_takes_less_than_a_second():
    assert seconds("so #happy with @ann: http://a.org/x, \U0001f600 ann@a.org! " * 16_000) < 1


@pytest.mark.parametrize("unit", UNITS)
def test_a_hostile_text_takes_linear_time(unit):
    # 20 times what it takes; quadratic behaviour would take minutes.
    text = unit * (100_000 // len(unit))
    assert sum(map(seconds, (text, f"http://x{text}", f"{text}@"))) < 3


def test_a_heap_of_marks_is_cut_to_thirty():
    assert normalize("x" + "\u0302" * 100 + "y") == "x" + "\u0302" * 30 + "y"
