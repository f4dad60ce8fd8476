"""Fetching a published model with its recipe and results; also retries and error messages of all requests to the Hub.

`pull` fetches only files that are read as data. Pickled weights and Python files, which can run code, stay on the Hub.

huggingface_hub retries uploads of large files, five times each, but sends other requests once (who am I, does it exist,
create it, commit). `retry` repeats those.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

import httpx
from huggingface_hub import HfApi, constants, get_session, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import parse_ratelimit_headers

from empathy_trl.errors import RecipeError, UserError
from empathy_trl.hub.results import ENTRIES_FOLDER, read_entries
from empathy_trl.io import (
    hold_folder,
    is_empty,
    is_hub_id,
    json_or_none,
    network_hint,
    user_path,
    write_text,
)
from empathy_trl.models.api import retry_after
from empathy_trl.models.hub_files import ADAPTER_FILE, hub_errors, join_revision, split_revision
from empathy_trl.recipe.layers import RECIPE_FILE, read_yaml
from empathy_trl.recipe.load import PULL_FILE
from empathy_trl.text import mask, masked_log, sanitise

PULLS = Path("outputs") / "hub"
KINDS = (".safetensors", ".json", ".jsonl", ".yaml", ".md", ".txt", ".png", ".model", ".jinja")

ATTEMPTS = 4
LONGEST_WAIT = 300.0  # seconds; the Hub counts requests in windows of that length
SILENCE = 300.0  # seconds
PASSING = (408, 425, 429, 500, 502, 503, 504)
CONFLICT = (409, 412)  # somebody else made the repository, or committed, at the same time
REPEATED_BY_LIBRARY = ("/preupload/", "/info/lfs/")
# what huggingface_hub raises; ValueError where an answer is HTML instead of JSON, ImportError for a proxy that needs a package
FAILURES = (httpx.HTTPError, OSError, RuntimeError, ValueError, ImportError)
LOGIN = "run `hf auth login`, or set HF_TOKEN, with a token that may write (https://huggingface.co/settings/tokens)"

Answer = TypeVar("Answer")


def pull(name: str, output_dir: Path | None = None) -> Path:
    """Fetch model, recipe and results of a repository on the Hub, and print a summary.

    After an interruption, the same call fetches the missing files. A folder with other files or another commit is never
    changed.

    Args:
        name: `USER/REPO` or `USER/REPO@revision`.
        output_dir: by default outputs/hub/USER/REPO.

    Returns the folder.

    Raises:
        UserError: the repository cannot be read, has nothing to fetch, or the folder holds something else or is written to
            by another command.
    """
    repo, revision = split_revision(name)
    if not is_hub_id(repo, needs_owner=True):
        raise UserError(f"{name}: expected USER/REPO, or USER/REPO@ with a branch, a tag or a commit")
    folder = user_path(output_dir) if output_dir else PULLS / repo
    with hub_errors(repo, revision):
        found = HfApi().model_info(repo, revision=revision)
        files = [each.rfilename for each in found.siblings or ()]
        wanted = [file for file in files if _is_wanted(file)]
        if not wanted:
            raise UserError(f"{name}: has no files to fetch (kinds: {', '.join(KINDS)}); found {_listed(files)}")
        with hold_folder(folder):
            _claim(folder, repo, found.sha)
            snapshot_download(
                repo, revision=found.sha, local_dir=folder, allow_patterns=[_literal(file) for file in wanted]
            )
    print(f"{join_revision(repo, revision)}, commit {found.sha[:12]}: {len(wanted)} files in {folder}")
    left = [file for file in files if not _is_wanted(file) and PurePosixPath(file).name != ".gitattributes"]
    if left:
        print(f"not downloaded, because not needed: {sanitise(_listed(left))}")
    for line in describe(folder):
        print(sanitise(line))
    return folder


def _is_wanted(file: str) -> bool:
    """Return whether a file is of a kind that is read as data, and stays inside the folder.

    Hidden files set up editors, so they are not wanted, except for results in `.eval_results/`.
    """
    path = PurePosixPath(file)
    visible = path.parts[1:] if path.match(f"{ENTRIES_FOLDER}/*.yaml") else path.parts
    inside = (
        file.isprintable()
        and not path.is_absolute()
        and "\\" not in file
        and not any(part.startswith(".") for part in visible)
    )
    return inside and path.suffix in KINDS and file != PULL_FILE


def _literal(file: str) -> str:
    """Return the pattern that matches a file and nothing else."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in file)


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - 10} more" if len(files) > 10 else ""
    return (", ".join(sorted(files)[:10]) or "nothing") + more


def _claim(folder: Path, repo: str, commit: str) -> None:
    """Note in the folder what it is for; raise UserError if it holds something else."""
    wanted = {"repo_id": repo, "commit": commit}
    if not is_empty(folder):
        try:
            there = json_or_none(folder / PULL_FILE) or {}
            there = {key: str(there[key]) for key in wanted}
        except KeyError as error:
            raise UserError(
                f"{folder}: holds files that were not downloaded by a pull; give another --output_dir"
            ) from error
        if there != wanted:
            raise UserError(
                f"{folder}: holds {there['repo_id']} at commit {there['commit'][:12]}, and {repo} at {commit[:12]} was asked "
                "for; delete the folder, or give another --output_dir"
            )
        return
    write_text(folder / PULL_FILE, json.dumps(wanted, indent=2) + "\n")


def describe(folder: Path) -> list[str]:
    """Return lines that say what a pulled folder holds: kind of model, recipe, results with 95 % intervals."""
    return [f"model:   {_model_line(folder)}", f"recipe:  {_recipe_line(folder)}", *_result_lines(folder)]


def _model_line(folder: Path) -> str:
    adapter, config = json_or_none(folder / ADAPTER_FILE), json_or_none(folder / "config.json")
    if adapter is not None:
        base = join_revision(str(adapter.get("base_model_name_or_path")), adapter.get("revision"))
        return f"LoRA adapter on {base}, which is fetched when the adapter is loaded"
    if config is None:
        return f"none (neither {ADAPTER_FILE} nor config.json)"
    kinds = config.get("architectures")
    return ", ".join(map(str, kinds)) if isinstance(kinds, list) and kinds else str(config.get("model_type"))


def _recipe_line(folder: Path) -> str:
    path = folder / RECIPE_FILE
    if not path.is_file():
        return f"none ({RECIPE_FILE} is missing: not published by empathy-trl?)"
    try:
        content = read_yaml(path)
    except RecipeError as error:
        return f"cannot be read: {error}"
    stages = content["stages"] if isinstance(content.get("stages"), dict) else {"": content}
    tasks = [f"{name} ({own.get('task')})".strip() for name, own in stages.items() if isinstance(own, dict)]
    return f"{content.get('name')}: {' → '.join(tasks)}"


def _result_lines(folder: Path) -> list[str]:
    """Return one line for every metric of every evaluation that came along."""
    lines = []
    for path in sorted(folder.glob("eval_*.json")):
        evaluation = json_or_none(path) or {}
        data, metrics = evaluation.get("data"), evaluation.get("metrics")
        if not isinstance(data, dict) or not isinstance(metrics, dict):
            lines.append(f"results: {path.name} is no evaluation")
            continue
        lines.append(f"results: {path.name}: {data.get('n')} rows of {data.get('name')}, split {data.get('split')}")
        lines += [f"         {name} {_figure(figure)}" for name, figure in metrics.items()]
    for path in sorted(folder.glob(f"{ENTRIES_FOLDER}/*.yaml")):
        entries, problems = read_entries(path, str(path))
        stated = [f"{each.dataset_id}, task {each.task_id}: {each.value}" for each in entries]
        lines += [f"results: {ENTRIES_FOLDER}/{path.name}: {each}" for each in stated]
        lines += [f"results: {each}" for each in problems]
    return lines or ["results: none (no eval_<split>.json)"]


def _figure(figure) -> str:
    """Return a metric with its interval; a figure of another form as it is."""
    try:
        return "{value:.3f} [{low:.3f}, {high:.3f}], n = {n}".format(**figure)
    except (TypeError, KeyError, ValueError):
        return str(figure)[:60]


# ---- requests to the Hub ----


@contextmanager
def hub_requests(what: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong inside the block into a `UserError`, "what: the reason. advice", without secrets.

    A server that is silent for `SILENCE` seconds is given up; huggingface_hub would wait for ever.
    """
    try:
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled
        client = get_session()
        hooks = client.event_hooks
        client.event_hooks = hooks | {"request": [*hooks["request"], _limit_silence]}
        try:
            with masked_log("huggingface_hub.utils._http"):
                yield
        finally:
            client.event_hooks = hooks
    except FAILURES as error:
        raise UserError(f"{what}: {reason(error).rstrip('.')}. {advice}") from error


def _limit_silence(request: httpx.Request):
    """Set the timeout of the request, which goes before that of the client: huggingface_hub passes None with many."""
    request.extensions["timeout"] = httpx.Timeout(SILENCE, connect=min(SILENCE, 30.0)).as_dict()


def retry(request: Callable[[], Answer], what: str) -> Answer:
    """Return what `request` returns; after a passing failure it is called again, after a conflict once.

    Args:
        request: may be called several times.
        what: what the request is about, for the line that is printed before a wait.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except (HfHubHTTPError, httpx.TransportError) as error:
            pause = _pause(error, attempt)
            if attempt == ATTEMPTS or pause is None:
                raise
            print(f"{what}: {reason(error)}; retrying in {pause:g} s", file=sys.stderr)
        time.sleep(pause)


def _pause(error: httpx.HTTPError, attempt: int) -> float | None:
    """Return the seconds to wait before the next attempt; None where another attempt is of no use."""
    source = error.response if isinstance(error, HfHubHTTPError) else error
    if any(part in source.request.url.path for part in REPEATED_BY_LIBRARY):
        return None
    backoff = 2.0 ** (attempt - 1)
    if not isinstance(error, HfHubHTTPError):
        return backoff
    status, wait = error.response.status_code, _requested_wait(error.response.headers)
    if status in CONFLICT and attempt == 1:
        return backoff
    return max(backoff, wait) if status in PASSING and wait <= LONGEST_WAIT else None


def _requested_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that a refusal asks for in `RateLimit`, which the Hub sends, or `Retry-After`; 0 without them."""
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else retry_after(headers)


def reason(error: BaseException) -> str:
    """Return one sentence, without secrets, that says why a request to the Hub failed."""
    return mask(" ".join(_reason(error).split()))


def _reason(error: BaseException) -> str:
    # huggingface_hub wraps a failed upload in the name of its file, and reports a failed download as missing in the cache
    while isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    endpoint = constants.ENDPOINT
    if isinstance(error, LocalTokenNotFoundError):
        return f"you are not logged in: {LOGIN}"
    if isinstance(error, UnicodeEncodeError):  # of a header; its own message shows a part of the token
        return f"your token contains invalid characters: {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 forbids requests to the Hub; unset it"
    if isinstance(error, HfHubHTTPError):
        return _reason_of_status(error.response, str(error.server_message or "")[:300])
    if isinstance(error, httpx.TimeoutException):
        return f"{endpoint} does not answer"
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return f"{endpoint} cannot be reached ({error})"
    if isinstance(error, httpx.HTTPError):
        return f"the connection to {endpoint} broke off ({type(error).__name__})"
    if isinstance(error, json.JSONDecodeError):
        return f"{endpoint} does not answer as the Hub does; a proxy may be in between"
    return (
        str(error)
        if isinstance(error, UserError)
        else f"{type(error).__name__}: {str(error)[:500]}{network_hint(error)}"
    )


def _reason_of_status(response: httpx.Response, message: str) -> str:
    status = response.status_code
    answer = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    if status == 401:
        return f"the Hub does not accept your token, or you have none ({answer}): {LOGIN}"
    if status == 403:
        return (
            f"no right to do this ({answer}): the name before the / must be yours or your organisation's, and the token must "
            f"allow writing there; choose another repo_id, or {LOGIN}"
        )
    if status == 404:
        return f"it does not exist, or you may not see it ({answer}); if it is private, {LOGIN}"
    if status in CONFLICT:
        return f"it was changed at the same time ({answer})"
    if status == 429:
        wait = _requested_wait(response.headers)
        return f"too many requests ({answer})" + (f"; the Hub asks to wait {wait:.0f} s" if wait else "")
    return f"the Hub reports an error ({answer})" if status >= 500 else f"the Hub refuses ({answer})"
