"""A tiny model and a small folder of images, for the tests of evaluation."""

import numpy as np
import torch
from PIL import Image

import vitrail
from vitrail.data.preprocess import Preprocess
from vitrail.model.vit import ViT

CONFIG = {"image_size": (16, 16), "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "dropout": 0.3}


def make_model(labels=("ant", "bee", "cat"), **changes):
    """A tiny ViT whose logits differ from image to image."""
    torch.manual_seed(3)
    model = ViT(vitrail.variant("Ti/4", classes=len(labels), **(CONFIG | changes)))
    for parameter in model.parameters():  # a fresh head is zero: every logit would be equal
        torch.nn.init.normal_(parameter, std=0.3)
    model.labels, model.preprocess = tuple(labels), Preprocess((16, 16), crop_fraction=1.0)
    return model.eval()


def make_folder(root, classes=("ant", "bee", "cat"), images=4, seed=0):
    """A folder of class folders of noise."""
    generator = np.random.default_rng(seed)
    for label in classes:
        (root / label).mkdir(parents=True)
        for i in range(images):
            pixels = generator.integers(0, 256, (18 + i, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root
