"""Models <-> files: the model folder, the formats that open here and are written, and the start of fine-tuning.

Importing this does not import torch; loading a model does.
"""

from vitrail.weights.convert import convert
from vitrail.weights.description import describe, read
from vitrail.weights.find import find
from vitrail.weights.folder import save
from vitrail.weights.load import load, load_folder

__all__ = ["convert", "describe", "find", "load", "load_folder", "read", "save"]
