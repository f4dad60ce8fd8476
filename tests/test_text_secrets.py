"""What looks like a token is seen nowhere."""

import logging

import pytest

from empathy_trl.text import mask, masked_log


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token hf_abcDEF0123456789 refused", "token [token] refused"),
        ("{'authorization': 'Bearer abc.def-123'}", "{'authorization': 'Bearer [token]'}"),
        ("judge: sk-proj-abcDEF0123456789_x", "judge: [token]"),
        ("task-specific, disk-based-embeddings", "task-specific, disk-based-embeddings"),
        ("PUT https://store/x/y?X-Amz-Signature=abc&b=1 failed", "PUT https://store/x/y failed"),
        ("https://me:pass@proxy:8080/x", "https://proxy:8080/x"),
        ("hf_hub_download, hf_api and `hf auth login`", "hf_hub_download, hf_api and `hf auth login`"),
        ("https://huggingface.co/settings/tokens", "https://huggingface.co/settings/tokens"),
    ],
)
def test_masked(text, expected):
    assert mask(text) == expected


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_token_of_another_form_is_known_from_where_it_is_kept(monkeypatch, variable):
    monkeypatch.setenv(variable, "looks-like-nothing")
    assert mask("it was looks-like-nothing.") == "it was [token]."


def test_a_token_that_was_saved_by_logging_in_is_known(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("looks-like-nothing\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert mask("it was looks-like-nothing.") == "it was [token]."


def test_a_log_is_masked_for_a_while(caplog):
    logger = logging.getLogger("test_secrets")
    with masked_log("test_secrets"):
        logger.warning("%s for %s", "hf_abcDEF0123456789", "https://store/x?sig=1")
    logger.warning("hf_abcDEF0123456789")
    assert [record.getMessage() for record in caplog.records] == ["[token] for https://store/x", "hf_abcDEF0123456789"]
