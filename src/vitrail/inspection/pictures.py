"""One picture looked at in every way: maps with their faithfulness, tokens, and how far each head looks.

Shapes: B = 1 batch, C channels, H W height and width, h w grid, L layers, A heads, N tokens, K a head's width.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitrail.errors import UserError
from vitrail.inspection.attention import attention_map, distances, rollout
from vitrail.inspection.faithfulness import faithfulness_of_maps
from vitrail.inspection.inspection import Alike, Attention, Floats, Heads, Map, Picture
from vitrail.inspection.look import Look, Query, look
from vitrail.inspection.relevance import relevance
from vitrail.inspection.tokens import norms, patch_features, similarity
from vitrail.model import Model, ViT

_TOP = 5


@dataclass(frozen=True)
class Asked:
    """What a person wants to see of every picture."""

    query: Query = "class"
    layers: tuple[int, ...] = (-1,)
    """From 0, or from -1 backwards: those whose attention is among the maps."""
    target: int | None = None
    """The class to explain; None for what the model takes the picture for."""
    against: int | None = None
    faithfulness: bool = True


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture, ready for the model."""

    name: str
    pixels: Tensor
    """uint8 (C, H, W)"""
    labels: tuple[str, ...]
    """Of the model's classes."""
    number: int
    """Its place among the pictures, which is the seed of its random maps."""
    label: str | None = None
    """The true one, where it is known."""
    target: int | None = None
    """The true class, where it is known and the model has it."""


def looked_at(model: Model, subject: Subject, asked: Asked, *, keep_attention: int) -> tuple[Picture, Floats | None]:
    """The picture with all that is asked for, but for its colours, which are those of all pictures together.

    Args:
        keep_attention: how many bytes of queries, keys and biases may be kept.

    Returns:
        The picture, and the attention distance (L, A) in it; None of a ResNet, of which a picture has labels alone.
    """
    images = normalised(model, subject)
    if not isinstance(model, ViT):
        with torch.no_grad():
            logits = model.eval()(images)
        return _without_tokens(subject, logits[0]), None
    seen = look(model, images, tokens=True)
    if not bool(torch.isfinite(seen.features).all()):
        raise UserError(f"{subject.name}: the model's features are not finite; its weights have diverged")
    maps = _maps(model, images, seen, subject, asked)
    features = patch_features(seen)
    heads = [attention_map(seen, layer, asked.query, "all")[0] for layer in asked.layers]
    rolled = next(found.values for found in maps if found.kind == "rollout")
    patch = _brightest(rolled) if isinstance(asked.query, str) else asked.query
    found = replace(
        _without_tokens(subject, seen.logits[0]),
        grid=seen.grid,
        patch_size=seen.patch_size,
        prefix=seen.prefix,
        maps=maps,
        attention=_attention(seen, keep_attention),
        norms=_array(norms(seen)[0]),
        features=_array(features[0]),
        heads=tuple(
            Heads(f"attention of layer {number}{_origin(asked.query)}", number, _array(values))
            for number, values in zip(_numbers(seen, asked), heads, strict=True)
        ),
        alike=Alike(patch, _array(similarity(features, patch)[0])),
    )
    return found, _array(distances(seen))


def normalised(model: Model, subject: Subject) -> Tensor:
    """(1, C, H, W), on the model's device."""
    images: Tensor = model.preprocess.normalize(subject.pixels[None].to(next(model.parameters()).device))
    return images


def _without_tokens(subject: Subject, logits: Tensor) -> Picture:
    """What every model tells of a picture."""
    none = np.zeros((0, 0, 0), np.float32)
    top: tuple[tuple[str, float], ...] = ()
    if subject.labels:
        values, indices = logits.float().softmax(dim=0).topk(min(_TOP, len(subject.labels)))
        top = tuple((subject.labels[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
    return Picture(
        name=subject.name,
        image=_seen(subject.pixels),
        grid=(0, 0),
        patch_size=0,
        prefix=0,
        top=top,
        maps=(),
        attention=None,
        norms=np.zeros((0, 0), np.float32),
        features=none,
        colours=none,
        label=subject.label,
    )


def _seen(pixels: Tensor) -> NDArray[np.uint8]:
    """uint8 (C, H, W) -> (H, W, 3); grey as three equal channels."""
    image: NDArray[np.uint8] = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return image


def _maps(model: Model, images: Tensor, seen: Look, subject: Subject, asked: Asked) -> tuple[Map, ...]:
    """Attention, rollout, and for a model with a head what spoke for its classes."""
    origin = _origin(asked.query)
    maps = [
        Map(f"attention of layer {number}{origin}", _array(attention_map(seen, number, asked.query)[0]))
        for number in _numbers(seen, asked)
    ]
    maps.append(Map(f"rollout{origin}", _array(rollout(seen, asked.query)[0]), kind="rollout"))
    if not subject.labels:
        return tuple(maps)
    top = int(seen.logits[0].argmax())
    # what one patch attends to is no account of the answer, and is not judged as one
    judged: list[int | None] = [top if isinstance(asked.query, str) else None] * len(maps)
    for target, against in questions(seen.logits[0], subject.target, asked):
        values = relevance(model, images, target, against, signed=against is not None)[0]
        name = f"for {subject.labels[target]}"
        kind = "for the true class" if target == subject.target else "for another class"
        if target == top:
            kind = "for the predicted class"
        if against is not None:
            name, kind = f"{name} against {subject.labels[against]}", f"{kind} against another"
        maps.append(Map(name, _array(values), signed=against is not None, kind=kind))
        judged.append(target)
    if not asked.faithfulness:
        return tuple(maps)
    targets = {i: target for i, target in enumerate(judged) if target is not None}
    done = faithfulness_of_maps(
        model, images, [maps[i].values for i in targets], list(targets.values()), seed=subject.number
    )
    for i, found in zip(targets, done, strict=True):
        maps[i] = replace(maps[i], faithfulness=found, explains=subject.labels[targets[i]])
    return tuple(maps)


def questions(logits: Tensor, true: int | None, asked: Asked) -> list[tuple[int, int | None]]:
    """Classes to explain, and against which: logits (classes,) -> (target, against) each.

    Those that were asked for, and against the most probable other one; else for a mistake what the model took the picture
    for and what it is, each by itself and against the other; else the most probable class, and against the next.
    """
    ranked = logits.argsort(descending=True, stable=True).tolist()
    if asked.target is None and asked.against is None and true is not None and true != ranked[0]:
        return [(ranked[0], None), (true, None), (ranked[0], true), (true, ranked[0])]
    target = asked.target if asked.target is not None else next(c for c in ranked if c != asked.against)
    others = [c for c in ranked if c != target]
    against = asked.against if asked.against is not None else next(iter(others), None)
    return [(target, None)] if against is None else [(target, None), (target, against)]


def _numbers(seen: Look, asked: Asked) -> list[int]:
    """The layers that were asked for, from 0."""
    return [layer % len(seen.layers) for layer in asked.layers]


def _origin(query: Query) -> str:
    """Whose attention, where that was asked for."""
    if not isinstance(query, str):
        return f", patch {query[0]},{query[1]}"
    return "" if query == "class" else ", mean of the patches"


def _brightest(values: Floats) -> tuple[int, int]:
    """Row and column of the greatest value."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


def _attention(seen: Look, most: int) -> Attention | None:
    """Queries, keys and biases of all layers; None where they take more than so many bytes."""
    one, depth = seen.layers[0], len(seen.layers)
    per_layer = one.queries[0].numel() + one.keys[0].numel() + (0 if one.bias is None else one.bias[0].numel())
    if 4 * depth * per_layer > most:
        return None
    queries, keys = (np.stack([_array(getattr(layer, k)[0]) for layer in seen.layers]) for k in ("queries", "keys"))
    if one.bias is None:
        return Attention(queries, keys)
    biases = [_array(layer.bias[0]) for layer in seen.layers if layer.bias is not None]
    return Attention(queries, keys, np.stack(biases))


def size(found: Attention | None) -> int:
    """Bytes."""
    if found is None:
        return 0
    return found.queries.nbytes + found.keys.nbytes + (0 if found.bias is None else found.bias.nbytes)


def _array(tensor: Tensor) -> Any:
    """float32, on the CPU."""
    return tensor.detach().float().cpu().numpy()
