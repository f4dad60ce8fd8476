"""Peak memory of tensors during a GRPO step, ours against `trl.GRPOTrainer`.

python benchmarks/memory.py                  # all four shapes; about 8 minutes on two cores
python benchmarks/memory.py ed4_tiny

torch counts the memory that a step adds to what is allocated between two steps (weights, optimizer states). The ratio
is the geometric mean over the shapes.
"""

import gc
import tempfile

import torch
from harness import command_line, one_step, print_ratio, print_table
from shapes import SHAPES, make_trainer


def peak_of(step) -> float:
    """Return by how many MB the memory of tensors grows during a step, at most."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 1e6


def main():
    args = command_line(__doc__, rounds=1)
    rows, ratios = [["shape", "trl (MB)", "ours (MB)", "ratio"]], []
    for name in args.shapes:
        peaks = []
        for ours in (False, True):
            gc.collect()
            with tempfile.TemporaryDirectory() as folder:
                step = one_step(make_trainer(SHAPES[name], ours, folder))
                step()  # makes the optimizer states, and ours compares itself with the usual path
                peaks.append(max(peak_of(step) for _ in range(args.rounds)))
        ratios.append(peaks[0] / peaks[1])
        rows.append([name, *(f"{peak:.0f}" for peak in peaks), ratios[-1]])
    print_table(rows)
    print_ratio(ratios)


if __name__ == "__main__":
    main()
