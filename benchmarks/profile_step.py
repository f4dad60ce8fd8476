"""Where the time of a whole GRPO step goes, by the sections of TRL's own profiling, for both trainers.

python benchmarks/profile_step.py                  # all four shapes; about 15 minutes on two cores
python benchmarks/profile_step.py ed4_tiny --rounds 20

A section contains those below it that are indented further; what they leave over is backward in the training pass,
padding and decoding in the rollout, clipping and the optimizer in the step. The ratio is the geometric mean of those of
the whole steps.
"""

from harness import (
    POLICY,
    REFERENCE,
    TOKENIZING,
    TRAINING,
    WHOLE,
    command_line,
    compare_steps,
    print_ratio,
    print_table,
)

# section, how deep it lies in the step, its name in the table
SECTIONS = (
    (WHOLE, 0, WHOLE),
    ("_prepare_inputs", 1, "rollout"),
    (TOKENIZING, 2, TOKENIZING),
    ("transformers.generate", 2, "generation"),
    (REFERENCE, 2, REFERENCE),
    ("_calculate_rewards", 2, "rewards"),
    (TRAINING, 1, TRAINING),
    (POLICY, 2, POLICY),
)


def main():
    args = command_line(__doc__)
    ratios = []
    for name in args.shapes:
        seconds = compare_steps(name, args.rounds)
        rows = [[name, "trl (s)", "share", "ours (s)", "share"]]
        for section, depth, title in SECTIONS:
            cells = [
                [part[section], f"{part[section] / part[WHOLE]:.1%}"] for part in (seconds["trl"], seconds["ours"])
            ]
            rows.append(["- " * depth + title, *cells[0], *cells[1]])
        print_table(rows)
        print()
        ratios.append(seconds["trl"][WHOLE] / seconds["ours"][WHOLE])
    print_ratio(ratios)


if __name__ == "__main__":
    main()
