"""Time of a whole GRPO optimizer step, with generation and training pass, ours against `trl.GRPOTrainer`.

python benchmarks/step.py                  # all four shapes; about 15 minutes on two cores
python benchmarks/step.py ed4_tiny --rounds 20

The ratio is the geometric mean of the ratios of the whole steps.
"""

from harness import TRAINING, WHOLE, command_line, compare_steps, print_ratio, print_table
from shapes import SHAPES


def main():
    args = command_line(__doc__)
    rows, ratios = [["shape", "prompt / completion / group", "section", "trl (s)", "ours (s)", "ratio"]], []
    for name in args.shapes:
        shape, seconds = SHAPES[name], compare_steps(name, args.rounds)
        for section in ("transformers.generate", TRAINING, WHOLE):
            trl, ours = seconds["trl"][section], seconds["ours"][section]
            rows.append([name, f"{shape.prompt} / {shape.completion} / {shape.group}", section, trl, ours, trl / ours])
        ratios.append(rows[-1][-1])
    print_table(rows)
    print_ratio(ratios)


if __name__ == "__main__":
    main()
