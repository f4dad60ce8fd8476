"""Talk to a model: in the terminal, or on a web page.

    python recipes/chat.py --model outputs/ed4_tiny/grpo
    python recipes/chat.py --model Qwen/Qwen2.5-3B-Instruct --adapter USER/empath-qwen --load_in_4bit
    python recipes/chat.py --model openai:NAME --base_url http://localhost:8000/v1 --system "Answer with empathy."
    python recipes/chat.py --model USER/empath-qwen --web

A model is asked as it was trained: recipe.yaml in its folder says how, or --recipe. /help in the chat lists the commands.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser, positive
from empathy_trl.errors import UserError

SHOWN = ("web", "host", "port", "show_reflection")  # how the chat is shown; the other flags are arguments of `Chat`


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
        "--trust_remote_code", action="store_true", help="let a recipe from the Hub import Python code; read it first"
    )
    parser.add_argument("--system", help="chat plainly, with this system message")
    parser.add_argument(
        "--context", type=positive, help="tokens the model sees (default: all it can read, at most 8192)"
    )
    parser.add_argument("--max_new_tokens", type=positive, default=400, help="of a reply (default: %(default)s)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        help="from 0 to 10; 0 takes the likeliest words (default: %(default)g)",
    )
    parser.add_argument("--top_p", type=float, default=0.9, help="above 0, at most 1 (default: %(default)g)")
    parser.add_argument(
        "--seed", type=int, default=42, help="of the sampling: another one, other replies (default: %(default)s)"
    )
    parser.add_argument("--show_reflection", action="store_true", help="show what the model thinks")
    parser.add_argument("--web", action="store_true", help="on a web page instead")
    parser.add_argument("--host", default="127.0.0.1", help="of the page (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="of the page; 0 takes a free one (default: %(default)s)")
    return parser


def chat(options: argparse.Namespace) -> int:
    """Load the model and talk; returns the exit status."""
    if options.web:
        from empathy_trl.chat.web import serve
    from transformers.utils import logging as transformers_logging

    from empathy_trl.chat.chat import Chat
    from empathy_trl.chat.terminal import Terminal

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if sys.stderr.isatty():
        print(f"loading {options.model} …", file=sys.stderr)
    opened = Chat(**{name: value for name, value in vars(options).items() if name not in SHOWN})
    name = options.adapter or options.model
    if options.web:
        serve(opened.new_session, Path(name).name, options.host, options.port)
        return 0
    system = "" if opened.prompts.name == "chat" else f", prompted as {opened.prompts.name} trains"
    print(f"{name}{system}; /help lists the commands")
    return Terminal(opened.session, options.show_reflection).run()


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
