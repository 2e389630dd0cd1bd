"""Made-up findings of studies of every view, as large as the real ones."""

from dataclasses import replace

from vitrail.studies.findings import Estimate, Findings, Point, Setting, SizePoint
from vitrail.studies.outcome import Size
from vitrail.studies.study import Study

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def size(tokens=65, gflops=0.05, share=0.08, images=1200, **changes):
    values = {
        "parameters": 812_394,
        "tokens": tokens,
        "flops": round(gflops * 1e9),
        "attention_share": share,
        "training_bytes": 212_000_000,
        "steps": 1500,
        "images": images,
        "batch_size": 64,
    }
    return Size(**{**values, **changes})


def estimate(mean, half):
    return Estimate(mean, mean - half, mean + half)


def point(
    arm, top1, *, lr=1e-3, along=None, chosen=True, difference=None, at_rate=None, half=0.012, of=None, **changes
):
    at_rate = difference if at_rate is None else at_rate
    values = {
        "seeds": 5,
        "diverged": 0,
        "val_top1": top1 - 0.004,
        "told_apart": difference is not None and abs(difference) > 1.5 * half,
        "nll": 0.4,
        "seconds": 74.0,
        "size": of or size(),
    }
    return Point(
        arm=arm,
        along=along,
        lr=lr,
        chosen=chosen,
        top1=estimate(top1, half),
        difference=None if difference is None else estimate(difference, 0.8 * half),
        difference_at_rate=None if at_rate is None else estimate(at_rate, 0.8 * half),
        **{**values, **changes},
    )


def findings(study, points, **changes):
    setting = Setting(
        data="digits",
        classes=10,
        train=1077,
        val=360,
        reported=360,
        reported_split="test",
        image_size=(8, 8),
        recipe={"epochs": 60, "optimizer": {"lr": 1e-3, "weight_decay": 0.05}, "model": {"width": 96, "pool": "token"}},
        jobs=2,
        machine="x86_64 CPU, 2 cores, torch 2.14",
        seconds=512.0,
        command="vitrail study position --seeds 5",
        notes=("The recipe is digits, since the data are the built-in digits.",),
    )
    values = {
        "name": "a-study",
        "setting": setting,
        "conclusions": (
            "No position embedding is clearly worst: 9.6 points below the learned 1-D embedding (95 % interval 8.6 to 10.6).",
            "The nine other kinds lie within 1.4 points of each other; none of those differences is told apart from 0.",
        ),
        "cautions": (
            "These are small models on 1,077 small images: the order of the arms may be another on larger ones.",
            "5 seeds leave intervals of about 1 point either way; smaller differences cannot be seen here.",
        ),
        "changes": {name: arm.changes for name, arm in study.arms.items()},
    }
    return Findings(study=study, points=tuple(points), **{**values, **changes})


def position(**changes):
    """Thirteen arms side by side."""
    top1 = {
        "none": 0.842,
        "learned 1-D at the stem": 0.938,
        "learned 1-D at every layer": 0.941,
        "learned 1-D at every layer, shared": 0.936,
        "learned 2-D at the stem": 0.940,
        "learned 2-D at every layer": 0.944,
        "learned 2-D at every layer, shared": 0.939,
        "sin-cos 2-D at the stem": 0.948,
        "sin-cos 2-D at every layer, shared": 0.946,
        "relative 1-D offsets at every layer": 0.931,
        "relative 2-D bias at every layer": 0.951,
        "relative 2-D bias at every layer, shared": 0.929,
        "rotary 2-D at every layer": 0.962,
    }
    reference = "learned 1-D at the stem"
    study = Study(
        title="Position embeddings",
        question="Does a Vision Transformer need to be told where its patches are, and where in the network?",
        method="Every arm is the same model but for its position embedding, trained on the same images for the same steps.",
        arms={name: {"changes": {"model.position": "none"}} if name == "none" else {} for name in top1},
        reference=reference,
        lr=[1e-3],
    )
    points = [
        point(name, mean, difference=None if name == reference else mean - top1[reference])
        for name, mean in top1.items()
    ]
    return findings(study, points, **changes)


def pooling(rates=RATES, **changes):
    """Three arms, each across learning rates; the best rates differ."""
    curves = {
        "class token": (0.78, 0.88, 0.936, 0.90, 0.41),
        "average of the tokens": (0.74, 0.85, 0.92, 0.939, 0.86),
        "attention pooling (MAP)": (0.82, 0.90, 0.931, 0.915, 0.62),
    }
    study = Study(
        title="Pooling",
        question="Which summary of the tokens should the head read: a class token, their average, or one that attention makes?",
        method="Each arm is trained at five learning rates and judged at its own best one.",
        view="rates",
        arms={"class token": {}, **{name: {"model.pool": "avg"} for name in list(curves)[1:]}},
        reference="class token",
        lr=rates,
    )
    best = {name: max(range(len(rates)), key=lambda i: curves[name][i]) for name in curves}
    points = []
    for name, means in curves.items():
        for i, (rate, mean) in enumerate(zip(rates, means, strict=False)):
            chosen, base = i == best[name], curves["class token"]
            if name == "class token":
                point_of = point(name, mean, lr=rate, chosen=chosen)
            elif chosen:
                own, single = mean - max(base[: len(rates)]), mean - base[i]
                point_of = point(name, mean, lr=rate, difference=own, at_rate=single)
            else:
                point_of = point(name, mean, lr=rate, chosen=False, difference=mean - base[i])
            points.append(point_of)
    return findings(study, points, **changes)


def bias(**changes):
    """Six arms along the fraction of the data."""
    fractions = (0.01, 0.03, 0.1, 0.3, 1.0)
    ends = {
        "ViT": (0.31, 0.965, 1.0),
        "ViT, augmented": (0.34, 0.972, 1.0),
        "hybrid": (0.45, 0.968, 1.1),
        "hybrid, augmented": (0.48, 0.974, 1.1),
        "ResNet": (0.55, 0.970, 0.95),
        "ResNet, augmented": (0.58, 0.977, 0.95),
    }
    study = Study(
        title="Inductive bias and data",
        question="Does convolution's built-in knowledge of images pay, and does it still with more of them?",
        view="along",
        arms={name: {"model.pool": "avg"} for name in ends},
        reference="ViT",
        lr=[3e-4, 1e-3],
        along={"key": "data.fraction", "values": fractions, "label": "fraction of the training images"},
        match={"to": "ViT", "by": "flops"},
    )
    points = []
    for i, fraction in enumerate(fractions):
        base = 0.31 + (0.965 - 0.31) * (i / 4) ** 0.6
        for name, (low, high, cost) in ends.items():
            mean = low + (high - low) * (i / 4) ** 0.6
            of = size(gflops=0.05 * cost, images=round(1077 * fraction), steps=round(200 + 1300 * fraction))
            if name.startswith("ResNet"):
                of = size(None, 0.05 * cost, 0.0, round(1077 * fraction), steps=of.steps)
            difference = None if name == "ViT" else mean - base
            half = 0.05 - 0.009 * i
            points.append(point(name, mean, along=fraction, difference=difference, half=half, of=of))
    return findings(study, points, **changes)


def tokens(**changes):
    """Seven arms from few tokens to every pixel."""
    rows = {
        "4×4 patches": (0.921, 5, 0.004, 0.004),
        "2×2 patches": (0.953, 17, 0.013, 0.016),
        "2×2 patches, convolutional stem": (0.961, 17, 0.016, 0.013),
        "1×1 patches: pixels": (0.949, 65, 0.053, 0.058),
        "hybrid, R26 below 1×1": (0.966, 17, 0.041, 0.005),
        "hybrid, R14 below 2×2": (0.957, 5, 0.033, 0.001),
        "1×1 patches, half as deep": (0.938, 65, 0.027, 0.058),
    }
    study = Study(
        title="Tokens",
        question="How small should patches be, and what should make them, for what they cost?",
        view="cost",
        arms={name: {"model.pool": "avg"} for name in rows},
        reference="2×2 patches",
        lr=[1e-3],
        most_tokens=1024,
    )
    points = [
        point(
            name,
            mean,
            difference=None if name == "2×2 patches" else mean - 0.953,
            of=size(count, gflops, share),
        )
        for name, (mean, count, gflops, share) in rows.items()
    ]
    return findings(study, points, **changes)


SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
REFERENCE = "learned 1-D, bicubic antialiased"
READINGS = {  # name: method, and accuracy beside the reference at each scale, as trained
    "learned 1-D, bicubic": ("bicubic", (-0.041, -0.012, 0.0, 0.0, 0.001)),
    "learned 1-D, bicubic, corners aligned": ("bicubic_corners", (0.012, 0.009, 0.0, -0.014, -0.022)),
    "learned 1-D, bilinear, corners aligned": ("bilinear_corners", (0.021, 0.013, 0.0, -0.011, -0.017)),
    "learned 1-D, bilinear": ("bilinear", (-0.035, -0.008, 0.0, 0.002, 0.006)),
    "learned 1-D, area": ("area", (-0.002, -0.004, 0.0, -0.052, -0.013)),
}
KINDS = {  # name: changes, accuracy at each scale as trained, and after the fine-tuning
    REFERENCE: ({}, (0.612, 0.871, 0.946, 0.921, 0.834), (0.881, 0.936, 0.951, 0.949, 0.944)),
    "learned 2-D": (
        {"model.position": "learned2d"},
        (0.634, 0.884, 0.949, 0.925, 0.851),
        (0.889, 0.94, 0.953, 0.95, 0.948),
    ),
    "sin-cos 2-D": (
        {"model.position": "sincos2d"},
        (0.551, 0.842, 0.958, 0.931, 0.887),
        (0.893, 0.943, 0.96, 0.957, 0.955),
    ),
    "relative 1-D": (
        {"model.position": "relative"},
        (0.402, 0.713, 0.871, 0.744, 0.593),
        (0.742, 0.838, 0.882, 0.861, 0.839),
    ),
    "relative bias 2-D": (
        {"model.position": "relative_bias"},
        (0.588, 0.83, 0.928, 0.904, 0.869),
        (0.861, 0.918, 0.934, 0.931, 0.925),
    ),
    "rotary 2-D": (
        {"model.position": "rotary2d"},
        (0.668, 0.902, 0.967, 0.958, 0.921),
        (0.905, 0.957, 0.969, 0.968, 0.966),
    ),
    "multi-resolution": (
        {"resolution.scales": SCALES},
        (0.901, 0.938, 0.941, 0.946, 0.943),
        (0.909, 0.942, 0.945, 0.949, 0.948),
    ),
}


def size_point(arm, scale, tuned, top1, base, gap=None, *, half=0.013, trained=2.4e12, tune=0.1, multi=1.0, **changes):
    """A point of a study of sizes at 16 x 16 pixels: ``base`` is the arm's accuracy there as trained, ``gap`` the
    difference to its opponent."""
    pixels = round(16 * scale)
    tokens = (pixels // 2) ** 2
    flops = round(1e5 * tokens * (1 + tokens / 400))
    reference = 1e5 * 64 * (1 + 64 / 400)
    change = None if scale == 1 and not tuned else estimate(top1 - base, 0.9 * half)
    values = {
        "nll": 0.3,
        "seeds": 3,
        "seconds": 21.0 + (2.1 * scale**2 if tuned else 0),
        "tokens": tokens,
        "told_apart": gap is not None and abs(gap) > 1.5 * half,
        "change_told_apart": change is not None and abs(change.mean) > 0.9 * half,
    }
    return SizePoint(
        arm=arm,
        image_size=(pixels, pixels),
        scale=scale,
        tuned=tuned,
        top1=estimate(top1, half),
        difference=None if gap is None else estimate(gap, 0.8 * half),
        change=change,
        flops=flops,
        training_flops=trained * multi + (trained * tune * flops / reference if tuned else 0),
        **{**values, **changes},
    )


def resolution(kinds=tuple(KINDS), readings=tuple(READINGS), scales=SCALES, stages=(False, True), **changes):
    """Seven arms that are trained and five that read one of them in another way, at five sizes, as trained and tuned."""
    arms, trained = {}, []
    for name in kinds:
        arms[name] = {"changes": KINDS[name][0]}
        mean = KINDS[name][1][SCALES.index(1.0)]
        gap = None if name == REFERENCE else mean - KINDS[REFERENCE][1][SCALES.index(1.0)]
        trained.append(point(name, mean, difference=gap, seeds=3, of=size(64, 0.0074, steps=400)))
        if name == REFERENCE:
            arms |= {n: {"of": REFERENCE, "model.position_interpolation": READINGS[n][0]} for n in readings}
    study = Study(
        title="Another resolution",
        question="What does a model lose at another image size than the one it was trained at, and what brings it back?",
        method="Each arm is trained once at 16 x 16 pixels, and then tested and briefly fine-tuned at other sizes.",
        view="sizes",
        arms=arms,
        reference=REFERENCE,
        lr=[1e-3],
        sizes={"scales": scales},
    )
    points = []
    for name in arms:
        of = name if name in kinds else REFERENCE
        extra = (0,) * len(SCALES) if name in kinds else READINGS[name][1]
        for scale in scales:
            place = SCALES.index(scale)
            for tuned in stages:
                means = KINDS[of][1 + tuned]
                other = KINDS[REFERENCE][1 + tuned][place]
                mean = means[place] + extra[place] * (0.15 if tuned else 1)
                points.append(
                    size_point(
                        name,
                        scale,
                        tuned,
                        mean,
                        KINDS[of][1][SCALES.index(1.0)],
                        None if name == REFERENCE else mean - other,
                        half=0.006 if name in readings else 0.013,
                        multi=1.47 if "resolution.scales" in KINDS[of][0] else 1.0,
                    )
                )
    made = findings(study, trained, sizes=tuple(points))
    given = {
        "setting": replace(made.setting, image_size=(16, 16), command="vitrail study resolution"),
        "conclusions": (
            "At half the size the model loses 33.4 points (31.6 to 35.2).",
            "Fine-tuning brings most back.",
        ),
        "advice": ("To use such a model at half its size, fine-tune it there.", "At twice its size, too."),
    }
    return replace(made, **{**given, **changes})


# kinds, readings, scales, stages
SMALL_STUDIES = (
    ((REFERENCE, "rotary 2-D"), (), (0.5, 1.0), (False, True)),
    ((REFERENCE,), ("learned 1-D, area",), (1.0, 2.0), (False, True)),
    ((REFERENCE, "multi-resolution"), ("learned 1-D, bicubic",), SCALES, (False,)),
    ((REFERENCE, "multi-resolution"), ("learned 1-D, bicubic",), SCALES, (True,)),
)
VIEWS = {"arms": position, "rates": pooling, "along": bias, "cost": tokens, "sizes": resolution}
