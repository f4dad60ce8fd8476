"""The results of docs/results.md: runs their recipes, and prints the table.

python benchmarks/results.py --list                       # what there is, with the command and the time of each
python benchmarks/results.py --quick --data FOLDER        # the quick half; also: make results DATA=FOLDER
python benchmarks/results.py ed4 --data FOLDER            # one of them

Each result is one command, `empathy-trl run … --seeds …`, which is printed and run in a process of its own. FOLDER holds the data
sets, `ed_easy_4`, `empathetic_dialogues`, `empathetic_intents` and `redial`, each with train, valid and test files. The pretrained
models are those of `make small-models`. If the command is interrupted, the same command continues. The table is also written
to OUTPUT_DIR/results.md.
"""

import argparse
import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

from empathy_trl.cli import exit_status, in_words
from empathy_trl.errors import UserError, suggestion
from empathy_trl.evaluation.base import markdown
from empathy_trl.evaluation.compare import SEEDS_FILE
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.evaluation.seeds import baselines_in_words, main_figure, seeds_in_words
from empathy_trl.hub.results import source_name
from empathy_trl.io import read_json, write_text

SMOLLM2, MINILM = "smollm2-135m", "minilm-l6"


@dataclasses.dataclass(frozen=True)
class Result:
    """A row of the table.

    Attributes:
        recipe: its name.
        data: folder below --data; None is the embedded corpus.
        models: key of the recipe -> folder below --models.
        seeds: with commas.
        minutes: that all seeds take on two cores, as measured.
        quick: whether it belongs to the quick half.
    """

    recipe: str
    data: str | None
    models: dict[str, str]
    seeds: str
    minutes: int | None = None
    quick: bool = False

    def command(self, options, name: str) -> list[str]:
        """Return the arguments of `empathy-trl`."""
        arguments = ["run", "--recipe", self.recipe, "--seeds", self.seeds]
        if self.data is not None:
            arguments += ["--data.path", str(options.data / self.data)]
        for key, folder in self.models.items():
            arguments += [f"--{key}", str(options.models / folder)]
        return [*arguments, "--output_dir", str(options.output_dir / name)]


RESULTS = {
    "intent9": Result("intent9_minilm", "empathetic_intents", {"model.name_or_path": MINILM}, "1,2,3", quick=True),
    "emotion32": Result("emotion32_minilm", "empathetic_dialogues", {"model.name_or_path": MINILM}, "1", quick=True),
    "ed4": Result("ed4_smollm2", "ed_easy_4", {"model.name_or_path": SMOLLM2}, "1,2,3"),
    "empath": Result(
        "empath_smollm2",
        None,
        {"model.name_or_path": SMOLLM2, "stages.grpo.rewards.foresight.model": MINILM},
        "1",
    ),
    "ecr": Result("ecr_smollm2", "redial", {"stages.sft.model.name_or_path": SMOLLM2}, "1"),
    "godel": Result("godel_smollm2", "empathetic_dialogues", {"stages.sft.model.name_or_path": SMOLLM2}, "1"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"results to run: {', '.join(RESULTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="those that take less than an hour together")
    parser.add_argument("--list", action="store_true", help="print the commands and their times, and run nothing")
    parser.add_argument("--data", type=Path, default="data", help="folder of the data sets (default: %(default)s)")
    parser.add_argument(
        "--models", type=Path, default="models", help="folder of the pretrained models (default: %(default)s)"
    )
    parser.add_argument("--output_dir", type=Path, default="outputs/results", help="default %(default)s")
    options = parser.parse_args()
    if status := exit_status(lambda: results(options), interrupted="interrupted; the same command continues"):
        raise SystemExit(status)


def results(options):
    """Run the results that are asked for, and print the table of all that are complete."""
    names = chosen(options)
    if options.list:
        return print(*(f"{shlex.join(['empathy-trl', *RESULTS[name].command(options, name)])}   # {minutes(name)}" for name in names), sep="\n")  # fmt: skip
    check_folders(options, names)
    for name in (name for name in RESULTS if name not in names):
        table_row(options.output_dir / name)  # a broken file is known before anything is trained
    for name in names:
        command = RESULTS[name].command(options, name)
        print(f"{name}, {minutes(name)}: {shlex.join(['empathy-trl', *command])}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", "empathy_trl.commands", *command], check=False)
        if done.returncode:
            raise UserError(f"{name} ended with status {done.returncode}; what was printed above says why")
    table = markdown(
        [
            ["result", "data, n", "figure", "mean ± standard deviation [95 % interval] of every stage", "for comparison", "time per seed"],
            *(row for name in RESULTS if (row := table_row(options.output_dir / name))),
        ]
    )  # fmt: skip
    write_text(options.output_dir / "results.md", table + "\n")
    print(table)


def chosen(options) -> list[str]:
    """Return the names of the results that are asked for."""
    for name in options.names:
        if name not in RESULTS:
            raise UserError(f"{name}: unknown result{suggestion(name, RESULTS)}")
    names = options.names or list(RESULTS)
    names = [name for name in names if RESULTS[name].quick] if options.quick else names
    if not names:
        raise UserError(f"--quick: none of {', '.join(options.names)} is quick; these are: {', '.join(n for n in RESULTS if RESULTS[n].quick)}")  # fmt: skip
    return names


def minutes(name: str) -> str:
    """Return how long a result takes, in words."""
    return f"about {RESULTS[name].minutes} min" if RESULTS[name].minutes else "not timed"


def check_folders(options, names: list[str]):
    """Raise UserError if a data set or a model is missing, before anything is trained."""
    for name in names:
        result = RESULTS[name]
        needed = [("--data", options.data, result.data, "docs/data.md says where it comes from")] if result.data else []
        needed += [
            ("--models", options.models, model, "`make small-models` builds it") for model in result.models.values()
        ]
        for flag, parent, folder, remedy in needed:
            if not (parent / folder).exists():
                raise UserError(f"{flag}: {name} needs the folder {folder}, but {parent} has none; {remedy}")


def table_row(folder: Path) -> list[str] | None:
    """Return the row of a result, None if it is not complete. UserError names a file that is broken."""
    path = folder / SEEDS_FILE
    if not path.exists():
        return None
    try:
        return row_of(read_json(path))
    except UserError as error:
        raise UserError(f"{error}; run {folder.name} again") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: is not as a run with --seeds writes it ({type(error).__name__}: {error}); run {folder.name} again"
        ) from error


def row_of(content: dict) -> list[str]:
    """Return the row of a result from its `seeds.json`."""
    group = content["groups"][-1]
    about = content["stages"][group[-1]]
    figures = [f"{stage}: {with_interval(main_figure(content, stage))}" for stage in group]
    time = in_words(sum(content["train_seconds"].values()) / len(content["seeds"]))
    return [
        f"`{content['recipe']}`, {seeds_in_words(content)}",
        f"{source_name(about['data']['source'])}, {about['data']['n']}",
        about["main_metric"].replace("_", " "),
        "<br>".join(figures),
        baselines_in_words(about),
        time,
    ]


if __name__ == "__main__":
    main()
