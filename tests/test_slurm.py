"""The job for Slurm on two "nodes" of this machine, with stand-ins for `srun` and `scontrol`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "examples" / "slurm" / "run.sbatch"
# each node gets its number and its log; options of srun that matter only to Slurm are dropped
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 != --output=* ]] || log=${1#*=}; shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do
    file=${log//%j/$SLURM_JOB_ID}
    SLURM_NODEID=$node "$@" >>"${file//%N/node$node}" 2>&1 &
done
status=0
for ((node = 0; node < SLURM_NNODES; node++)); do wait -n || status=$?; done
exit $status
"""
SCONTROL = """#!/bin/bash
[ "$1 $2" = 'show hostnames' ] && printf '127.0.0.1\\n127.0.0.1\\n'
"""


def test_the_job_is_valid_bash_and_asks_slurm_for_one_launcher_per_node():
    subprocess.run(["bash", "-n", JOB], check=True)
    assert "#SBATCH --ntasks-per-node=1\n" in JOB.read_text()


@pytest.fixture
def job(tmp_path):
    """Return a function that starts the job in a folder of its own, as `sbatch` does."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "accelerate_configs").symlink_to(ROOT / "accelerate_configs")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "CONFIG": "accelerate_configs/ddp.yaml",
        "RUN": str(ROOT / "recipes" / "run.py"),
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": str(os.getpid()),
    }

    def start(*arguments):
        return subprocess.Popen(["bash", JOB, *arguments], cwd=tmp_path, env=environment)

    return start


@pytest.mark.slow
def test_two_nodes_stop_at_the_time_limit_and_the_same_job_goes_on(job, tmp_path):
    settings = {"max_steps": 40, "save_steps": 20, "logging_steps": 1, "save_strategy": "steps"}
    flags = [part for key, value in settings.items() for part in (f"--stages.sft.trainer.{key}", str(value))]
    flags += [
        "--recipe",
        "ed4_tiny",
        "--trainer.bf16",
        "true",
        "--stages.grpo",
        "null",
        "--evaluation.limit",
        "4",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    first = job(*flags)
    while not (tmp_path / "out/sft/checkpoint-20").exists() and first.poll() is None:
        time.sleep(0.1)
    for process in psutil.Process(first.pid).children(recursive=True):
        if "srun" not in " ".join(process.cmdline()):  # Slurm signals every process of the step
            process.terminate()
    assert first.wait(timeout=100) != 0
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == [f"{os.getpid()}-node{node}.log" for node in (0, 1)]
    print(logs[0].read_text())
    assert "terminated after step 2" in logs[0].read_text()
    record = json.loads((tmp_path / "out/sft/run.json").read_text())
    assert record["status"] == "running" and record["processes"] == 2

    assert job(*flags).wait() == 0
    assert "resumes from" in logs[0].read_text()
    assert json.loads((tmp_path / "out/sft/run.json").read_text())["status"] == "complete"
    assert (tmp_path / "out/report.md").exists()
