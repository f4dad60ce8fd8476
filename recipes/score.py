"""Let a language model grade responses to contexts: one row of scores for every row of a file.

    python recipes/score.py --input replies.jsonl --output scores.jsonl --base_url http://localhost:8000/v1 --model NAME
    python recipes/score.py --input my_folder --output scores.jsonl --base_url https://api.openai.com/v1 --model NAME

The input is a file of JSON Lines with `context` and `response`, a folder with contexts.json and responses.json, or the
predictions_<split>.jsonl of an evaluation of replies. The output is written whole at the end of a run. Answers are kept in the
judge's cache as they come: after a stop, the same command asks only what is missing. The flags from --base_url on are those of
the reward `llm_judge`.
"""

import argparse
import json
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser, positive
from empathy_trl.errors import UserError

ASPECTS = ("empathy", "informativeness", "recommendation", "engagement", "overall")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    options = command_line().parse_args(arguments)
    try:
        print(score(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with the answers in the judge's cache", file=sys.stderr)
        return 130  # as shells say it
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = documented_parser(__doc__)
    parser.add_argument("--input", required=True, type=Path, help="file or folder with contexts and responses")
    parser.add_argument(
        "--output", required=True, type=Path, help="file of the scores, JSON Lines; an existing one is replaced"
    )
    parser.add_argument("--limit", type=positive, help="score only the first rows of the input, this many")
    parser.add_argument("--base_url", required=True, help="of the server, up to and without /chat/completions")
    parser.add_argument("--model", required=True, help="its name there")
    parser.add_argument(
        "--aspects", nargs="+", default=list(ASPECTS), help=f"what is graded (default: {' '.join(ASPECTS)})"
    )
    parser.add_argument(
        "--api_key_env",
        type=optional,
        default="OPENAI_API_KEY",
        help="NAME of the environment variable with the API key (default: %(default)s); null sends none",
    )
    parser.add_argument(
        "--structured", choices=("true", "false"), default="true", help="ask for an answer by a JSON schema"
    )
    parser.add_argument(
        "--sampling", type=members, default={}, help="more of the request, as JSON: '{\"max_tokens\": 900}'"
    )
    parser.add_argument("--concurrency", type=positive, default=8, help="requests under way (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one request (default: %(default)g)")
    parser.add_argument(
        "--retries", type=int, default=4, help="how often a question is asked again (default: %(default)s)"
    )
    parser.add_argument(
        "--max_failure_share",
        type=float,
        default=0.2,
        help="stop if a larger share of a batch of rows gets no valid answer (default: %(default)g)",
    )
    parser.add_argument(
        "--cache_dir",
        type=optional,
        default=argparse.SUPPRESS,
        help="folder of the judge's answers; null keeps none, so that a run which stops asks everything again",
    )
    return parser


def score(options: argparse.Namespace) -> str:
    """Score the rows; returns what was done, for the screen."""
    from empathy_trl.evaluation.score import score_file
    from empathy_trl.rewards.llm_judge import LLMJudge

    settings = dict(vars(options), structured=options.structured == "true", reply_tags=[])  # the whole response
    source, output, limit = (settings.pop(name) for name in ("input", "output", "limit"))
    done = score_file(LLMJudge(**settings), source, output, limit)
    lines = [f"{output}: {done.rows - done.missing} of {done.rows} rows have scores"]
    if done.empty:
        lines.append(f"{done.empty} with an empty response got the lowest scores, unasked")
    if done.missing:
        lines.append(f"{done.missing} without a valid answer were left out; the same command asks about them again")
    return "\n".join([*lines, *(f"{name:<20}{mean:.2f}" for name, mean in done.means.items())])


def optional(text: str) -> str | None:
    return None if text == "null" else text


def members(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a JSON object")
    return value


if __name__ == "__main__":
    sys.exit(main())
