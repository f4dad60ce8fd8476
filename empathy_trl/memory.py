"""How much memory a run takes, predicted before anything is loaded; `benchmarks/predicted_memory.py` compares it with real runs.

`training_memory` is for the training, `evaluation_memory` for the evaluation behind it. Weights, gradients and optimizer follow from
the model's parameters and the engine; activations from a forward pass on fake tensors, which have a shape and no data.
"""

import copy
import dataclasses
import functools
import logging
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from empathy_trl.engine import Engine
from empathy_trl.models.adapters import fuse_adapters
from empathy_trl.models.batching import MOST, SHARE, free_memory, row_bytes
from empathy_trl.models.limits import Truncation
from empathy_trl.recipe.layers import LABEL_TASKS
from empathy_trl.trainers import grpo
from empathy_trl.trainers.shared_prefix.mixin import WORTH_IT
from empathy_trl.trainers.shared_prefix.packing import install, pack

logger = logging.getLogger(__name__)

# tokens, for the memory of a stage whose data or tokenizer is not at hand
UNKNOWN_PROMPT, UNKNOWN_COMPLETION = 512, 128
HEAP = 1.3  # what the C library keeps for activations on a CPU, gaps between them included, by what they take
LIBRARIES = 0.65e9  # bytes of a process on a CPU that has imported PyTorch, transformers and TRL
# of TRL's fused head: tokens and vocabulary of its tiles on a GPU, and how many copies of a tile PyTorch makes on a CPU
TILE_TOKENS, TILE_WIDTH, TILE_COPIES = 4096, 32768, 8
SEQ2SEQ_COPIES = 4  # of an encoder-decoder's logits: they themselves, their softmax, and the gradients of both
MOST_PACKED = 2**18  # tokens of a batch that is packed to see what it takes; a larger one takes as much for each token
ZERO_LIVE, ZERO_BUCKET = 1e9, 5e8  # DeepSpeed's `stage3_max_live_parameters` and `reduce_bucket_size`


@dataclasses.dataclass(frozen=True)
class Size:
    """What is known of a stage's model before it is loaded.

    Attributes:
        config: of transformers.
        tokenizer: None where only the Hub has it.
        dtype: of the saved weights, such as "bfloat16".
        total, trainable: numbers of parameters, with the recipe's adapter.
        unshared: why prompts cannot be shared, None where they can.
        network: the model on the meta device, with the adapter.
        adapter: what happens to the adapter that the model already has; "" without one.
    """

    config: Any
    tokenizer: Any
    dtype: str
    total: int
    trainable: int
    unshared: str | None = None
    adapter: str = ""
    network: Any = None


class Batch(NamedTuple):
    """What a process passes through a model for its loss.

    Attributes:
        inputs: for the model.
        scale: how many times as many tokens there really are; 1 but for batches that are too large to make here.
    """

    inputs: dict
    scale: float

    @property
    def tokens(self) -> float:
        """How many tokens the model reads, in an encoder-decoder without those that the decoder reads."""
        return self.scale * self.inputs["input_ids"].numel()


def training_memory(stage, options: dict, size: Size, batch: Batch, engine: Engine, on_gpu: bool) -> dict[str, float]:
    """Estimate the most memory in bytes that one process takes in training, by part.

    On a CPU this is the resident memory of the process (peak RSS); on a GPU what PyTorch allocates on it, without its own
    libraries and what it caches. All parts are counted as if they were there at the same time.

    Args:
        stage: of the recipe.
        options: of `trainer_options`.
        size: of the model.
        batch: of `largest_batch`.
        engine: divides weights, gradients and optimizer over the processes.
        on_gpu: whether the training is on a GPU.

    Weights and a reference copy have the model's dtype (4-bit: half a byte, but the embeddings two), gradients and two AdamW
    moments that of the trained weights. Activations are what a forward pass on fake tensors keeps for the backward pass.
    """
    mixed = is_mixed(options)
    weights = {True: 0.0, False: 0.0}  # by whether they are trained
    for each in size.network.parameters():
        weights[each.requires_grad] += each.numel() * each.dtype.itemsize
    # what is divided and computed in 16 bits is trained in float32
    trained = 4.0 * size.trainable if engine.sharded and mixed else weights[True]
    whole = sum(weights.values())
    if stage.model.load_in_4bit:
        embeddings = size.network.get_input_embeddings().weight.numel()
        whole = weights[True] + 2 * embeddings + 0.5 * (size.total - size.trainable - embeddings)
    kept, layer = activations(size.network, batch, mixed, options["gradient_checkpointing"], on_gpu)
    fsdp, zero = engine.name.startswith("FSDP"), engine.name.startswith("ZeRO")
    parts = {
        "libraries": 0 if on_gpu else LIBRARIES,
        "weights": (whole + fsdp * (trained - weights[True])) / engine.divisor("weights"),
        "gradients": (weights[True] if zero else trained) / engine.divisor("gradients"),
        "optimizer": (2 + zero) * trained / engine.divisor("optimizer"),  # ZeRO keeps its own copy of the weights there
        "activations": (kept + layer) * (1 if on_gpu else HEAP),
        "logits": _logits(stage, options, size, batch, on_gpu),
        # on a CPU, the heap also keeps what the whole weights took before FSDP divided them
        "communication": _communication(engine, size, trained, whole)
        + (0 if on_gpu or not engine.sharded else fsdp * whole),
    }
    # of a model with an adapter, the base alone or with a frozen copy of the adapter is the reference
    if (options.get("beta") or options.get("kl_coef")) and not isinstance(size.network, PeftModel):
        parts["reference"] = whole / engine.divisor("weights")
    if options.get("critic_kind") == "model":  # trained in full, in float32
        parts["critic"] = (4 + 4 + 8) * size.total
    return {name: part for name, part in parts.items() if part}


def evaluation_memory(stage, options: dict, size: Size, counted: Truncation | None) -> float:
    """Estimate the most memory in bytes that one process takes in the evaluation of a stage, with the whole model in each."""
    on_gpu, rows = torch.cuda.is_available(), stage.evaluation.batch_size
    longest = counted.prompt_tokens[2] if counted else UNKNOWN_PROMPT
    config, bytes_each = size.config.get_text_config(decoder=True), size.network.dtype.itemsize
    if stage.task in LABEL_TASKS:
        row = row_bytes(config, bytes_each, tokens=0, read=min(longest, options["max_length"]), logits=0)
    else:
        row = row_bytes(config, bytes_each, longest + stage.evaluation.max_new_tokens, read=longest, logits=1)
    batch = (rows or MOST) * row
    if rows is None:
        batch = min(batch, SHARE * free_memory(torch.device("cuda" if on_gpu else "cpu")))
    return (0 if on_gpu else LIBRARIES) + bytes_each * size.total + batch


def is_mixed(options: dict) -> bool:
    """Return whether a trainer computes in 16 bits with weights of any type; TRL's default for `bf16`, null, means true."""
    return bool(options["fp16"] or (options["bf16"] is None or options["bf16"]))


def _logits(stage, options: dict, size: Size, batch: Batch, on_gpu: bool) -> float:
    """Return the bytes of logits and of what is computed from them."""
    if stage.task in LABEL_TASKS:
        return 0
    vocabulary, tokens = size.config.get_text_config().vocab_size, batch.tokens
    if size.config.is_encoder_decoder:  # all of them, in float32
        return SEQ2SEQ_COPIES * 4 * vocabulary * batch.inputs["decoder_input_ids"].numel()
    head = 4 * vocabulary * size.config.get_text_config().hidden_size if _trains_head(size.network) else 0
    if on_gpu:
        return head + min(tokens, TILE_TOKENS) * TILE_WIDTH * (2 if is_mixed(options) else 4)
    rows = TILE_TOKENS if vocabulary <= grpo.TILE_WIDTH else grpo.TILE_ROWS
    return head + TILE_COPIES * 4 * min(tokens, rows) * min(vocabulary, grpo.TILE_WIDTH)


def _trains_head(network) -> bool:
    head = network.get_output_embeddings()
    return head is not None and any(each.requires_grad for each in head.parameters())


def _communication(engine: Engine, size: Size, trained: float, whole: float) -> float:
    """Return the bytes that an engine takes beside its shares, for what processes send to each other."""
    if engine.processes == 1:
        return 0
    if engine.name == "DDP":
        return trained  # the buckets in which gradients are averaged
    bytes_each = whole / size.total
    if engine.name.startswith("ZeRO"):
        live = min(size.total, ZERO_LIVE) if "weights" in engine.sharded else 0
        return bytes_each * (live + min(size.trainable, ZERO_BUCKET))
    # the root's own weights, and two layers of each stack: one is computed, the next one is on its way
    sizes = [(sum(each.numel() for each in stack.parameters()), len(stack)) for stack in stacks(size.network).values()]
    layers, root = [total / count for total, count in sizes], size.total - sum(total for total, _ in sizes)
    return bytes_each * (root + 3 * max(layers, default=0))


def stacks(network) -> dict[str, nn.ModuleList]:
    """Return the stacks of equal layers in a network, by name: one in a decoder or an encoder, two in an encoder-decoder."""
    found = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len(set(map(type, module))) == 1 and not inside:
            found[name] = module
    return found


def largest_batch(stage, options: dict, size: Size, prompt: float, counted: Truncation | None) -> Batch:
    """Return the largest batch of a stage, of which one will have the longest rows.

    Args:
        stage: of the recipe.
        options: of `trainer_options`, and `rows_per_prompt`.
        size: of the model.
        prompt: mean tokens of a prompt or text.
        counted: lengths of the rows; None where they are not known.
    """
    rows, new, limit = (
        options.get(key) for key in ("per_device_train_batch_size", "max_completion_length", "max_length")
    )
    longest = counted.prompt_tokens[2] if counted else math.ceil(prompt)
    if stage.task in LABEL_TASKS:
        return _plain(rows * (1 + stage.is_pairwise), min(longest, limit))
    replies = counted.completion_tokens[2] if counted and counted.completion_tokens else UNKNOWN_COMPLETION
    written = new or min(replies, limit or replies)
    if size.config.is_encoder_decoder:
        return _plain(rows, min(longest, limit or longest), written)
    if new is None:
        both = counted.needed if counted else longest + written
        return _plain(rows, limit if options["packing"] else min(both, limit or both))
    packed = _packed(rows, options["rows_per_prompt"], math.ceil(prompt), longest, written)
    return packed or _plain(rows, longest + written)


def _plain(rows: int, tokens: int, written: int = 0) -> Batch:
    """Return rows without shared prompts; `written` are the tokens that a decoder reads beside an encoder."""
    ids = torch.ones(1, dtype=torch.long)  # expanded, so that they take no memory
    inputs = {name: ids.expand(rows, max(1, tokens)) for name in ("input_ids", "attention_mask")}
    return Batch(inputs | ({"decoder_input_ids": ids.expand(rows, written)} if written else {}), 1)


def _packed(rows: int, shared: int, prompt: int, longest: int, written: int) -> Batch | None:
    """Return rows of which `shared` have a prompt in common, as `shared_prefix.packing` packs them; None if it does not pay."""
    if shared == 1:
        return None
    scale = max(1, rows * (longest + written) / MOST_PACKED)
    prompt, longest, written = (math.ceil(tokens / scale) for tokens in (prompt, longest, written))
    # one prompt is the longest, the others are as most are; their number tells them apart
    lengths = torch.tensor([longest] + [prompt] * (rows // shared - 1)).repeat_interleave(shared)
    ids = torch.arange(rows // shared).repeat_interleave(shared)[:, None].expand(-1, longest + written)
    mask = torch.arange(longest + written) >= longest - lengths[:, None]
    packed = pack(ids, mask.long(), written)
    if packed.tokens > WORTH_IT * packed.plain_tokens:
        return None
    return Batch({name: values for name, values in packed.inputs.items() if name != "shift_labels"}, scale)


def activations(network, batch: Batch, mixed: bool, checkpointing: bool, on_gpu: bool = False) -> tuple[float, float]:
    """Return how many bytes a forward pass keeps for the backward pass, and how many that pass takes on top.

    The pass runs on fake tensors, which have a shape and no data, with two layers of each stack; the others take as much as
    the second one. With gradient checkpointing, only the input of each layer is kept. A network that cannot run in this way
    is counted by Korthikanti et al. 2022: 34 bytes per token, unit and layer in 16 bits.

    Args:
        network: on the meta device.
        batch: of `largest_batch`.
        mixed: compute in bfloat16, with `torch.autocast`.
        checkpointing: whether layers are computed again in the backward pass.
        on_gpu: whether the training is on a GPU; a CPU keeps less of adapters and shared prompts.
    """
    counts = {name: len(stack) for name, stack in stacks(network).items()}
    try:
        kept = _kept_by(network, counts, batch.inputs, mixed, "cuda" if on_gpu else "cpu")
    except Exception:  # whatever a model does that fake tensors do not allow, it is no reason to refuse a recipe
        logger.debug("activations are counted by a rule", exc_info=True)
        config = network.config.get_text_config()
        unit = (2 if mixed else network.dtype.itemsize) * batch.inputs["input_ids"].numel() * config.hidden_size
        kept = Kept(total=17 * unit * config.num_hidden_layers, layers=[(17 * unit, unit, config.num_hidden_layers)])
    layer = batch.scale * max((each for each, _, _ in kept.layers), default=0)
    if not checkpointing:
        return batch.scale * kept.total, layer / 2  # the gradients of one layer's activations beside the others
    recomputed = sum((each - given) * count for each, given, count in kept.layers)
    return batch.scale * (kept.total - recomputed), layer * 3 / 2


@dataclasses.dataclass
class Kept:
    """What autograd keeps for a backward pass, in bytes.

    Attributes:
        total: of the whole network.
        layers: per stack what one layer keeps, its input, and the number of layers.
    """

    total: float = 0
    layers: list[tuple[float, float, int]] = dataclasses.field(default_factory=list)


def _kept_by(network, counts: dict[str, int], inputs: dict, mixed: bool, device: str) -> Kept:
    """Run a forward pass on fake tensors and return what it keeps; `counts` are the layers of each stack."""
    network = _two_layers(network, counts)
    if device == "cpu":
        fuse_adapters(network)
    if "shared_prefix" in inputs:
        install(network.get_base_model() if hasattr(network, "get_base_model") else network)
    storages, before, kept = {}, {}, Kept()

    def keep(tensor):
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()  # held, so that no other gets its address
        return tensor

    def total() -> int:
        return sum(storage.nbytes() for address, storage in storages.items() if address not in weights)

    def enter(layer, *_):
        before[layer] = total()

    def leave(layer, args, outputs, count: int):
        kept.layers.append((total() - before[layer], args[0].untyped_storage().nbytes(), count))

    with FakeTensorMode() as mode:
        for module in network.modules():
            for tensors in (module._parameters, module._buffers):
                for name, each in tensors.items():
                    if each is not None:
                        tensors[name] = _fake_like(each, device)
        weights = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers())}
        for name, count in counts.items():
            layer = network.get_submodule(name)[1]
            layer.register_forward_pre_hook(enter)
            layer.register_forward_hook(functools.partial(leave, count=count))
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(device, torch.bfloat16, enabled=mixed),
        ):
            network.train()(**_fake(mode, inputs, device), use_cache=False)
        kept.total = total() + sum(each * (count - 2) for each, _, count in kept.layers)
    return kept


def _two_layers(network, names: Iterable[str]):
    """Return a copy of a network on the meta device, with the first two layers of each stack."""
    whole = {name: network.get_submodule(name) for name in names}
    try:
        for name, stack in whole.items():
            network.set_submodule(name, nn.ModuleList(list(stack)[:2]))
        return copy.deepcopy(network)
    finally:
        for name, stack in whole.items():
            network.set_submodule(name, stack)


def _fake_like(tensor: torch.Tensor, device: str) -> torch.Tensor:
    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def _fake(mode: FakeTensorMode, inputs: dict, device: str) -> dict:
    """Return inputs as fake tensors, the layout of shared prompts among them."""
    tensors = {name: each for name, each in inputs.items() if isinstance(each, torch.Tensor)}
    fakes = {name: mode.from_tensor(each).to(device) for name, each in tensors.items()}
    if (layout := inputs.get("shared_prefix")) is not None:
        fakes["shared_prefix"] = copy.copy(layout)
        vars(fakes["shared_prefix"]).update(_fake(mode, vars(layout), device))
    return fakes
