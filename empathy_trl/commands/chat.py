"""The command `empathy-trl chat`: talk to a model in the terminal, or on a web page."""

import argparse
import sys
from pathlib import Path

import empathy_trl
from empathy_trl.chat.terminal import Terminal
from empathy_trl.cli import SAMPLING_HELP, command_parser, exit_status, json_object, name_flag, positive
from empathy_trl.models.api import PREFIX, as_flag

SHOWN = ("web", "host", "port", "show_reflection")  # how the chat is shown; the other flags are arguments of `Chat`


def chat(arguments: list[str] | None = None) -> int:
    """Talk to a model: in the terminal, or on a web page.

        empathy-trl chat --model outputs/ed4_tiny/grpo
        empathy-trl chat --model Qwen/Qwen2.5-3B-Instruct --adapter USER/empath-qwen --load_in_4bit
        empathy-trl chat --model openai:NAME --base_url http://localhost:8000/v1 --system "Answer with empathy."
        empathy-trl chat --model USER/empath-qwen --web

    A model is asked as it was trained: recipe.yaml in its folder says how, or --recipe. /help in the chat lists the commands.
    """
    options = _parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a terminal may not know every character
    return exit_status(lambda: _chat(options))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("chat", chat.__doc__)
    parser.add_argument(
        "--model",
        required=True,
        type=name_flag,
        help="folder of a saved model, a Hub id[@revision], or openai:NAME on a server",
    )
    parser.add_argument("--adapter", type=name_flag, help="folder or Hub id[@revision] of a LoRA adapter for --model")
    parser.add_argument("--load_in_4bit", action="store_true", help="quantise the weights")
    parser.add_argument("--revision", help="branch, tag or commit of --model on the Hub")
    parser.add_argument(
        "--base_url",
        help="address of the server for openai:NAME (default: $OPENAI_BASE_URL, or OpenAI's); its key: $OPENAI_API_KEY",
    )
    parser.add_argument("--sampling", type=json_object, help=SAMPLING_HELP)
    parser.add_argument(
        "--recipe",
        help="recipe that defines the prompts, a file or hub:USER/REPO (default: recipe.yaml in the model's folder)",
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let a recipe from the Hub import Python code; read it first"
    )
    parser.add_argument("--system", help="plain chat with this system message")
    parser.add_argument(
        "--context", type=positive, help="context size in tokens (default: the model's maximum, at most 8192)"
    )
    parser.add_argument(
        "--max_new_tokens",
        type=positive,
        default=400,
        help="maximum length of a reply in tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        help="from 0 to 10; 0 is greedy decoding (default: %(default)g)",
    )
    parser.add_argument("--top_p", type=float, default=0.9, help="above 0, at most 1 (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=42, help="random seed of the sampling (default: %(default)s)")
    parser.add_argument("--show_reflection", action="store_true", help="show what the model thinks")
    parser.add_argument("--web", action="store_true", help="on a web page instead")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address of the page (default: %(default)s, this machine only)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="port of the page; 0 picks a free one (default: %(default)s)"
    )
    return parser


def _chat(options: argparse.Namespace) -> int:
    """Open the model and talk; returns the exit status."""
    if options.web:
        from empathy_trl.chat.web import serve  # imports gradio
    if sys.stderr.isatty():
        print(f"loading {options.model} …", file=sys.stderr)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    opened = empathy_trl.Chat(**{name: value for name, value in vars(options).items() if name not in SHOWN})
    if options.model.startswith(PREFIX):
        opened.model.written = as_flag
    name = options.adapter or options.model
    if options.web:
        serve(opened.new_session, "/".join(Path(name).parts[-2:]), options.host, options.port)
        return 0
    system = "" if opened.prompts.name == "chat" else f", prompted as {opened.prompts.name} trains"
    print(f"{name}{system}; /help lists the commands")
    return Terminal(opened.session, options.show_reflection).run()
