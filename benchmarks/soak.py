"""Kill runs with SIGKILL at random moments, start them again, and compare what they end with to an undisturbed run.

python benchmarks/soak.py                                    # or `make soak`: 20 kills of three recipes
python benchmarks/soak.py --recipes ecr_tiny --kills 3 --seed 7

Each recipe, shortened, runs once undisturbed. This run also notes the phases and how long each takes. Each kill then gets a run of
its own in an empty folder: a moment inside a phase is drawn, the run kills itself there, and the same command is started again
until it completes. About a quarter of the second starts are killed, too, at any moment. In phases that write files, the kill comes
between two files or inside one, which is then cut to a random length.

At the end, every file must be that of the undisturbed run: weights, optimizers and pictures byte for byte, and logs, results,
report and card except for times. No file may be missing or left over. The exit status is 1 if anything differs, and the folders
that differ are kept. `--seed` draws the same moments again.
"""

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

LOCK_FILE = ".empathy-trl.lock"  # its text is written in one go
ANY, SAVING, BETWEEN = "any moment", "checkpoint", "between stages"
# function -> its phase. Files that are written outside of a training are written between stages
WATCHED = {
    "trl:GRPOTrainer._generate": "generation",
    "trl:GRPOTrainer._calculate_rewards": "reward",
    "accelerate:Accelerator.backward": "backward",
    "transformers:Trainer._save_checkpoint": SAVING,
    "transformers:Trainer.save_model": SAVING,
    "empathy_trl.recipe.stages:StageFolder.save": SAVING,
    "empathy_trl.evaluation.held_out:HeldOutEvaluation._figures": "held-out evaluation",
    "empathy_trl.tasks:write_card": BETWEEN,
    "empathy_trl.tasks:_trainer": BETWEEN,
    "empathy_trl.tasks:_write_report": BETWEEN,
    "empathy_trl.tasks:evaluate_model": "test evaluation",
}
PHASES = (*dict.fromkeys(WATCHED.values()), ANY)
# functions that write files in C++ and Rust; the others are seen by Python's audit hooks
WRITERS = ("torch:save", "transformers.modeling_utils:safe_save_file")
WRITES, DELETES = ("open", "os.rename"), ("os.remove", "shutil.rmtree")

# stage -> what shortens and changes it; the keys without a dot are those of its trainer
ALL = {"save_strategy": "steps", "logging_steps": 1, "save_total_limit": 2}
RECIPES = {
    "ed4_tiny": {
        "sft": {"max_steps": 60, "save_steps": 25, "evaluation.every": 25, "evaluation.rows": 32},
        "grpo": {
            "max_steps": 24,
            "save_steps": 5,
            "per_device_train_batch_size": 32,
            "steps_per_generation": 2,
            "num_iterations": 2,
            "dynamic_sampling": True,
            "skip_solved": 1,
            "evaluation.every": 4,
            "evaluation.rows": 32,
            "evaluation.best": "accuracy",
            "evaluation.patience": 5,
        },
    },
    "ecr_tiny": {
        "sft": {"max_steps": 20, "save_steps": 8},
        "critic": {"max_steps": 24, "save_steps": 10, "evaluation.every": 8, "evaluation.rows": 32},
        "ppo": {
            "max_steps": 9,
            "save_steps": 4,
            "per_device_train_batch_size": 32,
            "critic_warmup_steps": 2,
            "evaluation.every": 3,
            "evaluation.rows": 16,
            "evaluation.best": "distinct_2",
        },
    },
    "empath_tiny": {
        "sft": {"max_steps": 20, "save_steps": 8},
        "grpo": {
            "max_steps": 6,
            "save_steps": 2,
            "per_device_train_batch_size": 16,
            "max_completion_length": 60,
            "model.lora.r": 4,
            "evaluation.every": 3,
            "evaluation.rows": 16,
            "evaluation.max_new_tokens": 60,
        },
    },
}
EVALUATION = {"evaluation.limit": 48}
# endings of the keys that no two runs have in common, in run.json and in the logs
TIMES = ("started", "train_seconds", "sessions", "energy", "step_time", "_runtime", "_per_second")


def overrides(recipe: str) -> list[str]:
    """Return the flags that shorten a recipe."""
    settings = dict(EVALUATION)
    for stage, changes in RECIPES[recipe].items():
        for key, value in (ALL | changes).items():
            settings[f"stages.{stage}.{key if '.' in key else f'trainer.{key}'}"] = value
    return [text for key, value in settings.items() for text in (f"--{key}", str(value).lower())]


class Watch:
    """Watches the phases of the run in this process, and kills it where a plan says.

    Args:
        plan: `phase` and `call` (number, from 0) of the kill, and either `seconds` after which, or `writes` after which it
            comes and the share of the newest file that is `left` (None: all of it); empty if the run is to be undisturbed.
        log: file that gets a row for every call of a phase; in a killed run only for the last one.
    """

    def __init__(self, plan: dict, log: Path):
        self.plan, self.log = plan, log
        self.calls, self.depth, self.trainer, self.stage = Counter(), 0, None, None
        self.writes, self.is_planned, self.complete = 0, False, set()
        sys.addaudithook(self.hear)
        for path in WRITERS:
            self.patch(path, self.writer)
        for path, phase in WATCHED.items():
            self.patch(path, lambda function, phase=phase: self.watched(function, phase))
        self.patch("transformers:Trainer.train", self.training)
        for name in ("train_stage", "evaluate_stage"):
            self.patch(f"empathy_trl.tasks:{name}", self.staged)

    def patch(self, path: str, wrap):
        module, _, name = path.partition(":")
        owner, (*classes, name) = importlib.import_module(module), name.split(".")
        for each in classes:
            owner = getattr(owner, each)
        setattr(owner, name, wrap(getattr(owner, name)))

    def writer(self, function):
        def wrapped(*args, **kwargs):
            self.count("write")
            return function(*args, **kwargs)

        return wrapped

    def staged(self, function):
        def wrapped(run):
            self.stage = run
            return function(run)

        return wrapped

    def training(self, function):
        def wrapped(trainer, *args, **kwargs):
            self.trainer = trainer
            try:
                return function(trainer, *args, **kwargs)
            finally:
                self.trainer = None

        return wrapped

    def watched(self, function, phase: str):
        def wrapped(*args, **kwargs):
            if self.depth:
                return function(*args, **kwargs)
            name = BETWEEN if phase == SAVING and self.trainer is None else phase
            number, self.calls[name] = self.calls[name], self.calls[name] + 1
            self.is_planned = (name, number) == (self.plan.get("phase"), self.plan.get("call"))
            timer = None
            if self.is_planned and "seconds" in self.plan:
                timer = threading.Timer(self.plan["seconds"], self.kill, [name])
                timer.start()
            self.depth, self.writes, start = 1, 0, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth = 0
                if self.is_planned:
                    self.kill(name)  # it was faster than in the undisturbed run
                if not self.plan:
                    self.note(phase=name, call=number, seconds=time.perf_counter() - start, writes=self.writes)

        return wrapped

    def hear(self, event: str, args: tuple):
        if event not in WRITES + DELETES or threading.current_thread() is not threading.main_thread():
            return
        if event != "open" or (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            self.count(event, args)

    def count(self, event: str, args: tuple = ()):
        """Note that a file is about to be written, renamed or deleted: the one that was written before it is complete."""
        if not self.depth:
            return
        if self.is_planned and self.writes == self.plan.get("writes"):
            self.kill(self.plan["phase"])
        self.writes += 1
        if event == "os.rename":
            self.complete.add(Path(args[1]).resolve())  # it takes the place of the old one in one go
        elif event in DELETES:
            self.complete |= set(self.files())

    def files(self) -> list[Path]:
        return [path.resolve() for path in self.stage.folder.rglob("*") if path.is_file()] if self.stage else []

    def kill(self, phase: str):
        """Cut the newest file short if the plan says so, note it, and end this process as the out-of-memory killer would."""
        newest = max(self.files(), key=lambda path: path.stat().st_mtime_ns, default=None)
        cut = None
        if (
            self.plan.get("left") is not None
            and newest is not None
            and newest not in self.complete | {newest.with_name(LOCK_FILE)}
        ):
            os.truncate(newest, int(newest.stat().st_size * self.plan["left"]))
            cut = str(newest.relative_to(self.stage.folder.resolve()))
        self.note(phase=phase, cut=cut)
        os.kill(os.getpid(), signal.SIGKILL)

    def note(self, **row):
        step = self.trainer.state.global_step if self.trainer else None
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage and self.stage.name, "step": step, **row}) + "\n")


def inside(plan: str, log: str, arguments: list[str]) -> int:
    """Do what `empathy-trl run` does, watched."""
    from empathy_trl.commands.run import run

    Watch(json.loads(plan), Path(log))
    return run(arguments)


class Soak:
    """The runs of one recipe, in folders of their own with the same names inside.

    Attributes:
        calls: phase -> what the undisturbed run noted of its calls.
        seconds: what the undisturbed run took.
    """

    def __init__(self, recipe: str, folder: Path):
        self.recipe, self.folder = recipe, folder / recipe
        start = time.monotonic()
        self.calm = self.folder / "undisturbed"
        if status := self.start(self.calm, {}):
            raise SystemExit(f"{recipe}: the undisturbed run ended with status {status}; see {self.calm}/run.log")
        self.seconds = time.monotonic() - start
        self.calls = {}
        for line in (self.calm / "calls.jsonl").read_text().splitlines():
            row = json.loads(line)
            self.calls.setdefault(row["phase"], []).append(row)
        rows = [json.loads(line) for file in self.calm.rglob("metrics.jsonl") for line in file.read_text().splitlines()]
        if not all(any(row.get(key) for row in rows) for key in ("reward_std", "grad_norm")):
            raise SystemExit(f"{recipe}: the rewards had no spread, so nothing was learned and nothing can differ")

    def start(self, folder: Path, plan: dict, seconds: float | None = None) -> int:
        """Run the recipe in a folder and return its exit status; after `seconds` it is killed with all its processes."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "inside",
            json.dumps(plan),
            str(folder / "calls.jsonl"),
        ]
        command += ["--recipe", self.recipe, *overrides(self.recipe)]
        with open(folder / "run.log", "a", encoding="utf-8") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
            try:
                return process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                return -signal.SIGKILL
            finally:
                if process.poll() is None or process.returncode < 0:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def plan(self, phase: str, draw: random.Random) -> dict:
        """Draw a moment inside a phase."""
        if phase == ANY:
            return {"phase": ANY, "seconds": draw.uniform(0, 0.8 * self.seconds)}
        call = draw.choice(self.calls[phase])
        plan = {"phase": phase, "call": call["call"]}
        if call["writes"] and draw.random() < 0.8:
            left = draw.random() if draw.random() < 0.6 else None
            return plan | {"writes": draw.randint(0, call["writes"]), "left": left}
        return plan | {"seconds": draw.uniform(0, call["seconds"])}

    def disturb(self, name: str, plans: list[dict]) -> tuple[list[str], list[str]]:
        """Kill a run once for each plan and complete it; return a line for each kill, and what differs."""
        folder, lines, status = self.folder / name, [], None
        for plan in [*plans, {}]:
            is_timed, log, seen = plan.get("phase") == ANY, folder / "run.log", 0
            if lines:
                seen = len(log.read_text(encoding="utf-8"))
            while (status := self.start(folder, plan or {"phase": None}, plan["seconds"] if is_timed else None)) == 0:
                if not is_timed or lines:
                    break
                shutil.rmtree(folder)  # it was faster than in the undisturbed run
                plan["seconds"] /= 2
            if lines:
                lines[-1] += f" -> {resumed(log.read_text(encoding='utf-8')[seen:])}"
            if status != -signal.SIGKILL:
                break
            lines.append(f"{plan['phase']}: " + (f"after {plan['seconds']:.0f} s" if is_timed else self.moment(folder)))
        if status:
            return lines or ["not killed"], [f"ended with status {status}: {folder}/run.log"]
        differing = differences(self.calm / "outputs", folder / "outputs")
        if not differing:
            shutil.rmtree(folder)
        return lines, differing

    def moment(self, folder: Path) -> str:
        """Return in words where the run in a folder killed itself."""
        note = json.loads((folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        step = f", step {note['step']}" if note["step"] is not None else ""
        return f"{note['stage'] or 'before the stages'}{step}" + (f", {note['cut']} cut short" if note["cut"] else "")


def resumed(log: str) -> str:
    """Return in words where a run resumed, from what it printed."""
    first = re.search(r"^\[(\w+)\] (?:resumes from \S*(checkpoint-\d+)|(starts))", log, re.MULTILINE)
    return " ".join(filter(None, first.groups())) if first else "nothing was left to train"


def differences(left: Path, right: Path) -> list[str]:
    """Return the files that are in one folder alone, or differ in more than times."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (left, right)
    ]
    apart = [f"{name} is missing" for name in sorted(names[0] - names[1])]
    apart += [f"{name} is left over" for name in sorted(names[1] - names[0])]
    return apart + [
        f"{name} differs" for name in sorted(names[0] & names[1]) if content(left / name) != content(right / name)
    ]


def content(path: Path):
    """Return the content of a file, without times."""
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".md":
        return re.sub(r"Trained for .* on a machine", "", path.read_text(encoding="utf-8"))
    return path.read_bytes()


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if not key.endswith(TIMES)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def deal(recipes: list[str], kills: int, draw: random.Random) -> list[tuple[str, str]]:
    """Return (recipe, phase) of every kill: each phase equally often, and within a phase each recipe in turn."""
    order = {phase: draw.sample(recipes, len(recipes)) for phase in PHASES}
    rounds = range(-(-kills // len(PHASES)))
    pairs = [
        (order[phase][turn % len(recipes)], phase) for turn in rounds for phase in draw.sample(PHASES, len(PHASES))
    ]
    return sorted(pairs[:kills], key=lambda pair: recipes.index(pair[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills in all (default: 20)")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="default: all")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="seed of the moments (default: random)"
    )
    parser.add_argument(
        "--folder", type=Path, help="folder for the runs (default: a temporary one, deleted at the end)"
    )
    args = parser.parse_args()
    draw = random.Random(args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends the run in progress, too
    folder = Path(tempfile.mkdtemp(prefix="soak-")) if args.folder is None else args.folder.resolve()
    print(f"seed {args.seed}: {args.kills} kills, in {folder}", flush=True)
    start, soaks, failed, count = time.monotonic(), {}, [], Counter()
    for number, (recipe, phase) in enumerate(deal(args.recipes, args.kills, draw), 1):
        if recipe not in soaks:
            soaks[recipe] = Soak(recipe, folder)
            print(f"{recipe}: undisturbed in {soaks[recipe].seconds:.0f} s", flush=True)
        again = [ANY] if draw.random() < 0.25 else []
        plans = [soaks[recipe].plan(each, draw) for each in (phase, *again)]
        lines, differing = soaks[recipe].disturb(f"killed-{number}", plans)
        count[recipe, phase] += not differing
        print(f"{number:3} {recipe:12} {'; '.join(lines)}: {'DIFFERS' if differing else 'identical'}", flush=True)
        for line in differing:
            print(f"      {line}", flush=True)
        failed += [number] if differing else []
    print("\n| kills, identical afterwards |", *(f"{recipe} |" for recipe in args.recipes))
    print("|---|" + "---|" * len(args.recipes))
    for phase in PHASES:
        print(f"| {phase} |", *(f"{count[recipe, phase] or ''} |" for recipe in args.recipes))
    minutes = (time.monotonic() - start) / 60
    print(f"\n{args.kills - len(failed)} of {args.kills} identical, {minutes:.0f} minutes, seed {args.seed}")
    if failed:
        raise SystemExit(f"different: {', '.join(f'{folder}/*/killed-{number}' for number in failed)}")
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        sys.exit(inside(*sys.argv[2:4], sys.argv[4:]))
    main()
