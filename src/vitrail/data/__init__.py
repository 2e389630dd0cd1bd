"""Images and labels: sources, decoding, the pixel contract, augmentation and batches. Knows no model."""
