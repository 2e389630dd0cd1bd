"""Models <-> files: the model folder, the formats that open here, and the start of fine-tuning.

Importing this does not import torch; loading a model does.
"""

from vitrail.weights.find import find
from vitrail.weights.folder import describe, load_folder, save
from vitrail.weights.load import load, read

__all__ = ["describe", "find", "load", "load_folder", "read", "save"]
