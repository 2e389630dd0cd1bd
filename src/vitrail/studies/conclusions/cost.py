"""Accuracy against cost: which arms are worth their FLOPs, attention's share, and how FLOPs grow with tokens."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vitrail.studies.conclusions import arms
from vitrail.studies.conclusions.words import accuracy, large, named, percent, several
from vitrail.studies.findings import Point, Setting
from vitrail.studies.study import Study


def sentences(study: Study, setting: Setting, tried: Sequence[Point]) -> list[str]:
    """What the chosen points among ``tried``, all at one value along the axis, say."""
    answer = [point for point in tried if point.chosen]
    return [
        arms.extremes(setting, answer),
        *_worth(answer),
        *arms.comparisons(study, answer),
        *_attention(answer),
        *_growth(alike_but_patches(study, setting, answer)),
    ]


def front(answer: Sequence[Point]) -> list[Point]:
    """The arms that no arm of the same FLOPs or fewer equals in the mean, cheapest first (the Pareto front)."""
    best: list[Point] = []
    for point in sorted(answer, key=lambda point: (point.size.flops, -point.top1.mean)):
        if not best or point.top1.mean > best[-1].top1.mean:
            best.append(point)
    return best


def alike_but_patches(study: Study, setting: Setting, answer: Sequence[Point]) -> list[Point]:
    """The arms whose tokens are linear maps of patches and which differ in the size of these alone: the most of them.

    Only among such arms is it the tokens that make the FLOPs grow.
    """
    groups: dict[str, list[Point]] = {}
    for point in answer:
        shapes = _shapes(study, setting, point.arm)
        if len(shapes) == 1 and point.size.tokens:  # which of several alternatives was taken is not known here
            groups.setdefault(shapes.pop(), []).append(point)
    return max(groups.values(), key=len, default=[])


def _shapes(study: Study, setting: Setting, arm: str) -> set[str]:
    """What decides an arm's network but for the size of its patches, for each alternative; none if a stem is not linear."""
    own = study.arms[arm]
    shapes = set()
    for alternative in own.choose or ({},):
        said = {**_by_keys(setting), **own.changes, **alternative}
        variant, _, _ = str(said.pop("model.variant", None)).partition("/")  # of B/16 the letter
        stem = said.pop("model.stem", None) or ("hybrid" if "+" in variant else "linear")
        if said.get("init") or stem != "linear":
            return set()
        decisive = {key: value for key, value in said.items() if _decides(key) and value is not None}
        shapes.add(repr((variant, sorted(decisive.items(), key=lambda item: item[0]))))
    return shapes


def _decides(key: str) -> bool:
    """Whether a recipe key decides the network, other than by the size of its patches."""
    return key == "image_size" or (key.startswith("model.") and key != "model.patch_size")


def _by_keys(setting: Setting) -> dict[str, Any]:
    """What all arms share of what decides the network, by recipe keys."""
    shared = {f"model.{key}": value for key, value in setting.recipe.get("model", {}).items()}
    return {**shared, **{key: setting.recipe.get(key) for key in ("init", "image_size")}}


def _worth(answer: Sequence[Point]) -> list[str]:
    best = front(answer)
    said = [
        f"Worth their cost, cheapest first, as no arm of as few FLOPs is as accurate: "
        f"{several([_priced(point) for point in best])}. FLOPs are additions and multiplications, here for one image."
    ]
    rest = sorted((point for point in answer if point not in best), key=lambda point: point.size.flops)
    if rest:
        said.append(f"Not worth it in the mean: {several([_priced(point) for point in rest])}.")
    close = [
        f"{named(low.arm)} and {named(high.arm)}" for low, high in pairwise(best) if high.top1.low <= low.top1.high
    ]
    if close:
        said.append(f"The intervals of these neighbours overlap, so the dearer may be no better: {several(close)}.")
    return said


def _priced(point: Point) -> str:
    tokens = f", {_tokens(point.size.tokens)}" if point.size.tokens else ""
    return f"{named(point.arm)}, {large(point.size.flops)} FLOPs{tokens}, {accuracy(point.top1)}"


def _attention(answer: Sequence[Point]) -> list[str]:
    """The part of the FLOPs that compares tokens with each other, at the longest sequence and at the shortest."""
    with_tokens = sorted((point for point in answer if point.size.tokens), key=lambda point: point.size.tokens or 0)
    if not with_tokens:
        return []
    short, long = with_tokens[0], with_tokens[-1]
    text = (
        f"{named(long.arm)} has the longest sequence, {long.size.tokens:,} tokens: comparing them with each other takes "
        f"{percent(long.size.attention_share)} of its FLOPs"
    )
    if short.size.tokens == long.size.tokens:
        return [f"{text}."]
    share = percent(short.size.attention_share)
    return [f"{text}. With the shortest, {_tokens(short.size.tokens or 0)} of {named(short.arm)}, it takes {share}."]


def _growth(linear: Sequence[Point]) -> list[str]:
    """The power of the tokens by which the FLOPs grow between arms that differ in the size of their patches alone."""
    by_tokens = {point.size.tokens: point for point in linear if point.size.tokens}
    line = [by_tokens[tokens] for tokens in sorted(by_tokens)]
    if len(line) < 2:
        return []
    first, last = line[0], line[-1]
    text = (
        f"From {first.size.tokens:,} to {last.size.tokens:,} tokens of linear patches, {_times(first, last)[0]:.3g} times as "
        f"many, the FLOPs become {_times(first, last)[1]:.3g} times as many: they grow as the tokens to the power "
        f"{_power(first, last):.2f}"
    )
    if len(line) > 2:
        text += f", and between the two longest sequences to the power {_power(line[-2], last):.2f}"
    return [f"{text}. Power 1 is in proportion; power 2 is what comparing every token with every other takes."]


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' if count > 1 else ''}"


def _times(low: Point, high: Point) -> tuple[float, float]:
    """How many times the tokens, and the FLOPs."""
    return (high.size.tokens or 1) / (low.size.tokens or 1), high.size.flops / low.size.flops


def _power(low: Point, high: Point) -> float:
    tokens, flops = _times(low, high)
    return math.log(flops) / math.log(tokens)
