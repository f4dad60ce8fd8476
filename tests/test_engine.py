"""The engine that a launcher starts, what it needs of the machine, and what several processes do together."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import launch
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import get_rdzv_endpoint

from empathy_trl import engine
from empathy_trl.engine import Engine
from empathy_trl.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {"multi_node": ["--machine_rank", "1", "--main_process_ip", "10.0.0.1"]}
ALL = "weights, gradients, optimizer divided by"
STARTED = {
    "cpu": "one process, started by accelerate launch, mixed precision no",
    "single_gpu": "one process, started by accelerate launch, mixed precision bf16",
    "ddp": "DDP, 8 processes, started by accelerate launch, mixed precision bf16; each process holds everything",
    "fsdp2": f"FSDP2, 8 processes, started by accelerate launch, mixed precision bf16; {ALL} 8",
    "multi_node": f"FSDP2, 16 processes on 2 nodes, started by accelerate launch, mixed precision bf16; {ALL} 16",
    "zero2": "ZeRO-2, 8 processes, started by accelerate launch, mixed precision bf16; gradients, optimizer divided by 8",
    "zero3": f"ZeRO-3, 8 processes, started by accelerate launch, mixed precision bf16; {ALL} 8",
}


def launched(name: str, *flags: str):
    """Return accelerate's own reading of a shipped config file, and the environment in which it would start processes."""
    file = str(ROOT / "accelerate_configs" / f"{name}.yaml")
    command = ["--config_file", file, *flags, "--main_process_port", "0", "run.py"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        return arguments, launch.prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.use_fsdp or arguments.multi_gpu:
        return arguments, launch.prepare_multi_gpu_env(arguments)
    return arguments, launch.prepare_simple_launcher_cmd_env(arguments)[1]


@pytest.fixture
def start(monkeypatch):
    """Return a function that puts this process into the environment of a worker of a shipped config file."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")

    def start(name):
        arguments, environment = launched(name, *GIVEN.get(name, ()))
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        if hasattr(arguments, "nproc_per_node"):  # torch's launcher starts them
            monkeypatch.setenv("WORLD_SIZE", str(arguments.num_processes))
            monkeypatch.setenv("LOCAL_WORLD_SIZE", arguments.nproc_per_node)

    return start


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")))
def test_every_shipped_config_starts_its_engine_and_needs_its_devices(name, start, monkeypatch):
    start(name)
    assert str(Engine.here()) == STARTED[name]
    for devices in (0, 2, 8):
        monkeypatch.setattr(engine, "device_count", lambda devices=devices: devices)
        missing = Engine.here().missing_devices()
        if name in ("cpu", "single_gpu") or devices == 8:
            assert missing is None
        elif devices:
            nodes = 2 if name == "multi_node" else 1
            assert missing.endswith(f"launch with --num_processes {2 * nodes}")
        else:
            assert "has started 8 processes for 8 GPUs here" in missing and "use accelerate_configs/cpu.yaml" in missing
            with pytest.raises(UserError, match="PyTorch finds no GPU"):
                engine.join_processes()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("flags", "named"), [([], "missing; give --machine_rank"), (GIVEN["multi_node"][:2], "missing; give --main_process_ip")]
)  # fmt: skip
def test_what_several_nodes_must_be_given_stops_before_processes_start(flags, named):
    with pytest.raises(ValueError, match=named):
        parse_rendezvous_endpoint(get_rdzv_endpoint(launched("multi_node", *flags)[0]), -1)


def test_one_gpu_that_is_not_there_is_told(start, monkeypatch, caplog):
    start("single_gpu")
    monkeypatch.setattr(engine, "device_count", lambda: 0)
    engine.join_processes()
    assert "accelerate is not told to use the CPU, but PyTorch finds no GPU: this run uses the CPU" in caplog.text


@pytest.mark.parametrize(
    ("trainer", "name", "sharded"),
    [
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, "ZeRO-1", ("optimizer",)),
        ({"fsdp": True}, "FSDP2", engine.PARTS),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, "FSDP1", engine.PARTS),
        ({}, "DDP", ()),
    ],
)
def test_a_recipe_may_ask_for_the_engine(trainer, name, sharded, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = Engine.here(trainer)
    assert (found.name, found.sharded) == (name, sharded)
    assert [found.divisor(part) for part in engine.PARTS] == [4 if part in sharded else 1 for part in engine.PARTS]


TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TOGETHER = """
import os, sys
from pathlib import Path
from empathy_trl import engine
from empathy_trl.errors import UserError
engine.SHARED_WAIT = 1
rank, home = int(os.environ["RANK"]), Path(sys.argv[1])
said = open(f"{home}.{rank}.txt", "w")
for refusing in ([1], [0, 1], []):
    try:
        with engine.fail_together():
            if rank in refusing:
                raise UserError("no such file")
        print(refusing, "goes on", file=said)
    except UserError as error:
        print(refusing, error, file=said)
for folder in (home, home / str(rank)):
    try:
        with engine.hold_together(folder / "out"):
            print(folder.name, "held", file=said)
    except UserError as error:
        print(folder.name, error, file=said)
engine.part_processes()
"""


@pytest.mark.faults
def test_processes_fail_together_and_must_share_their_folder(tmp_path, monkeypatch):
    (tmp_path / "together.py").write_text(TOGETHER)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    home = tmp_path / "home"
    done = subprocess.run(
        [*TWO, tmp_path / "together.py", home], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for rank in "01":
        said = (tmp_path / f"home.{rank}.txt").read_text()
        assert "[1] process 1 of 2, counted from 0, on " in said
        assert "[0, 1] no such file\n" in said and "[] goes on\n" in said
        assert "home held\n" in said
        assert (
            f"{rank} the processes do not share the output folder: a file that the first process wrote into {home}/0/out"
            in said
        )
        assert f" was not seen within 1 seconds in {home}/1/out on " in said
    assert not list(home.rglob(".shared-*"))


@pytest.mark.slow
@pytest.mark.faults
def test_the_plan_of_several_processes_is_printed_once_and_names_the_engine(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [*TWO, "-m", "empathy_trl.commands", "run", "--recipe", "ed4_tiny", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("engine:    DDP, 2 processes, started by torchrun; each process holds everything\n") == 1
    assert (
        "generated by transformers; generation and log-probabilities read each prompt once per group\n" in done.stdout
    )
