"""Chat templates: the one that a recipe chooses, what keeps it sound, and where its replies end.

Every recipe prompts by chat. `set_template` gives a tokenizer the chat template that `model.chat_template` names: that of a
Jinja file, that of another model, or one of `tags.CHAT_TEMPLATES`. `chatml` is for base models: a turn is
`<|im_start|>{role}\n{content}<|im_end|>\n`, and a model without the token `<|im_end|>` writes its own end token
there. `godel` is the input of GODEL (Peng et al. 2022, arXiv 2206.11309), as its model cards state it:

    {instruction} [CONTEXT] {turn 1} EOS {turn 2} EOS … EOS {last turn} [KNOWLEDGE] {knowledge}</s>

The instruction is the system message. Its last line may be `[KNOWLEDGE] …`, what the reply may use: the template moves it
behind the turns. Without that line, the part that begins with `[KNOWLEDGE]` is missing.
"""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import _get_template_variables

from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.io import nearest_path, read_text, user_name
from empathy_trl.models.batching import end_tokens, render
from empathy_trl.models.hub_files import load_tokenizer, one_revision
from empathy_trl.tags import CHAT_TEMPLATES, REPAIRS, THOUGHT_MARKS, THOUGHTS, TURN_END, template_file, thought_text

logger = logging.getLogger(__name__)

# variables of chat templates that transformers sets, and not a user
GIVEN_TO_TEMPLATES = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"} | {
    f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
}


def set_template(tokenizer, choice: str | None, name: str, is_decoder: bool = True) -> None:
    """Give a tokenizer the chat template that a recipe chose, and guard it (`guard_template`); it is saved with the tokenizer.

    Args:
        tokenizer: changed in place.
        choice: of `model.chat_template`, see `load_model`, or None for the tokenizer's own.
        name: of the model, for the message.
        is_decoder: whether the model is one; an encoder-decoder is not prompted with its own replies.

    Raises:
        UserError: the tokenizer has no template and none was chosen, the chosen one is not there, is not Jinja, leaves out
            messages, or ends a reply with no special token of the model, or a completion would lack the marks of its thoughts.
    """
    if choice is not None:
        tokenizer.chat_template = template_text(choice, tokenizer)
        _check_chosen(tokenizer, choice, name, is_decoder)
    if tokenizer.chat_template is None:
        raise UserError(
            f"{name}: the tokenizer has no chat template (no file chat_template.jinja, no chat_template in "
            "tokenizer_config.json), and every recipe prompts by chat; expected an instruction-tuned model, or in the recipe "
            "model.chat_template: chatml for a base model, godel for an encoder-decoder, a .jinja file, or the Hub id or folder of "
            "a model whose template is taken"
        )
    if hidden := special_tokens(tokenizer) & set(THOUGHT_MARKS):
        raise UserError(
            f"{name}: {', '.join(sorted(hidden))} is a special token of this tokenizer, so it is removed from every completion, and "
            "a thought is read as the reply; make it an ordinary token: "
            "tokenizer.add_tokens([AddedToken(token, special=False)]), then tokenizer.save_pretrained(folder)"
        )
    if "<|channel|>analysis" in _main_template(tokenizer):  # gpt-oss
        raise UserError(f"{name}: {LOST_THOUGHTS}; expected {_MARKED}, or the model behind a server (openai:NAME)")
    guard_template(tokenizer)


LOST_THOUGHTS = (
    "its chat template marks thoughts with special tokens, which are removed from every completion, so that a thought is read as "
    "the reply"
)
_MARKED = f"a model that marks them as {' or '.join(f'{begin}…{end}' for begin, end in THOUGHTS.items())}"


def template_text(choice: str, tokenizer) -> str:
    """Return the text of a chosen chat template, see `load_model`.

    Args:
        choice: of `model.chat_template`.
        tokenizer: for `chatml`, which is written with tokens that the model has.

    Raises:
        UserError: there is no such file or model, or the model has no chat template.
    """
    if choice == "chatml":
        return _chatml(tokenizer)
    if choice in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[choice]
    if (file := template_file(choice)) is not None:
        if not file.is_file():
            raise UserError(f"model.chat_template: no file {file}{nearest_path(str(file))}")
        return read_text(file)
    other, revision = one_revision(choice, None)
    owner = load_tokenizer(user_name(other), revision)
    if owner.chat_template is None:
        raise UserError(
            f"model.chat_template: {choice} has no chat template itself; expected an instruction-tuned model"
        )
    return _main_template(owner)


def _chatml(tokenizer) -> str:
    """Return ChatML that begins as the tokenizer begins a text, and ends a turn with a token that the model has."""
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    text = ("{{- bos_token -}}" if begins else "") + CHAT_TEMPLATES["chatml"]
    has_own = TURN_END in tokenizer.get_vocab() or tokenizer.eos_token is None
    return text if has_own else text.replace(f"'{TURN_END}'", "eos_token")


def _check_chosen(tokenizer, choice: str, name: str, is_decoder: bool) -> None:
    """Refuse a chosen template that is not Jinja, is for another kind of model, leaves out messages, or ends no reply."""
    if choice == "godel" and is_decoder:
        raise UserError(
            f"model.chat_template: {choice} is the input of an encoder-decoder, and {name} is a decoder; leave it out"
        )
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "a question"}], tokenize=False)
        if "a question" not in text:
            raise UserError(
                f"model.chat_template: the template {choice} leaves out the user's message; expected a template that writes the "
                "content of each message"
            )
    except TemplateSyntaxError as error:
        raise UserError(
            f"model.chat_template: {choice}, line {error.lineno}: not a Jinja template: {error.message}"
        ) from error
    except (TemplateError, TypeError):  # refuses this conversation, not others
        pass
    if is_decoder and teaches_no_end(tokenizer):
        behind = show(_behind_reply(tokenizer).strip()[:40])
        raise UserError(
            f"model.chat_template: the template {choice} ends a reply with {behind}, which contains no special token of {name}, so no "
            f"completion would end; expected a template that ends it with {tokenizer.eos_token}, such as chatml"
        )


def end_with_turn(model, tokenizer, name: str) -> None:
    """Let a completion end with the special token that ends a reply in the chat template; it is saved with the model.

    Base models such as Qwen2.5 end texts with `<|endoftext|>` and turns with `<|im_end|>`. After SFT, such a model writes the
    latter only. Without this, it would go on with turns of its own, as a part of the reply. An adapter is saved without
    generation settings, so the tokenizer also takes this token as its end token.
    """
    behind = _behind_reply(tokenizer)
    ends, of_model = end_tokens(model, tokenizer), model.generation_config.eos_token_id
    of_model = [of_model] if isinstance(of_model, int) else of_model or ends
    known = [token for token in tokenizer.convert_ids_to_tokens(of_model) if token]
    longest_first = sorted(special_tokens(tokenizer), key=len, reverse=True)
    token = next((token for token in longest_first if behind.lstrip().startswith(token)), None)
    if token is None or any(each in behind for each in known):
        return
    model.generation_config.eos_token_id = list(dict.fromkeys([*ends, tokenizer.convert_tokens_to_ids(token)]))
    if tokenizer.eos_token != token:  # else an adapter, whose first training has told
        tokenizer.eos_token = token
        logger.warning("%s: completions also end with %s, which ends a reply in the chat template", name, token)


NO_END = (
    "writes no special token behind a reply: a model that is trained on such replies learns no end, and its completions go on "
    "to the maximum length; expected a template that writes the end token there"
)


def teaches_no_end(tokenizer) -> bool:
    """Return whether a chat template writes no special token behind a reply, so that SFT teaches no model to end it."""
    behind = _behind_reply(tokenizer, otherwise=tokenizer.eos_token or "")
    return not any(token in behind for token in special_tokens(tokenizer))


def check_learned_prompts(tokenizer, rows) -> None:
    """Raise UserError if SFT would teach a model to reply to another prompt than the one from which it generates.

    A template may end a prompt with `<think>` or an empty thought, and write something else before a finished reply: that of
    DeepSeek's distilled models leaves out all thoughts, and Qwen3's writes the thought of the reply where thinking is off.

    Args:
        rows: with `prompt` and `completion`. One is tried, and all whose completion has a thought.
    """
    thoughts = [row for row, turns in enumerate(rows["completion"]) if thought_text(turns)]
    for row in dict.fromkeys([*thoughts[:1], 0, *thoughts]):
        prompt, completion = rows[row]["prompt"], rows[row]["completion"]
        asked = render(tokenizer, prompt, add_generation_prompt=True, tokenize=False)
        learned = render(tokenizer, prompt + completion, tokenize=False)
        lost = asked[len(os.path.commonprefix([asked, learned])) :]
        if lost.strip():
            choice = (
                "completions without thoughts, or model.chat_template_kwargs: {enable_thinking: true} if the template reads it"
                if row in thoughts
                else "model.chat_template_kwargs: {enable_thinking: false} if the template reads it, another "
                "model.chat_template, or no stage of task sft"
            )
            raise UserError(
                f"data: row {row + 1} of the training split: the chat template ends the prompt with {show(asked[-30:])}, but leaves "
                f"out {show(lost)} when the reply follows, so the model would learn to answer another prompt than it gets when it "
                f"generates; expected {choice}"
            )


def _behind_reply(tokenizer, otherwise: str = "") -> str:
    """Return what a chat template writes behind a reply, or `otherwise` if the reply is not found in what it renders."""
    turns = [{"role": "user", "content": "my question"}, {"role": "assistant", "content": "my answer"}]
    try:
        _, found, behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("my answer")
    except (TemplateError, TypeError):
        return otherwise
    return behind if found else otherwise


def guard_template(tokenizer) -> None:
    """Extend a tokenizer's chat template so that it rewrites messages that it would refuse, see `tags.REPAIRS`.

    The extension is Jinja code in front of the template. Every prompt is therefore the same, in training, evaluation and chat,
    and for users of the saved tokenizer. Rewards and judges still get the original messages. Messages that the template
    supports are rendered as before. A message that it would silently leave out counts as refused.
    """
    own, guards = _main_template(tokenizer), ""
    for words, repair in REPAIRS.items():
        guard = f"{{#- {words} -#}}\n{repair.jinja}"
        if not _renders(tokenizer, guards + own, repair.tried) and _renders(
            tokenizer, guards + guard + own, repair.tried
        ):
            guards += guard
    _put_in_front(tokenizer, guards, own)


def _renders(tokenizer, template: str, roles: Sequence[str]) -> bool:
    """Return whether a chat template accepts turns of these roles, and renders the content of each."""
    turns = [{"role": role, "content": f"turn {number} of the {role}"} for number, role in enumerate(roles)]
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError):
        return False
    return all(turn["content"] in text for turn in turns)


def pin_template_arguments(tokenizer, arguments: Mapping[str, Any] | None) -> None:
    """Make arguments such as `enable_thinking: false` the defaults of a tokenizer's chat template, with which it is saved.

    The prompts are then the same in training, evaluation and chat, and for users of the saved tokenizer. TRL's own
    `chat_template_kwargs` would apply to its rollouts only.
    """
    for name, value in (arguments or {}).items():
        line = pinned_argument(name, value)
        _put_in_front(tokenizer, line, _main_template(tokenizer).replace(line, ""))


def pinned_argument(name: str, value) -> str:
    """Return the line of a chat template that makes a value the default of one of its arguments."""
    default = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return f"{{%- set {name} = {name} if {name} is defined else {default} %}}\n"


def check_template_arguments(tokenizer, arguments: Mapping[str, Any] | None) -> None:
    """Raise UserError if a chat template does not read one of the arguments that a recipe gives it, or one is "no" for false."""
    template = _main_template(tokenizer)
    for name, value in (arguments or {}).items():  # the line that pins an argument reads it, too
        template = template.replace(pinned_argument(name, value), "")
    # a template's own variables, which it may set in one branch and read in another, have no default
    own = set(re.findall(r"\bset\s+(\w+)\s*=", template))
    own -= {
        name
        for names in re.findall(r"(\w+)\s+is\s+(?:not\s+)?defined|(\w+)\s*\|\s*default", template)
        for name in names
    }
    read = _get_template_variables(template) - GIVEN_TO_TEMPLATES - own
    if (arguments or {}).get("enable_thinking") and "<|channel>thought" in template:  # Gemma 4
        raise UserError(
            f"model.chat_template_kwargs.enable_thinking: true, but {LOST_THOUGHTS}; expected false, or {_MARKED}"
        )
    for name, value in (arguments or {}).items():
        if name not in read:
            raise UserError(
                f"model.chat_template_kwargs.{name}: has no effect, because the model's chat template does not read it"
                f"{suggestion(name, read) if read else ' and has no arguments'}"
            )
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off"):
            raise UserError(
                f"model.chat_template_kwargs.{name}: {show(value)} is a text; expected true or false, without quotes"
            )


def _main_template(tokenizer) -> str:
    """Return the chat template that renders conversations without tools."""
    template = tokenizer.chat_template
    return template["default"] if isinstance(template, dict) else template


def _put_in_front(tokenizer, line: str, template: str):
    """Set that template to another one, with something in front of it."""
    several = isinstance(tokenizer.chat_template, dict)
    tokenizer.chat_template = tokenizer.chat_template | {"default": line + template} if several else line + template


def special_tokens(tokenizer) -> set[str]:
    """Return the tokens that decoding leaves out: `all_special_tokens`, and tokens that were added as special."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)
