"""From files, bytes, pictures or arrays to labels and features, by a model in torch or by an exported one without it."""

from vitrail.inputs import Source, expand_inputs
from vitrail.prediction.images import ImageLike
from vitrail.prediction.predictor import Features, Prediction, Predictor

__all__ = ["Features", "ImageLike", "Prediction", "Predictor", "Source", "expand_inputs"]
