"""What arms cost beside what they gain, how equal the costs are, and what a study does not say."""

from made_up import point, setting, study

from vitrail.studies.conclusions import conclude
from vitrail.studies.conclusions.cost import alike_but_patches, front
from vitrail.studies.study import Arm

RATES = (0.001, 0.002, 0.004)


def others(chosen, rates=RATES):
    """The points of the rates that were not chosen, so that the choice is at no edge."""
    return [point(p.arm, 0.5, chosen=False, lr=lr, along=p.along) for p in chosen for lr in rates if lr != p.lr]


def said(own, points, **of_setting):
    return conclude(own, setting(**of_setting), points)[0]


def warned(own, points, **of_setting):
    return conclude(own, setting(**of_setting), points)[1]


# Cost


def stems():
    return [
        point("usual", 0.93, tokens=16, flops=1_000_000, attention_share=0.05),
        point("pixels", 0.945, 0.015, tokens=256, flops=40_000_000, attention_share=0.6125),
        point("coarse", 0.85, -0.08, apart=True, tokens=4, flops=250_000, attention_share=0.01),
        point("conv", 0.92, -0.01, half=0.015, tokens=16, flops=1_400_000, attention_share=0.04),
    ]


def test_arms_worth_their_cost_and_the_growth_with_tokens_are_said():
    own = study([p.arm for p in stems()], view="cost")
    own = own.model_copy(update={"arms": {**own.arms, "conv": Arm(changes={"model.stem": "conv"})}})
    text = said(own, stems())
    assert text[1:4] == (
        "Worth their cost, cheapest first, as no arm of as few FLOPs is as accurate: "
        "“coarse”, 250,000 FLOPs, 4 tokens, 85.0 % (84.0 to 86.0); "
        "“usual”, 1 million FLOPs, 16 tokens, 93.0 % (92.0 to 94.0); "
        "“pixels”, 40 million FLOPs, 256 tokens, 94.5 % (93.5 to 95.5). "
        "FLOPs are additions and multiplications, here for one image.",
        "Not worth it in the mean: “conv”, 1.4 million FLOPs, 16 tokens, 92.0 % (90.5 to 93.5).",
        "The intervals of these neighbours overlap, so the dearer may be no better: “usual” and “pixels”.",
    )
    # 160 times the FLOPs for 64 times the tokens: log 160 / log 64 = 1.22; then 40 for 16: 1.33.
    assert text[-2:] == (
        "“pixels” has the longest sequence, 256 tokens: comparing them with each other takes 61.3 % of its FLOPs. "
        "With the shortest, 4 tokens of “coarse”, it takes 1.0 %.",
        "From 4 to 256 tokens of linear patches, 64 times as many, the FLOPs become 160 times as many: they grow as the "
        "tokens to the power 1.22, and between the two longest sequences to the power 1.33. Power 1 is in proportion; "
        "power 2 is what comparing every token with every other takes.",
    )


def test_an_arm_as_accurate_as_a_cheaper_one_is_not_worth_its_cost():
    points = [point("a", 0.9, flops=2), point("b", 0.9, flops=1), point("c", 0.8, flops=3), point("d", 0.95, flops=3)]
    assert [p.arm for p in front(points)] == ["b", "d"]


def test_only_arms_that_differ_in_their_patches_alone_count_towards_the_growth_with_tokens():
    arms = {
        "a": Arm(),
        "smaller": Arm(changes={"model.patch_size": 1, "optimizer.weight_decay": 0.1}),
        "hybrid": Arm(changes={"model.stem": "hybrid"}),
        "either": Arm(choose=({"model.stem": "conv"}, {"model.stem": "linear"})),
        "started": Arm(changes={"init": "some model"}),
        "half as deep": Arm(changes={"model.patch_size": 2, "model.depth": 3}),
        "larger image": Arm(changes={"image_size": (16, 16)}),
    }
    own = study(arms, view="cost")
    answer = [point(arm, 0.9, tokens=4 + i) for i, arm in enumerate(arms)]

    def counted(**of_setting):
        return [p.arm for p in alike_but_patches(own, setting(**of_setting), answer)]

    assert counted() == ["a", "smaller"]
    assert counted(recipe={"model": {"stem": "conv"}}) == []
    assert counted(recipe={"model": {"variant": "R50+B/16"}}) == []
    variants = study({n: {"model.variant": n} for n in ("B/16", "B/32", "S/16")}, view="cost")
    answer = [point(arm, 0.9) for arm in variants.arms]
    assert [p.arm for p in alike_but_patches(variants, setting(recipe={}), answer)] == ["B/16", "B/32"]


# Costs that are to be equal


def test_the_largest_deviations_of_matched_costs_are_said_with_their_arms():
    points = [
        point("ViT", 0.9),
        point("wide", 0.9, 0.0, parameters=25_000, flops=1_030_000),
        point("narrow", 0.9, 0.0, parameters=9_000, flops=900_000),
    ]
    arms = {"ViT": {}, "wide": {"choose": [{"model.depth": 1}, {"model.depth": 2}]}, "narrow": {"init": "some model"}}
    text = said(study(arms, match={"to": "ViT"}), points)
    assert text[-1] == (
        "“wide” is matched to “ViT” by FLOPs for one image. “narrow” starts from a model and is not matched. The largest "
        "deviations from “ViT”: parameters 2.5 times (“wide”) and FLOPs for one image −10.0 % (“narrow”). The same for all "
        "arms: training steps."
    )


# Cautions


def test_a_best_rate_at_the_edge_is_warned_of():
    chosen = [point("a", 0.9, lr=0.004), point("b", 0.9, 0.0, lr=0.001), point("c", 0.9, 0.0, lr=0.002)]
    text = warned(study("abc"), chosen + others(chosen))
    end = " The best may lie outside, and there the arm may be better than shown."
    assert text[:2] == (
        f"The chosen learning rate is the smallest tried for “b” (0.001).{end}",
        f"The chosen learning rate is the largest tried for “a” (0.004).{end}",
    )
    assert (
        "Learning rates come from a grid (0.001, 0.002 and 0.004) and were chosen on 200 validation images." in text[-1]
    )


def test_of_two_rates_or_one_every_choice_is_at_the_edge_and_that_is_said_once():
    chosen = [point("a", 0.9), point("b", 0.9, 0.0)]
    end = "tried for each arm: a better one may lie outside, and an arm may be better than shown."
    assert warned(study("ab"), chosen)[0] == f"Only one learning rate was {end}"
    assert warned(study("ab"), chosen + others(chosen, RATES[:2]))[0] == f"Only two learning rates were {end}"


def test_diverged_runs_and_arms_left_out_are_named():
    chosen = [point("a", 0.9), point("b", 0.9, 0.0)]
    wild = point("b", 0.3, lr=0.004, chosen=False, diverged=2)
    points = [*chosen, *others(chosen, RATES[:2]), wild, point("a", 0.9, lr=0.004, chosen=False)]
    text = warned(study("ab"), points, left_out=("c: no such size", "d: 1,000 tokens"))
    assert "Runs that diverged (their loss became no number) count as 0 %: “b” at 0.004, 2 of 3." in text
    assert "Left out, as they cannot be built on these data: c: no such size; d: 1,000 tokens." in text


def test_what_the_study_stands_on_is_said_with_its_numbers():
    chosen = [point("a", 0.9), point("b", 0.9, 0.0, parameters=2_340_000, steps=900), point("c", 0.8, -0.1, apart=True)]
    text = warned(study("abc"), chosen + others(chosen), jobs=4, reported_split="every second validation image")
    assert text == (
        "Each arm was trained with 3 seeds (random starts and orders). The intervals count the chance of the seed and of "
        "the images that were asked, not that of other training images or of which learning rate was chosen.",
        "An interval holds the true value in about 95 of 100 cases, for one comparison. There are 2; an arm is called "
        "different only if it would be at 5 % / 2 (Bonferroni), so that a false alarm among them stays rare; where few "
        "seeds bring most of the chance, it comes somewhat more often than in 1 of 20 studies.",
        "Arms that cannot be told apart need not be equal: more seeds or more images may show a difference.",
        "Arms are compared with “a”; two others were not tested against each other.",
        "One data set was used (digits, 10 classes, 1,000 training images). Another may order the arms differently.",
        "The models have 10,000 to 2.34 million parameters and were trained for 500 to 900 steps on images of 8 × 8 pixels. "
        "Larger models or longer training may order them differently.",
        "Learning rates come from a grid (0.001, 0.002 and 0.004) and were chosen on 200 validation images. All other "
        "settings are shared, and may suit one arm better than another.",
        "These are not test images: accuracy is on 600 images, every second validation image.",
        "Times were measured with 4 runs side by side, which slow each other down. Compare FLOPs instead.",
    )


def test_one_comparison_alone_on_test_images_has_fewer_cautions():
    text = " ".join(warned(study("ab"), [point("a", 0.9), point("b", 0.95, 0.05, apart=True)]))
    for word in ("Bonferroni", "need not be equal", "each other", "test images", "side by side", "one seed"):
        assert word not in text
    swept = [point("a", 0.9), point("b", 0.9, 0.0), point("b", 0.8, lr=0.001, chosen=False, seeds=1)]
    assert "may have been tried with one seed only" in " ".join(warned(study("ab"), swept))


def test_an_axis_that_the_figure_does_not_show_is_told_at_its_last_value():
    points = [point(arm, 0.9 if arm == "a" else 0.8, along=v) for arm in "ab" for v in (8, 16)]
    text = said(study("ab", along={"key": "image_size", "values": (8, 16)}), points)
    assert text[0] == "What follows is for image_size 16. The other values are in the table."


def test_seeds_that_draw_their_own_share_of_the_images_are_not_said_to_leave_it_uncounted():
    points = [point(arm, 0.9, None if arm == "a" else 0.0) for arm in "ab"]
    shares = "where only a share of the training images was used, that of the share, as every seed took its own"
    along = {"key": "data.fraction", "values": (0.1, 1.0)}
    of_axis = [point(p.arm, 0.9, along=v) for p in points for v in along["values"]]
    for text in (
        warned(study("ab", along=along), of_axis),
        warned(study("ab"), points, recipe={"data": {"fraction": 0.5}}),
        warned(study({"a": {}, "b": {"data.fraction": 0.1}}), points),
    ):
        assert shares in " ".join(text)
        assert "other training images" not in " ".join(text)
    assert "not that of other training images" in " ".join(
        warned(study("ab"), points, recipe={"data": {"fraction": 1}})
    )


def test_several_sizes_of_images_are_said():
    points = [point(arm, 0.9, None if arm == "a" else 0.0) for arm in "ab"]
    text = " ".join(warned(study({"a": {}, "b": {"image_size": [16, 16]}}), points))
    assert "steps on images of several sizes." in text
    along = {"key": "image_size", "values": (8, 16)}
    text = " ".join(warned(study("ab", along=along), [point(p.arm, 0.9, along=v) for p in points for v in (8, 16)]))
    assert "steps on images of several sizes." in text


def test_arms_compared_with_another_than_the_reference_are_named():
    points = [point("a", 0.9), point("b", 0.9, 0.0), point("c", 0.9, 0.0)]
    text = warned(study({"a": {}, "b": {}, "c": {"against": "b"}}), points)
    assert "Arms are compared with “a”, but “c” with “b”; two others were not tested against each other." in text
