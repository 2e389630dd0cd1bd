"""A map that marks what the model uses is told from one that does not, and the curves are what their words say."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitrail.errors import UserError
from vitrail.inspection import faithfulness as module
from vitrail.inspection.faithfulness import Gain, faithfulness, faithfulness_of_maps, gains, verdict
from vitrail.inspection.inspection import Curve, Faithfulness
from vitrail.model import ResNet, ResNetConfig, ViT, ViTConfig

CONFIG = ViTConfig(image_size=(32, 48), patch_size=8, width=16, depth=1, heads=2, mlp_width=24, classes=5)
GRID = (4, 6)
SEEN = (1, 2), (2, 4)


class SeesTwoPatches(ViT):
    """Class 3 where the patches ``SEEN`` are as bright as in the picture, class 0 where they are not."""

    def forward(self, images: Tensor, collect: object = (), *, patch_size: int | None = None) -> Tensor:
        light = torch.stack([images[:, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean((1, 2, 3)) for r, c in SEEN])
        logits = torch.zeros(len(images), 5)
        logits[:, 3] = 4 * light.sum(0) - 6  # 2 with both, -2 with one, -6 with none
        return logits


def picture_for_two_patches() -> Tensor:
    """Noise, with the two patches at 1 and the mean at 0, so that the mean colour leaves no light."""
    torch.manual_seed(1)
    image = torch.randn(1, 3, 32, 48) * 0.1
    image -= image.mean() + 2 / 22
    for r, c in SEEN:
        image[:, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8] = 1
    return image


def marks(*patches: tuple[int, int]) -> Tensor:
    torch.manual_seed(2)
    values = torch.rand(GRID)
    for number, place in enumerate(patches):
        values[place] = 2 + number
    return values


def random_vit(**changes: object) -> ViT:
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(CONFIG, **changes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_a_map_of_what_the_model_uses_beats_random_maps_and_its_reverse_loses() -> None:
    model, image, values = SeesTwoPatches(CONFIG), picture_for_two_patches(), marks(*SEEN)
    good, bad = faithfulness_of_maps(model, image, [values, -values], [3, 3], steps=24, random=20)
    random = [curve.area for curve in good.random_deletion]
    assert good.deletion.area < min(0.02, *random)
    assert sum(random) / 20 > 0.1
    assert bad.deletion.area > max(random)
    # two of 24 patches are enough: what comes after them changes nothing
    with_both, with_one, without = (np.exp(logit) / (np.exp(logit) + 4) for logit in (2, -2, -6))
    assert good.deletion.probabilities[0] == pytest.approx(with_both, abs=1e-5)
    assert good.deletion.probabilities[1] < with_one * 1.5
    assert good.deletion.probabilities[2:].max() < without * 3
    assert good.insertion.area > 0.9 * with_both > max(curve.area for curve in good.random_insertion)
    assert bad.insertion.area < min(curve.area for curve in good.random_insertion)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize(
    ("fill", "fills"), [(None, ("mean", "blur")), ("mean", ("mean",) * 2), ("blur", ("blur",) * 2)]
)
def test_curves_are_those_of_pictures_made_by_hand(kind: str, fill: module.Fill | None, fills: tuple[str, str]) -> None:
    model: ViT | ResNet = random_vit(dropout=0.5).train()
    if kind == "resnet":
        torch.manual_seed(0)
        model = ResNet(ResNetConfig(layers=(1,), image_size=(32, 48), classes=5))
        nn.init.normal_(model.head.fc.weight)
    torch.manual_seed(3)
    image, values = torch.randn(1, 3, 32, 48) + 0.5, torch.randn(2, 3)  # patches of 16, twice those of the ViT
    found = faithfulness(model, image, values, 2, steps=4, random=1, batch_size=3, fill=fill)
    assert model.training  # as it was
    model.eval()
    grounds = {"mean": image.mean((2, 3), keepdim=True).expand_as(image), "blur": blurred(image, 16.0)}
    order = sorted(range(6), key=lambda patch: -values.flatten()[patch])
    counts = [0, 2, 3, 4, 6]  # of 6 patches in 4 steps: 1.5 and 4.5 go to the even number
    assert found.deletion.shares == pytest.approx(np.array(counts) / 6, abs=1e-6)
    for curve, away, ground in ((found.deletion, True, fills[0]), (found.insertion, False, fills[1])):
        for count, probability in zip(counts, curve.probabilities, strict=True):
            picture = (image if away else grounds[ground]).clone()
            source = grounds[ground] if away else image
            for patch in order[:count]:
                rows, columns = (slice(16 * at, 16 * at + 16) for at in divmod(patch, 3))
                picture[:, :, rows, columns] = source[:, :, rows, columns]
            with torch.no_grad():
                expected = model(picture).softmax(1)[0, 2]
            assert probability == pytest.approx(float(expected), abs=2e-6)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian over all pixels of the image, each by itself."""
    H, W = image.shape[-2:]
    result = torch.empty_like(image)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    for i in range(H):
        for j in range(W):
            weights = (-((y - i) ** 2 + (x - j) ** 2) / (2 * sigma**2)).exp()
            result[..., i, j] = (image * weights).sum((2, 3)) / weights.sum()
    return result


def test_equal_values_and_seeds_give_equal_curves() -> None:
    model, image = random_vit(), torch.randn(1, 3, 32, 48)
    flat = faithfulness(model, image, torch.full(GRID, 0.7), 1, steps=6, seed=4)
    reading = faithfulness(model, image, -torch.arange(24.0).reshape(GRID), 1, steps=6, seed=4, batch_size=1)
    assert flat.deletion.probabilities == pytest.approx(reading.deletion.probabilities, abs=1e-6)
    for one, other in zip(flat.random_insertion, reading.random_insertion, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    another = faithfulness(model, image, torch.full(GRID, 0.7), 1, steps=6, seed=5)
    assert not np.allclose(flat.random_deletion[0].probabilities, another.random_deletion[0].probabilities, atol=1e-4)


def test_maps_share_the_random_orders_and_each_has_its_class() -> None:
    model, image = random_vit(), torch.randn(1, 3, 32, 48)
    values = [np.random.default_rng(seed).normal(size=GRID) for seed in (0, 1)]
    together = faithfulness_of_maps(model, image, values, [0, 4], steps=5, random=2)
    for found, one, target in zip(together, values, (0, 4), strict=True):
        alone = faithfulness(model, image, one, target, steps=5, random=2)
        for curve, expected in zip(curves_of(found), curves_of(alone), strict=True):
            assert curve.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def curves_of(found: Faithfulness) -> list[Curve]:
    return [found.deletion, found.insertion, *found.random_deletion, *found.random_insertion]


def test_steps_are_whole_patches_and_a_picture_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = ViT.forward

    def counted(self: ViT, images: Tensor) -> Tensor:
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(ViT, "forward", counted)
    monkeypatch.setattr(module, "PIXELS", 7 * 32 * 48)
    values = torch.randn(GRID)
    found = faithfulness(random_vit(), torch.randn(1, 3, 32, 48), values, 0, steps=500, random=2)
    assert found.deletion.shares == pytest.approx(np.arange(25) / 24, abs=1e-6)
    assert max(sizes) == 7
    assert sum(sizes) <= 2 * (3 * 23 + 2)  # both ends of three orders are the same two pictures


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    model, image, values = random_vit(), torch.randn(1, 3, 32, 48), torch.randn(GRID)
    with pytest.raises(UserError, match="target 5: the model's classes go from 0 to 4"):
        faithfulness(model, image, values, 5)
    with pytest.raises(UserError, match="no head"):
        faithfulness(random_vit(classes=0), image, values, 0)
    with pytest.raises(UserError, match="map of 5 x 6 patches"):
        faithfulness(model, image, torch.randn(5, 6), 0)
    with pytest.raises(UserError, match="not finite"):
        faithfulness(model, image, values / 0, 0)
    with pytest.raises(UserError, match="one picture"):
        faithfulness(model, image.repeat(2, 1, 1, 1), values, 0)
    with pytest.raises(UserError, match="did you mean mean"):
        faithfulness(model, image, values, 0, fill="maen")
    with pytest.raises(UserError, match="2 maps and 1 targets"):
        faithfulness_of_maps(model, image, [values, values], [1])
    with pytest.raises(UserError, match="one grid"):
        faithfulness_of_maps(model, image, [values, values[:2]], [1, 1])
    for name in ("steps", "random", "batch_size"):
        with pytest.raises(UserError, match=f"{name} 0"):
            faithfulness(model, image, values, 0, **{name: 0})
    with pytest.raises(UserError, match="at least one picture"):
        verdict([])


def flat(*areas: float) -> tuple[Curve, ...]:
    """Curves whose areas are known: level ones."""
    return tuple(Curve(np.float32([0, 1]), np.float32([area, area])) for area in areas)


def found_with(deletion: float, insertion: float) -> Faithfulness:
    return Faithfulness(*flat(deletion), *flat(insertion), flat(0.4, 0.6), flat(0.4, 0.6))


def test_the_interval_is_students_over_pictures() -> None:
    deletion, insertion = gains([found_with(d, i) for d, i in ((0.1, 0.5), (0.2, 0.9), (0.3, 0.3))])
    # gains 0.4, 0.3 and 0.2: mean 0.3, deviation 0.1, and t(2, 0.975) = 4.3027
    assert deletion == Gain(
        3, pytest.approx(0.2), pytest.approx(0.5), pytest.approx(0.3), deletion.interval, beaten=(6, 6)
    )
    assert deletion.interval == pytest.approx((0.3 - 4.3027 * 0.1 / 3**0.5, 0.3 + 4.3027 * 0.1 / 3**0.5), abs=1e-5)
    assert insertion.gain == pytest.approx((0 + 0.4 - 0.2) / 3)
    assert (deletion.sign, insertion.sign, insertion.beaten) == (1, 0, (3, 6))


def test_the_verdict_is_read_as_words_with_numbers() -> None:
    good = verdict([found_with(d, i) for d, i in ((0.1, 0.5), (0.2, 0.9), (0.3, 0.3))])
    assert good == (
        "Over 3 pictures, with patches taken away in its order, the map is better than a random map (mean probability "
        "20.0 % against 50.0 %: 30.0 points, 95 % interval 5.2 to 54.8); with patches put in, it is no better than a "
        "random map (mean probability 56.7 % against 50.0 %: 6.7 points, 95 % interval −69.2 to 82.6)."
    )
    reversed_ = verdict([found_with(d, 0.45) for d in (0.8, 0.9, 0.7)])
    assert (
        "worse than a random map (mean probability 80.0 % against 50.0 %: 30.0 points, 95 % interval 5.2" in reversed_
    )
    assert "45.0 % against 50.0 %: 5.0 points, 95 % interval 5.0 to 5.0" in reversed_
    assert verdict([found_with(0.1, 0.5)]) == (
        "In one picture, with patches taken away in its order, the map is better than 2 of 2 random maps (mean "
        "probability 10.0 % against 50.0 %); with patches put in, it is better than 1 of 2 random maps (mean "
        "probability 50.0 % against 50.0 %). One picture says nothing of others."
    )


def test_a_model_that_does_not_look_has_no_better_map() -> None:
    model = random_vit()
    nn.init.zeros_(model.head.weight)
    found = [faithfulness(model, torch.randn(1, 3, 32, 48), torch.randn(GRID), 1, seed=seed) for seed in range(4)]
    assert [gain.sign for gain in gains(found)] == [0, 0]
    assert [gain.beaten for gain in gains(found)] == [(0, 20), (0, 20)]
