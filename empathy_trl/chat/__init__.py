"""Talking to a model: from Python, in a terminal, or on a web page.

`Chat` loads a model, prompts it as in training, and holds a conversation.

| module | what is in it |
|---|---|
| `prompts` | from a conversation to the prompt that the model was trained on |
| `session` | one conversation: history, context window, statistics |
| `reply` | sampling settings, and a reply split into its parts while it is written |
| `local`, `served` | a model in this process, or behind a server |
| `terminal`, `web` | the two user interfaces of `empathy-trl chat` |
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from empathy_trl.chat.prompts import choose_prompts, control_texts
from empathy_trl.chat.reply import Chunk, Sampling
from empathy_trl.chat.served import ServedModel
from empathy_trl.chat.session import Session, SessionEvent, Settings
from empathy_trl.errors import UserError
from empathy_trl.io import user_name
from empathy_trl.models.api import PREFIX
from empathy_trl.models.hub_files import one_revision, split_revision
from empathy_trl.tags import completion_text


class Chat:
    """A conversation with a model.

    ```python
    chat = Chat("outputs/ed4_tiny/grpo")
    print(chat.say("I lost my keys."))
    ```

    Args:
        model: folder, Hub id (also `USER/REPO@revision`) or GGUF file of a model, or an adapter; `openai:NAME` for a model behind a
            server that streams OpenAI chat completions; or a loaded model, with its `tokenizer`.
        tokenizer: tokenizer of a loaded model, with a chat template.
        adapter: folder or Hub id of a LoRA adapter for the model.
        revision: branch, tag or commit of the model on the Hub.
        load_in_4bit: quantise the weights while they are loaded; needs the extra `quantization`.
        base_url: address of the server for `openai:NAME`, without `/chat/completions`; by default `$OPENAI_BASE_URL`, or
            OpenAI's. The key is read from `$OPENAI_API_KEY`.
        sampling: settings of the requests to `openai:NAME`, which replace temperature, top_p, seed and max_tokens; None
            removes one: `{"max_tokens": None, "max_completion_tokens": 2000}`.
        recipe: file or name of the recipe that defines the prompts; by default the `recipe.yaml` in the model's folder.
            Without a recipe, the prompt is the plain conversation.
        system: system message of a plain conversation, instead of a recipe.
        trust_remote_code: let a recipe from the Hub import Python code.
        temperature: sampling temperature, at least 0; 0 is greedy decoding.
        top_p: above 0, at most 1: sample from the likeliest tokens that together have this probability.
        seed: random seed of the sampling, from 0 to 2**32 - 1; None samples differently each time.
        context: context size in tokens, including the reply; by default the model's maximum, at most 8192.
        max_new_tokens: maximum length of a reply in tokens.

    Attributes:
        model: a `LocalModel` or `ServedModel`.
        prompts: `prompts.Prompts`, from a conversation to the messages of a prompt.
        session: `session.Session`, with history, statistics and `save`.

    Raises:
        UserError: the model, adapter or recipe cannot be found or read; two arguments exclude each other; a value is out of
            range.
    """

    def __init__(
        self,
        model,
        tokenizer=None,
        *,
        adapter: str | None = None,
        revision: str | None = None,
        load_in_4bit: bool = False,
        base_url: str | None = None,
        sampling: dict | None = None,
        recipe: str | None = None,
        system: str | None = None,
        trust_remote_code: bool = False,
        temperature: float = 0.7,
        top_p: float = 0.9,
        seed: int | None = None,
        context: int | None = None,
        max_new_tokens: int = 400,
    ):
        model = user_name(model) if isinstance(model, str | Path) else model
        name = model if isinstance(model, str) else None
        adapter = adapter and user_name(adapter)
        source = {"adapter": adapter, "revision": revision, "load_in_4bit": load_in_4bit}
        _check(name, tokenizer, {"base_url": base_url, "sampling": sampling}, source)
        decoding, self._settings = Sampling(temperature, top_p, seed), Settings(context, max_new_tokens)
        served = name is not None and name.startswith(PREFIX)
        places = []  # where the recipe of the model's training may lie
        if name is not None and not served:
            places = [split_revision(adapter)] if adapter else []
            places.append(one_revision(name, revision))
        prompts = choose_prompts(
            places, recipe, system, trust_remote_code
        )  # before the model, whose loading takes time
        if served:
            arguments = {"chat_template_kwargs": prompts.template_arguments} if prompts.template_arguments else {}
            self.model = ServedModel(name.removeprefix(PREFIX), base_url, decoding, arguments | (sampling or {}))
        else:
            source |= {"chat_template": prompts.chat_template, "chat_template_kwargs": prompts.template_arguments}
            self.model = _local_model(model, tokenizer, source, decoding)
        tokenizer = getattr(self.model, "tokenizer", None)
        # servers refuse thoughts in a prompt, or ask to leave them out
        self.prompts = replace(prompts, control=control_texts(tokenizer), pass_thoughts=tokenizer is not None)
        self.session = self.new_session()

    def new_session(self) -> Session:
        """Return another conversation with the same model; sessions see nothing of each other."""
        return Session(self.model, self.prompts, self._settings)

    @property
    def history(self) -> list[dict[str, str]]:
        """The conversation, `{"role", "content"}`, replies as the model wrote them."""
        return self.session.history

    def say(self, message: str) -> str:
        """Send a message and return the reply with its tags but without thoughts; `tags.read_parts` splits it.

        Warns (`UserWarning`) when a reply is empty or cut off, and when the context is full.

        Raises:
            UserError: the message is empty or longer than the context, or the model fails.
        """
        before = len(self.history)
        for _ in self.stream(message):
            pass
        return completion_text(self.history[-1:]) if len(self.history) > before else ""

    def stream(self, message: str) -> Iterator[Chunk]:
        """Send a message and yield the reply as it is written: `Chunk(part, text, complete)`. Otherwise as `say`."""
        for item in self.session.send(message):
            if isinstance(item, SessionEvent):
                warnings.warn(item.text, stacklevel=3)
            else:
                yield item

    def reset(self):
        """Forget the conversation."""
        self.session.reset()


def _local_model(model, tokenizer, source: dict, sampling: Sampling):
    # imports torch, which a model behind a server can do without
    from empathy_trl.chat.local import LocalModel, load_for_chat

    if tokenizer is None:
        model, tokenizer = load_for_chat(str(model), **source)
    return LocalModel(model, tokenizer, sampling)


def _check(name: str | None, tokenizer, server: dict, source: dict):
    """Raise UserError for arguments that do not go together, before anything is loaded."""
    if (name is None) != (tokenizer is not None):
        raise UserError(
            "tokenizer: belongs to a loaded model; expected both, or the name of a model without a tokenizer"
        )
    served = name is not None and name.startswith(PREFIX)
    shown = "a loaded model" if name is None else f"model {name}"
    for flag, value in server.items():
        if value and not served:
            raise UserError(f"{flag}: is for a model {PREFIX}NAME, got {shown}")
    for flag, value in source.items():
        if value and (served or name is None):
            raise UserError(f"{flag}: is for a model that is loaded by its name, got {shown}")
