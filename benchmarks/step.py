"""Time and memory of a whole GRPO optimizer step, with generation and training pass, ours against `trl.GRPOTrainer`.

python benchmarks/step.py                  # the four shapes of random models; about 15 minutes on two cores
python benchmarks/step.py ed4_tiny --rounds 20
python benchmarks/step.py smollm2 --model models/smollm2-135m --dtype bfloat16

Times are in seconds. Peak memory, in MB, is what the tensors of a step take beside those that are there between two steps
(weights and optimizer states). The ratio is the geometric mean of the ratios of the whole steps.
"""

from harness import PEAK, TRAINING, WHOLE, command_line, compare_steps, print_ratio, print_table
from shapes import SHAPES


def main():
    args = command_line(__doc__, pretrained=True)
    rows, ratios = [["shape", "prompt / completion / group", "section", "trl", "ours", "ratio"]], []
    for name in args.shapes:
        shape, figures = SHAPES[name], compare_steps(name, args.rounds, **args.changes)
        for section in ("transformers.generate", TRAINING, PEAK, WHOLE):
            trl, ours = figures["trl"][section], figures["ours"][section]
            rows.append([name, f"{shape.prompt} / {shape.completion} / {shape.group}", section, trl, ours, trl / ours])
        ratios.append(rows[-1][-1])
    print_table(rows)
    print_ratio(ratios)


if __name__ == "__main__":
    main()
