"""Chat templates for models whose tokenizers have none, as `model.chat_template` of a recipe names them.

GODEL (Peng et al. 2022, arXiv 2206.11309) was trained on inputs of this form, which its model cards state, too:

    {instruction} [CONTEXT] {turn 1} EOS {turn 2} EOS … EOS {last turn} [KNOWLEDGE] {knowledge}</s>

The instruction is the system message. Its last line may be `[KNOWLEDGE] …`: what the reply may draw on, which the template
moves behind the turns; a model with another template reads it where it stands. Without knowledge the part that begins with
`[KNOWLEDGE]` is missing. The reply itself is what the decoder writes: nothing announces it.
"""

from empathy_trl.errors import UserError

KNOWLEDGE = "[KNOWLEDGE]"  # begins the last line of the system message, where there is knowledge
CHAT_TEMPLATES = {
    "godel": (
        "{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n') -%}"
        "{%- set turns = messages | rejectattr('role', 'equalto', 'system') | map(attribute='content') -%}"
        "{%- set parts = ('\n' ~ system).split('\n" + KNOWLEDGE + "', 1) -%}"
        "{{- (parts[0] | trim ~ ' [CONTEXT] ' ~ turns | map('trim') | join(' EOS ')) | trim -}}"
        "{%- if parts | length > 1 -%}{{- ' " + KNOWLEDGE + " ' ~ parts[1] | trim -}}{%- endif -%}"
        "{{- eos_token -}}"
    ),
}


def set_template(tokenizer, choice: str | None, name: str) -> None:
    """Give a tokenizer the chat template that a recipe chose; it is saved with the tokenizer.

    Args:
        tokenizer: changed in place.
        choice: a key of `CHAT_TEMPLATES`, or None for the tokenizer's own.
        name: of the model, for the message.

    Raises:
        UserError: the tokenizer has no template and none was chosen.
    """
    if choice is not None:
        tokenizer.chat_template = CHAT_TEMPLATES[choice]
    if tokenizer.chat_template is None:
        raise UserError(
            f"{name}: the tokenizer has no chat template (no file chat_template.jinja, no chat_template in "
            "tokenizer_config.json), and every recipe prompts by chat; expected an instruction-tuned model, or for an "
            f"encoder-decoder model.chat_template (choices: {', '.join(CHAT_TEMPLATES)})"
        )
