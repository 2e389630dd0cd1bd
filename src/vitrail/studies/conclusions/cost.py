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
        *_growth([point for point in answer if linear_stem(study, setting, point.arm)]),
    ]


def front(answer: Sequence[Point]) -> list[Point]:
    """The arms that no arm of the same FLOPs or fewer equals in the mean, cheapest first (the Pareto front)."""
    best: list[Point] = []
    for point in sorted(answer, key=lambda point: (point.size.flops, -point.top1.mean)):
        if not best or point.top1.mean > best[-1].top1.mean:
            best.append(point)
    return best


def linear_stem(study: Study, setting: Setting, arm: str) -> bool:
    """Whether an arm is a Vision Transformer whose tokens are linear maps of patches, as far as the recipe says."""
    own = study.arms[arm]
    stems = set()
    for alternative in own.choose or ({},):
        said = {**_by_keys(setting), **own.changes, **alternative}
        usual = "hybrid" if "+" in str(said.get("model.variant")) else "linear"
        stems.add("another's" if said.get("init") else said.get("model.stem") or usual)
    return stems == {"linear"}


def _by_keys(setting: Setting) -> dict[str, Any]:
    """What all arms share of what decides the stem, by recipe keys."""
    shared = {f"model.{key}": value for key, value in setting.recipe.get("model", {}).items()}
    return {**shared, "init": setting.recipe.get("init")}


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
    tokens = f", {point.size.tokens:,} tokens" if point.size.tokens else ""
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
    return [f"{text}. With the shortest, {short.size.tokens:,} tokens of {named(short.arm)}, it takes {share}."]


def _growth(linear: Sequence[Point]) -> list[str]:
    """The power of the tokens by which the FLOPs grow between arms that differ in the size of their patches."""
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


def _times(low: Point, high: Point) -> tuple[float, float]:
    """How many times the tokens, and the FLOPs."""
    return (high.size.tokens or 1) / (low.size.tokens or 1), high.size.flops / low.size.flops


def _power(low: Point, high: Point) -> float:
    tokens, flops = _times(low, high)
    return math.log(flops) / math.log(tokens)
