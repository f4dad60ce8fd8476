"""Peak memory of tensors during a GRPO step, ours against `trl.GRPOTrainer`.

python benchmarks/memory.py                  # the four shapes of random models; about 8 minutes on two cores
python benchmarks/memory.py ed4_tiny
python benchmarks/memory.py smollm2 --model models/smollm2-135m --dtype bfloat16

torch counts the memory that a step adds to what is allocated between two steps (weights, optimizer states). The ratio
is the geometric mean over the shapes.
"""

import dataclasses
import gc
import tempfile

from harness import command_line, one_step, peak_of, print_ratio, print_table
from shapes import SHAPES, make_trainer


def main():
    args = command_line(__doc__, rounds=1, pretrained=True)
    rows, ratios = [["shape", "trl (MB)", "ours (MB)", "ratio"]], []
    for name in args.shapes:
        shape, peaks = dataclasses.replace(SHAPES[name], **args.changes), []
        for ours in (False, True):
            gc.collect()
            with tempfile.TemporaryDirectory() as folder:
                step = one_step(make_trainer(shape, ours, folder))
                step()  # makes the optimizer states, and ours compares itself with the usual path
                peaks.append(max(peak_of(step) for _ in range(args.rounds)))
        ratios.append(peaks[0] / peaks[1])
        rows.append([name, *(f"{peak:.0f}" for peak in peaks), ratios[-1]])
    print_table(rows)
    print_ratio(ratios)


if __name__ == "__main__":
    main()
