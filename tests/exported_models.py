"""A small model in its three forms: in torch, for OpenVINO and for ONNX."""

from pathlib import Path

import torch

from vitrail.data.preprocess import Preprocess
from vitrail.model import ViT, ViTConfig
from vitrail.runtimes.exported import config_values
from vitrail.runtimes.graph import Deployed, outputs_of, program
from vitrail.runtimes.write import WRITERS, Wanted
from vitrail.weights.folder import sha256, write_json

SIZE = (16, 24)


def small_model(labels: tuple[str, ...] = ("cat", "dog", "emu", "fox"), seed: int = 0) -> ViT:
    """Random weights, with answers that differ from image to image; without labels it has no head."""
    torch.manual_seed(seed)
    model = ViT(ViTConfig(image_size=SIZE, patch_size=8, classes=len(labels), width=32, depth=1, heads=2, mlp_width=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.preprocess = Preprocess(SIZE, mean=(0.5, 0.4, 0.45), std=(0.2, 0.25, 0.3))
    model.labels = labels
    return model.eval()


def write_exported(model: ViT, folder: Path, form: str) -> Path:
    """The folder of an exported model for any number of images, unchecked."""
    folder.mkdir()
    shape = (model.config.channels, *model.config.image_size)
    graph = program(Deployed(model, model.preprocess), shape, None)
    details = WRITERS[form](graph, folder, Wanted(shape, None, outputs_of(model)))
    digests = {file.name: sha256(file) for file in folder.iterdir()}
    export = {"form": form, "precision": "float32", "batch": None, "outputs": outputs_of(model), **details}
    write_json(config_values(model.config, model.preprocess, model.labels, export, digests), folder / "config.json")
    return folder
