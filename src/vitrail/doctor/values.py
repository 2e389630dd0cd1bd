"""Whether the values of the pixels are those that a model was made for."""

import numpy as np

from vitrail.data.preprocess import Preprocess
from vitrail.doctor.finding import Finding, ok, problem, warning
from vitrail.doctor.pictures import Pictures

# After normalisation, data have a mean near 0 and a deviation near 1. Photographs under any of the usual contracts stay
# well within these: ImageNet's under 0.5 and 0.5 have a mean of -0.1 and a deviation of 0.55.
_MEAN = 1.0
_STD = (0.4, 2.0)
_UNSCALED = 3  # no pixel is above: values of 0 to 1, or class numbers, saved as bytes
_DARK = 80  # no pixel is above: 10 to 12 bits of 16, say
_FEW, _MANY = 0.02, 0.5  # shares of the images that are worth a word, and that make a fault of the whole data set


def value_findings(pictures: Pictures, contract: Preprocess | None) -> list[Finding]:
    """Damage, range, normalisation and colour of the images.

    Args:
        pictures: what was looked at; without a good one only damage is said.
        contract: the model's; None where it is not known.
    """
    found = [*_damage(pictures)]
    if pictures.good:
        found += _range(pictures) or _normalisation(pictures, contract)
        found += _blank(pictures) + _colour(pictures, contract)
    return found


def _damage(pictures: Pictures) -> list[Finding]:
    n = len(pictures.good) + len(pictures.bad)
    if not pictures.bad:
        return [ok("images", f"{n:,} looked at, all can be read")]
    return [
        problem(
            "images",
            f"{len(pictures.bad)} of {n:,} looked at cannot be used, the first: {pictures.bad[0]}",
            "mend or remove them, or leave them out with --skip-bad",
        )
    ]


def _range(pictures: Pictures) -> list[Finding]:
    """Values that fill a small part of their range: then mean and deviation have no more to say."""
    high = max(picture.high for picture in pictures.good)
    sixteen = sum(picture.sixteen_bit for picture in pictures.good)
    if high <= _UNSCALED:
        what = f"all images are black: no pixel has a value above {high} of 255"
        advice = "they hold values from 0 to 1, or class numbers: save them as 0 to 255"
    elif high <= _DARK:
        what = f"all images are dark: no pixel has a value above {high} of 255"
        advice = "use their whole range"
        if sixteen:
            what += f"; {sixteen} of {len(pictures.good)} have 16 bits, of which only the lower ones are used"
            advice = "scale the values to the whole range of 16 bits, 0 to 65535"
    else:
        return []
    return [problem("pixel values", what, advice)]


def _normalisation(pictures: Pictures, contract: Preprocess | None) -> list[Finding]:
    own_mean, own_std = pictures.mean, pictures.std
    own = f"mean {_numbers(own_mean)}, deviation {_numbers(own_std)}"
    if contract is None:
        return [ok("pixel values", f"the images have {own}")]
    mean, std = np.array(contract.mean), np.array(contract.std)
    centre, scale = (own_mean - mean) / std, own_std / std
    text = f"the images have {own}; normalised for the model, mean {_numbers(centre)} and deviation {_numbers(scale)}"
    if np.abs(centre).max() <= _MEAN and scale.min() >= _STD[0] and scale.max() <= _STD[1]:
        return [ok("pixel values", text)]
    inverted = np.abs(1 - own_mean - mean).max() < 0.3 * np.abs(own_mean - mean).max()
    if inverted:
        return [
            problem(
                "pixel values",
                f"{text}: they look inverted, as dark on light instead of light on dark",
                "invert the images, or train the model on these",
            )
        ]
    return [
        warning(
            "pixel values",
            f"{text}, where 0 and 1 are expected",
            "if the model was trained on such images, its mean and std are wrong: "
            f"try --mean {_option(own_mean)} --std {_option(own_std)}; else it has not seen their like: fine-tune it",
        )
    ]


def _blank(pictures: Pictures) -> list[Finding]:
    n, blank = len(pictures.good), sum(picture.blank for picture in pictures.good)
    if blank <= _FEW * n:
        return []
    make = problem if blank > _MANY * n else warning
    return [make("images", f"{blank} of {n:,} show nothing: every pixel has the same value", "look at some of them")]


def _colour(pictures: Pictures, contract: Preprocess | None) -> list[Finding]:
    n, grey = len(pictures.good), sum(picture.grey for picture in pictures.good)
    channels = len(pictures.good[0].mean) if contract is None else contract.channels
    if channels == 1 and grey < n * (1 - _FEW):
        return [
            warning(
                "colour",
                f"{n - grey} of {n:,} images have colour, and the model takes grey ones: they lose it",
                "take a model with three channels if colour tells the classes apart",
            )
        ]
    if channels == 3 and grey == n:
        return [
            warning(
                "colour",
                "all images are grey, and the model takes colour: all three channels get the same",
                "it works; a model trained from scratch can do with one channel: --set model.channels=1",
            )
        ]
    if channels == 3 and grey > n * _FEW:
        return [ok("colour", f"{grey} of {n:,} images are grey ({grey / n:.0%}): all three channels get the same")]
    return [ok("colour", "as the model takes it")]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _option(values: np.ndarray) -> str:
    return ",".join(f"{value:.3f}" for value in values)
