"""A model as it is exported: uint8 images in, logits and features out, at one image size, as a program of torch.export.

Shapes: B batch, C channels, H W height and width, D width of the features.
"""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vitrail.data.preprocess import Preprocess
from vitrail.model import Model, ViT
from vitrail.model.reduction import Merging

INPUT = "images"
_EXAMPLES = 2  # of any number: 0 and 1 are taken for constants


class Deployed(nn.Module):
    """A model with its pixels' mean and deviation: uint8 (B, C, H, W) -> logits (B, classes) and features (B, D)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Model, preprocess: Preprocess, merge: Merging | None = None) -> None:
        super().__init__()
        self.model = _with_fixed_angles(model, preprocess.image_size)
        self.merge = merge
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
        self.register_buffer("scale", 1 / (255 * std))  # as Preprocess.normalize
        self.register_buffer("shift", mean / std)
        self.eval().requires_grad_(False)  # with gradients, attention under a bias is laid out otherwise in memory

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.float() * self.scale - self.shift
        if self.merge is not None and isinstance(self.model, ViT):
            features = self.model.features(pixels, merge=self.merge)
        else:
            features = self.model.features(pixels)
        return (self.model.classify(features), features) if self.model.config.classes else (features,)


def _with_fixed_angles(model: Model, size: tuple[int, int]) -> Model:
    """The same model, with the same parameters, whose rotary positions are tables and no longer computed.

    OpenVINO takes a range of fractions for one of whole numbers, so that all angles would be wrong.
    """
    if not isinstance(model, ViT) or model.config.position != "rotary2d":
        return model
    fixed = copy.copy(model)
    p = model.config.patch_size
    place = model._place(model.blocks[0], [(1, (size[0] // p, size[1] // p))], torch.device("cpu"))
    fixed._place = lambda holder, shapes, device: place  # type: ignore[method-assign]
    return fixed


def outputs_of(model: Model) -> tuple[str, ...]:
    """Names of the outputs, in their order."""
    return ("logits", "features") if model.config.classes else ("features",)


def program(deployed: Deployed, image_shape: tuple[int, int, int], batch: int | None) -> ExportedProgram:
    """The model as a graph.

    Args:
        deployed: in evaluation mode, on the CPU.
        image_shape: C, H and W.
        batch: images at a time; None for any number.
    """
    images = torch.zeros(_EXAMPLES if batch is None else batch, *image_shape, dtype=torch.uint8)
    varying = {0: Dim("batch", min=1)} if batch is None else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about torch
        # strict: torch's compiler reads the code, so that the length of a batch stays a symbol
        return torch.export.export(deployed, (images,), dynamic_shapes=(varying,), strict=True)
