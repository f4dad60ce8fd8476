"""Talk to a model: in the terminal, or on a web page.

    python recipes/chat.py --model outputs/ed4_tiny/grpo
    python recipes/chat.py --model Qwen/Qwen2.5-3B-Instruct --adapter USER/empath-qwen --load_in_4bit
    python recipes/chat.py --model openai:NAME --base_url http://localhost:8000/v1 --system "Answer with empathy."
    python recipes/chat.py --model USER/empath-qwen --web

A model is asked as it was trained: recipe.yaml in its folder says how, or --recipe. /help in the chat lists the commands.
"""

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser, positive
from empathy_trl.errors import UserError


def command_line() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "--model", required=True, help="folder of a saved model, a Hub id[@revision], or openai:NAME on a server"
    )
    parser.add_argument("--adapter", help="folder or Hub id[@revision] of a LoRA adapter for --model")
    parser.add_argument("--load_in_4bit", action="store_true", help="quantise the weights")
    parser.add_argument("--revision", help="branch, tag or commit of --model on the Hub")
    parser.add_argument(
        "--base_url",
        help="of the server of openai:NAME (default: $OPENAI_BASE_URL, or OpenAI's); its key: $OPENAI_API_KEY",
    )
    parser.add_argument(
        "--recipe",
        help="ask as this recipe trains, a file or hub:USER/REPO (default: recipe.yaml in the model's folder)",
    )
    parser.add_argument(
        "--trust_recipe",
        action="store_true",
        help="let --recipe hub:USER/REPO do what a file of yours may, such as run code",
    )
    parser.add_argument("--system", help="chat plainly, with this system message")
    parser.add_argument(
        "--context", type=positive, help="tokens the model sees (default: all it can read, at most 8192)"
    )
    parser.add_argument("--max_new_tokens", type=positive, default=400, help="of a reply (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=between(0, 10), default=0.7, help="0: the likeliest words (default: %(default)g)"
    )
    parser.add_argument("--top_p", type=between(0.01, 1), default=0.9, help="from 0.01 to 1 (default: %(default)g)")
    parser.add_argument(
        "--seed", type=whole, default=42, help="of the sampling: another one, other replies (default: %(default)s)"
    )
    parser.add_argument("--show_reflection", action="store_true", help="show what the model thinks")
    parser.add_argument("--web", action="store_true", help="on a web page instead")
    parser.add_argument("--host", default="127.0.0.1", help="of the page (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="of the page; 0 takes a free one (default: %(default)s)")
    return parser


def whole(text: str) -> int:
    """Read a whole number from 0 that a generator of random numbers takes; as `type` of a flag."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 0 to {2**32 - 1}")
    return int(text)


def between(low: float, high: float):
    """Return a `type` of a flag: a number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from {low:g} to {high:g}")
        return value

    return read


def chat(options: argparse.Namespace) -> int:
    """Load the model and talk; returns the exit status."""
    check_flags(options)
    from empathy_trl.chat.session import Session, Settings

    model, prompts = open_model(options)
    settings = Settings(options.context, options.max_new_tokens)
    first = Session(model, prompts, settings)  # whatever is wrong with the settings stops us here
    name = options.adapter or options.model
    if options.web:
        from empathy_trl.chat.web import serve

        serve(lambda: Session(model, prompts, settings), Path(name).name, options.host, options.port)
        return 0
    from empathy_trl.chat.terminal import Terminal

    manner = "" if prompts.name == "chat" else f", asked as {prompts.name} trains"
    print(f"{name}{manner}; /help lists the commands")
    return Terminal(first, options.show_reflection).run()


def check_flags(options: argparse.Namespace):
    """Raise UserError for flags that do not go together, before anything is loaded."""
    from empathy_trl.models.api import PREFIX

    served = options.model.startswith(PREFIX)
    if options.base_url and not served:
        raise UserError(f"--base_url: is for --model {PREFIX}NAME, got --model {options.model}")
    for flag in ("adapter", "load_in_4bit", "revision"):
        if served and getattr(options, flag):
            raise UserError(f"--{flag}: is for a model in this process, got --model {options.model}")
    if options.web and importlib.util.find_spec("gradio") is None:
        raise UserError('--web: needs gradio; install it with pip install "empathy-trl[web]"')


def open_model(options: argparse.Namespace):
    """Return the model, loaded or on its server, and what makes prompts for it."""
    from empathy_trl.chat.reply import Sampling
    from empathy_trl.chat.setup import choose_prompts, control_texts
    from empathy_trl.models.api import PREFIX

    sampling = Sampling(options.temperature, options.top_p, options.seed)
    if options.model.startswith(PREFIX):
        from empathy_trl.chat.served import ServedModel

        prompts = choose_prompts([], options.recipe, options.system, control_texts(None), options.trust_recipe)
        return ServedModel(options.model.removeprefix(PREFIX), options.base_url, sampling), prompts

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if sys.stderr.isatty():
        print(f"loading {options.model} …", file=sys.stderr)
    from empathy_trl.chat.local import LocalModel
    from empathy_trl.chat.setup import load_for_chat
    from empathy_trl.models.hub_files import one_revision, split_revision

    model, tokenizer = load_for_chat(options.model, options.adapter, options.revision, options.load_in_4bit)
    places = [split_revision(options.adapter)] if options.adapter else []
    places.append(one_revision(options.model, options.revision))
    prompts = choose_prompts(places, options.recipe, options.system, control_texts(tokenizer), options.trust_recipe)
    return LocalModel(model, tokenizer, sampling), prompts


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
    options = command_line().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a terminal may not know every character
    try:
        return chat(options)
    except UserError as error:
        from empathy_trl.text import printable

        print(f"error: {printable(str(error))}", file=sys.stderr)  # what a model's files say may stand in it
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130  # as shells say it
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
