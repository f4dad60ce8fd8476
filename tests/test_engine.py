"""The engine that a launcher starts, what it needs of the machine, and what several processes do together."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import launch
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import get_rdzv_endpoint
from transformers import AutoConfig, AutoModelForSequenceClassification

from empathy_trl import engine
from empathy_trl.engine import Engine
from empathy_trl.errors import RecipeError, UserError
from empathy_trl.recipe import load_recipe

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


def stub_trainer(model, fsdp=None, zero=None):
    """A stand-in for a trainer with an engine."""
    plugins = {
        "fsdp_plugin": fsdp,
        "deepspeed_plugin": zero and SimpleNamespace(deepspeed_config={"zero_optimization": zero}),
    }
    accelerator = SimpleNamespace(state=SimpleNamespace(**plugins), unwrap_model=lambda model: model)
    return SimpleNamespace(
        accelerator=accelerator, model=model, is_fsdp_enabled=fsdp is not None, is_deepspeed_enabled=zero is not None
    )


def fsdp(kind: str):
    return SimpleNamespace(fsdp_version=2, state_dict_type=SimpleNamespace(name=kind))


@pytest.mark.faults
def test_an_engine_that_would_fail_or_save_no_model_is_refused(tiny):
    t5, (decoder, _) = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True)), tiny
    gathers = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    engine.check_engine(stub_trainer(decoder, fsdp("FULL_STATE_DICT")))
    engine.check_engine(stub_trainer(t5, zero=gathers))
    for trainer, message in (
        (
            stub_trainer(t5, fsdp("FULL_STATE_DICT")),
            "FSDP2 cannot train an encoder-decoder: .* zero2.yaml or zero3.yaml",
        ),
        (stub_trainer(decoder, fsdp("SHARDED_STATE_DICT")), "SHARDED_STATE_DICT .*saves no model .*FULL_STATE_DICT"),
        (stub_trainer(decoder, zero={"stage": 3}), "zero3_save_16bit_model: false .*saves no model"),
    ):
        with pytest.raises(UserError, match=message):
            engine.check_engine(trainer)


@pytest.mark.faults
def test_fsdp2_refuses_a_recipe_with_an_encoder_decoder_before_anything_is_trained(start):
    start("fsdp2")
    with pytest.raises(RecipeError, match="stages.sft.trainer: FSDP2 cannot train an encoder-decoder"):
        load_recipe("godel_tiny")
    load_recipe("godel_tiny", training=False)  # to evaluate it


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "modernbert", "distilbert", "roberta-prelayernorm"])
def test_fsdp2_shards_no_module_around_the_embedding_and_none_that_is_not_there(kind):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind))
    engine.name_fsdp_layers(model)
    units = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    assert not any(part is model.get_input_embeddings() for unit in units for part in unit.modules())
    assert {type(unit).__name__ for unit in units} == set(model._no_split_modules)


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
    assert "accelerate expects a GPU, but PyTorch finds none: this run uses the CPU" in caplog.text


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
import os, sys, torch
from pathlib import Path
from empathy_trl import engine
from empathy_trl.errors import UserError
engine.SHARED_WAIT = 1
rank, home = int(os.environ["RANK"]), Path(sys.argv[1])
said = open(f"{home}.{rank}.txt", "w")
engine.join_processes()
engine.set_timeout(77)
backend = torch.distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
print("timeout", backend.options._timeout.total_seconds(), file=said)
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
        assert "home held\n" in said and "timeout 77.0\n" in said
        assert (
            f"{rank} the processes do not share the output folder: a file that the first process wrote into {home}/0/out"
            in said
        )
        assert f" was not seen within 1 seconds in {home}/1/out on " in said
    assert not list(home.rglob(".shared.*"))


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
