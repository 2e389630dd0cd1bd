"""The options that give a model its pixel contract, or change it: ``--mean``, ``--std``, ``--mode`` ..."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.errors import UserError

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.model import ModelConfig
    from vitrail.weights.description import Description

_LARGEST = 3.0  # beyond, a mean or a deviation is meant for pixels from 0 to 255

Mean = Annotated[
    str | None,
    typer.Option(metavar="VALUES", help="Mean of the pixels (0 to 1): one value, or one a channel as 0.5,0.4,0.4."),
]
Std = Annotated[
    str | None, typer.Option(metavar="VALUES", help="Deviation of the pixels: one value, or one a channel.")
]
Mode = Annotated[
    str | None,
    typer.Option(help="How an image gets the model's shape: crop, squash or pad; or native, to keep its own."),
]
CropFraction = Annotated[
    float | None, typer.Option(help="Share of the resized image's sides that is kept, such as 0.875; 1 keeps all.")
]
Interpolation = Annotated[str | None, typer.Option(help="Filter for resizing: bicubic or bilinear.")]


@dataclass(frozen=True)
class Pixels:
    """What a person says of the pixel contract; None leaves it as it is."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mode: str | None = None
    crop_fraction: float | None = None
    interpolation: str | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of a Preprocess that are given."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def of(self, description: "Description", name: str) -> "Preprocess":
        """The contract of a model with these changes; a contract without an equal here makes way for a given one.

        Raises:
            UserError: as ``contract``, or the files' own has no equal here and mean and std are not given.
        """
        try:
            known = description.preprocess
        except UserError:
            if self.mean is None or self.std is None:
                raise
            known = None
        return self.contract(known, description.config, name)

    def contract(self, known: "Preprocess | None", config: "ModelConfig", name: str) -> "Preprocess":
        """The model's own contract with these changes, or one made of them alone.

        What a new one is not told: images are resized to cover, and nothing more than the excess is cut off
        (``crop``, fraction 1), so that an image of the model's own size stays as it is.

        Args:
            known: the model's own.
            config: the model's configuration.
            name: the model, for errors.

        Raises:
            UserError: without a contract, mean or std is not given; values that are impossible; mode native for a ResNet.
        """
        from vitrail.data.preprocess import Preprocess
        from vitrail.weights.contract import patch_size_of

        changes = self.changes
        if changes.get("mode") == "native":
            changes["patch_size"] = patch_size_of(config)
        channels = config.channels if known is None else known.channels
        for key in ("mean", "std"):
            if len(changes.get(key, ())) == 1:
                changes[key] *= channels
        if known is None:
            if missing := [f"--{key}" for key in ("mean", "std") if key not in changes]:
                raise UserError(
                    f"{name}: how this model wants its pixels is not known, its files do not say: give "
                    f"{' and '.join(missing)}, as in its training, such as {_example(channels)}"
                )
            values = {"image_size": config.image_size, "channels": channels, "crop_fraction": 1.0, **changes}
            return Preprocess(**values)
        if "mode" in changes and changes["mode"] != known.mode:
            changes.setdefault("crop_fraction", None)  # that of the other mode
        return Preprocess(**{**vars(known), **changes})


def pixels(
    mean: str | None, std: str | None, mode: str | None, crop_fraction: float | None, interpolation: str | None
) -> Pixels:
    """The options as they are written on the command line.

    Raises:
        UserError: a mean or a deviation that is no list of numbers, or one for pixels from 0 to 255.
    """
    return Pixels(_numbers("--mean", mean), _numbers("--std", std), mode, crop_fraction, interpolation)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: write one number, or one a channel such as 0.485,0.456,0.406") from None
    if any(abs(value) > _LARGEST for value in values):
        raise UserError(f"{option} {text}: pixels go from 0 to 1 here: divide by 255")
    return values


def _example(channels: int) -> str:
    if channels == 1:
        return "--mean 0.5 --std 0.5"
    return "--mean 0.5 --std 0.5, or ImageNet's --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
