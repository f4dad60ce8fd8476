"""How a whole GRPO step grows with the number of completions per prompt, ours against `trl.GRPOTrainer`.

python benchmarks/group_size.py                  # shape ed4_tiny, groups of 2 to 32; about 6 minutes on two cores
python benchmarks/group_size.py wassa --rounds 1

The prompts per step stay the same. Leaves a picture per shape in outputs/benchmarks/; the ratio is that of the
largest group, the geometric mean over several shapes.
"""

from pathlib import Path

from harness import WHOLE, command_line, compare_steps, print_ratio, print_table

from empathy_trl.io import pyplot, save

GROUPS = (2, 4, 8, 16, 32)
FOLDER = Path("outputs/benchmarks")


def draw(name: str, rows: list[list]) -> Path:
    """Draw seconds per step over the group size for both trainers, and return the picture's file."""
    figure, axes = pyplot().subplots(figsize=(6, 4), layout="constrained")
    for column, who in ((1, "trl"), (2, "ours")):
        axes.plot([row[0] for row in rows], [row[column] for row in rows], marker="o", label=who)
    axes.set(xlabel="completions per prompt", ylabel="seconds per step", title=name, xticks=GROUPS, ylim=(0, None))
    axes.legend()
    FOLDER.mkdir(parents=True, exist_ok=True)
    save(figure, FOLDER / f"group_size_{name}.png", dpi=120)
    return FOLDER / f"group_size_{name}.png"


def main():
    args = command_line(__doc__, shapes=["ed4_tiny"])
    ratios = []
    for name in args.shapes:
        rows = []
        for group in GROUPS:
            seconds = compare_steps(name, args.rounds, group=group)
            trl, ours = (seconds[who][WHOLE] for who in ("trl", "ours"))
            rows.append([group, trl, ours, trl / ours])
        print_table([[f"{name}: completions per prompt", "trl (s)", "ours (s)", "ratio"], *rows])
        print(f"picture: {draw(name, rows)}")
        ratios.append(rows[-1][-1])
    print_ratio(ratios)


if __name__ == "__main__":
    main()
