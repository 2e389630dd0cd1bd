"""``inspect``: a model and pictures to an Inspection, everything that can be seen of both."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from vitrail.errors import UserError, did_you_mean
from vitrail.inspection.attention import distances
from vitrail.inspection.filters import patch_filters
from vitrail.inspection.inspection import Floats, Inspection, Picture, Positions
from vitrail.inspection.look import Query, look
from vitrail.inspection.mistakes import MistakenPicture
from vitrail.inspection.pictures import Asked, Subject, looked_at, normalised, size
from vitrail.inspection.positions import position_similarity
from vitrail.inspection.tokens import colours
from vitrail.model import Model, ViTConfig
from vitrail.prediction import ImageLike, Predictor, Source
from vitrail.weights.resize import resize

KEPT = 512 << 20
"""Bytes of queries, keys and biases that an inspection keeps, of all its pictures."""
MOST_POSITIONS = 64 * 64
"""More than these are not compared each with every other: that would take gigabytes."""

T = TypeVar("T")
Progress = Callable[[int, int], None]


def inspect(
    model: Model,
    images: Iterable[ImageLike | MistakenPicture] = (),
    *,
    name: str = "",
    image_size: tuple[int, int] | int | None = None,
    query: Query = "class",
    layers: Sequence[int] = (-1,),
    target: str | int | None = None,
    against: str | int | None = None,
    resized: tuple[int, int] | int | None = None,
    faithfulness: bool = True,
    shown: int = 12,
    device: str = "auto",
    progress: Progress | None = None,
) -> Inspection:
    """Look into a model: what it attends to in pictures, and what it has learned.

    Args:
        model: one with ``preprocess`` (and ``labels``), which is moved to the device and set to evaluation mode. Without
            pictures any model will do.
        images: as ``Predictor`` takes them, or mistakes (see ``mistakes``). One that cannot be read is told of in
            ``notes``; the others are not affected.
        name: what the page calls the model.
        image_size: another one than the model's own, to which it is brought.
        query: whose attention the maps show: ``class`` (the class token; without one the mean of the patches), ``mean``
            (of the patches), or the row and column of a patch, from 0.
        layers: whose attention is among the maps, from 0, or from -1 backwards.
        target: the class to explain, its label or its number; None for what the model takes each picture for, and of one
            that it gets wrong also for what it is.
        against: the class to explain it against; None for the most probable other one.
        resized: an image size to whose grid the positions are brought, to be seen beside the model's own; None for
            ``image_size``, where that is given.
        faithfulness: delete and insert patches in the order of each map, and of random ones.
        shown: how many pictures are shown in full; further ones count in the attention distance alone.
        device: as for ``Predictor``.
        progress: called with the pictures done and those to do.

    Raises:
        UserError: no picture can be read; a size, layer, patch or class that is not there.
    """
    own = model
    if isinstance(images, str | Path | bytes | np.ndarray | Image.Image):
        images = [images]  # one alone
    image_size, resized = (tuple(s) if isinstance(s, list) else s for s in (image_size, resized))
    if image_size is not None:
        model = resize(model, image_size)
    wanted = _asked(model, query, layers, target, against, faithfulness)
    notes: list[str] = []
    positions = _positions(own, resized or image_size, wanted, notes)
    filters = _optional(partial(patch_filters, model), notes)
    pictures, distances, looked = _pictures(model, list(images), wanted, shown, device, progress, notes)
    return Inspection(
        name, model.config, _labels(model), pictures, distances, positions, filters, tuple(dict.fromkeys(notes)), looked
    )


def _asked(
    model: Model,
    query: Query,
    layers: Sequence[int],
    target: str | int | None,
    against: str | int | None,
    faithfulness: bool,
) -> Asked:
    """What is asked for, once it is sure that the model has it."""
    if isinstance(model.config, ViTConfig):
        depth = model.config.depth
        for layer in layers:
            if not -depth <= layer < depth:
                raise UserError(f"layer {layer}: this model has layers 0 to {depth - 1}, or -{depth} to -1")
        layers = tuple(dict.fromkeys(int(layer) % depth for layer in layers))  # -1 is the last one's other name
    if not layers:
        raise UserError("layers: give one at least, such as -1 for the last")
    if not isinstance(query, str) and len(query) == 2:
        query = int(query[0]), int(query[1])
    chosen = _class(model, target), _class(model, against)
    if chosen[0] is not None and chosen[0] == chosen[1]:
        raise UserError(f"class {target} against itself: there is no difference to explain")
    return Asked(query, tuple(layers), *chosen, faithfulness)


def _class(model: Model, wanted: str | int | None) -> int | None:
    """The number of a class that is named, or given by its number."""
    if wanted is None:
        return None
    labels = _labels(model)
    if not labels:
        raise UserError(f"class {wanted}: the model has no head, so no classes to explain")
    if not isinstance(wanted, str):
        wanted = int(wanted)
        if not 0 <= wanted < len(labels):
            raise UserError(f"class {wanted}: the model's classes go from 0 to {len(labels) - 1}")
        return wanted
    if wanted not in labels:
        raise UserError(f"class {wanted!r}: {did_you_mean(wanted, labels)}")
    return labels.index(wanted)


def _labels(model: Model) -> tuple[str, ...]:
    """The classes' names, or their numbers; none of a model without a head."""
    return tuple(model.labels or map(str, range(model.config.classes)))[: model.config.classes]


def _positions(
    model: Model, other: tuple[int, int] | int | None, asked: Asked, notes: list[str]
) -> tuple[Positions, ...]:
    """At the model's own grid, and at that of another size if there is one."""
    config = model.config
    if not isinstance(config, ViTConfig):
        notes.append("a ResNet has no attention, tokens or positions: only filters and labels are shown")
        return ()
    sizes: list[tuple[int, int]] = [config.image_size]
    if other is not None:
        sizes.append((other, other) if isinstance(other, int) else other)
    layer = asked.layers[-1] if config.site == "layers" and asked.layers != (config.depth - 1,) else 0
    found = []
    for each in dict.fromkeys(sizes):
        h, w = config.at_size(each).grid
        if h * w > MOST_POSITIONS:
            notes.append(f"{h} x {w} positions are too many to be compared each with every other, and are left out")
            continue
        one = _optional(partial(position_similarity, model, each, layer), notes)
        found += [] if one is None else [one]
    return tuple(found)


def _optional(find: Callable[[], T], notes: list[str]) -> T | None:
    """What is found, or a note of why this model has no such thing."""
    try:
        return find()
    except UserError as error:
        notes.append(str(error))
        return None


@dataclass
class _Gathered:
    """What has been found in the pictures so far."""

    pictures: list[Picture] = field(default_factory=list)
    distances: list[Floats] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kept: int = 0
    """Bytes of attention."""


def _pictures(
    model: Model,
    images: list[ImageLike | MistakenPicture],
    asked: Asked,
    shown: int,
    device: str,
    progress: Progress | None,
    notes: list[str],
) -> tuple[tuple[Picture, ...], Floats | None, int]:
    """The pictures looked at, the mean attention distance in all of them, and of how many that is the mean."""
    if not images:
        return (), None, 0
    predictor = Predictor(model, device=device)
    found = _Gathered()
    if not model.config.classes:
        notes.append("the model has no head: there are no labels, no maps for a class, and no faithfulness")
    for number, image in enumerate(images):
        subject = _subject(predictor, image, number)
        if isinstance(subject, str):
            found.errors.append(subject)
        elif len(found.pictures) < shown:
            picture, far = looked_at(model, subject, asked, keep_attention=KEPT - found.kept)
            found.kept += size(picture.attention)
            found.pictures.append(picture)
            found.distances += [] if far is None else [far]
        else:
            found.distances += _distances(model, subject)
        if progress is not None:
            progress(number + 1, len(images))
    _say(found, len(images), notes)
    mean = np.stack(found.distances).mean(axis=0, dtype=np.float64).astype(np.float32) if found.distances else None
    return tuple(_coloured(found.pictures)), mean, len(found.distances)


def _subject(predictor: Predictor, image: ImageLike | MistakenPicture, number: int) -> Subject | str:
    """The picture as the model gets it, or why it could not be read."""
    labels = _labels(predictor.model)
    name, label, target = f"picture {number + 1}", None, None
    if isinstance(image, MistakenPicture):
        name, label, target = image.mistake.name, image.mistake.target, image.target
        image = Source(name, partial(bytes, image.encoded))
    elif isinstance(image, Source):
        name, label = image.name, image.label
        target = labels.index(label) if label in labels else None
    elif isinstance(image, str | Path):
        name = str(image)
    pixels = predictor.pixels(image)
    return pixels if isinstance(pixels, str) else Subject(name, pixels, labels, number, label, target)


def _distances(model: Model, subject: Subject) -> list[Floats]:
    """The attention distance in one picture; none of a ResNet."""
    if not isinstance(model.config, ViTConfig):
        return []
    return [distances(look(model, normalised(model, subject))).cpu().numpy()]


def _say(found: _Gathered, count: int, notes: list[str]) -> None:
    """What could not be read, or is not shown.

    Raises:
        UserError: not one picture could be read.
    """
    bad = len(found.errors)
    if bad == count:
        raise UserError(
            found.errors[0] if bad == 1 else f"none of {bad} images can be read; the first: {found.errors[0]}"
        )
    if bad:
        notes.append(f"{bad} of {count} images cannot be read; the first: {found.errors[0]}")
    more = count - bad - len(found.pictures)
    if more:
        notes.append(f"{more:,} further pictures count in the attention distance alone")
    without = sum(picture.attention is None and bool(picture.maps) for picture in found.pictures)
    if without:
        notes.append(f"queries and keys of {without} pictures are left out: together they would take too much memory")


def _coloured(pictures: list[Picture]) -> list[Picture]:
    """With the main directions of all pictures' features as colours, so that one colour means one thing in all of them."""
    seen = [picture for picture in pictures if picture.features.size]
    if not seen:
        return pictures
    rows = [picture.features.reshape(-1, picture.features.shape[-1]) for picture in seen]
    found = colours(torch.from_numpy(np.concatenate(rows))).numpy()
    parts = iter(np.split(found, np.cumsum([len(row) for row in rows])[:-1]))
    return [
        replace(picture, colours=next(parts).reshape(*picture.grid, 3)) if picture.features.size else picture
        for picture in pictures
    ]
