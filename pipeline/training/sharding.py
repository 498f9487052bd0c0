"""`sharding: fsdp`: weights, gradients and optimizer split among the devices, by torch's FSDP2.

accelerate has it for GPUs alone, so torch is called directly: the same code runs on CPUs, where tests see it.
Checkpoints hold whole tensors all the same: one process makes the candidate of them.
"""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.training import devices


def shard(model: torch.nn.Module) -> None:
    """Split `model` in place and move it to this process's device; a block is gathered while it computes."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    # The rest, such as tied embeddings, is whole during a step: the fused loss reads the output layer's weight itself.
    fully_shard(model, mesh=mesh)


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the blocks of `model`: what its outermost lists of modules of one class hold."""
    lists: dict[str, torch.nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_within = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, torch.nn.ModuleList) and len({type(block) for block in module}) == 1 and not is_within:
            lists[name] = module
    return [block for module in lists.values() for block in module]


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` whole; all processes must call this. What was split goes to the first one's CPU memory alone."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if devices.is_first() else torch.empty(0)


def split_like(tensor: torch.Tensor, other: Any) -> torch.Tensor:
    """Return `tensor`, which every process has whole, split as `other` is."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    # Without a source, no process sends: each takes its part.
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
