"""Throughput of the shared scorer, in replies per second, against a plain loop over the same model.

python benchmarks/scorer.py --data shared/data/empathetic_dialogues     # about a minute on two cores
python benchmarks/scorer.py --size base

The texts are 2,048 listener replies, 30 % of which repeat another one, as the completions of a policy do. The plain
loop takes them in their original order, in batches of 64 that are padded to their longest reply, in inference mode and
without a cache. `cold` starts with an empty cache, and `warm` scores the same replies again. The scores must agree to
1e-5. The last line is the cold ratio.
"""

import argparse
import csv
import functools
import gzip
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import in_turns, print_ratio, print_table
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaTokenizer

from empathy_trl.models.classifier import load_classifier
from empathy_trl.models.scorer import Scorer, resolve_device

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "empathetic_dialogues"
SIZES = {"tiny": (1, 16, 2), "small": (6, 384, 6), "base": (12, 768, 12)}  # layers, width, heads
PLAIN_BATCH = 64
REPEATED = 0.3
PLAIN, COLD, WARM = "plain loop", "shared scorer, cold", "shared scorer, warm"


def replies(folder: Path) -> tuple[list[str], str]:
    """Return different replies in their order, and where from: EmpatheticDialogues, else the embedded corpus."""
    if folder.is_dir():
        texts = []
        for file in sorted(folder.glob("*.jsonl.gz")):
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                turns = [turn for line in lines for turn in json.loads(line)["utterances"]]
                texts += [turn["text"] for turn in turns if turn["speaker"] == "listener"]
        return list(dict.fromkeys(texts)), f"listener replies of {folder.name}"
    texts = []
    for file in sorted((ROOT / "empathy_trl" / "data" / "sample").glob("*.csv")):
        with open(file, encoding="utf-8", newline="") as rows:
            texts += [row[column] for row in csv.DictReader(rows) for column in ("text", "reply") if row[column]]
    return list(dict.fromkeys(texts)), f"texts of the embedded corpus, because there is no folder {folder}"


def with_repeats(texts: list[str], count: int) -> list[str]:
    """Return `count` texts in random order, of which the share REPEATED occurs somewhere else in the list."""
    draw = random.Random(0)
    different = draw.sample(texts, round(count * (1 - REPEATED)))
    mixed = different + draw.choices(different, k=count - len(different))
    draw.shuffle(mixed)
    return mixed


def save_model(folder: str, texts: list[str], size: str) -> None:
    """Save a random RoBERTa with three outputs, and a tokenizer trained on the texts."""
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(texts, vocab_size=8000, special_tokens=special, show_progress=False)
    content = json.loads(bpe.to_str())["model"]
    tokenizer = RobertaTokenizer(content["vocab"], [tuple(merge) for merge in content["merges"]], model_max_length=256)
    layers, width, heads = SIZES[size]
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=258,
        initializer_range=0.05,  # wide enough for the scores of different texts to differ by much more than 1e-5
        num_labels=3,
        problem_type="regression",
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain_loop(model, tokenizer, texts: list[str]) -> np.ndarray:
    """Return the scores of a loop as one writes it first."""
    scores = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(texts), PLAIN_BATCH):
            batch = tokenizer(texts[start : start + PLAIN_BATCH], truncation=True, padding=True, return_tensors="pt")
            scores.append(model(**batch.to(model.device)).logits.cpu().numpy())
    return np.concatenate(scores)


def compare(folder: str, texts: list[str], rounds: int) -> tuple[dict[str, float], float]:
    """Return the median seconds of each way, and the largest difference between their scores."""
    scores = {}

    def timed(name, function):
        start = time.perf_counter()
        scores[name] = function(texts)
        return {name: time.perf_counter() - start}

    model, tokenizer = load_classifier(folder)
    model.to(resolve_device(None))

    def ours():
        scorer = Scorer(model, tokenizer)
        return timed(COLD, scorer.score) | timed(WARM, scorer.score)

    ways = {"plain": lambda: timed(PLAIN, functools.partial(plain_loop, model, tokenizer)), "ours": ours}
    medians = in_turns(ways, rounds, warm_up=1, label="rounds")
    difference = max(float(np.abs(scores[way] - scores[PLAIN]).max()) for way in (COLD, WARM))
    return medians["plain"] | medians["ours"], difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of EmpatheticDialogues (*.jsonl.gz)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the RoBERTa (default small)")
    parser.add_argument("--texts", type=int, default=2048, help="how many replies (default 2048)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    args = parser.parse_args()
    found, source = replies(args.data)
    texts = with_repeats(found, min(args.texts, int(len(found) / (1 - REPEATED))))
    layers, width, _ = SIZES[args.size]
    print(f"{len(texts)} {source}, {len(texts) - len(set(texts))} repeated; RoBERTa, {layers} layers, {width} wide")
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, found, args.size)
        seconds, difference = compare(folder, texts, args.rounds)
    if difference > 1e-5:
        raise SystemExit(f"the scores differ by {difference:.1e}; expected at most 1e-5")
    rows = [[way, f"{time:.3f}", len(texts) / time, seconds[PLAIN] / time] for way, time in seconds.items()]
    print_table([["way", "seconds", "texts/s", "ratio"], *rows])
    cold, warm = seconds[PLAIN] / seconds[COLD], seconds[PLAIN] / seconds[WARM]
    print(f"largest difference of a score: {difference:.1e}")
    print(f"cold {cold:.2f} × · warm {warm:.1f} ×")
    print_ratio([cold])


if __name__ == "__main__":
    main()
