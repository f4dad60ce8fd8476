"""Reading and writing files, telling files from Hub ids, and importing a user's objects by name.

`user_path` reads every path from a user, and `user_name` every name that may be a path or a Hub id. Both are called once, where
the path enters: for a flag, a recipe's key or an argument of the Python API. `read_text` reads all text files, of data and of
results. Files are written atomically, and errors name the file and the line. `hold_folder` and `hold_file` prevent two commands
from writing to one place. `network_hint` and `without_proxies` deal with proxies and certificates that the environment sets.
`digest` returns a short hash of plain data.
"""

import codecs
import gzip
import hashlib
import importlib
import json
import os
import re
import shutil
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from filelock import MarkerSoftFileLock, Timeout

from empathy_trl.errors import DataError, UserError, suggestion

# First bytes -> encoding that is not UTF-8. The marks of UTF-32 come first, as one begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
NO_PATH = ("stage:", "openai:", "hub:")  # prefixes of names that are neither a path nor a Hub id


def user_path(path: str | Path) -> Path:
    """Return a path from a user in one form, so that two spellings of one place are equal.

    `~`, `$NAME` and `${NAME}` are replaced; the shell leaves `--output_dir=~/x` as it is. `./`, double slashes and a final
    slash are removed, and so is `..` unless the folder before it is a symbolic link.

    Raises:
        UserError: the path is empty, a variable is not set, or there is no such user.
    """
    result = Path(_expanded(os.fspath(path)))
    if ".." in result.parts:
        short = Path(os.path.normpath(result))
        return short if os.path.realpath(short) == os.path.realpath(result) else result
    return result


def user_name(name: str | Path) -> str:
    """Return a name that may be a path or a Hub id; an existing path is returned as `user_path` does.

    In any other name, only `~` and variables are replaced, so that a missing path such as `./model` does not become a Hub id.
    """
    name = os.fspath(name)
    if not name or name.startswith(NO_PATH):
        return name
    path = str(user_path(name))
    return path if os.path.exists(path) else _expanded(name)


def _expanded(path: str) -> str:
    """Return a path with `~` and variables replaced."""

    def value(found: re.Match) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise UserError(f"{path}: the environment variable {name} is not set")
        return os.environ[name]

    if not path:
        raise UserError("the path is empty")
    expanded = os.path.expanduser(VARIABLE.sub(value, path))
    if expanded.startswith("~") and not os.path.exists(expanded):
        raise UserError(f"{path}: no user {expanded.partition('/')[0].removeprefix('~')!r} on this machine")
    return expanded


def nearest_path(name: str) -> str:
    """Return `; did you mean X?` with an existing path that resembles a mistyped one in every part, or "" without one."""
    if not name or os.path.exists(name):
        return ""
    place = Path()
    for part in Path(name).parts:
        if not (place / part).exists():
            try:
                near = get_close_matches(part, os.listdir(place), n=1, cutoff=0.75)
            except OSError:  # a file, or a folder that cannot be read
                near = []
            if not near:
                return ""
            part = near[0]
        place /= part
    return f"; did you mean {place}?"


def is_hub_id(name: str, needs_owner: bool = False) -> bool:
    """Return whether a text has the form of a Hub id: `owner/name`, or also `name` unless an owner is needed.

    The form is that of `huggingface_hub`. `outputs/…` is where runs are written, and `….gguf` a file; neither is ever an id.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith("outputs/") and not is_gguf(name) and ("/" in name or not needs_owner)


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file, which may be missing."""
    return name.lower().endswith(".gguf") and not os.path.isdir(name)


def on_hub(name: str, needs_owner: bool = False) -> bool:
    """Return whether a name is a repository on the Hub: it has the form of an id, and no such folder or file exists.

    If the part before the slash is an existing folder, such as `models` in `models/mine`, the name counts as a mistyped path
    unless the repository is in the Hub's cache.
    """
    if Path(name).exists() or not is_hub_id(name, needs_owner):  # in this order: the latter takes an import
        return False
    owner, slash, _ = name.partition("/")
    return not (slash and Path(owner).is_dir()) or is_cached(name)


def is_cached(name: str) -> bool:
    """Return whether the Hub's cache has files of a model or a data set."""
    from huggingface_hub import constants  # takes half a second, and most names are no Hub ids

    folders = (f"{kind}--{name.partition('@')[0].replace('/', '--')}" for kind in ("models", "datasets"))
    return any(any(Path(constants.HF_HUB_CACHE, folder).glob("snapshots/*/*")) for folder in folders)


def import_object(where: str, path: str):
    """Return the class or function that `package.module:Name` points to.

    Args:
        where: the recipe's key, for messages.
        path: where it is.

    Raises:
        UserError: the path has another form, or the module cannot be imported or has no such class or function.
    """
    module_name, colon, attribute = str(path).partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{where}: {path!r} is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{where}: cannot import {module_name}: {error}; install it, or put its folder on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # the user's own code, which may raise anything, or be a script
        raise UserError(f"{where}: cannot import {module_name}: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise UserError(f"{where}: {module_name} has no class or function {attribute}{suggestion(attribute, names)}")
    return found


PROXIES, CERTIFICATES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"), ("SSL_CERT_FILE", "SSL_CERT_DIR")


def network_hint(error: BaseException) -> str:
    """Return an ending for a message: the environment variables that may have caused an error of an HTTP client, or "".

    The errors do not name the variable: if a file of certificates is missing, the error is only "No such file or directory".
    """
    names = []
    if "proxy" in str(error).lower():
        names = _set_of(PROXIES)
    elif isinstance(error, ssl.SSLError):
        names = _set_of(CERTIFICATES)
    elif isinstance(error, FileNotFoundError) and error.filename is None:
        names = [name for name in _set_of(CERTIFICATES) if not Path(os.environ[name]).exists()]
    return f" (check the environment variable {' and '.join(names)})" if names else ""


def _set_of(variables: Iterable[str]) -> list[str]:
    return [name for name in os.environ if name.upper() in variables]


@contextmanager
def without_proxies() -> Iterator[None]:
    """Ignore the environment's proxies and certificates inside the block, for requests to this machine."""
    hidden = {name: os.environ.pop(name) for name in _set_of((*PROXIES, *CERTIFICATES))}
    try:
        yield
    finally:
        os.environ.update(hidden)


LOCK_FILE = ".empathy-trl.lock"
UNFINISHED = ".*.tmp"
NAMELESS = 3.0  # seconds after which nobody is going to write a name into a lock without one


@contextmanager
def hold_folder(folder: Path, inner: Iterable[Path] = ()) -> Iterator[None]:
    """Lock a folder while the body runs, so that no other process writes there.

    The lock is the file `LOCK_FILE` in the folder. It names process and machine, and is removed at the end. It requires a file
    system that creates files exclusively (O_EXCL), such as local disks, NFS since version 3, Lustre, BeeGFS and GPFS, but not
    mounts of object stores such as s3fs. flock is not used, because some mounts lack it or restrict it to one machine.
    If a process has crashed, a process on the same machine takes over its lock. Other machines and containers cannot detect
    the crash; the error then names the file to delete. A lock that names nobody, of a process that crashed before it had
    written its name, is taken over after a few seconds.

    Args:
        folder: created if missing, and removed again if nothing was written to it. It is refused if another process holds its
            parent. The same thread may hold a folder twice.
        inner: folders inside it, existing or not, that no other process may hold.

    Raises:
        UserError: another process holds the folder (names process, machine, user and time), or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _hold(folder.resolve() / LOCK_FILE, folder):
            for other in (folder.resolve().parent, *inner):
                if (other / LOCK_FILE).exists():
                    with _hold(other.resolve() / LOCK_FILE, other):
                        pass
            yield
    finally:
        with suppress(OSError):  # not empty: something was written there
            for path in made:
                path.rmdir()


def hold_file(path: Path):
    """Lock a file that is going to be written, as `hold_folder` locks a folder, by a lock file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _hold(path.parent.resolve() / f".{path.name}{LOCK_FILE}", path)


@contextmanager
def _hold(file: Path, held: Path) -> Iterator[None]:
    lock = MarkerSoftFileLock(file, timeout=0, is_singleton=True)  # one object per file, so that a thread may nest it
    _remove_dead_lock(lock, file)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{held}: {_holder(lock, file)} is writing there; wait until it has finished, stop it, or choose another place. A crash "
            f"on another machine cannot be detected from here: if that process is gone, delete {file} and start again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _remove_dead_lock(lock: MarkerSoftFileLock, file: Path) -> None:
    """Delete a lock that filelock takes for one of a living process.

    Its process was killed but not yet reaped by its parent (a zombie), or it was killed before it had written its name.
    """
    nameless, end = _nameless(lock, file), time.monotonic() + NAMELESS
    while nameless is not None and _nameless(lock, file) == nameless and time.monotonic() < end:
        time.sleep(0.02)

    def is_dead(host: str | None = None) -> bool:
        if nameless is not None:
            return _nameless(lock, file) == nameless
        owner = lock.owner
        return owner is not None and host in (None, owner.hostname) and _is_zombie(owner.pid)

    if is_dead():
        with suppress(Timeout), MarkerSoftFileLock(f"{file}.zombie", timeout=1) as alone:
            if is_dead(alone.owner.hostname):  # else two might delete, the second a new lock
                file.unlink()


def _nameless(lock: MarkerSoftFileLock, file: Path) -> tuple[int, int] | None:
    """Return what tells a lock without a name from a later lock; None if it has a name or is missing."""
    with suppress(OSError):
        about = file.stat()
        return (about.st_ino, about.st_ctime_ns) if lock.owner is None else None
    return None


def _is_zombie(process: int) -> bool:
    with suppress(OSError):  # gone, or not Linux
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    return False


def _holder(lock: MarkerSoftFileLock, file: Path) -> str:
    """Return the holder of a lock, for a message."""
    end = time.monotonic() + 1
    while (owner := lock.owner) is None and file.exists() and time.monotonic() < end:
        time.sleep(0.02)  # it has created the file this moment, and is going to write its name
    try:
        since, user = datetime.fromtimestamp(file.stat().st_mtime), file.owner()
    except (OSError, KeyError):  # released this moment, or a user that this machine does not know
        return "another process"
    process = "another process"
    if owner is not None:
        host = owner.hostname.partition("?")[0]  # filelock adds the namespace of a container
        process = f"process {owner.pid} on {host}"
    return f"{process} (user {user}, since {since:%Y-%m-%d %H:%M})"


def is_empty(folder: Path) -> bool:
    """Return whether a folder is empty, except for its lock file and what `remove_unfinished` deletes."""
    unfinished = set(folder.glob(UNFINISHED))
    return all(path.name == LOCK_FILE or path in unfinished for path in folder.iterdir())


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it; the folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes did not finish, named `.<name>.<process>.tmp`; the caller holds the folder."""
    for path in folder.glob(UNFINISHED):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Write one JSON object per line, atomically; NaN and infinity are refused (ValueError), they are no JSON."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_text(path) -> str:
    """Read a whole file, gzipped (`.gz`) or not, as UTF-8 text; a byte order mark at its start is dropped.

    Args:
        path: a `pathlib.Path` or an `importlib.resources` file.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or holds NUL bytes; names file and line.
    """
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    if encoding is not None:
        raise DataError(f"{path}: the text is {encoding}, not UTF-8; save the file as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the decoder counts from the end of a byte order mark
        start = error.start + len(data) - len(error.object)
        byte = f"byte 0x{data[start]:02x} at offset {start}"
        raise DataError(f"{path}, line {_line_at(data, start)}: {byte} is not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        # Text files have no NUL bytes: this is a binary file, UTF-16 without a mark, or a damaged disk block.
        offset = data.index(b"\0")
        raise DataError(
            f"{path}, line {_line_at(data, offset)}: NUL byte at offset {offset}: a binary file, or UTF-16; save the file as UTF-8"
        )
    return text


def _line_at(data: bytes, offset: int) -> int:
    return len((data[:offset] + b"x").splitlines())


def json_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of every line of JSON Lines that is not blank.

    Lines end in LF, CRLF or CR. `str.splitlines` is not used, because it also splits at characters such as U+2028, which may
    occur in JSON strings. A line break inside a JSON string is always escaped.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def read_rows(path: Path, last_may_be_cut: bool = False) -> list[dict]:
    """Read a file of this package with one JSON object per line; `data.tables` reads those of users.

    Args:
        last_may_be_cut: leave out a last line that a crash cut short.

    Raises:
        UserError: names file and line of what is not JSON; see also `read_text`.
    """
    lines = list(json_lines(read_text(path)))
    rows = []
    for number, line in lines:
        try:
            rows.append(parse_json(path, number, line))
        except UserError:
            if not (last_may_be_cut and number == lines[-1][0]):
                raise
    return rows


def read_json(path: Path):
    """Return the content of a file that is one JSON value, without NaN and infinity. Raises what `read_rows` raises."""
    return parse_json(path, 1, read_text(path), parse_constant=_refuse_constant)


def parse_json(path: Path, line: int, text: str, **settings):
    """Return parsed JSON that begins in `line` of `path`; settings are those of `json.loads`. UserError names file and line."""
    try:
        return json.loads(text, **settings)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {line + error.lineno - 1}: not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a constant, endless digits, endless brackets
        raise UserError(f"{path}, line {line}: not valid JSON ({error})") from error


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number there")


def json_or_none(path: Path) -> dict | None:
    """Return what a JSON file says; None where there is none, it is cut short, or it holds something else than a mapping."""
    try:
        content = parse_json(path, 1, read_text(path))
    except UserError:
        return None
    return content if isinstance(content, dict) else None


def digest(content) -> str:
    """Return a hash of plain data, 16 hexadecimal digits; the order of keys makes no difference."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def cache_folder(name: str) -> str:
    """Return where something is kept from run to run: `$EMPATHY_TRL_CACHE/name`, or `~/.cache/empathy_trl/name` without it."""
    return os.path.join(os.environ.get("EMPATHY_TRL_CACHE") or "~/.cache/empathy_trl", name)


def shipped_folder(name: str) -> Path:
    """Return a folder that comes with the package: `recipes` or `accelerate_configs`.

    A wheel has it inside the package; in the repository it lies beside the package, which links to it.
    """
    package = Path(__file__).resolve().parent
    return next((folder for folder in (package / name, package.parent / name) if folder.is_dir()), package / name)


def yaml_titles(folder: Path) -> list[tuple[str, str]]:
    """Return the file name and the first comment line of every YAML file in a folder."""
    titles = []
    for path in sorted(Path(folder).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        titles.append((path.name, next((line.lstrip("# ") for line in lines if line.startswith("#")), "")))
    return titles
