"""Whether the sizes and shapes of images go with what a model makes of them."""

import numpy as np

from vitrail.data.preprocess import Preprocess
from vitrail.doctor.finding import Finding, ok, warning
from vitrail.doctor.pictures import Pictures
from vitrail.model import ModelConfig

_ENLARGED = 1.5  # from here on the model works hard on pixels that are not there
_KEPT = 0.5  # of a typical picture's area; a photograph of 3:2 keeps 0.51 of it under the usual crop
_DISTORTED = 1.6  # times wider or higher than it is; 3:2 becomes a square at 1.5


def size_findings(pictures: Pictures, contract: Preprocess, config: ModelConfig) -> list[Finding]:
    """What resizing, cropping and patches do to these images."""
    if not pictures.good:
        return []
    sizes = pictures.sizes
    typical = tuple(np.median(sizes, axis=0).round().astype(int).tolist())
    enlarged = float(np.median([_factor(size, contract) for size in sizes]))
    (h, w), (H, W) = typical, contract.size_of((typical[0], typical[1]))
    if enlarged >= _ENLARGED:
        fitting = "{}x{}".format(*_fitting(typical, config))
        found = [
            warning(
                "image size",
                f"images are {h}x{w} pixels (median) and are enlarged {enlarged:.1f} times to {H}x{W}: "
                f"the model works on {_tokens(config, contract)} and sees no more",
                f"--image-size {fitting} suits them"
                + (", or a model of smaller patches" if _patch(config) * 4 > min(typical) else ""),
            )
        ]
    else:
        found = [
            ok("image size", f"images are {h}x{w} pixels (median), the model takes {H}x{W}{_covers(h, H, config)}")
        ]
    return found + _shapes(sizes, contract, config)


def _shapes(sizes: np.ndarray, contract: Preprocess, config: ModelConfig) -> list[Finding]:
    """What is cut off, or distorted."""
    if contract.varies:
        return [ok("image shape", f"images keep their own, distorted by {_rounding(sizes, contract):.0%} (median)")]
    (H, W) = contract.image_size
    ratios = sizes[:, 1] / sizes[:, 0] / (W / H)  # wider (above 1) or higher than the model's shape
    stretch = float(np.median(np.maximum(ratios, 1 / ratios)))
    typical = float(np.median(ratios)) * W / H
    if contract.mode == "crop":
        kept = contract.crop_fraction**2 * float(np.median(np.minimum(ratios, 1 / ratios)))
        if kept < _KEPT:
            return [
                warning(
                    "image shape",
                    f"the centre crop keeps {kept:.0%} of a typical image (width {typical:.2f} times the height)",
                    f"--mode squash or --mode pad keeps all of it, and --image-size {_shaped(typical, contract, config)} "
                    "is of its shape",
                )
            ]
        return [ok("image shape", f"the centre crop keeps {kept:.0%} of a typical image")]
    if contract.mode == "squash" and stretch > _DISTORTED:
        return [
            warning(
                "image shape",
                f"a typical image is distorted {stretch:.1f} times (width {typical:.2f} times the height)",
                f"--mode pad keeps its shape, and --image-size {_shaped(typical, contract, config)} is of its shape",
            )
        ]
    return []


def _factor(size: np.ndarray, contract: Preprocess) -> float:
    """By how much an image is enlarged, along the side that is enlarged least; below 1 it is made smaller."""
    wanted = contract.size_of((int(size[0]), int(size[1])))
    ratios = [side / contract.crop_fraction / own for side, own in zip(wanted, size, strict=True)]
    return max(ratios) if contract.mode == "crop" else min(ratios)


def _rounding(sizes: np.ndarray, contract: Preprocess) -> float:
    """By what share a typical image is distorted where each becomes whole patches of its own aspect ratio."""
    wanted = np.array([contract.size_of((int(h), int(w))) for h, w in sizes])
    ratios = wanted[:, 1] / wanted[:, 0] * sizes[:, 0] / sizes[:, 1]
    return float(np.median(np.maximum(ratios, 1 / ratios))) - 1


def _fitting(size: tuple[int, ...], config: ModelConfig) -> tuple[int, int]:
    """The nearest size that the patches divide, no smaller than one patch."""
    patch = _patch(config)
    h, w = (max(patch, round(side / patch) * patch) for side in size)
    return h, w


def _shaped(ratio: float, contract: Preprocess, config: ModelConfig) -> str:
    """A size of another shape with as many tokens as the contract's, nearly."""
    area = contract.image_size[0] * contract.image_size[1]
    h, w = _fitting((round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)), config)
    return f"{h}x{w}"


def _patch(config: ModelConfig) -> int:
    """Pixels of one side of a token; of a ResNet, from one position of its last map to the next."""
    return int(getattr(config, "patch_size", 0) or getattr(config, "stride", 1))


def _covers(height: int, model_height: int, config: ModelConfig) -> str:
    patch = getattr(config, "patch_size", None)
    if patch is None:
        return ""
    return f", a patch covers {patch * height / model_height:.3g} of their pixels a side"


def _tokens(config: ModelConfig, contract: Preprocess) -> str:
    rows, columns = (side // _patch(config) for side in contract.image_size)
    return f"{rows * columns} {'patches' if hasattr(config, 'patch_size') else 'positions'}"
