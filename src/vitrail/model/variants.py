"""VARIANTS: the sizes and the hybrids that have names, as the papers write them.

Nothing here imports torch.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vitrail.errors import UserError, did_you_mean
from vitrail.model.config import ViTConfig
from vitrail.model.fields import as_type, refuse_unknown
from vitrail.model.resnet_config import RESNETS, ResNetConfig, is_resnet, resnet_variant

# Name -> (width, depth, heads, mlp width, the patch sizes with a name). Ti..H: Dosovitskiy et al. (2021), Table 1, and
# Steiner et al. (2022), Table 1; g, G: Zhai et al. (2022), Table 2, G's MLP as released (8192).
_SIZES = {
    "Ti": (192, 12, 3, 768, (16, 8)),
    "S": (384, 12, 6, 1536, (32, 16, 14, 8)),
    "B": (768, 12, 12, 3072, (32, 16, 14, 8)),
    "L": (1024, 24, 16, 4096, (32, 16, 14)),
    "H": (1280, 32, 16, 5120, (14, 16)),
    "g": (1408, 40, 16, 6144, (14, 16)),
    "G": (1664, 48, 16, 8192, (14,)),
}
# Hybrids: name -> (pixels a token, residual units of each stage of the ResNet). Steiner et al. (2022), Table 1; the
# paper's R50+B/16 has the units of the fourth stage in the third, as released: (3, 4, 9).
_HYBRIDS: dict[str, tuple[int, tuple[int, ...]]] = {
    "R+Ti/16": (
        32,
        (),
    ),  # its name counts otherwise: patches of 8 on a map that the first convolution made 4 times smaller
    "R26+S/32": (32, (2, 2, 2, 2)),
    "R26+B/32": (32, (2, 2, 2, 2)),
    "R50+B/16": (16, (3, 4, 9)),
    "R50+L/32": (32, (3, 4, 6, 3)),
}

Values = Mapping[str, Any]


def _plain(size: str, patch: int) -> dict[str, Any]:
    width, depth, heads, mlp_width, _ = _SIZES[size]
    return {"patch_size": patch, "width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width}


def _hybrid(name: str, patch: int, layers: tuple[int, ...]) -> dict[str, Any]:
    size = name.partition("+")[2].partition("/")[0]
    return {**_plain(size, patch), "stem": "hybrid", "stem_layers": layers}


VARIANTS: Mapping[str, Values] = MappingProxyType(
    {f"{size}/{patch}": MappingProxyType(_plain(size, patch)) for size, row in _SIZES.items() for patch in row[-1]}
    | {name: MappingProxyType(_hybrid(name, *row)) for name, row in _HYBRIDS.items()}
)


def variant(name: str, **changes: Any) -> ViTConfig:
    """The configuration of a named variant such as ``B/16`` or ``R50+B/16``, with some fields changed.

    A size may be written with any patch size (``Ti/4``); an unknown size is a UserError with the nearest names. An
    image size that is not given is 224 x 224, rounded down to a multiple of the patch size.
    """
    size, _, patch = name.partition("/")
    if name in VARIANTS:
        values = dict(VARIANTS[name])
    elif size in _SIZES and patch.isdecimal():
        values = _plain(size, int(patch))
    else:
        raise UserError(f"unknown variant {name!r}: {did_you_mean(name, [*VARIANTS, *RESNETS])}")
    refuse_unknown(ViTConfig, changes)
    if changes.get("stem", "hybrid") != "hybrid":
        values.pop("stem_layers", None)  # a hybrid's own, which another stem has no use for
    values |= changes
    p = max(1, as_type("patch_size", values["patch_size"], int))
    values.setdefault("image_size", (max(p, 224 // p * p),) * 2)
    return ViTConfig(**values)


def model_variant(name: str, **changes: Any) -> ViTConfig | ResNetConfig:
    """The configuration of any named variant: a ResNet's such as ``R50x1``, else a Vision Transformer's (``variant``)."""
    return resnet_variant(name, **changes) if is_resnet(name) else variant(name, **changes)
