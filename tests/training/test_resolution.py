"""Several sizes in one run: which go together, what they cost, how a step is cut up, what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vitrail.data.augment import Augment
from vitrail.data.batches import Batch
from vitrail.data.preprocess import Preprocess
from vitrail.data.resolutions import Resolutions
from vitrail.errors import UserError
from vitrail.model import ResNetConfig, ViT, ViTConfig
from vitrail.model.cost import Cost
from vitrail.recipes.files import from_dict
from vitrail.recipes.resolution import Resolution
from vitrail.training import memory
from vitrail.training.device import Devices, worth_compiling
from vitrail.training.forecast import Work
from vitrail.training.optimizer import Optimisers
from vitrail.training.resolution import images_a_part, load, mean_flops, pairs_of, parts, sentence
from vitrail.training.step import TrainStep

CPU = Devices(0, 1, torch.device("cpu"))
VIT = ViTConfig(image_size=(32, 32), patch_size=8, width=16, depth=1, heads=2, mlp_width=32, classes=3, registers=1)
RESNET = ResNetConfig(image_size=(32, 32), layers=(1, 1), root_width=8, classes=3)  # stride 8


def squares(*sides: int, patch: int = 8) -> list[tuple[tuple[int, int], int]]:
    return [((side, side), patch) for side in sides]


@pytest.mark.parametrize(
    ("asked", "pairs"),
    [
        ({"sizes": [16, [32, 48], 64]}, [((16, 16), 8), ((32, 48), 8), ((64, 64), 8)]),
        ({"sizes": "13-40"}, squares(16, 24, 32, 40)),
        ({"sizes": "16-32"}, squares(16, 24, 32)),
        ({"scales": [0.5, 0.7, 1, 1.1]}, squares(16, 24, 32)),  # 22.4 and 35.2 pixels are nearest to 24 and 32
        ({"scales": [0.01]}, squares(8)),
        ({"patch_sizes": [4, 8, 16]}, [((32, 32), 4), ((32, 32), 8), ((32, 32), 16)]),
        ({"sizes": [16, 24], "patch_sizes": [8, 12]}, [*squares(16, 24), ((24, 24), 12)]),
        ({"sizes": "12-24", "patch_sizes": [8, 12]}, [*squares(16, 24), *squares(12, 24, patch=12)]),
        ({"scales": [0.5, 1], "patch_sizes": [16, 12]}, [*squares(16, 32, patch=16), *squares(12, 36, patch=12)]),
    ],
)
def test_sizes_and_patch_sizes_that_go_together_are_found(asked: dict[str, Any], pairs: list[Any]) -> None:
    assert list(pairs_of(Resolution(**asked), VIT)) == pairs


def test_factors_keep_the_shape_of_the_image_size() -> None:
    wide = VIT.with_changes(image_size=(32, 64))
    assert [size for size, _ in pairs_of(Resolution(scales=(0.5, 2)), wide)] == [(16, 32), (64, 128)]


def test_a_resnet_takes_any_size_from_its_stride_on() -> None:
    assert [size for size, _ in pairs_of(Resolution(sizes=(9, (33, 50))), RESNET)] == [(9, 9), (33, 50)]
    assert [size[0] for size, _ in pairs_of(Resolution(sizes="9-33"), RESNET)] == [16, 24, 32]
    with pytest.raises(UserError, match=r"resolution.sizes: 7x7 is below 8 pixels, the stride"):
        pairs_of(Resolution(sizes=(7, 16)), RESNET)


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        (
            VIT,
            {"sizes": [16, 20]},
            r"resolution.sizes: 20x20 is not divisible by patch size 8: nearest to it: 16x16 and 24x24",
        ),
        (VIT, {"sizes": [[16, 4]]}, r"16x4 is not divisible by patch size 8: nearest to it: 16x8$"),
        (VIT, {"sizes": [22], "patch_sizes": [8, 12]}, r"resolution.patch_sizes: 8 divides none of .*\(22x22\)"),
        (VIT, {"sizes": [16, 24, 30], "patch_sizes": [8, 12]}, r"30x30 is not divisible by patch size 8 or 12: "),
        (VIT, {"patch_sizes": [8, 5]}, r"resolution.patch_sizes: 5 divides none of the image sizes \(32x32\)"),
        (VIT, {"sizes": "17-23"}, r"resolution.sizes 17-23: no multiple of 8 pixels"),
        (VIT, {"scales": [1000]}, r"resolution.scales: 32000x32000 is too large: at most 16384"),
        (RESNET, {"patch_sizes": [8]}, r"resolution.patch_sizes: a ResNet has no patches"),
        (VIT.with_changes(stem="conv"), {"patch_sizes": [8]}, r"linear stem without patch_norm, .* has the conv stem"),
        (VIT.with_changes(patch_norm=True), {"patch_sizes": [8]}, r"this model has model.patch_norm"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(config: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pairs_of(Resolution(**asked), config)
    assert "\n" not in str(caught.value)


def test_flops_are_the_mean_over_the_sizes() -> None:
    recipe = from_dict({"epochs": 1, "resolution": {"sizes": [16, 32], "patch_sizes": [8, 16]}})
    configs = [VIT.with_changes(image_size=(s, s), patch_size=p) for s in (16, 32) for p in (8, 16)]
    assert mean_flops(recipe, VIT) == pytest.approx(sum(Cost(config).flops for config in configs) / 4)
    assert mean_flops(from_dict({"epochs": 1}), VIT) == Cost(VIT).flops
    small = from_dict({"epochs": 1, "resolution": {"sizes": [16]}})
    assert mean_flops(small, RESNET) == Cost(RESNET.with_changes(image_size=(16, 16))).flops


def test_the_forecast_counts_the_sizes_in_training_alone() -> None:
    work = Work(images=1000, epochs=20, val=100, evaluations=20, test=300, share=2.0)
    assert work.seconds(0.1) == pytest.approx(0.1 * (2 * 20_000 + (2_000 + 300) / 3))


def test_a_part_is_as_large_as_one_at_the_models_own_size() -> None:
    # A batch of 24 images at their own size, in two parts: 12 images a part, or as many as take no more memory.
    recipe = from_dict({"epochs": 1, "batch_size": 24, "optimizer": {"accumulate": 2}})
    room = 12 * load(VIT, (32, 32), 8)
    assert images_a_part(recipe, VIT, ((32, 32), 8)) == 12
    assert images_a_part(recipe, VIT, ((64, 64), 8)) == room // load(VIT, (64, 64), 8) in (2, 3)
    assert images_a_part(recipe, VIT, ((32, 32), 4)) == room // load(VIT, (32, 32), 4) in (3, 4)
    assert images_a_part(recipe, VIT, ((16, 16), 8)) == 24
    assert images_a_part(recipe, VIT, ((512, 512), 8)) == 1
    assert images_a_part(recipe, RESNET, ((64, 64), 1)) in (3, 4)
    assert images_a_part(recipe, VIT, ((64, 64), 8), world=2) == room // 2 // load(VIT, (64, 64), 8)
    # a matrix for every head is kept, which grows faster than the tokens
    relative = VIT.with_changes(position="relative_bias")
    ratio, plain = (load(c, (64, 64), 8) / load(c, (32, 32), 8) for c in (relative, VIT))
    assert ratio > 1.1 * plain


def test_parts_hold_every_image_once_in_order_and_stay_within_their_limit() -> None:
    groups, most = [(5, 10), (1, 70), (7, 3), (2, 25)], 50
    cut = parts(groups, most)
    images = [(number, i) for part in cut for number, chosen in part for i in range(chosen.start, chosen.stop)]
    assert images == [(number, i) for number, (count, _) in enumerate(groups) for i in range(count)]
    sums = [sum((chosen.stop - chosen.start) * groups[number][1] for number, chosen in part) for part in cut]
    assert sums == [50, 70, 46, 25]  # the image of 70 fits nowhere, and goes alone


def test_one_size_is_cut_as_it_always_was() -> None:
    chunks = torch.arange(12).chunk(4)
    cut = parts([(12, 17)], 12 // 4 * 17)
    assert [torch.arange(12)[chosen].tolist() for ((_, chosen),) in cut] == [chunk.tolist() for chunk in chunks]


def gradients(
    model: ViT, groups: tuple[torch.Tensor, ...], patch_size: int | None, **changes: Any
) -> tuple[list[torch.Tensor], list[Any]]:
    """What one step by TrainStep leaves as gradients, and what it called the model with."""
    called: list[Any] = []

    def network(images: Any, **options: Any) -> torch.Tensor:
        called.append(([images] if isinstance(images, torch.Tensor) else images, options))
        return model(images, **options)

    recipe = from_dict({"steps": 10, "batch_size": 12, "optimizer": {"clip": 0}, **changes})
    size = groups[0].shape[-2:]
    several = None if patch_size is None else Resolutions(((tuple(size), patch_size),), "random", 0, 10)
    optimisers = Optimisers(model, recipe.optimizer)
    optimisers.step = lambda finite: None  # type: ignore[method-assign]
    optimisers.zero_grad = lambda: None  # type: ignore[method-assign]
    preprocess = Preprocess((32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    step = TrainStep(recipe, model, network, optimisers, None, preprocess, Augment(), CPU, "float32", 10, 0, several)  # type: ignore[arg-type]
    n = sum(map(len, groups))
    rng = torch.Generator().manual_seed(1)
    targets = torch.randint(3, (n,), generator=rng)
    model.zero_grad()
    step(0, Batch(groups, targets, torch.zeros(n, dtype=torch.long), torch.arange(n)))
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], called


def noise(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8) for shape in shapes)


def trainable() -> ViT:
    torch.manual_seed(0)
    model = ViT(VIT)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


@pytest.mark.parametrize(("size", "patch_size"), [((64, 64), 8), ((32, 48), 4), ((16, 16), 8), ((48, 48), 16)])
def test_a_step_at_another_size_has_the_gradient_of_the_whole_batch_in_parts_no_larger_than_usual(
    size: tuple[int, int], patch_size: int
) -> None:
    model, groups = trainable(), noise((12, 3, *size))
    found, called = gradients(model, groups, patch_size)
    loads = [sum(len(x) * load(VIT, tuple(x.shape[-2:]), patch_size) for x in group) for group, _ in called]
    assert max(loads) <= 12 * load(VIT, VIT.image_size, VIT.patch_size)
    assert sum(len(x) for group, _ in called for x in group) == 12
    assert [options for _, options in called] == [{} if patch_size == 8 else {"patch_size": patch_size}] * len(called)
    expected = by_hand(model, groups, patch_size)
    assert all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6) for ours, theirs in zip(found, expected, strict=True))


def by_hand(model: ViT, groups: tuple[torch.Tensor, ...], patch_size: int | None) -> list[torch.Tensor]:
    """Gradients of the mean loss, each group by itself and whole."""
    model.zero_grad()
    targets = torch.randint(3, (12,), generator=torch.Generator().manual_seed(1)).split([len(g) for g in groups])
    for images, y in zip(groups, targets, strict=True):
        logits = model(images.float() / 127.5 - 1, patch_size=patch_size)
        (torch.nn.functional.cross_entropy(logits, y, reduction="sum") / 12).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_packed_images_of_several_sizes_have_the_gradient_of_each_by_itself() -> None:
    model, groups = trainable(), noise((5, 3, 32, 32), (4, 3, 16, 40), (3, 3, 64, 8))
    packed, called = gradients(model, groups, None)
    assert [len(group) for group, _ in called] == [3]
    cut, called = gradients(model, groups, None, optimizer={"clip": 0, "accumulate": 4})
    assert len(called) >= 4
    loads = [sum(len(x) * load(VIT, tuple(x.shape[-2:]), 8) for x in group) for group, _ in called]
    assert max(loads) <= 3 * load(VIT, VIT.image_size, 8)
    alone = by_hand(model, groups, None)
    for one, two, three in zip(packed, cut, alone, strict=True):
        # float32 sums in another order
        assert torch.allclose(one, three, rtol=1e-4, atol=1e-6)
        assert torch.allclose(two, three, rtol=1e-4, atol=1e-6)


def test_a_size_that_does_not_fit_into_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = VIT.with_changes(width=256, mlp_width=1024, depth=8)
    recipe = from_dict({"epochs": 1, "batch_size": 2, "resolution": {"sizes": [32, 512]}})
    monkeypatch.setattr(memory, "free_bytes", lambda device: 150 * 10**6)
    with pytest.raises(UserError, match=r"resolution: 1 image of 512x512 pixels at a time need.* leave that size out"):
        memory.check_memory(recipe, config, CPU, "float32")
    fewer = from_dict({"epochs": 1, "batch_size": 2, "resolution": {"sizes": [16, 32]}})
    assert "free" in memory.check_memory(fewer, config, CPU, "float32")


def test_varying_sizes_are_compiled_for_on_request_alone() -> None:
    gpu = torch.device("cuda")
    assert worth_compiling(None, gpu, 5000)
    assert not worth_compiling(None, gpu, 5000, varies=True)
    assert worth_compiling(True, gpu, 5000, varies=True)


def test_the_sizes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = pairs_of(Resolution(sizes=(16, 32), patch_sizes=(8, 4)), VIT)
    assert sentence(Resolutions(pairs, "random", 0, 1)) == (
        "resolutions: 4, drawn for each step: 16x16/8, 32x32/8, 16x16/4, 32x32/4 (image size/patch size)"
    )
    many = pairs_of(Resolution(sizes="8-128"), VIT)
    assert sentence(Resolutions(many, "rising", 0, 1)) == (
        "resolutions: 16, from the fewest tokens to the most: 8x8, 16x16, 24x24, 32x32, ..., 120x120, 128x128"
    )


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sizes", "4-16"), "resolutions: 7, drawn for each step: 4x4, 6x6"),
        (("--sizes", "4,8,12x16", "--set", "resolution.order=rising"), "resolutions: 3, from the fewest tokens"),
        (("--patch-sizes", "2,4"), "resolutions: 2, drawn for each step: 8x8/2, 8x8/4"),
        (("--set", "resolution.scales=[0.5,2]"), "resolutions: 2, drawn for each step: 4x4, 16x16"),
    ],
)
def test_the_command_takes_several_sizes(tmp_path: Any, run: Run, options: tuple[str, ...], said: str) -> None:
    code, _, err = run("train", "digits", "--recipe", "digits", "--steps", "2", *options, "--out", tmp_path / "run")
    assert code == 0, err
    assert said in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sizes", "a"), "resolution.sizes: write a list such as [160, 224, [384, 256]] or a range such as 112-336"),
        (("--sizes", "8,,16"), "resolution.sizes: write a list"),
        (("--sizes", "16-8"), "from its smaller end to its larger one"),
        (("--sizes", "0"), "resolution.sizes: a side has 1 to 16384 pixels"),
        (("--sizes", "8,7"), "7x7 is not divisible by patch size 2: nearest to it: 6x6 and 8x8"),
        (("--patch-sizes", "3"), "3 divides none of the image sizes (8x8)"),
        (("--patch-sizes", "x"), "resolution.patch_sizes.0: "),
        (("--sizes", "4-8", "--model", "R50x1", "--patch-sizes", "2"), "a ResNet has no patches"),
    ],
)
def test_bad_sizes_are_one_line_and_nothing_is_written(
    tmp_path: Any, run: Run, options: tuple[str, ...], said: str
) -> None:
    code, _, err = run("train", "digits", "--recipe", "digits", "--steps", "2", *options, "--out", tmp_path / "run")
    assert code == 2
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
