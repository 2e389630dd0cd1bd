"""What the numbers of a study do not say, whatever its view; and how equal the arms' costs are."""

import math
from collections.abc import Callable, Sequence

from vitrail.studies.conclusions.words import (
    between,
    compared_otherwise,
    joined,
    named,
    several,
    sizes_of_images,
    started,
    value,
)
from vitrail.studies.findings import Point, Setting, SizePoint, standard, standard_sizes
from vitrail.studies.outcome import Size
from vitrail.studies.study import Study

_LISTED = 6
_COSTS: tuple[tuple[str, Callable[[Size], float]], ...] = (
    ("parameters", lambda size: size.parameters),
    ("FLOPs for one image", lambda size: size.flops),
    ("training steps", lambda size: size.steps),
)
_OF_SIZES: tuple[tuple[str, Callable[[Size], float]], ...] = (("training FLOPs", lambda size: size.training_flops),)


def cautions(study: Study, setting: Setting, points: Sequence[Point], at_sizes: Sequence[SizePoint] = ()) -> list[str]:
    """Sentences, those that this study gives rise to first."""
    return [
        *_at_the_edge(study, points),
        *_diverged(study, points),
        *(
            [f"Left out, as they cannot be built on these data: {several(setting.left_out)}."]
            if setting.left_out
            else ()
        ),
        *(_of_sizes(study, setting, at_sizes) if at_sizes else _chance(study, setting, points)),
        *_scope(study, setting, points),
        *_measures(setting),
    ]


def costs(study: Study, points: Sequence[Point]) -> list[str]:
    """How far the arms' costs are from those of the arm that they are matched to, or else of the reference."""
    to = standard(study)
    answer = [point for point in points if point.chosen]
    standards = standard_sizes(study, answer)
    pairs = [(p, standards[repr(p.along)]) for p in answer if p.arm != to and repr(p.along) in standards]
    if not pairs:
        return []
    equal, unequal = [], []
    for name, cost in (*_COSTS, *(_OF_SIZES if study.sizes else ())):
        furthest, other = max(pairs, key=lambda pair: abs(math.log(cost(pair[0].size) / cost(pair[1]))))
        ratio = cost(furthest.size) / cost(other)
        if ratio == 1:
            equal.append(name)
        else:
            unequal.append(f"{name} {_deviation(ratio)} ({named(furthest.arm)})")
    said = _matched(study, [point.arm for point, _ in pairs])
    said += [f"The largest deviations from {named(to)}: {joined(unequal)}."] if unequal else []
    if equal:
        said.append(f"The same for all arms: {joined(equal)}.")
    return [" ".join(said)]


def _matched(study: Study, arms: Sequence[str]) -> list[str]:
    """Which of the arms were chosen to cost as much as another, and which start from a model, so that they were not."""
    if not study.match:
        return []
    by = "FLOPs for one image" if study.match.by == "flops" else "parameters"
    matched = [named(arm) for arm in dict.fromkeys(arms) if study.arms[arm].choose]
    given = [named(arm) for arm in dict.fromkeys(arms) if arm in started(study) and not study.arms[arm].choose]
    said = []
    if matched:
        said.append(f"{joined(matched)} {_is(matched)} matched to {named(study.match.to)} by {by}.")
    if given:
        starts = "starts from a model" if len(given) == 1 else "start from models"
        said.append(f"{joined(given)} {starts} and {_is(given)} not matched.")
    return said


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _deviation(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−") if ratio < 2 else f"{ratio:.3g} times"


def _at_the_edge(study: Study, points: Sequence[Point]) -> list[str]:
    """Arms whose best learning rate is the smallest or the largest that they tried."""
    grids: dict[tuple[str, str], list[float]] = {}
    for point in points:
        grids.setdefault((point.arm, repr(point.along)), []).append(point.lr)
    answer = [point for point in points if point.chosen]
    if all(len(grids[p.arm, repr(p.along)]) < 3 for p in answer):
        most = max(len(grid) for grid in grids.values())
        tried = "Only one learning rate was tried" if most == 1 else "Only two learning rates were tried"
        return [f"{tried} for each arm: a better one may lie outside, and an arm may be better than shown."]
    said = []
    for word, end in (("smallest", min), ("largest", max)):
        arms: dict[str, list[Point]] = {}
        for point in answer:
            grid = grids[point.arm, repr(point.along)]
            if point.lr == end(grid):
                arms.setdefault(point.arm, []).append(point)
        if arms:
            listed = several([f"{named(arm)} ({_places(study, own)})" for arm, own in arms.items()])
            said.append(
                f"The chosen learning rate is the {word} tried for {listed}. The best may lie outside, and there the arm "
                "may be better than shown."
            )
    return said


def _places(study: Study, points: Sequence[Point]) -> str:
    """The points' learning rates, and the values along the axis where there are several."""
    if not study.along:
        return f"{points[0].lr:g}"
    return joined([f"{point.lr:g} at {value(study, point.along)}" for point in points])


def _diverged(study: Study, points: Sequence[Point]) -> list[str]:
    texts = [
        f"{named(point.arm)} at {_places(study, [point])}, {point.diverged} of {point.seeds}"
        for point in points
        if point.diverged
    ]
    if not texts:
        return []
    more = [f"and {len(texts) - _LISTED} more in the table"] if len(texts) > _LISTED else []
    return [f"Runs that diverged (their loss became no number) count as 0 %: {several(texts[:_LISTED] + more)}."]


def _chance(study: Study, setting: Setting, points: Sequence[Point]) -> list[str]:
    """What the intervals count, and what they do not."""
    answer = [point for point in points if point.chosen]
    seeds = between([point.seeds for point in answer])
    comparisons = sum(point.difference is not None for point in answer)
    said = [
        f"Each arm was trained with {seeds} seeds (random starts and orders). The intervals count the chance of the seed "
        f"and of the images that were asked, {_uncounted(study, setting)}"
    ]
    if comparisons > 1:
        said.append(
            f"An interval holds the true value in about 95 of 100 cases, for one comparison. There are {comparisons}; an arm is "
            f"called different only if it would be at 5 % / {comparisons} (Bonferroni), so that a false alarm among them "
            "stays rare; where few seeds bring most of the chance, it comes somewhat more often than in 1 of 20 studies."
        )
    if any(not point.told_apart and point.difference for point in answer):
        said.append(
            "Arms that cannot be told apart need not be equal: more seeds or more images may show a difference."
        )
    if len(study.arms) > 2:
        otherwise = compared_otherwise(study, answer)
        said.append(
            f"Arms are compared with {named(study.reference)}{otherwise}; two others were not tested against each other."
        )
    if any(point.seeds == 1 for point in points if not point.chosen):
        said.append(
            "Learning rates that were not chosen may have been tried with one seed only; their intervals then count the "
            "chance of the images alone."
        )
    return said


def _of_sizes(study: Study, setting: Setting, at_sizes: Sequence[SizePoint]) -> list[str]:
    """What intervals and comparisons over sizes count, and what a size of images is made of."""
    seeds = between([point.seeds for point in at_sizes])
    # at the base size an arm that reads another's models is that arm over again
    compared = [point for point in at_sizes if not (study.arms[point.arm].of and point.scale == 1)]
    differences = sum(point.difference is not None for point in compared)
    changes = sum(point.change is not None for point in compared)
    counted = (
        f"Each arm was trained with {seeds} seeds (random starts and orders). The intervals count the chance of the seed "
        f"and of the images that were asked, {_uncounted(study, setting)}"
    )
    if all(point.seeds == 1 for point in at_sizes):
        counted = (
            "Each arm was trained with one seed: the intervals count the chance of the images alone, and another seed may "
            "say otherwise."
        )
    said = [
        counted,
        f"Each of the {changes:,} changes of an arm, against itself at the size of its training, has a 95 % interval of its own: "
        "where nothing changed, about one in twenty leaves out 0 by chance.",
        f"Of the {differences:,} differences of one arm to another, each is called more than chance only if it would be at 5 % "
        f"divided by {differences:,} (Bonferroni). What is not need not be absent: more seeds or more images may show it.",
        "Sizes are not independent: the same trained models and the same images stand behind all of them, so an arm that "
        "is lucky at one size may be lucky at the next. Means over sizes therefore have the mean of the intervals, which is "
        "rather too wide. What is best of many was chosen on the images that it is reported on, and will be a little worse "
        "on others.",
        f"All sizes are made from the same files{_files(setting)}. Where these are smaller, a larger size adds pixels and no "
        "detail: what larger images of the same things would bring is not measured.",
    ]
    if study.sizes and any(point.tuned for point in at_sizes):
        said.append(
            f"The fine-tuning is brief: {100 * study.sizes.tune:.3g} % of the steps, at {study.sizes.tune_lr:g} times the "
            "learning rate. Neither was tuned; a longer one may regain more."
        )
    if setting.recipe.get("augment", {}).get("crop") == "random_resized":
        said.append(
            "Training saw random crops, in which things look larger than in the whole images of the test; a size somewhat "
            "above the training's may do better for that alone."
        )
    return said


def _files(setting: Setting) -> str:
    return ", here of 8 × 8 pixels" if setting.data == "digits" else ""


def _uncounted(study: Study, setting: Setting) -> str:
    """The end of the sentence on what the intervals count; on a part of the training images seeds differ in that too."""
    if not _takes_shares(study, setting):
        return "not that of other training images or of which learning rate was chosen."
    return (
        "and, where only a share of the training images was used, that of the share, as every seed took its own. They do "
        "not count the chance of which learning rate was chosen."
    )


def _takes_shares(study: Study, setting: Setting) -> bool:
    """Whether there are runs on a part of the training images, drawn by their seed."""
    key = "data.fraction"
    changed = [changes for arm in study.arms.values() for changes in (arm.changes, *arm.choose)]
    fractions = [setting.recipe.get("data", {}).get("fraction"), *(changes.get(key) for changes in changed)]
    fractions += study.along.values if study.along and study.along.key == key else ()
    return any(fraction is not None and fraction < 1 for fraction in fractions)


def _scope(study: Study, setting: Setting, points: Sequence[Point]) -> list[str]:
    """On what data, which models and how long a training the study stands."""
    rates = sorted({point.lr for point in points})
    sizes = [point.size for point in points]
    grid = joined([f"{lr:g}" for lr in rates])
    return [
        f"One data set was used ({setting.data}, {setting.classes:,} classes, {setting.train:,} training images). "
        "Another may order the arms differently.",
        f"The models have {between([size.parameters for size in sizes])} parameters and were trained for "
        f"{between([size.steps for size in sizes])} steps on images of {sizes_of_images(study, setting)}. Larger models "
        "or longer training may order them differently.",
        f"Learning rates come from a grid ({grid}) and were chosen on {setting.val:,} validation images. All other "
        "settings are shared, and may suit one arm better than another.",
    ]


def _measures(setting: Setting) -> list[str]:
    said = []
    if setting.reported_split != "test":
        said.append(f"These are not test images: accuracy is on {setting.reported:,} images, {setting.reported_split}.")
    if setting.jobs > 1:
        said.append(
            f"Times were measured with {setting.jobs} runs side by side, which slow each other down. Compare FLOPs instead."
        )
    return said
