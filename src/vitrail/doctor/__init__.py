"""What is wrong between a model and data, found before it costs a day. Importing this does not import torch."""

from vitrail.doctor.finding import Finding

__all__ = ["Finding"]
