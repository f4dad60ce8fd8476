"""Frozen classifiers, regressors and bi-encoders that score texts, for rewards, evaluations and `predict`.

A `Scorer` holds one model, a `BiEncoderScorer` one that compares the texts of pairs; `shared_scorer` loads a model once per
process and device for all rewards that use it. It is fast for these reasons, the largest saving first:

* It caches the scores of recent texts. GRPO repeats completions, and two rewards may use the same model.
* A text that occurs several times in a call is scored once.
* Texts are sorted by length and batched by tokens, which avoids most padding. In their original order, batches are
  padded to their longest text; with replies of 5 to 60 tokens, padding is more than half of the work.
* It uses half precision on a GPU, and inference mode.

A failure raises an error and never becomes a number, because a policy would be trained on it. `predict` returns scores
in the units of the training labels, and `predict_outputs` the raw outputs for the rows of a data set.
"""

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from empathy_trl.cli import Progress
from empathy_trl.engine import shared
from empathy_trl.errors import UserError, show
from empathy_trl.io import user_name
from empathy_trl.models.adapters import example_inputs, merge_adapter
from empathy_trl.models.classifier import load_bi_encoder, load_classifier, pool, pooling_modes
from empathy_trl.models.hub_files import ADAPTER_FILE, adapter_base, one_revision
from empathy_trl.models.label_schema import CLASSIFICATION, REGRESSION, label_groups, label_names, probabilities
from empathy_trl.models.limits import check_vocabulary, position_limit
from empathy_trl.text import normalize

logger = logging.getLogger(__name__)

CACHE_SIZE = 100_000  # scores; about 300 bytes each, however long the texts are
VECTORS = 10_000  # of a bi-encoder; 4 kB each for one as large as BERT-large
TOKENS_ON_CPU, TOKENS_ON_GPU = 2048, 8192  # per batch; on two cores 2048 are faster than 512 and than 8192
LONGEST = 512  # tokens per text where neither the model nor its tokenizer says it
MODEL_FILES = ("*.safetensors", "*.bin", "config.json", ADAPTER_FILE, "tokenizer*", "vocab*", "*.model")
MODEL_FILES += ("modules.json", "sentence_bert_config.json", "*_Pooling/config.json")

Text = str | tuple[str, str]

_device_locks: dict[str, threading.Lock] = {}


@dataclass
class Counts:
    """What a scorer has done so far.

    Attributes:
        texts: how many it was given.
        cache_hits: how many of them it had scored in an earlier call.
        forwarded: how many went through the model; the rest occurred twice in a call.
        cut: how many of those that went through the model were longer than it reads, and lost their end.
        seconds: time spent, loading and waiting for the device excluded.
    """

    texts: int = 0
    cache_hits: int = 0
    forwarded: int = 0
    cut: int = 0
    seconds: float = 0.0


class Scorer:
    """A sequence classification model, put into evaluation mode, with a cache. It must not be trained meanwhile.

    Safe to call from several threads. Scorers on one device take turns, those on different devices run side by side.

    Args:
        model, tokenizer: as `load_classifier` returns them, on the device where they stay.
        name: for messages.
        tokens_per_batch: padding included; 8192 on a GPU and 2048 on a CPU by default.
        cache_size: scores to keep; the least recently used go first.

    Attributes:
        config: the model's; see `empathy_trl.models.label_schema`.
        width: numbers per text.
        max_length: tokens of a text, or of both of a pair: as in training, and no more than the model has positions.
        counts: totals so far.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "the model",
        *,
        tokens_per_batch: int | None = None,
        cache_size: int = CACHE_SIZE,
    ):
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.config, self.device = model.config, str(model.device)
        self.width = self.config.num_labels
        check_vocabulary(model, tokenizer, name)
        longest = getattr(self.config, "text_max_length", None) or min(tokenizer.model_max_length, LONGEST)
        self.max_length = min(longest, position_limit(model) or longest)
        self.tokens_per_batch = tokens_per_batch or (TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS_ON_GPU)
        self.cache_size = cache_size
        self.counts = Counts()
        self._cache: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = _device_locks.setdefault(self.device, threading.Lock())

    def score(self, texts: Sequence[Text], log: Callable[[str, float], None] | None = None) -> np.ndarray:
        """Return the logits of texts in their order, float32 of shape (texts, outputs).

        Args:
            texts: strings, or (text, pair) tuples, not both. Too long ones lose their end, of a pair the longer one; the first are warned of,
                and `counts.cut` counts them.
            log: takes `texts_per_second` and `cache_hit_share` of this call.

        Raises:
            UserError: the model gives nan or infinity, its tokenizer makes nothing of a text, or memory runs out.
            RuntimeError: the model fails in another way.
        """
        with self._lock:
            start = time.perf_counter()
            keys = [_key(text) for text in texts]
            scores = {key: self._cache[key] for key in keys if key in self._cache}
            hits = sum(key in scores for key in keys)
            new = {key: text for key, text in zip(keys, texts, strict=True) if key not in scores}
            scores.update(zip(new, self._score_new(list(new.values())), strict=True))
            self._remember(scores)
            seconds = time.perf_counter() - start
            self.counts.texts += len(keys)
            self.counts.cache_hits += hits
            self.counts.forwarded += len(new)
            self.counts.seconds += seconds
        if log is not None and keys:
            log("texts_per_second", len(keys) / seconds)
            log("cache_hit_share", hits / len(keys))
        return np.stack([scores[key] for key in keys]) if keys else np.empty((0, self.width), np.float32)

    def _remember(self, scores: dict[bytes, np.ndarray]) -> None:
        """Put scores at the fresh end of the cache and forget the oldest ones."""
        self._cache.update(scores)
        for key in scores:
            self._cache.move_to_end(key)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)

    def _score_new(self, texts: list[Text]) -> Iterator[np.ndarray]:
        """Return the logits of different texts, one row each."""
        if not texts:
            return iter(())
        encoded = self._tokenize(texts)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        if min(lengths) == 0:
            raise UserError(f"{self.name}: its tokenizer returns no tokens for {show(texts[lengths.index(0)])}")
        logits = np.empty((len(texts), self.width), np.float32)
        with Progress("score", len(texts), "text", delay=2) as bar:
            for rows in token_batches(lengths, self.tokens_per_batch):
                logits[rows] = self._forward({key: [values[row] for row in rows] for key, values in encoded.items()})
                bar.update(len(rows))
        if not np.isfinite(logits).all():
            row = int(np.argmin(np.isfinite(logits).all(axis=1)))
            raise UserError(
                f"{self.name}: gives {logits[row].tolist()} for {show(texts[row])}; its weights are broken, or overflow "
                f"in {self.model.dtype} on {self.device} (try device: cpu, which computes in float32)"
            )
        return iter(logits)

    def _tokenize(self, texts: list[Text]) -> dict[str, list[list[int]]]:
        """Return the model's inputs without padding, all texts in one call of the tokenizer."""
        pairs = None
        if isinstance(texts[0], tuple):
            texts, pairs = zip(*texts, strict=True)
            pairs = [self._normalized(pair) for pair in pairs]
        texts = [self._normalized(text) for text in texts]
        encoded = self.tokenizer(texts, pairs, truncation=True, max_length=self.max_length).data
        full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) == self.max_length]
        if full:
            pairs_of_full = pairs and [pairs[row] for row in full]
            whole = self.tokenizer([texts[row] for row in full], pairs_of_full, verbose=False)["input_ids"]
            self._count_cut(sum(len(ids) > self.max_length for ids in whole), len(texts))
        return encoded

    def _count_cut(self, cut: int, texts: int) -> None:
        """Count texts that lose their end, and warn of the first ones."""
        if cut and not self.counts.cut:
            logger.warning(
                "%s: %d of %d texts are longer than %d tokens, the most it reads, and lose their end; later ones are only counted",
                self.name, cut, texts, self.max_length,
            )  # fmt: skip
        self.counts.cut += cut

    def _normalized(self, text: str) -> str:
        """Return a text as the model's training texts were prepared."""
        switches = getattr(self.config, "text_normalization", None)
        if switches is not None:
            text = normalize(text, **switches)
        return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair would stop the tokenizer

    def _forward(self, batch: dict[str, list[list[int]]]) -> np.ndarray:
        """Return the logits of one batch."""
        inputs = self.tokenizer.pad(batch, return_tensors="pt").to(self.device)
        try:
            with torch.inference_mode():
                return self._outputs(inputs).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.name}: out of memory on {self.device} with {inputs['input_ids'].numel()} tokens; give the reward "
                "another device (device: cuda:1, or cpu), or the policy less memory"
            ) from error
        except (RuntimeError, IndexError) as error:
            raise RuntimeError(
                f"{self.name}: fails on {self.device} for a batch of shape {tuple(inputs['input_ids'].shape)}; does its "
                f"tokenizer belong to it, and are {self.max_length} tokens (text_max_length in its config.json) not too "
                f"many? {error}"
            ) from error

    def _outputs(self, inputs) -> torch.Tensor:
        """Return what the model says of the texts of a batch, of shape (texts, width)."""
        return self.model(**inputs).logits


class BiEncoderScorer(Scorer):
    """A bi-encoder, which reads the two texts of a pair apart. Its one output is the cosine of their vectors.

    The cache holds vectors of texts and not scores of pairs: a text that is compared with ten others is read once.

    Args:
        model, tokenizer: as `load_bi_encoder` returns them.
        name: for messages.
        modes: how the model pools, as `pooling_modes` returns them.
        **sizes: see `Scorer`.
    """

    def __init__(self, model, tokenizer, name: str, modes: list[str], *, cache_size: int = VECTORS, **sizes):
        super().__init__(model, tokenizer, name, cache_size=cache_size, **sizes)
        self.modes = modes
        self.width = len(modes) * self.config.hidden_size

    def score(self, texts: Sequence[Text], log: Callable[[str, float], None] | None = None) -> np.ndarray:
        """Return the cosines of pairs in their order, float32 of shape (pairs, 1), from -1 to 1.

        Args and raises: as `Scorer.score`, which counts both texts of a pair; a text without a pair raises UserError.
        """
        if alone := [text for text in texts if isinstance(text, str)]:
            raise UserError(
                f"{self.name}: is a bi-encoder, which compares two texts; expected (text, pair) tuples, got {show(alone[0])}"
            )
        firsts, seconds = np.split(super().score([text for side in zip(*texts, strict=True) for text in side], log), 2)
        return (firsts * seconds).sum(axis=1, keepdims=True)

    def _outputs(self, inputs) -> torch.Tensor:
        return pool(self.model(**inputs).last_hidden_state, inputs["attention_mask"], self.modes)


_scorers: dict[tuple, tuple[tuple, Scorer]] = {}
_scorers_lock = threading.Lock()


def shared_scorer(name: str, revision: str | None = None, device: str | None = None) -> Scorer:
    """Return this process's scorer of a model on a device; the first call loads it.

    The files of a local folder are looked at in every call: a model that was trained again is loaded again, with an empty
    cache.

    Args:
        name: Hub id (also `USER/REPO@revision`) or folder of a full model, of a LoRA adapter (merged into its base here), or of a
            bi-encoder.
        revision: branch, tag or commit on the Hub.
        device: `cpu`, `cuda` or `cuda:1`; None and `cuda` mean this process's own GPU, None the CPU where there is none.

    Raises:
        UserError: the model cannot be loaded, its head is not trained, or there is no such device.
    """
    name, revision = one_revision(user_name(name), revision)
    key = name, revision, resolve_device(device)
    with _scorers_lock:
        files = model_files(key[0])
        if key not in _scorers or _scorers[key][0] != files:
            _scorers.pop(key, None)  # its memory is free before the next one is loaded
            _scorers[key] = files, _load(*key)
        return _scorers[key][1]


@contextmanager
def kept_caches() -> Iterator[None]:
    """After the block, the shared scorers remember the texts that they remembered before it, and no others.

    A text in another batch has another padding, and a score that may differ in the last bit: what is scored in the block does
    not change the scores of later texts.
    """
    with _scorers_lock:
        caches = {scorer: scorer._cache.copy() for _, scorer in _scorers.values()}
    try:
        yield
    finally:
        for scorer, cache in caches.items():
            scorer._cache = cache


def _load(name: str, revision: str | None, device: str) -> Scorer:
    if (modes := pooling_modes(name, revision)) is not None:
        model, tokenizer = load_bi_encoder(name, revision, _dtype(device))
        return BiEncoderScorer(model.to(device).requires_grad_(False), tokenizer, name, modes)
    model, tokenizer = load_classifier(name, revision=revision, dtype=_dtype(device))
    if isinstance(model, PeftModel):
        model, _ = merge_adapter(model, example_inputs(model, tokenizer), name=name)
    return Scorer(model.to(device).requires_grad_(False), tokenizer, name)


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield the rows of batches of about equal lengths, the longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each row.
        tokens_per_batch: largest number of rows × longest row; a single row may have more.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens_per_batch:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def resolve_device(device: str | None) -> str:
    """Return `cpu` or `cuda:<index>`; None is this process's own GPU, or the CPU where there is none.

    Raises:
        UserError: no device of this name is here.
    """
    count = torch.cuda.device_count()
    if device in (None, "cuda") and count:
        # a launcher may also show every process a single GPU
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}"
    try:
        chosen = torch.device(device or "cpu")
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and (chosen.index or 0) >= count):
        here = ["cpu", *(f"cuda:{index}" for index in range(count))]
        raise UserError(f"device: {device!r} is not available (choices: {', '.join(here)})")
    return str(chosen)


def model_files(name: str) -> tuple:
    """Return the state of a local model's files: names, sizes and times; of an adapter its base's too. () on the Hub."""
    folder = Path(name)
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}) if folder.is_dir() else []
    files = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    if (folder / ADAPTER_FILE).is_file():
        base, _ = adapter_base(folder / ADAPTER_FILE, name)
        files += model_files(base)
    return files


def _dtype(device: str) -> torch.dtype:
    if torch.device(device).type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _key(text: Text) -> bytes:
    """Return a short name for a text or pair; `repr` keeps a pair apart from a text that looks like one."""
    return hashlib.blake2b(repr(text).encode(), digest_size=16).digest()


def predict(
    name: str | Path | tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase],
    texts: Sequence[Text],
    *,
    revision: str | None = None,
    device: str | None = None,
    problem_type: str | None = None,
) -> list[dict]:
    """Return the ratings or the label probabilities of texts.

    A regressor gives `{"Emotion": 2.1, "Empathy": 3.4}`: the model's own numbers, in the units of its training labels
    and not clipped to their range. A classifier gives probabilities by group and label: `{"intent": {"agreeing": 0.7,
    …}}`. A bi-encoder gives `{"cosine": 0.77}` for a pair.

    Args:
        name: folder or Hub id of a full model or an adapter; or model and tokenizer, as `load_classifier` returns them.
        texts: strings, or (text, pair) tuples for a model of pairs.
        revision: branch, tag or commit on the Hub, of a model that is loaded here.
        device: `cpu`, `cuda` or `cuda:1`, of a model that is loaded here; by default the GPU where there is one.
        problem_type: `regression` or `single_label_classification`, for a model whose config does not say.

    Raises:
        UserError: a text is of another type, the model cannot be used, or its problem type is unknown.
    """
    _check_texts(texts)
    scorer = Scorer(*name) if isinstance(name, tuple) else shared_scorer(str(name), revision, device)
    kind = problem_type or scorer.config.problem_type
    if kind not in (REGRESSION, CLASSIFICATION):
        raise UserError(
            f"{scorer.name}: problem_type in its config.json is {kind!r}; give problem_type (choices: {REGRESSION}, "
            f"{CLASSIFICATION})"
        )
    logits = scorer.score(texts)
    if kind == REGRESSION:
        names = label_names(scorer.config)
        return [dict(zip(names, row, strict=True)) for row in logits.tolist()]
    groups = label_groups(scorer.config)
    shares = {group: rows.tolist() for group, rows in probabilities(scorer.config, logits).items()}
    return [
        {group: dict(zip(labels, shares[group][row], strict=True)) for group, labels in groups.items()}
        for row in range(len(logits))
    ]


def _check_texts(texts) -> None:
    if isinstance(texts, str):
        raise UserError("texts: a single string; expected a list of them")
    for row, text in enumerate(texts):
        parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f"texts[{row}]: {show(text)} is neither a string nor a (text, pair) tuple of strings")


def predict_outputs(scorer, rows) -> np.ndarray:
    """Return the outputs of a model, float32 of shape (rows, outputs): ratings, or logits.

    Args:
        scorer: a `scorer.Scorer`.
        rows: a `datasets.Dataset` with the column `text` and, for pairs, `pair`.
    """
    texts = list(zip(rows["text"], rows["pair"], strict=True)) if "pair" in rows.column_names else list(rows["text"])
    return np.array(shared(texts, lambda own: scorer.score(own).tolist()), dtype=np.float32)
