"""Untrusted values show as the text they are."""

import pytest

from empathy_trl.hub.stage_folder import code, fenced, text


@pytest.mark.parametrize(
    ("value", "as_text", "as_code"),
    [
        ("ed4_tiny", "ed4_tiny", "`ed4_tiny`"),
        ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B", "`Qwen/Qwen2.5-3B`"),
        (1e-06, "1e-06", "`1e-06`"),
        ("a|b", "a&#124;b", "<code>a&#124;b</code>"),
        ("a`b", "a&#96;b", "<code>a&#96;b</code>"),
        ("<b>", "&#60;b&#62;", "`<b>`"),
        ("_a_ **b**", "&#95;a&#95; &#42;&#42;b&#42;&#42;", "`_a_ **b**`"),
        ("- item", "&#45; item", "`- item`"),
        ("a\n---\nb\u2028c", "a --- b c", "`a --- b c`"),
        ("\u202eabc\x1b[0m", "abc &#91;0m", "`abc [0m`"),
        ("/home/me/x/rows.csv", "rows.csv", "`rows.csv`"),
        ("../shared/rows", "rows", "`rows`"),
        ("C:\\Users\\me\\rows", "rows", "`rows`"),
        ("see ~/a/b and /c/d", "see b and d", "`see b and d`"),
        ("http://u:p@10.0.0.7/v1 x", "(address left out) x", "`(address left out) x`"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b", "`https://huggingface.co/a/b`"),
        ("key hf_abcdefghijklmnop", "key &#91;token&#93;", "`key [token]`"),
        ("", "", "<code></code>"),
        (None, "None", "`None`"),
    ],
)
def test_values_show_as_they_are(value, as_text, as_code):
    assert (text(value), code(value)) == (as_text, as_code)


def test_long_values_are_cut():
    assert len(text("a" * 1000)) == 120 and text("a" * 1000).endswith("…")


def test_a_block_ends_where_it_ends():
    assert fenced("a\n````\nb", "text") == "`````text\na\n````\nb\n`````"
