"""The processes of a run: what the launcher started (`Engine`), whether this machine has the devices for it, and what the
processes do together.

On a CPU, `accelerate launch --num_processes 2` starts one process (accelerate 1.15), and accelerate joins the processes
that `torchrun` starts only if it is told to use the CPU; `join_processes` does that.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from empathy_trl.errors import UserError
from empathy_trl.io import hold_folder

logger = logging.getLogger(__name__)

ACCELERATE, TORCHRUN = "accelerate launch", "torchrun"
SHARED_WAIT = 15  # seconds until a file of the first process is seen by the others; a network folder may be late
PARTS = ("weights", "gradients", "optimizer")
CPU_INSTEAD = "on the CPU, use accelerate_configs/cpu.yaml for one process, or torchrun --nproc_per_node 2 for several"
NO_ENCODER_DECODER = (
    "FSDP2 cannot train an encoder-decoder: encoder and decoder share an embedding, and PyTorch lets a weight belong to one FSDP "
    "group only; expected accelerate_configs/ddp.yaml, zero2.yaml or zero3.yaml"
)
NOT_SAVED = "in the accelerate config saves no model that from_pretrained reads"


@dataclass(frozen=True)
class Engine:
    """What the launcher started, read from the environment variables that `accelerate launch` and `torchrun` set.

    Attributes:
        name: `one process`, `DDP`, `FSDP1`, `FSDP2`, or `ZeRO-` with its stage.
        launcher: `ACCELERATE`, `TORCHRUN`, or None for plain Python.
        processes: on all nodes together.
        nodes: number of machines.
        precision: mixed precision that the launcher asks for, such as `bf16` or `no`; None leaves it to the recipe.
        sharded: which of `PARTS` each process holds a share of; it holds the others whole.
        on_cpu: whether the launcher asks for the CPU, also where there is a GPU.
    """

    name: str = "one process"
    launcher: str | None = None
    processes: int = 1
    nodes: int = 1
    precision: str | None = None
    sharded: tuple[str, ...] = ()
    on_cpu: bool = False

    @classmethod
    def here(cls, trainer: Mapping = {}) -> "Engine":
        """Return the engine of this process.

        Args:
            trainer: the `trainer:` section of a stage, whose `deepspeed` or `fsdp` may ask for an engine, too.
        """
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        accelerated, several = "ACCELERATE_MIXED_PRECISION" in os.environ, "TORCHELASTIC_RUN_ID" in os.environ
        name, sharded = _name_and_shards(trainer, processes)
        return cls(
            name=name,
            launcher=ACCELERATE if accelerated else TORCHRUN if several else None,
            processes=processes,
            nodes=max(1, processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes))),
            precision=os.environ.get("ACCELERATE_MIXED_PRECISION"),
            sharded=sharded,
            on_cpu=_flag("ACCELERATE_USE_CPU"),
        )

    @property
    def local(self) -> int:
        """Number of processes on this node."""
        return self.processes // self.nodes

    def divisor(self, part: str) -> int:
        """Return over how many processes one of `PARTS` is divided."""
        return self.processes if part in self.sharded else 1

    def __str__(self) -> str:
        where = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        count = f", {self.processes} process{'es' * (self.processes > 1)}{where}" if self.name != "one process" else ""
        by = f", started by {self.launcher}" if self.launcher else ""
        precision = f", mixed precision {self.precision}" if self.precision else ""
        shares = ", ".join(self.sharded) + f" divided by {self.processes}"
        whole = "" if self.processes == 1 else f"; {shares if self.sharded else 'each process holds everything'}"
        return f"{self.name}{count}{by}{precision}{whole}"

    def missing_devices(self) -> str | None:
        """Return which devices the launcher asks for and this machine does not have, with the remedy; None if it has them."""
        local = self.local
        if self.launcher is None or self.on_cpu or local == 1:
            return None
        devices = device_count()
        if devices == 0 and self.launcher == ACCELERATE:
            return (
                f"accelerate launch has started {local} processes for {local} GPUs here ({self.name}, num_processes: "
                f"{self.processes}), but PyTorch finds no GPU on {platform.node()}; {CPU_INSTEAD}"
            )
        if 0 < devices < local:
            option = "--nproc_per_node" if self.launcher == TORCHRUN else "--num_processes"
            return (
                f"{self.launcher} has started {local} processes, one for each GPU, but PyTorch finds {devices} on "
                f"{platform.node()}; launch with {option} {devices * (1 if self.launcher == TORCHRUN else self.nodes)}"
            )
        return None


def _name_and_shards(trainer: Mapping, processes: int) -> tuple[str, tuple[str, ...]]:
    """Return `Engine.name` and `Engine.sharded`."""
    if (config := trainer.get("deepspeed")) or _flag("ACCELERATE_USE_DEEPSPEED"):
        stage = _zero_stage(config) if config else int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        return f"ZeRO-{stage}", PARTS[3 - stage :]
    if (setting := trainer.get("fsdp")) or _flag("ACCELERATE_USE_FSDP"):
        config = trainer.get("fsdp_config") if setting else None
        version = (config or {}).get("version", 2) if setting else os.environ.get("FSDP_VERSION", "1")
        # else every process keeps the whole weights from the forward pass to the backward pass
        reshards = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") not in ("false", "shard_grad_op")
        return f"FSDP{version}", PARTS if reshards else PARTS[1:]
    return "DDP" if processes > 1 else "one process", ()


def _zero_stage(config) -> int:
    """Return the stage in a DeepSpeed config: a mapping, or the path of a JSON file. What cannot be read is reported later."""
    with suppress(OSError, ValueError):
        config = config if isinstance(config, Mapping) else json.loads(Path(config).read_text(encoding="utf-8"))
        return int(config.get("zero_optimization", {}).get("stage", 0))
    return 0


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true")


def device_count() -> int:
    """Return how many accelerators PyTorch finds on this machine."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def check_engine(trainer):
    """Refuse what the engine of a trainer would fail on after hours, or get wrong, and tell FSDP2 which layers it shards.

    Raises:
        UserError: an encoder-decoder with FSDP2, or a setting with which no model is saved that `from_pretrained` reads.
    """
    state, model = trainer.accelerator.state, trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled:
        if state.fsdp_plugin.fsdp_version == 2 and model.config.is_encoder_decoder:
            raise UserError(NO_ENCODER_DECODER)
        if (kind := state.fsdp_plugin.state_dict_type.name) != "FULL_STATE_DICT":
            raise UserError(f"fsdp_state_dict_type: {kind} {NOT_SAVED}; expected FULL_STATE_DICT")
        name_fsdp_layers(model)
    saves_adapter = hasattr(model, "peft_config") and model.get_base_model().can_generate()  # others are merged
    if trainer.is_deepspeed_enabled and not saves_adapter:
        zero = state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        if zero["stage"] == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise UserError(f"zero3_save_16bit_model: false {NOT_SAVED}; expected true")


def name_fsdp_layers(model):
    """Leave out of a model's `_no_split_modules`, which accelerate shards as units, what accelerate fails on.

    It shards the input embedding as a unit of its own, which fails if a larger unit has it already, such as RobertaEmbeddings
    (BERT, RoBERTa, XLM-RoBERTa, ModernBERT and others). It also fails on a name of which the model has no module.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    modules, embedding = list(base.modules()), base.get_input_embeddings()
    kinds = {type(module).__name__ for module in modules}
    around = {type(module).__name__ for module in modules if any(part is embedding for part in module.modules())}
    base._no_split_modules = sorted(set(base._no_split_modules or ()) & kinds - around)


def is_first_process() -> bool:
    """Say whether this is the process that prints, before the processes are joined."""
    return os.environ.get("RANK", "0") == "0"


def several_on_cpu() -> bool:
    """Say whether this is one of several processes that share the CPU."""
    return Engine.here().processes > 1 and device_count() == 0


def use_all_cores():
    """Where the CPU trains, undo the one thread per process that launchers set: they leave most cores idle."""
    import torch

    if Engine.here().launcher and os.environ.get("OMP_NUM_THREADS") == "1" and not torch.cuda.is_available():
        torch.set_num_threads(max(1, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def join_processes(needs_devices: bool = True):
    """Return accelerate's `PartialState`, which knows all processes; call this before anything else makes one.

    Args:
        needs_devices: False for a dry run, which goes on without the devices that the launcher asks for.

    Raises:
        UserError: this machine does not have these devices.
    """
    from accelerate import PartialState

    if needs_devices and (missing := Engine.here().missing_devices()):
        raise UserError(missing)
    engine = Engine.here()
    if engine.launcher == ACCELERATE and engine.processes == 1 and not engine.on_cpu and device_count() == 0:
        logger.warning("accelerate expects a GPU, but PyTorch finds none: this run uses the CPU")
    if several_on_cpu():
        # accelerate's own name is "cpu:0", with which `torch.load` cannot read the optimizer in a resume
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    return PartialState(cpu=several_on_cpu())


def set_timeout(seconds: float):
    """Let the processes wait for each other so long. Their connection is older than transformers' `ddp_timeout`."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds))


def part_processes():
    """Wait for all processes and end their connection, without which one that is done first may crash on its way out."""
    if Engine.here().processes == 1:
        return
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


@contextmanager
def fail_together(needs_devices: bool = True) -> Iterator[None]:
    """If the body raises UserError in one process, let all raise it: the others would wait for that process for ever.

    `join_processes` comes first. The processes must not wait for each other in the body.
    """
    if Engine.here().processes == 1:
        yield
        return
    from accelerate.utils import gather_object

    state, error = join_processes(needs_devices), None
    try:
        yield
    except UserError as raised:
        error = str(raised)
    errors = gather_object([error])
    failed = [process for process, each in enumerate(errors) if each is not None]
    if len(set(errors)) == 1 and failed:
        raise UserError(error)
    if failed:
        place = f"process {failed[0]} of {state.num_processes}, counted from 0"
        hosts = gather_object([platform.node()])
        raise UserError(f"{place}, on {hosts[failed[0]]}: {errors[failed[0]]}")


@contextmanager
def hold_together(folder: Path, inner: Iterable[Path] = ()) -> Iterator[None]:
    """`io.hold_folder` for all processes: the main process holds the folder; if this fails, all processes raise.

    Raises:
        UserError: from `hold_folder`; also if the folder of another process is not that of the main process.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    with ExitStack() as held:
        refusal = None
        if PartialState().is_main_process:
            try:
                held.enter_context(hold_folder(folder, inner))
            except UserError as error:
                refusal = str(error)
        if refusal := broadcast_object_list([refusal])[0]:
            raise UserError(refusal)
        if PartialState().num_processes > 1:
            _check_shared(folder)
        yield


def _check_shared(folder: Path) -> None:
    """Raise UserError in all processes if one of them does not see a file that the main process writes into the folder."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object

    state = PartialState()
    place = (platform.node(), str(folder.absolute()))
    token, main = broadcast_object_list([f".shared.{uuid4().hex}.tmp", place])
    if state.is_main_process:
        (folder / token).touch()
    state.wait_for_everyone()
    apart = gather_object([] if _appears(folder / token) else [place])
    if state.is_main_process:
        (folder / token).unlink()
    if apart:
        places = "; ".join(f"{folder} on {host}" for host, folder in sorted(set(apart)))
        raise UserError(
            f"the processes do not share the output folder: a file that the first process wrote into {main[1]} on {main[0]} was not "
            f"seen within {SHARED_WAIT} seconds in {places}. All nodes read each other's checkpoints and models there: give "
            "--output_dir a folder that is mounted at the same path on all of them"
        )


def _appears(file: Path) -> bool:
    """Wait up to `SHARED_WAIT` seconds for a file."""
    end = time.monotonic() + SHARED_WAIT
    while True:
        for folder in (file.parent.parent, file.parent):
            with suppress(OSError):
                os.listdir(folder)  # an NFS client then asks the server, instead of its cache of missing files
        if file.exists() or time.monotonic() > end:
            return file.exists()
        time.sleep(0.2)


def shared(items: list, work: Callable[[list], list]) -> list:
    """Return what `work` makes of the items, in their order; each process does its share, and all get everything.

    Args:
        items: the same in all processes.
        work: items -> one result each.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    own = range(state.process_index, len(items), state.num_processes)
    results = work([items[row] for row in own])
    return [result for _, result in sorted(gather_object(list(zip(own, results, strict=True))))]
