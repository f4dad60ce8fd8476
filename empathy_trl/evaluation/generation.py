"""Completions on disk as they come, so that an interrupted evaluation goes on where it was.

`predictions_<split>.partial.jsonl` stands beside the files of an evaluation until these are written. Its first line says
what decides a completion: `{"header": {...}}`; a row follows for every completion: `{"row": number, "completion": text}`,
in the order in which they were made. Of several processes each appends to a file of its own
(`predictions_<split>.partial.<process>.jsonl`); the main process collects what is there when an evaluation begins. A last
line that was cut short is left out, and its row made again. Completions made for another header are worth nothing, and go.
"""

import hashlib
import json
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from empathy_trl.errors import UserError
from empathy_trl.io import read_rows, write_rows

SAMPLE = 512  # numbers of every tensor that go into the digest of the weights


def partial_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"predictions_{split}.partial.jsonl"


class Stream:
    """The partial file of an evaluation.

    Args:
        path: of the main process' file, see `partial_path`.
        header: plain data: what decides a completion.

    Attributes:
        found: row -> completion, of an earlier evaluation with this header; the same in all processes.
    """

    def __init__(self, path: Path, header: dict):
        self.path, self.header = Path(path), json.loads(json.dumps(header))
        state = PartialState()
        found = self._collect() if state.is_main_process else None
        self.found: dict[int, str] = broadcast_object_list([found])[0]
        own = self.path if state.is_main_process else self.path.with_suffix(f".{state.process_index}.jsonl")
        if not state.is_main_process:
            write_rows(own, [{"header": self.header}])
        self._file = own.open("a", encoding="utf-8")

    def add(self, row: int, completion: str) -> None:
        """Write a completion at once; JSON in ASCII, so that a cut line is the only thing that can go wrong."""
        self._file.write(json.dumps({"row": row, "completion": completion}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _collect(self) -> dict[int, str]:
        """Return what all processes of an earlier evaluation wrote, and write it to the main process' file alone."""
        found, foreign = {}, []
        others = [path for path in _files(self.path) if path != self.path]
        for path in _files(self.path):
            try:
                first, *rows = read_rows(path, last_may_be_cut=True) or [{}]
                if first.get("header") != self.header:
                    foreign.append(_difference(first.get("header"), self.header))
                    continue
                found |= {row["row"]: row["completion"] for row in rows}
            except (UserError, KeyError, TypeError, AttributeError, ValueError) as error:
                foreign.append(f"it is broken ({error})")
        if foreign:
            tqdm.write(f"{self.path}: not used, because {foreign[0]}; starting over")
        if found:
            tqdm.write(f"{self.path}: {len(found)} completions are there already; going on")
        kept = [{"row": row, "completion": completion} for row, completion in found.items()]
        write_rows(self.path, [{"header": self.header}, *kept])
        for path in others:
            path.unlink()
        return found


def remove_partial(path: Path) -> None:
    """Remove the partial files of all processes."""
    for each in _files(path):
        each.unlink()


def _files(path: Path) -> list[Path]:
    ending = ".jsonl"
    return sorted(path.parent.glob(f"{path.name.removesuffix(ending)}*{ending}"))


def _difference(there, here: dict) -> str:
    if not isinstance(there, dict):
        return "it says nothing of how it was made"
    keys = [key for key in here | there if there.get(key) != here.get(key)]
    return f"it was made with other {', '.join(keys)}"


def weights_digest(model) -> str:
    """Return a hash of a model as it is loaded: names, shapes and types of its weights, and evenly spaced numbers of each.

    Whatever a folder, a revision or an adapter is called: another training has moved nearly all of these numbers.
    """
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // SAMPLE)].contiguous().cpu()
        total.update(some.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
