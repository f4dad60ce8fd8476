"""Speed of evaluation: evaluate.py against a plain generation loop.

python benchmarks/evaluation.py                                      # about two minutes on two cores
python benchmarks/evaluation.py --data shared/data/ed_easy_4 --model outputs/ed4_tiny/grpo

Both generate greedy answers for all test rows of ED_easy_4 (328 rows with `--data`; the embedded corpus without it).
The model is the tiny model of `ed4_tiny.yaml` after its warm start. It is trained here unless `--model` names a folder,
because a model with random weights would never end an answer. The plain loop takes the prompts in their original order,
eight at a time, padded to the longest of them, with `model.generate`. Our side is what `recipes/evaluate.py` does with
the same recipe, including writing the completions to disk. Both use the same tokens and end tokens, and the completions
must be the same. The last line is the ratio of the medians.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from harness import in_turns, print_ratio, print_table

import empathy_trl.data
from empathy_trl.evaluation.generation import generate_shared, partial_path, remove_partial
from empathy_trl.models.batching import completion_of, end_tokens, pad, prompt_tokens
from empathy_trl.models.load import load_or_build
from empathy_trl.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "ed_easy_4"
PLAIN_BATCH = 8
PLAIN, OURS = "plain loop", "evaluate.py"


def train(stage, folder: Path) -> Path:
    """Train a stage by itself with `recipes/run.py` and return the folder of its model."""
    recipe = folder / "warm_start.yaml"
    recipe.write_text(yaml.safe_dump(stage.resolved() | {"evaluation": {"limit": 1}}), encoding="utf-8")
    print("training the model first (the warm start of ed4_tiny.yaml)", file=sys.stderr, flush=True)
    command = [sys.executable, ROOT / "recipes" / "run.py", "--recipe", recipe, "--output_dir", folder / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the warm start failed:\n{done.stderr}")
    return next(path.parent for path in (folder / "run").rglob("config.json"))


def plain_loop(model, tokenizer, prompts: list[list[dict]], max_new_tokens: int) -> list[str]:
    """Return the completions of a loop as one writes it first."""
    completions, stops = [], end_tokens(model, tokenizer)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(prompts), PLAIN_BATCH):
            ids, mask = pad(
                prompt_tokens(tokenizer, prompts[start : start + PLAIN_BATCH]), tokenizer.pad_token_id, "left"
            )
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
            )
            completions += [completion_of(tokenizer, row, stops) for row in output[:, ids.shape[1] :].tolist()]
    return completions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of ED_easy_4 (default: the embedded corpus)")
    parser.add_argument("--model", help="folder of a model that is trained already")
    parser.add_argument("--limit", type=int, help="only the first rows (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    args = parser.parse_args()
    source = str(args.data.resolve()) if args.data.is_dir() else "sample"
    stage = load_recipe("ed4_tiny", ["--data.path", source]).choose_stage("sft")
    prompts = list(empathy_trl.data.build(stage.data, "test", "grpo")["prompt"])[: args.limit]
    completions = {}

    def timed(name, function):
        start = time.perf_counter()
        completions[name] = function()
        return {"seconds": time.perf_counter() - start}

    with tempfile.TemporaryDirectory() as folder:
        trained = args.model or train(stage, Path(folder))
        section = stage.model.model_copy(update={"name_or_path": str(trained), "from_scratch": None})
        model, tokenizer = load_or_build(section, seed=stage.seed, is_trainable=False)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        partial, limit = partial_path(folder, "test"), stage.evaluation.max_new_tokens

        def ours():
            try:
                return generate_shared(
                    model, tokenizer, prompts, stage.evaluation.batch_size, stage, backend="auto", partial=partial
                )
            finally:
                remove_partial(partial)

        ways = {PLAIN: lambda: plain_loop(model, tokenizer, prompts, limit), OURS: ours}
        medians = in_turns(
            {name: lambda name=name, way=way: timed(name, way) for name, way in ways.items()},
            args.rounds,
            warm_up=1,
            label="rounds",
        )
    if differing := sum(one != other for one, other in zip(*completions.values(), strict=True)):
        raise SystemExit(f"{differing} of {len(prompts)} completions differ; expected none")
    print(f"{len(prompts)} test rows of {args.data.name if source != 'sample' else 'the embedded corpus'}")
    seconds = {name: figures["seconds"] for name, figures in medians.items()}
    rows = [[name, value, len(prompts) / value] for name, value in seconds.items()]
    print_table([["way", "seconds", "rows/s"], *rows])
    print_ratio([seconds[PLAIN] / seconds[OURS]])


if __name__ == "__main__":
    main()
