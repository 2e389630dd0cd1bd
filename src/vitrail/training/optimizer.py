"""Parameter groups and optimisers: what decays, at which learning rate each layer learns, and by which rule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitrail.model import Model, ModelConfig, ResNetConfig
from vitrail.recipes.recipe import Optimizer
from vitrail.training.sharding import local

_TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")
_NEVER_DECAYED = (*_TOKENS, "attn_pool.latent")
_HEADS = ("head.", "head_dist.")
_STEM = ("patch_embed.", "norm_pre.", "stem.")


@dataclass(frozen=True)
class Rule:
    """How one parameter is trained: whether it decays, the factor of its learning rate, whether Muon takes it."""

    decays: bool
    lr_scale: float
    muon: bool


def rule(name: str, parameter: Tensor, config: ModelConfig, settings: Optimizer) -> Rule:
    """The rule of one parameter, from its name and shape.

    Biases, norms, tokens and positions do not decay. With layer-wise decay (Clark et al., 2020; Bao et al., 2022) the
    head learns at the full rate and each block below it at ``layer_decay`` times the rate of the block above; the stem
    and the positions come last, but for those that a block has to itself. Muon takes the matrices of the blocks.
    """
    block, depth = _block(name, config), config.depth
    layer = block + 1 if block is not None else 0 if name.startswith(_STEM) or name in _TOKENS else depth + 1
    scale = settings.layer_decay ** (depth + 1 - layer)
    if name.startswith(_HEADS):
        scale *= settings.head_lr_scale
    return Rule(
        decays=parameter.ndim > 1 and not name.endswith(_NEVER_DECAYED),
        lr_scale=scale,
        muon=settings.name == "muon" and block is not None and parameter.ndim == 2 and not name.endswith(_TOKENS),
    )


def _block(name: str, config: ModelConfig) -> int | None:
    """The number of the block, or of a ResNet's unit counted over all stages, that a parameter belongs to."""
    match = re.match(r"(?:stages\.(\d+)\.)?blocks\.(\d+)\.", name)
    if match is None:
        return None
    before = sum(config.layers[: int(match[1])]) if isinstance(config, ResNetConfig) else 0
    return before + int(match[2])


class Optimisers:
    """One optimiser, or Muon and AdamW side by side, seen as one; its state is kept by parameter names."""

    def __init__(self, model: Model, settings: Optimizer) -> None:
        self.settings = settings
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        groups: dict[Rule, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            groups.setdefault(rule(name, parameter, model.config, settings), []).append(parameter)
        self.optimisers = [
            _build(settings, muon, chosen)
            for muon in (True, False)
            if (chosen := [(r, ps) for r, ps in groups.items() if r.muon == muon])
        ]

    def set_learning_rate(self, factor: float) -> float:
        """Set every group's learning rate to the recipe's, times ``factor``, times its own scale; return the first part."""
        lr = self.settings.lr * factor
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr * group["lr_scale"]
        return lr

    def step(self, finite: Tensor) -> None:
        """Move the parameters, if ``finite`` (bool). A GPU decides by itself where its optimiser can: nothing waits for it."""
        deferred = finite.device.type == "cuda" and all(
            group.get("fused") for optimiser in self.optimisers for group in optimiser.param_groups
        )
        if not deferred and not finite:
            return
        for optimiser in self.optimisers:
            if deferred:
                # as torch.amp.GradScaler tells fused optimisers
                optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]
            optimiser.step()

    def zero_grad(self) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The optimisers' tensors by ``parameter name:key``, for a checkpoint."""
        return {
            f"{self.names[parameter]}:{key}": value
            for optimiser in self.optimisers
            for parameter, values in optimiser.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Tensors to read a state of these shapes into: moments placed, and cut up, as their parameters are.

        Raises:
            ValueError: a state of a parameter that the model does not have.
        """
        parameters = {name: parameter.detach() for parameter, name in self.names.items()}
        rooms: dict[str, Tensor] = {}
        for path, shape in shapes.items():
            parameter = parameters.get(path.rpartition(":")[0])
            if parameter is None:
                raise ValueError(f"{path} belongs to no parameter of the model")
            # what has another shape, such as a step counter, is whole in every process
            rooms[path] = torch.empty_like(parameter) if tuple(parameter.shape) == shape else torch.empty(shape)
        return rooms

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of ``state``."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            name, _, key = path.rpartition(":")
            by_parameter.setdefault(name, {})[key] = value
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    for key, value in by_parameter.get(self.names[parameter], {}).items():
                        # Moments live beside their parameter; so does the step counter of a fused optimiser only.
                        moves = value.ndim > 0 or group.get("fused")
                        optimiser.state[parameter][key] = value.to(parameter.device) if moves else value


def _build(settings: Optimizer, muon: bool, groups: list[tuple[Rule, list[nn.Parameter]]]) -> torch.optim.Optimizer:
    described = [
        {"params": params, "lr_scale": r.lr_scale, "weight_decay": settings.weight_decay if r.decays else 0.0}
        for r, params in groups
    ]
    lr = settings.lr
    if muon:
        # The update is scaled to AdamW's size (Liu et al., 2025), so that both share one learning rate.
        return torch.optim.Muon(described, lr=lr, momentum=settings.momentum, adjust_lr_fn="match_rms_adamw")
    if settings.name == "sgd":
        # torch has no fused SGD of parameters that are cut up between processes
        fuses = all(p.device.type == "cuda" and local(p) is p for _, params in groups for p in params)
        return torch.optim.SGD(described, lr=lr, momentum=settings.momentum, fused=fuses or None)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    fused = all(p.device.type in ("cpu", "cuda") for _, params in groups for p in params)
    return kind(described, lr=lr, betas=settings.betas, eps=settings.eps, fused=fused)
