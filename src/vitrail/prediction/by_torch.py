"""Answers of a model in torch."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitrail.data.groups import by_size
from vitrail.data.preprocess import Preprocess
from vitrail.device import keep_freed_memory, named_device
from vitrail.errors import UserError
from vitrail.model import Model, ViT, ViTConfig
from vitrail.prediction.answers import Ranking
from vitrail.weights.contract import require_fit

_BATCHES_AHEAD = 2  # decoded while a GPU works; on a CPU, decoding and the model would fight for the same cores


class TorchAnswers:
    """A model on its device. Images of several sizes (mode native) are packed into one sequence, without padding."""

    def __init__(self, model: Model, device: str) -> None:
        """
        Raises:
            UserError: it does not know its pixels or cannot take them, or the device is not there.
        """
        self.model = model.eval()
        if model.preprocess is None:
            raise UserError(
                "the model has no preprocess, so its pixels are unknown: set model.preprocess = vitrail.Preprocess(...)"
            )
        self.preprocess: Preprocess = model.preprocess
        require_fit(self.preprocess, model.config)
        self.device = named_device(device)
        self.model.to(self.device)
        self.ahead = 0 if self.device.type == "cpu" else _BATCHES_AHEAD
        if self.device.type == "cpu":
            keep_freed_memory()
        self.classes = model.config.classes
        self.labels = model.labels or tuple(str(index) for index in range(self.classes))

    @property
    def feature_width(self) -> int:
        config = self.model.config
        return config.feature_width if isinstance(config, ViTConfig) else config.width

    def load(self, data: bytes, name: str) -> Tensor:
        return self.preprocess.load(data, name)

    def rank(self, pixels: Sequence[Tensor], top: int) -> list[Ranking]:
        found = []
        for row in self._rows(pixels, self.model):
            values, indices = row.softmax(dim=0).topk(top)
            found.append(list(zip(indices.tolist(), values.tolist(), strict=True)))
        return found

    def features(self, pixels: Sequence[Tensor]) -> list[NDArray[np.float32]]:
        return [row.numpy() for row in self._rows(pixels, self.model.features)]

    def identity(self) -> dict[str, Any]:
        weights = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        is_gpu = self.device.type == "cuda"
        return {
            "model": repr(self.model.config),
            "weights": weights.hexdigest(),
            "merge": repr(self.model.merge) if isinstance(self.model, ViT) else None,
            "device": torch.cuda.get_device_name(self.device) if is_gpu else self.device.type,
            "torch": torch.__version__,
            **({} if is_gpu else {"threads": torch.get_num_threads()}),  # which sums are taken in which order
        }

    def _rows(self, pixels: Sequence[Tensor], forward: Callable[..., Tensor]) -> list[Tensor]:
        """The row of ``forward``'s result for each image, uint8 (C, h, w), on the CPU."""
        groups, order = by_size(pixels)
        with torch.inference_mode():
            inputs = [self.preprocess.normalize(group.to(self.device)) for group in groups]
            rows = forward(inputs[0] if len(inputs) == 1 else inputs).float().cpu()
        return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda placed: placed[0])]
