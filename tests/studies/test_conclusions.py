"""The sentences say what the numbers say: every number in its place, chance called chance, and no verdict without one."""

import math
import re

import numpy as np
import pytest
from made_up import World, point, setting, sizes, study

from vitrail.studies.conclusions import conclude
from vitrail.studies.conclusions.along import training_flops_at
from vitrail.studies.conclusions.words import difference, large, signed, within_chance
from vitrail.studies.findings import Estimate
from vitrail.studies.summary import summarise

RATES = (0.001, 0.002, 0.004)


def said(own, points, **of_setting):
    return conclude(own, setting(**of_setting), points)[0]


# The arms side by side


def test_arms_are_told_apart_or_not_with_what_is_within_chance():
    points = [
        point("1-D, stem", 0.900),
        point("2-D", 0.905, 0.005),
        point("rotary", 0.934, 0.034, apart=True),
        point("shared", 0.888, -0.012, half=0.02),
        point("none", 0.806, -0.094, apart=True),
    ]
    assert said(study([p.arm for p in points]), points) == (
        "Of 4 arms beside “1-D, stem” (90.0 %), 1 is better by more than chance, 1 is worse and 2 cannot be told apart "
        "from it.",
        "Best in the mean is “rotary”, right on 93.4 % (92.4 to 94.4) of the 600 test images. "
        "Worst is “none”, with 80.6 % (79.6 to 81.6).",
        "More than chance ahead of “1-D, stem”: “rotary”, by 3.4 points (2.4 to 4.4).",
        "More than chance behind “1-D, stem”: “none”, by 9.4 points (8.4 to 10.4).",
        "Cannot be told apart from “1-D, stem” here: “2-D”, 0.5 points ahead (0.5 behind to 1.5 ahead); “shared”, "
        "1.2 points behind (3.2 behind to 0.8 ahead). Differences up to 1.0 to 2.0 points, depending on the arm, are within "
        "the chance of these seeds and images.",
        "“1-D, stem” and the 2 arms not told apart from it lie within 1.7 points of each other, from 88.8 % to 90.5 %.",
        "The same for all arms: parameters, FLOPs for one image and training steps.",
    )


def test_a_difference_that_counts_only_alone_is_called_so():
    points = [point("a", 0.9), point("b", 0.92, 0.02), point("c", 0.85, -0.05, apart=True)]
    assert ("Of these, “b” would count if it were the only comparison. Among 2 comparisons it may be chance.") in said(
        study("abc"), points
    )


def test_nothing_is_called_chance_where_all_arms_differ():
    text = " ".join(said(study("ab"), [point("a", 0.9), point("b", 0.95, 0.05, apart=True)]))
    assert "told apart" not in text
    assert "More than chance ahead of “a”: “b”, by 5.0 points (4.0 to 6.0)." in text


def test_arms_without_a_run_to_pair_with_are_not_compared():
    assert "No arm has a run to compare with one of “a”." in said(study("ab"), [point("b", 0.9)])
    assert conclude(study("ab"), setting(), []) == ((), ())


def test_arms_with_another_opponent_are_told_against_it():
    points = [
        point("ViT", 0.90),
        point("ViT, plain", 0.85, -0.05, apart=True),
        point("ResNet", 0.90, 0.004),
        point("ResNet, plain", 0.89, 0.04, apart=True),
    ]
    arms = {p.arm: {} for p in points} | {"ResNet, plain": {"against": "ViT, plain"}}
    text = said(study(arms), points)
    assert text[:2] == (
        "Of 2 arms beside “ViT” (90.0 %), none is better by more than chance, 1 is worse and 1 cannot be told apart from it.",
        "Of the one arm compared with “ViT, plain” (85.0 %), 1 is better by more than chance and none is worse.",
    )
    assert "More than chance behind “ViT”: “ViT, plain”, by 5.0 points (4.0 to 6.0)." in text
    assert "More than chance ahead of “ViT, plain”: “ResNet, plain”, by 4.0 points (3.0 to 5.0)." in text


# Learning rates


def sweep():
    """Truly equal arms whose best rates differ: an arm at the other's rate looks worse."""
    return [
        point("token", 0.90, lr=0.001),
        point("token", 0.80, lr=0.002, chosen=False),
        point("token", 0.70, lr=0.004, chosen=False),
        point("avg", 0.70, -0.20, lr=0.001, chosen=False),
        point("avg", 0.805, 0.005, lr=0.002, chosen=False),
        point("avg", 0.904, 0.004, lr=0.004, at_rate=0.204),
    ]


def test_what_a_single_learning_rate_would_have_made_one_believe_is_said():
    own = study(["token", "avg"], view="rates")
    assert said(own, sweep()) == (
        "Each arm at its own best learning rate, and what part of the 600 test images it got right: "
        "“token”, 90.0 % (89.0 to 91.0) at 0.001; “avg”, 90.4 % (89.4 to 91.4) at 0.004.",
        "Cannot be told apart from “token” here: “avg”, 0.4 points ahead (0.6 behind to 1.4 ahead). "
        "Differences up to 1.0 points are within the chance of these seeds and images.",
        "“token” and the arm not told apart from it lie within 0.4 points of each other, from 90.0 % to 90.4 %.",
        "One learning rate for all would have misled in 2 of 3 comparisons (one for each arm and rate): another verdict "
        "(ahead, behind, or not told apart) than at the own best rates, and an interval that does not overlap the one "
        "there. Chance alone turns about 1 in 20 verdicts at a single rate, of these 3 fewer than 1.",
        "The most flattering to an arm: at 0.004 for both, “avg” is 20.4 points ahead of “token” (19.4 to 21.4). "
        "Each at its own best rate, it is not to be told apart from “token”: 0.4 points ahead (0.6 behind to 1.4 ahead).",
        "The most unfair to an arm: at 0.001 for both, “avg” is 20.0 points behind “token” (19.0 to 21.0). "
        "Each at its own best rate, it is not to be told apart from “token”: 0.4 points ahead (0.6 behind to 1.4 ahead).",
        "At 0.001 alone, against “token”: “avg”, 20.0 points behind (19.0 to 21.0).",
        "At 0.002 alone, against “token”: “avg”, 0.5 points ahead (0.5 behind to 1.5 ahead).",
        "At 0.004 alone, against “token”: “avg”, 20.4 points ahead (19.4 to 21.4).",
        "The same for all arms: parameters, FLOPs for one image and training steps.",
    )


def test_where_no_single_rate_misleads_that_is_said():
    points = [
        point("token", 0.90, lr=0.001),
        point("token", 0.80, lr=0.002, chosen=False, seeds=1),
        point("avg", 0.94, 0.04, lr=0.001, apart=True),
        point("avg", 0.86, 0.06, lr=0.002, chosen=False, seeds=1),
    ]
    text = said(study(["token", "avg"], view="rates"), points)
    assert (
        "No single learning rate of those tried would have misled: at none has an arm another verdict (ahead, behind, or "
        "not told apart) than at the own best rates. Chance alone turns about 1 in 20 verdicts at a single rate, of these "
        "2 fewer than 1."
    ) in text
    assert "At 0.002 alone and with one seed, against “token”: “avg”, 6.0 points ahead (5.0 to 7.0)." in text


def test_a_verdict_that_is_another_within_chance_is_not_called_misleading():
    points = [
        point("token", 0.90, lr=0.001),
        point("token", 0.89, lr=0.002, chosen=False),
        point("avg", 0.91, 0.008, lr=0.001),
        point("avg", 0.905, 0.015, lr=0.002, chosen=False),  # 0.5 to 2.5: alone it would count
    ]
    text = " ".join(said(study(["token", "avg"], view="rates"), points))
    assert (
        "No single learning rate of those tried would have misled: in 1 of 2 comparisons it gives another verdict (ahead, "
        "behind, or not told apart) than at the own best rates, but the intervals overlap."
    ) in text


def test_the_verdict_at_own_best_rates_is_the_one_with_all_comparisons_in_mind():
    points = [
        point("token", 0.90, lr=0.001),
        point("token", 0.80, lr=0.002, chosen=False),
        point("avg", 0.92, 0.02, lr=0.001),  # 1 to 3, but not told apart
        point("avg", 0.86, 0.06, lr=0.002, chosen=False),
    ]
    text = " ".join(said(study(["token", "avg"], view="rates"), points))
    assert "would have misled in 1 of 2 comparisons" in text
    assert "In 1 more the verdict is another, but the intervals overlap." in text
    assert "Each at its own best rate, it is not to be told apart from “token”: 2.0 points ahead (1.0 to 3.0)." in text


def test_single_rates_are_told_against_each_arms_opponent():
    arms = {"a": {}, "b": {}, "c": {"against": "b"}}
    points = [point(arm, 0.9, None if arm == "a" else 0.0, lr=lr, chosen=lr == 0.001) for lr in RATES for arm in arms]
    text = said(study(arms, view="rates"), points)
    level = "level (1.0 behind to 1.0 ahead)"
    assert [s for s in text if s.startswith("At 0.002")] == [
        f"At 0.002 alone, against “a”: “b”, {level}.",
        f"At 0.002 alone, against “b”: “c”, {level}.",
    ]


def test_a_sign_turned_round_by_the_rate_is_found_in_simulated_runs():
    """Average pooling is truly 3 points better, at four times the rate; at the reference's rate it is 12 points worse."""
    best = {"token": 0.001, "avg": 0.004}
    height = {"token": 0.88, "avg": 0.91}
    outcomes = World(n=2000).outcomes(
        lambda arm, value, lr: height[arm] - 0.075 * abs(np.log2(lr / best[arm])), tuple(best), RATES
    )
    own = study(tuple(best), view="rates")
    text = " ".join(said(own, summarise(own, sizes(outcomes), outcomes)))
    assert re.search(r"More than chance ahead of “token”: “avg”, by [2-4]\.\d points", text)
    assert re.search(r"The most unfair to an arm: at 0.001 for both, “avg” is 1[0-4]\.\d points behind “token”", text)
    assert re.search(r"Each at its own best rate, it is [2-4]\.\d points ahead of “token”", text)


# Along a quantity

VALUES = (0.01, 0.1, 1.0)
AXIS = {"key": "data.fraction", "values": VALUES, "label": "share of the training images"}


def curve(arm, means, gaps=None, apart=(True, True, True), flops=1_000_000):
    gaps = gaps or [None] * 3
    steps = (50, 160, 500)
    return [
        point(arm, mean, gap, along=value, apart=sure, steps=length, flops=flops)
        for value, mean, gap, sure, length in zip(VALUES, means, gaps, apart, steps, strict=True)
    ]


def test_curves_that_cross_are_said_to_cross_where_and_how_surely():
    points = curve("ViT", (0.30, 0.70, 0.95)) + curve("ResNet", (0.50, 0.74, 0.91), (0.20, 0.04, -0.04))
    own = study(["ViT", "ResNet"], view="along", along=AXIS)
    # A straight line on the logarithm of the share: half of the way from 10 % to 100 % is 32 %. The ViT reaches 91 % when
    # it is 21/25 of the way from 160 to 500 steps, at 3 * 1e6 * 64 FLOPs a step.
    vit, resnet = 192e6 * 160 * (500 / 160) ** (21 / 25), 192e6 * 500
    assert (f"{vit / 1e9:.1f}", f"{resnet / 1e9:.1f}", f"{resnet / vit:.1f}") == ("80.0", "96.0", "1.2")
    assert said(own, points) == (
        "Best in the mean, by share of the training images: at 1 % “ResNet”, right on 50.0 % (49.0 to 51.0) of the 600 "
        "test images; at 100 % “ViT”, right on 95.0 % (94.0 to 96.0).",
        "“ResNet” is ahead of “ViT” at 1 % by 20.0 points (19.0 to 21.0) and at 10 % by 4.0 points (3.0 to 5.0). "
        "“ResNet” is behind “ViT” at 100 % by 4.0 points (3.0 to 5.0). "
        "The curves cross between 10 % and 100 %, near 32 %: on both sides the gap is more than chance. "
        "The gap goes from 20.0 points ahead at 1 % to 4.0 points behind at 100 %: the two intervals do not overlap.",
        "To be right on 91.0 %, the most that both “ResNet” and “ViT” reach, “ViT” takes about 80 billion training FLOPs "
        "and “ResNet” 96 billion, 1.2 times as many (interpolated, in the mean).",
        "The same for all arms: parameters, FLOPs for one image and training steps.",
    )


def test_a_crossing_with_another_opponent_is_told():
    points = curve("ViT", (0.3, 0.8, 0.95)) + curve("ViT, plain", (0.3, 0.7, 0.95), (0.0, -0.1, 0.0), (False,) * 3)
    points += curve("ResNet, plain", (0.5, 0.84, 0.91), (0.20, 0.04, -0.04), (True, True, True))
    arms = {"ViT": {}, "ViT, plain": {}, "ResNet, plain": {"against": "ViT, plain"}}
    text = said(study(arms, view="along", along=AXIS), points)
    own = next(s for s in text if s.startswith("“ResNet, plain”"))
    assert own.startswith("“ResNet, plain” is ahead of “ViT, plain” at 1 % by 20.0 points")
    assert "The curves cross between 10 % and 100 %, near 32 %: on both sides the gap is more than chance." in own
    assert any("the most that both “ResNet, plain” and “ViT, plain” reach" in s for s in text)


@pytest.mark.parametrize(
    ("gaps", "apart", "expected"),
    [
        (
            (0.20, 0.005, -0.04),
            (True, False, True),
            "The curves cross between 10 % and 100 %, near 13 %: that they cross is more than chance, but just where is "
            "uncertain.",
        ),
        (
            (0.20, 0.005, -0.005),
            (True, False, False),
            "The curves cross between 10 % and 100 %, near 32 %: the crossing is within chance.",
        ),
        ((0.20, 0.10, 0.02), (True, True, False), "The curves do not cross between the values tried."),
    ],
)
def test_a_crossing_within_chance_is_called_so(gaps, apart, expected):
    points = curve("ViT", (0.3, 0.7, 0.9)) + curve("ResNet", (0.5, 0.7, 0.9), gaps, apart)
    text = said(study(["ViT", "ResNet"], view="along", along=AXIS), points)[1]
    assert expected in text
    assert text.count("cross") == (2 if "they cross" in expected or "crossing" in expected else 1)


def test_values_where_the_arms_are_alike_say_what_is_within_chance():
    points = curve("ViT", (0.3, 0.7, 0.9)) + curve("hybrid", (0.5, 0.7, 0.92), (0.2, 0.0, 0.02), (True, False, False))
    text = said(study(["ViT", "hybrid"], view="along", along=AXIS), points)[1]
    assert (
        "They cannot be told apart at 10 %, level (1.0 behind to 1.0 ahead); at 100 %, 2.0 points ahead (1.0 to 3.0). "
        "Differences up to 1.0 points are within the chance of these seeds and images. "
        "Where such an interval leaves out 0, it does so for one comparison, not for all of them."
    ) in text


def test_training_cost_at_an_accuracy_is_read_only_where_it_can_be():
    points = curve("ViT", (0.3, 0.7, 0.9))
    a, b, c = (p.size.training_flops for p in points)
    assert training_flops_at(0.7, points) == pytest.approx(b)
    assert training_flops_at(0.8, points) == pytest.approx(math.sqrt(b * c))
    assert training_flops_at(0.3, points) == a
    assert training_flops_at(0.2, points) is None  # less than the least that was tried
    assert training_flops_at(0.8, [point("ViT", m, steps=500) for m in (0.3, 0.7, 0.9)]) is None  # all cost the same
    text = " ".join(
        said(study(["ViT", "x"], view="along", along=AXIS), points + curve("x", (0.91, 0.95, 0.96), (0.1,) * 3))
    )
    assert "training FLOPs" not in text


def test_values_that_are_no_numbers_cross_between_them_and_nowhere_nearer():
    values = ("none", "light")
    points = [point("a", 0.9, along=v) for v in values]
    points += [point("b", 0.9, gap, along=v, apart=True) for v, gap in zip(values, (0.05, -0.05), strict=True)]
    own = study("ab", view="along", along={"key": "augment.policy", "values": values})
    assert "The curves cross between none and light: on both sides the gap is more than chance." in said(own, points)[1]


# Words


def test_differences_and_large_numbers_read_as_they_are():
    assert difference(Estimate(0.023, 0.011, 0.034)) == "2.3 points ahead (1.1 to 3.4)"
    assert difference(Estimate(-0.023, -0.034, -0.011)) == "2.3 points behind (1.1 to 3.4)"
    assert difference(Estimate(0.003, -0.012, 0.018)) == "0.3 points ahead (1.2 behind to 1.8 ahead)"
    assert difference(Estimate(0.0004, -0.01, 0.01)) == "level (1.0 behind to 1.0 ahead)"
    assert [large(x) for x in (7, 999_600, 1_234_000, 5.678e9, 1.5e15)] == [
        "7",
        "1 million",
        "1.23 million",
        "5.68 billion",
        "1,500 trillion",
    ]
    assert "up to 1.3 points are" in within_chance([point("a", 0.9, 0.1, half=0.013)], "arm")
    assert [signed(x) for x in (0.0123, -0.0123, -0.0001)] == ["+1.2", "−1.2", "0.0"]
