"""Training from kept images: memory and file are the same run, and going on from either is too."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from vitrail.errors import UserError
from vitrail.recipes.recipe import Recipe
from vitrail.training.images import Look

SMALL = {"variant": "Ti/16", "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
