"""The pixel contract in words, and whether it agrees with the model."""

from typing import TYPE_CHECKING

from vitrail.doctor.finding import Finding, ok, problem
from vitrail.errors import UserError
from vitrail.weights.contract import require_fit

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.model import ModelConfig

_LARGEST = 3.0  # of a mean of pixels from 0 to 1, with room


def contract_text(preprocess: "Preprocess") -> str:
    """A contract on one line: size, mode, filter, mean and deviation."""
    (h, w), p = preprocess.image_size, preprocess
    how = {"crop": "centre crop", "squash": "squashed", "pad": "padded", "native": "own aspect ratio"}[p.mode]
    if p.patch_size is not None:
        how += f" in up to {h * w // p.patch_size**2} patches of {p.patch_size}x{p.patch_size}"
    if p.crop_fraction < 1:
        how += f" of {p.crop_fraction:.4g} of the sides"
    mean, std = (", ".join(f"{value:.4g}" for value in _brief(values)) for values in (p.mean, p.std))
    colour = "" if p.channels == 3 else ", grey"
    return f"{h}x{w}{colour}, {how}, {p.interpolation}, mean {mean}, std {std}"


def contract_findings(preprocess: "Preprocess | None", config: "ModelConfig") -> list[Finding]:
    """Whether the contract is there and agrees with the model."""
    if preprocess is None:
        return [
            problem(
                "pixels",
                "how the model wants its pixels is not known: its files do not say",
                "give --mean and --std as in its training",
            )
        ]
    found = []
    if max(map(abs, (*preprocess.mean, *preprocess.std))) > _LARGEST:
        found.append(
            problem(
                "pixels",
                f"mean and std are meant for pixels from 0 to 255 ({contract_text(preprocess)})",
                "give --mean and --std divided by 255",
            )
        )
    if preprocess.channels != config.channels:
        found.append(
            problem(
                "pixels",
                f"the contract gives {preprocess.channels} channels and the model takes {config.channels}",
                "correct the model's files",
            )
        )
    try:
        config.with_changes(image_size=preprocess.image_size)
    except UserError as error:
        found.append(
            problem(
                "pixels",
                f"the contract's size is none for this model: {error}",
                "train and evaluate it with another --image-size",
            )
        )
    try:
        require_fit(preprocess, config)
    except UserError as error:
        found.append(problem("pixels", str(error), "give --mode"))
    text = contract_text(preprocess)
    if preprocess.image_size != config.image_size:  # as with DINOv2: its authors' own processor does so
        text += (
            f"; the model itself was made for {config.image_size[0]}x{config.image_size[1]}, positions are interpolated"
        )
    return found or [ok("pixels", text)]


def _brief(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[:1] if len(set(values)) == 1 else values
