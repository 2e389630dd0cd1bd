"""Models too large for one GPU: weights, gradients, moments and average cut up between the processes (FSDP2).

The model itself knows nothing of it: its parameters become DTensors, of which each process holds some rows, and are
brought together a block at a time while it computes (Zhao et al., 2023, "PyTorch FSDP").
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from vitrail.model import Model
from vitrail.model.block import Block
from vitrail.model.resnet_units import PostActivationUnit, PreActivationUnit
from vitrail.training.device import Devices
from vitrail.weights.build import empty, fill

T = TypeVar("T")


def shard(model: Model, place: Devices) -> None:
    """Cut the model's parameters up between all processes, and move this process's share to its device.

    Call it with equal weights in every process, on the CPU, so that no GPU ever holds all of them; make the optimiser and
    the average afterwards, and compile ``units`` instead of the model. Gradients come as means over the processes, as in
    DDP. Weights travel in float32, and autocast casts them where they are used: numbers are those of DDP, but for the
    order of sums.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(place.device.type, (place.world,))
    for unit in units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to(place.device)  # buffers
    # nothing changes logits in place, which is what the warning is about
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(FSDP\w+\) returned a view tensor")


def units(model: Model) -> list[nn.Module]:
    """The modules that are brought together one after another: blocks of a ViT, units of a ResNet or of a hybrid's.

    The rest (patches, tokens, positions, norm, head) stays together from the first forward to the last backward.
    """
    apart: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, PreActivationUnit | PostActivationUnit):
            apart.append(module)
        elif isinstance(module, Block):
            # The model itself reads a block's positions, before the block runs: they cannot be cut up with it.
            own_positions = module.pos_embed is not None
            apart += [module.attn.qkv, module.attn.proj, module.mlp] if own_positions else [module]
    return apart


def is_sharded(model: nn.Module) -> bool:
    """Whether ``shard`` has been here."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory: the tensor itself, unless it is cut up.

    What works on elements alone, such as an average or a test for NaN, gives the same on these as on the whole.
    """
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor brought together, such as the norm of gradients that are cut up; every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gather(tensors: Mapping[str, Tensor], place: Devices) -> dict[str, Tensor]:
    """Copies of the whole tensors in the first process's CPU memory; nothing in the others, which must call it too.

    They are brought together one after another, so that a GPU holds one of them at a time.
    """
    together: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if place.first:
            together[name] = complete.to("cpu", copy=True)
    return together


def whole_model(model: Model, tensors: Mapping[str, Tensor], place: Devices) -> Model | None:
    """The model of these tensors (its state, or the average of it), whole, on the first process's CPU; None elsewhere.

    Every process must call it.
    """
    together = gather(tensors, place)
    if not place.first:
        return None
    copy = fill(empty(model.config), together)
    copy.preprocess, copy.labels = model.preprocess, model.labels
    return copy


def in_step(parts: Sequence[T], place: Devices) -> Iterator[tuple[T, bool]]:
    """The parts of this process's batch, and whether each counts: as many as the process with the most has.

    Weights are brought together by all processes at once, so none may go through the model less often than another; one
    that has fewer parts takes its last one again, which is not to count.
    """
    for i in range(place.highest(len(parts))):
        yield parts[min(i, len(parts) - 1)], i < len(parts)
