"""Completions of an evaluation: generated with the settings of the stage, and saved as they arrive.

`predictions_<split>.partial.jsonl` exists until the evaluation has written its files, so that an interrupted evaluation
continues where it stopped. Its first line holds everything that determines a completion: `{"header": {...}}`. One row
per completion follows, in the order of generation: `{"row": number, "completion": text}`, with `"cut_off": true` if the
completion was cut off. With several processes, each one appends to its own file
(`predictions_<split>.partial.<process>.jsonl`), and the main process collects them when the next evaluation begins. A
truncated last line is dropped and its row generated again. Completions with another header are discarded.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from empathy_trl.engine import shared
from empathy_trl.errors import UserError
from empathy_trl.io import digest, read_rows, write_rows
from empathy_trl.models.api import ApiModel
from empathy_trl.models.batching import end_tokens, prompt_tokens
from empathy_trl.models.generate import choose_backend, generate_completions
from empathy_trl.models.load import weights_digest

REQUESTS = 32  # sent at the same time, unless the caller says how many


def generate_shared(
    model,
    tokenizer,
    prompts: list[list[dict]],
    batch_size: int | None,
    stage,
    *,
    backend: str = "transformers",
    partial: Path | None = None,
) -> list[str]:
    """Generate as a stage says, each process for its share of the prompts; all processes return all completions.

    An `ApiModel` needs no tokenizer; each process sends it `batch_size` requests at the same time.

    Args:
        backend: one of `models.generate.CHOICES`.
        partial: file that takes completions as they come and holds those of an interrupted evaluation, see
            `partial_path`; None for no such file.

    Raises:
        UserError: an `ApiModel` is to sample, or a back end cannot do what is asked.
    """
    make = _on_server if isinstance(model, ApiModel) else _in_process
    complete, settings = make(model, tokenizer, batch_size, stage, backend)
    file = None if partial is None else PartialFile(partial, _header(model, tokenizer, prompts, settings))
    known = {} if file is None else file.completions
    missing = [row for row in range(len(prompts)) if row not in known]
    hooks = {} if file is None else {"done": file.add}
    try:
        made = shared(missing, lambda rows: complete([prompts[row] for row in rows], rows=rows, **hooks))
    finally:
        if file is not None:
            file.close()
    completions = known | dict(zip(missing, made, strict=True))
    return [completions[row] for row in range(len(prompts))]


def _on_server(model: ApiModel, tokenizer, batch_size: int | None, stage, backend: str) -> tuple[Callable, dict]:
    """Return the function that completes prompts on a server, and the settings that decide the completions."""
    temperature = stage.evaluation.temperature
    if temperature > 0:
        raise UserError(
            f"evaluation.temperature: {temperature:g}, but a model behind an API is evaluated greedily; expected 0 (its "
            "`sampling` may set another temperature)"
        )
    if backend not in ("auto", "transformers"):
        raise UserError(f"backend {backend}: the model is behind an API and generates there; expected auto")
    settings = {"max_new_tokens": stage.evaluation.max_new_tokens}
    how = {"batch_size": REQUESTS if batch_size is None else batch_size, "progress": PartialState().is_main_process}
    return functools.partial(model.complete, **how, **settings), settings


def _in_process(model, tokenizer, batch_size: int | None, stage, backend: str) -> tuple[Callable, dict]:
    """Return the function that completes prompts with a loaded model, and the settings that decide the completions."""
    state, evaluation = PartialState(), stage.evaluation
    if backend != "transformers":
        backend, why = choose_backend(backend, model)
        state.print(f"back end: {backend} ({why})", flush=True)
    settings = {
        "max_new_tokens": evaluation.max_new_tokens,
        "temperature": evaluation.temperature,
        "top_p": evaluation.top_p,
        "top_k": evaluation.top_k,
        "seed": stage.seed,
        "backend": backend,
    }
    how = {"batch_size": batch_size, "progress": state.is_main_process}
    return functools.partial(generate_completions, model, tokenizer, **how, **settings), settings


def _header(model, tokenizer, prompts: list[list[dict]], settings: dict) -> dict:
    """Return what decides the completions; the seed does so only if tokens are sampled."""
    settings = {name: value for name, value in settings.items() if name != "seed" or settings["temperature"]}
    if isinstance(model, ApiModel):
        settings |= {"sampling": model.sampling} if model.sampling else {}
        return {"model": model.name, "base_url": model.base_url, "prompts": digest(prompts), "settings": settings}
    # the tokens of one prompt tell tokenizers apart; encoding all prompts twice would cost time
    questions = [prompts, tokenizer.chat_template, prompt_tokens(tokenizer, prompts[:1]), end_tokens(model, tokenizer)]
    return {"weights": weights_digest(model), "prompts": digest(questions), "settings": settings}


def decoding(stage, model) -> dict:
    """Return how `generate_shared` chooses tokens: `decoding` in words, and for an `ApiModel` the `sampling` of its requests."""
    if not isinstance(model, ApiModel):
        return {"decoding": _in_words(stage)}
    sampling = model.settings(stage.evaluation.max_new_tokens)
    if sampling.get("temperature") == 0:
        return {"decoding": "greedy decoding", "sampling": sampling}
    temperature = (
        f"temperature {sampling['temperature']}" if "temperature" in sampling else "the server's own temperature"
    )
    top_p = f", top-p {sampling['top_p']}" if "top_p" in sampling else ""
    return {"decoding": f"sampled at {temperature}{top_p}", "sampling": sampling}


def _in_words(stage) -> str:
    evaluation = stage.evaluation
    if not evaluation.temperature:
        return "greedy decoding"
    parts = [f"sampled at temperature {evaluation.temperature:g}"]
    if evaluation.top_p < 1:
        parts.append(f"top-p {evaluation.top_p:g}")
    if evaluation.top_k > 0:
        parts.append(f"top-k {evaluation.top_k}")
    return ", ".join([*parts, f"seed {stage.seed}"])


def partial_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"predictions_{split}.partial.jsonl"


class PartialFile:
    """The partial file of an evaluation.

    Args:
        path: of the main process' file, see `partial_path`.
        header: what decides a completion, as plain data.

    Attributes:
        completions: row -> completion, from an earlier evaluation with this header; the same in all processes.
    """

    def __init__(self, path: Path, header: dict):
        self.path, self.header = Path(path), json.loads(json.dumps(header))
        state = PartialState()
        earlier = self._collect() if state.is_main_process else None
        self.completions: dict[int, str] = broadcast_object_list([earlier])[0]
        own = self.path if state.is_main_process else self.path.with_suffix(f".{state.process_index}.jsonl")
        if not state.is_main_process:
            write_rows(own, [{"header": self.header}])
        self._file = own.open("a", encoding="utf-8")

    def add(self, row: int, completion: str, cut_off: bool) -> None:
        """Write a completion at once; JSON in ASCII, so that a cut line is the only thing that can go wrong."""
        content = {"row": row, "completion": completion} | ({"cut_off": True} if cut_off else {})
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _collect(self) -> dict[int, str]:
        """Return what all processes of an earlier evaluation wrote, and gather it in the main process' file."""
        completions, kept, discarded = {}, {}, []
        others = [path for path in _files(self.path) if path != self.path]
        for path in _files(self.path):
            try:
                first, *rows = read_rows(path, last_may_be_cut=True) or [{}]
                if first.get("header") != self.header:
                    discarded.append(_difference(first.get("header"), self.header))
                    continue
                completions |= {row["row"]: row["completion"] for row in rows}
                kept |= {row["row"]: row for row in rows}
            except (UserError, KeyError, TypeError, AttributeError, ValueError) as error:
                discarded.append(f"it is broken ({error})")
        if discarded:
            tqdm.write(f"{self.path}: not used, because {discarded[0]}; starting over")
        if completions:
            tqdm.write(f"{self.path}: {len(completions)} completions found; continuing with the other rows")
        write_rows(self.path, [{"header": self.header}, *kept.values()])
        for path in others:
            path.unlink()
        return completions


def count_cut_off(path: Path) -> int:
    """Return how many completions in the partial files of all processes were cut off."""
    return sum(row.get("cut_off", False) for each in _files(path) for row in read_rows(each))


def remove_partial(path: Path) -> None:
    """Remove the partial files of all processes."""
    for each in _files(path):
        each.unlink()


def _files(path: Path) -> list[Path]:
    ending = ".jsonl"
    return sorted(path.parent.glob(f"{path.name.removesuffix(ending)}*{ending}"))


def _difference(other, header: dict) -> str:
    if not isinstance(other, dict):
        return "it does not say how it was made"
    keys = [key for key in header | other if other.get(key) != header.get(key)]
    return f"it was made with other {', '.join(keys)}"
