"""Each arm is judged at the rate that suits it, on images that did not choose it, and paired with the reference."""

import numpy as np
import pytest
from made_up import World, diverged, outcome, sizes, study

from vitrail.studies.statistics import estimate, paired_difference
from vitrail.studies.summary import choose_rate, summarise

RATES = (0.001, 0.002, 0.004)


def answers(n=50, seed=0, p=0.8):
    return np.random.default_rng(seed).random(n) < p


def run(lr, seed, val_top1, **values):
    return outcome(answers(seed=seed), lr=lr, seed=seed, val_top1=val_top1, **values)


def test_the_best_mean_on_the_validation_images_chooses_the_rate():
    runs = [run(0.001, 0, 0.9), run(0.001, 1, 0.5), run(0.002, 0, 0.8), run(0.002, 1, 0.8)]
    assert choose_rate(runs) == 0.002


def test_seeds_that_took_only_one_rate_have_no_say_in_the_choice():
    runs = [run(0.001, 0, 0.90), run(0.002, 0, 0.91), run(0.002, 1, 0.5), run(0.002, 2, 0.5)]
    assert choose_rate(runs) == 0.002  # 0.91 against 0.90, not the mean of three against it


def test_of_equal_rates_the_lower_loss_wins_then_the_lower_rate():
    assert choose_rate([run(0.001, 0, 0.9, val_loss=0.4), run(0.002, 0, 0.9, val_loss=0.3)]) == 0.002
    assert choose_rate([run(0.002, 0, 0.9, val_loss=0.3), run(0.001, 0, 0.9, val_loss=0.3)]) == 0.001
    assert choose_rate([diverged(50, lr=0.001), run(0.002, 0, 0.0, val_loss=9.0)]) == 0.002  # no loss is the worst loss


def test_without_a_seed_that_tried_all_rates_all_seeds_choose():
    assert choose_rate([run(0.001, 0, 0.7), run(0.002, 1, 0.8)]) == 0.002
    with pytest.raises(ValueError, match="no outcomes"):
        choose_rate([])


def test_points_come_by_arm_value_and_rate_with_one_rate_chosen_each():
    arms, values = ("b", "a", "left out"), (1.0, 0.1)
    outcomes = World().outcomes(lambda arm, value, lr: 0.8 + lr * 10, arms[:2], RATES[::-1], values)
    own = study(arms, reference="b", along={"key": "data.fraction", "values": values})
    points = summarise(own, sizes(outcomes), outcomes)
    assert [(p.arm, p.along, p.lr) for p in points] == [(a, v, lr) for a in arms[:2] for v in values for lr in RATES]
    assert [p.lr for p in points if p.chosen] == [0.004] * 4
    assert all(p.seeds == 3 for p in points)


def test_a_chosen_point_is_compared_at_the_references_own_rate_and_others_at_theirs():
    best = {"plain": 0.001, "good": 0.004}
    world = World()
    outcomes = world.outcomes(lambda arm, value, lr: 0.9 - 0.1 * (lr != best[arm]), ("plain", "good"), RATES)
    points = {(p.arm, p.lr): p for p in summarise(study(("plain", "good")), sizes(outcomes), outcomes)}

    def correct(arm, lr):
        return np.stack([o.correct for o in outcomes if (o.cell.arm, o.cell.lr) == (arm, lr)])

    chosen = points["good", 0.004]
    assert chosen.chosen
    assert chosen.top1 == estimate(correct("good", 0.004))
    assert chosen.difference == paired_difference(correct("good", 0.004), correct("plain", 0.001))
    assert chosen.difference_at_rate == paired_difference(correct("good", 0.004), correct("plain", 0.004))
    other = points["good", 0.001]
    assert other.difference == paired_difference(correct("good", 0.001), correct("plain", 0.001))
    assert other.difference_at_rate == other.difference
    assert all(points["plain", lr].difference_at_rate is None for lr in RATES)
    assert all(points["plain", lr].difference is None and not points["plain", lr].told_apart for lr in RATES)


def test_only_seeds_that_both_have_are_paired():
    world = World()
    outcomes = world.outcomes(lambda arm, value, lr: 0.9, ("plain", "good"), seeds=4)
    kept = [o for o in outcomes if (o.cell.arm, o.cell.seed) not in {("plain", 0), ("good", 3)}]
    reordered = kept[::-1]  # runs finish in any order
    point = next(p for p in summarise(study(("plain", "good")), sizes(kept), reordered) if p.arm == "good")
    a, b = (
        np.stack([o.correct for o in kept if o.cell.arm == arm and o.cell.seed in (1, 2)]) for arm in ("good", "plain")
    )
    assert point.difference == paired_difference(a, b)
    assert point.seeds == 3


def test_one_seed_alone_never_tells_arms_apart():
    outcomes = World().outcomes(lambda arm, value, lr: {"plain": 0.6, "good": 0.95}[arm], ("plain", "good"), seeds=1)
    point = summarise(study(("plain", "good")), sizes(outcomes), outcomes)[1]
    assert point.difference.low > 0.2
    assert not point.told_apart


def test_true_differences_are_told_apart_and_equal_arms_are_not():
    """Of 40 worlds with 5 equal arms each: 200 comparisons, of which Bonferroni allows about one world in 20 an alarm."""
    arms = ("plain", *"abcde", "good")
    seen, alarms = 0, 0
    for seed in range(40):
        outcomes = World(seed=seed).outcomes(lambda arm, value, lr: 0.95 if arm == "good" else 0.85, arms)
        points = {p.arm: p for p in summarise(study(arms), sizes(outcomes), outcomes)}
        seen += points["good"].told_apart
        alarms += any(points[arm].told_apart for arm in "abcde")
    assert seen == 40
    assert alarms <= 4


def test_a_difference_that_would_count_alone_does_not_among_many():
    arms = ("plain", *(f"arm {i}" for i in range(20)))
    world = World(n=400)
    outcomes = world.outcomes(lambda arm, value, lr: 0.9, arms[:1])
    one = world.outcomes(lambda arm, value, lr: 0.935, arms[1:2])
    alone, among = outcomes + one, outcomes + one + world.outcomes(lambda arm, value, lr: 0.9, arms[2:])
    first = summarise(study(arms), sizes(alone), alone)[1]
    assert first.told_apart
    same = summarise(study(arms), sizes(among), among)[1]
    assert same.difference == first.difference
    assert not same.told_apart


def test_diverged_runs_count_as_nothing_right_and_are_counted():
    n = 200
    runs = [outcome(answers(n, seed), arm="good", seed=seed, nll=0.2, seconds=3.0) for seed in (0, 1)]
    runs += [diverged(n, arm="good", seed=2, seconds=6.0)]
    runs += [diverged(n, arm="plain", seed=seed) for seed in range(3)]
    plain, good = summarise(study(("plain", "good")), sizes(runs), runs)
    assert (good.diverged, good.seeds, plain.diverged) == (1, 3, 3)
    assert good.top1.mean == pytest.approx(sum(o.top1 for o in runs[:3]) / 3)
    assert good.nll == pytest.approx(0.2)
    assert plain.nll is None
    assert good.seconds == pytest.approx(4.0)


def test_an_arm_with_rates_of_its_own_has_no_difference_at_a_rate_that_its_opponent_did_not_try():
    world = World()
    outcomes = world.outcomes(lambda arm, value, lr: 0.9, ("plain",), (0.001,))
    outcomes += world.outcomes(lambda arm, value, lr: 0.9, ("good",), (0.004,))
    good = summarise(study(("plain", "good")), sizes(outcomes), outcomes)[1]
    assert good.difference is not None
    assert good.difference_at_rate is None


def test_an_arm_is_paired_with_its_own_opponent():
    arms = ("ViT", "ViT, plain", "ResNet, plain")
    outcomes = World().outcomes(lambda arm, value, lr: {"ViT": 0.95}.get(arm, 0.8), arms)
    own = study({"ViT": {}, "ViT, plain": {}, "ResNet, plain": {"against": "ViT, plain"}})
    vit, plain, resnet = summarise(own, sizes(outcomes), outcomes)

    def correct(arm):
        return np.stack([o.correct for o in outcomes if o.cell.arm == arm])

    assert vit.difference is None
    assert plain.difference == paired_difference(correct("ViT, plain"), correct("ViT"))
    assert resnet.difference == paired_difference(correct("ResNet, plain"), correct("ViT, plain"))
    assert resnet.difference_at_rate == resnet.difference
    assert plain.told_apart
    assert not resnet.told_apart


def test_a_diverged_run_that_knows_of_no_images_left_out_is_wrong_on_those_of_the_others():
    runs = [outcome(answers(198, seed), seed=seed) for seed in range(3)]
    runs += [outcome(answers(198, 7), arm="good", seed=0), diverged(200, arm="good", seed=1)]
    plain, good = summarise(study(("plain", "good")), sizes(runs), runs)
    assert good.top1.mean == pytest.approx(runs[3].top1 / 2)
    paired = np.stack([runs[3].correct, np.zeros(198, bool)]), np.stack([runs[0].correct, runs[1].correct])
    assert good.difference == paired_difference(*paired)
    assert plain.top1.mean == pytest.approx(np.mean([run.top1 for run in runs[:3]]))
