"""Names and files of models, in a folder or on the Hub; needs no torch.

A name is a folder, `stage:<name>`, `openai:NAME`, or a Hub id, with or without `@revision` (`split_revision`). Every
problem with the files (a mistyped folder, a gated model, no network, a damaged file, missing weights) raises a
`UserError` that names the model and the solution: see `hub_errors`. `saved_critic` finds the critic that PPO saves
beside its policy.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from empathy_trl.errors import UserError, show
from empathy_trl.io import is_gguf, is_hub_id, nearest_path, network_hint, on_hub, user_name, user_path
from empathy_trl.text import mask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER_FILE = "adapter_config.json"
# folder beside an adapter with its base, if that is an earlier adapter merged into its own base
MERGED_BASE = "merged_base"
# Python in a repository is not run; without this, transformers asks at the terminal, and any "y" of a chat is a yes.
NO_CODE = {"trust_remote_code": False}
# The vocabulary is in one of these; without any, transformers makes a tokenizer that turns every text into nothing.
VOCABULARY_FILES = [
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
]


def check_exists(name: str) -> None:
    """Raise UserError if a name can only mean a local folder or GGUF file and there is none; the Hub is not asked."""
    if is_gguf(name) and not Path(name).exists():
        raise UserError(f"{name}: no such file{nearest_path(name)}; expected a GGUF file")
    if Path(name).is_file() and not is_gguf(name):
        raise UserError(f"{name}: is a file; expected the folder of a model, or a file *.gguf")
    if not Path(name).exists() and not on_hub(name.partition("@")[0]):
        raise UserError(
            f"{name}: no such folder{nearest_path(name)}; expected the folder of a model, a file *.gguf, or a Hub "
            "id such as owner/name"
        )


def model_folder(name: str) -> str:
    """Return the folder into which a GGUF file is converted, see `gguf.converted`; any other name as it is."""
    if not is_gguf(name) or not Path(name).is_file():
        return name
    from empathy_trl.models.gguf import converted  # imports torch

    return str(converted(Path(name)))


def first_file(name: str, revision: str | None, filenames: Sequence[str]) -> Path:
    """Return the first of some files that a folder or Hub repository has; a GGUF file counts as the folder made of it.

    Raises:
        EntryNotFoundError: it has none of them.
        OSError, HFValidationError, httpx.HTTPError: the repository does not exist or cannot be reached.
    """
    folder = Path(model_folder(name))
    if folder.is_dir():
        for filename in filenames:
            if (folder / filename).is_file():
                return folder / filename
        content = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        hint = "; a GGUF file is named itself, not its folder" if is_gguf(content) or ".gguf, " in content else ""
        raise EntryNotFoundError(f"expected {' or '.join(filenames)}, found {content}{hint}")
    missing = None
    for filename in filenames:
        local = isinstance(missing, LocalEntryNotFoundError)  # no network: it is not waited for once more
        try:
            return Path(hf_hub_download(name, filename, revision=revision, local_files_only=local))
        except EntryNotFoundError as error:  # not in the repository, or (offline) not in the cache
            missing = missing if local else error
    missing.add_note(" or ".join(filenames))
    raise missing


def adapter_base(adapter_file: Path, name: str) -> tuple[str, str | None]:
    """Return the name and the revision of the base model of an adapter; a `MERGED_BASE` is found beside it, or one above."""
    try:
        adapter = json.loads(adapter_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: {ADAPTER_FILE} is not valid JSON: {error}") from error
    if not isinstance(adapter, dict):
        raise UserError(f"{name}: {ADAPTER_FILE} is {show(adapter)}; expected a mapping")
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{name}: {ADAPTER_FILE} names no base model (base_model_name_or_path is empty)")
    if Path(base).name == MERGED_BASE:
        # the folder of the stage may have been moved or archived, and another run may stand in its place
        for folder in (adapter_file.parent, adapter_file.parent.parent):
            if (folder / MERGED_BASE / "config.json").is_file():
                return str(folder / MERGED_BASE), None
    if not Path(name).is_dir() and not is_hub_id(str(base)):
        raise UserError(
            f"{name}: the base of this adapter is {base}, a folder on its author's machine; expected a Hub id"
        )
    return user_name(base), adapter.get("revision")


def tokenizer_of_adapter(
    name: str, revision: str | None, base: str, base_revision: str | None
) -> tuple[str, str | None]:
    """Return name and revision of where an adapter's tokenizer is: beside it, or (where one saved it by hand) its base."""
    with hub_errors(name, revision):
        try:
            first_file(name, revision, ["tokenizer_config.json"])
        except EntryNotFoundError:
            return base, base_revision
    return name, revision


def load_tokenizer(name: str, revision: str | None, **options) -> "PreTrainedTokenizerBase":
    """Load a tokenizer as it was saved, but for `options`; a missing pad token is the end token.

    Raises:
        UserError: there is none, or it has neither a pad nor an end token.
    """
    from transformers import AutoTokenizer  # here, so that a recipe is read without transformers

    with hub_errors(name, revision):
        first_file(name, revision, VOCABULARY_FILES)
        tokenizer = AutoTokenizer.from_pretrained(model_folder(name), revision=revision, **NO_CODE, **options)
        tokenizer.name_or_path = name  # of a GGUF file its own
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{name}: the tokenizer has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def has_chat_template(name: str, revision: str | None) -> bool:
    """Return whether the tokenizer of a model, which may be an adapter, has a chat template.

    Raises:
        UserError: the model or its tokenizer cannot be read.
    """
    check_exists(name)
    with hub_errors(name, revision):
        entry = first_file(name, revision, [ADAPTER_FILE, "config.json"])
    if entry.name == ADAPTER_FILE:
        name, revision = tokenizer_of_adapter(name, revision, *adapter_base(entry, name))
    return load_tokenizer(name, revision).chat_template is not None


def check_weights(name: str, report: dict) -> None:
    """Refuse a model of which transformers made up weights at random, because it did not find them in the files.

    Args:
        name: of the model.
        report: of transformers (`output_loading_info`); tied weights, which are stored once, do not count there.

    Raises:
        UserError: names the first three such weights.
    """
    wrong = [f"{key} (missing)" for key in sorted(report["missing_keys"])]
    wrong += [
        f"{key} ({list(stored)} in the file, {list(expected)} by config.json)"
        for key, stored, expected in sorted(report["mismatched_keys"])
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{name}: the weights do not fit config.json: {', '.join(wrong[:3])}{more}")


@contextmanager
def hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turn what transformers, peft and the Hub raise about a model into a `UserError` with the way out.

    The libraries do not check what is in a file before they use it: any of the last group is how they say that a
    file is cut off (`ValueError`, of which JSON's is one) or holds something else than they expect.
    """
    try:
        yield
    except UserError:  # also a ValueError
        raise
    except (OSError, EntryNotFoundError, HFValidationError, httpx.HTTPError, SafetensorError) as error:
        raise UserError(mask(_explain(name, revision, error))) from error
    except (
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
        ImportError,
        StrictDataclassError,
    ) as error:
        target = join_revision(name, revision)
        why = f"{type(error).__name__}: {error}{network_hint(error)}"
        raise UserError(mask(f"{target}: cannot be read: {why}")) from error


def _explain(name: str, revision: str | None, error: BaseException) -> str:
    """Say what is wrong. transformers wraps the Hub's errors in an OSError, so its causes count too."""
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__

    def any_is(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    target = join_revision(name, revision)
    login = "run `hf auth login`, or name a local folder instead"
    if Path(name).is_dir():
        return f"{name}: cannot be read: {error}"
    if any_is(HFValidationError):
        return f"{target}: neither an existing folder nor a valid Hub id (owner/name)"
    if any_is(SafetensorError) or "Consistency check failed" in str(error):
        fetch = _download(name, revision, "--force-download")
        return f"{target}: cannot be read: {error}; if the download was damaged, `{fetch}` repeats it"
    if any_is(GatedRepoError):
        return f"{target}: gated model; accept the licence on https://huggingface.co/{name} and {login}"
    if any_is(RepositoryNotFoundError):
        return f"{target}: no such local folder and no such model on the Hub{nearest_path(name)}; if it is private, {login}"
    if any_is(RevisionNotFoundError):
        return f"{target}: no revision {revision!r} of this model on the Hub"
    if any_is(RemoteEntryNotFoundError):
        file = f"; download one of its files with `hf download {name} FILE.gguf --local-dir .`, and name that file"
        return f"{target}: not a model that transformers can load: {error}{file if 'gguf' in name.lower() else ''}"
    if any_is(LocalEntryNotFoundError, ConnectionError, OfflineModeIsEnabled, httpx.HTTPError):
        return _out_of_reach(name, revision, causes)
    if constants.is_offline_mode():
        fetch = _download(name, revision)
        return (
            f"{target}: cannot be loaded: {error} HF_HUB_OFFLINE is set, so only the local cache is used: run "
            f"`{fetch}` on a machine with network and copy its cache here ($HF_HOME)"
        )
    return f"{target}: cannot be loaded: {error}{network_hint(error)}"


def _out_of_reach(name: str, revision: str | None, causes: list[BaseException]) -> str:
    """Say which file is missing, why the Hub does not give it, and how it can be had."""
    target = join_revision(name, revision)
    status = next((each.response.status_code for each in causes if isinstance(each, HfHubHTTPError)), None)
    if status in (401, 403):
        return f"{target}: the Hub answers HTTP {status}: the token lacks the right to read it; run `hf auth login`"
    files = next((note for each in causes for note in getattr(each, "__notes__", ())), None)
    missing = f"{files or 'not everything of it'} is {'not ' * bool(files)}in the local cache"
    near = nearest_path(name) or "."
    fetch = f"run `{_download(name, revision)}` on a machine with network"
    return (
        f"{target}: {missing}, and {_why(causes, status)}{near} Try again when it can be reached; or {fetch} and copy its cache "
        "here (the folder $HF_HOME, ~/.cache/huggingface by default), or name a local folder; a gated or private model "
        "needs `hf auth login` first"
    )


def _why(causes: list[BaseException], status: int | None) -> str:
    """Say why the Hub cannot be asked."""
    if constants.is_offline_mode():
        return "the Hub cannot be reached, because HF_HUB_OFFLINE is set"
    if status is not None:
        return f"the Hub cannot be reached: {constants.ENDPOINT} answers HTTP {status}"
    if any(isinstance(cause, httpx.TimeoutException) for cause in causes):
        return f"the Hub cannot be reached: {constants.ENDPOINT} does not answer in time"
    cut = next((cause for cause in causes if isinstance(cause, httpx.HTTPError)), None)
    if isinstance(cut, (httpx.RemoteProtocolError, httpx.ReadError)):
        return f"the download from {constants.ENDPOINT} was interrupted; the same command continues it"
    return f"the Hub cannot be reached: {constants.ENDPOINT}" + (f": {cut}" if cut else "")


def _download(name: str, revision: str | None, *flags: str) -> str:
    """Return the command that fetches a whole repository into the cache."""
    return " ".join(["hf download", name, *(["--revision", revision] if revision else []), *flags])


REVISION = re.compile(r"\w[\w./+-]*")  # branch, tag, commit, or refs/pr/1
NO_HUB_ID = ("stage:", "openai:")


def split_revision(name: str) -> tuple[str, str | None]:
    """Return the parts of `USER/REPO@revision`: the Hub id, and branch, tag or commit (None where none is given).

    A folder or file stays as it is, also with an @ in its path, and so do `stage:<name>` and `openai:NAME@x`.

    Raises:
        UserError: what stands behind the @ cannot be a revision, or what stands before it is a folder.
    """
    if "@" not in name or name.startswith(NO_HUB_ID) or Path(name).exists():
        return name, None
    plain, _, revision = name.partition("@")
    if not is_hub_id(plain):
        return name, None
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise UserError(
            f"{name}: {revision!r} is not a revision; expected USER/REPO@ with a branch, a tag or a commit behind it"
        )
    if Path(plain).is_dir():
        raise UserError(
            f"{name}: {plain} is a folder here, and only a model on the Hub has revisions; expected {plain}"
        )
    return plain, revision


def join_revision(name: str, revision: str | None) -> str:
    """Return the inverse of `split_revision`, for messages."""
    return f"{name}@{revision}" if revision else name


def one_revision(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return name and revision of a model whose revision may stand in its name or beside it.

    Raises:
        UserError: it stands in both places, and they differ; the name is a folder's; or what `split_revision` raises.
    """
    plain, inside = split_revision(name)
    if inside is not None and revision not in (None, inside):
        raise UserError(f"{name}: its revision is also given as {revision!r}; expected one of them")
    if revision is not None and user_path(plain).exists():
        kind = "folder" if user_path(plain).is_dir() else "file"
        raise UserError(f"{name} is a {kind} here, and only a model on the Hub has revisions; leave {revision!r} out")
    return plain, inside or revision


CRITIC_FOLDER = "critic"  # beside the policy's own files
CRITIC_CONFIG, CRITIC_HEAD = "critic_config.json", "value_head.safetensors"


def saved_critic(name: str | None) -> Path | None:
    """Return the folder of a saved critic that a name means: itself, or the one inside a policy's folder."""
    for folder in (user_path(name), user_path(name) / CRITIC_FOLDER) if name else ():
        if (folder / CRITIC_CONFIG).is_file():
            return folder
    return None
