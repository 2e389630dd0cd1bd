"""Fine-tuning starts from the backbone, and says what it took and what it changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vitrail
from positions_cases import PLACED
from vitrail.errors import UserError
from vitrail.model import ResNet, ResNetConfig, ViT
from vitrail.model.resize import resize_positions
from vitrail.weights.start import start_from

Make = Callable[..., ViT]


def test_a_new_task_takes_the_backbone_and_starts_its_head_at_zero(tmp_path: Path, make_model: Make) -> None:
    source = make_model(representation=7)
    vitrail.save(source, tmp_path)
    config = source.config.with_changes(classes=3, representation=None, image_size=(64, 32), drop_path=0.1)
    model, notes = start_from(config, tmp_path, labels=["x", "y", "z"])
    assert (model.config, model.labels, model.training) == (config, ("x", "y", "z"), True)
    assert model.preprocess.image_size == (64, 32)
    assert model.preprocess.mean == source.preprocess.mean
    torch.testing.assert_close(model.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight, rtol=0, atol=0)
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    expected = resize_positions(source.pos_embed, (4, 6), (8, 4), prefix=1)
    torch.testing.assert_close(model.pos_embed, expected)
    text = "\n".join(notes)
    for part in ("of the backbone", "from a grid of 4x6 to 8x4", "width 7 dropped", "head of 3 classes starts at zero"):
        assert part in text
    assert "drop_path" not in text


def test_the_head_is_kept_for_the_same_labels_only(make_model: Make) -> None:
    source = make_model()
    images = torch.randn(2, 3, 32, 48)
    same, notes = start_from(source.config, source, labels="abcde")
    torch.testing.assert_close(same.eval()(images), source(images), rtol=0, atol=0)
    assert any("head kept" in note for note in notes)
    for labels in ("abcdx", ""):
        other, _ = start_from(source.config, source, labels=labels)
        assert not other.head.weight.any()
    torch.testing.assert_close(other.eval().features(images), source.features(images), rtol=0, atol=0)


def test_a_head_that_knows_the_labels_by_name_is_put_into_their_order(make_model: Make) -> None:
    source = make_model()
    images = torch.randn(2, 3, 32, 48)
    some, notes = start_from(source.config.with_changes(classes=3), source, labels="dab")
    torch.testing.assert_close(some.eval()(images), source(images)[:, [3, 0, 1]])
    assert "head kept: its rows for the 3 labels, of 5, in their order here" in notes


def test_a_distilled_model_starts_both_heads_at_zero(make_model: Make) -> None:
    source = make_model(distilled=True)
    model, _ = start_from(source.config.with_changes(classes=2), source, labels="xy")
    assert not model.head.weight.any()
    assert not model.head_dist.weight.any()
    torch.testing.assert_close(model.dist_token, source.dist_token, rtol=0, atol=0)


def test_a_resnet_starts_a_resnet_and_no_vit(make_model: Make) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(image_size=(32, 32), layers=(1,), classes=4)
    source = ResNet(config)
    model, notes = start_from(config.with_changes(classes=2, image_size=(64, 64)), source, labels="xy")
    assert model.head.fc.weight.shape == (2, 256, 1, 1)
    assert "head of 2 classes starts at zero" in notes
    torch.testing.assert_close(model.stages[0].blocks[0].conv1.weight, source.stages[0].blocks[0].conv1.weight)
    with pytest.raises(UserError, match="is a ResNet, and the model wanted is not"):
        start_from(make_model().config, source)


def test_positions_of_the_patches_alone_are_interpolated_in_the_checkpoints_own_way(make_model: Make) -> None:
    source = make_model(prefix_positions=False, registers=2, position_interpolation="bicubic")
    model, notes = start_from(source.config.with_changes(image_size=(64, 32)), source)
    expected = resize_positions(source.pos_embed, (4, 6), (8, 4), prefix=0, method="bicubic")
    torch.testing.assert_close(model.pos_embed, expected, rtol=0, atol=0)
    assert any("interpolated (bicubic)" in note for note in notes)


def test_grids_are_compared_and_not_counts(make_model: Make) -> None:
    source = make_model(image_size=(32, 48))
    turned, _ = start_from(source.config.with_changes(image_size=(48, 32)), source)
    assert turned.pos_embed.shape == source.pos_embed.shape
    assert not torch.allclose(turned.pos_embed, source.pos_embed)


def test_fixed_positions_are_computed_for_the_new_grid(make_model: Make) -> None:
    source = make_model(position="sincos2d")
    config = source.config.with_changes(image_size=(48, 48))
    model, notes = start_from(config, source)
    torch.testing.assert_close(model.pos_embed, ViT(config).pos_embed, rtol=0, atol=0)
    assert any("computed" in note for note in notes)


@pytest.mark.parametrize("size", [(32, 48), (48, 48)])
@pytest.mark.parametrize("learned", ["learned", "learned2d"])
def test_what_was_learned_does_not_stand_in_for_sines_and_cosines(
    make_model: Make, learned: str, size: tuple[int, int]
) -> None:
    source = make_model(position=learned)
    config = source.config.with_changes(position="sincos2d", image_size=size)
    model, notes = start_from(config, source)
    torch.testing.assert_close(model.pos_embed, ViT(config).pos_embed, rtol=0, atol=0)
    assert any("position embedding computed" in note for note in notes)
    assert f"model.position was {learned} in the start model and is sincos2d now" in notes
    # and the other way round a learned table may start from them
    back, notes = start_from(model.config.with_changes(position="learned", image_size=(32, 48)), model)
    assert back.pos_embed.requires_grad
    assert any("interpolated" in note for note in notes) == (size == (48, 48))


@pytest.mark.parametrize("prefix_positions", [True, False])
def test_fixed_rows_for_the_prefix_come_and_go(make_model: Make, prefix_positions: bool) -> None:
    source = make_model(position="sincos2d", prefix_positions=prefix_positions)
    config = source.config.with_changes(prefix_positions=not prefix_positions)
    model, _ = start_from(config, source)
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(model.eval().features(images), source.features(images))


@torch.no_grad()
def test_positions_of_the_stem_can_come_in_at_every_block(make_model: Make) -> None:
    source = make_model()
    config = source.config.with_changes(position_site="shared")
    model, notes = start_from(config, source)
    assert "model.position_site was stem in the start model and is shared now" in notes
    torch.testing.assert_close(model.pos_embed, source.pos_embed, rtol=0, atol=0)
    images = torch.randn(2, 3, 32, 48)
    assert not torch.allclose(model.eval().features(images), source.features(images), atol=1e-2)
    _, notes = start_from(source.config.with_changes(position_site="stem"), source)
    assert not any("position_site" in note for note in notes)  # the usual place by its name is no change


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_fine_tuning_starts_as_the_model_answers_at_the_new_size(make_model: Make, kind: str, site: str) -> None:
    source = make_model(position=kind, position_site=site, registers=1, pool="avg", position_interpolation="bicubic")
    model, notes = start_from(source.config.at_size((48, 32)), source)
    images = torch.randn(2, 3, 48, 32)
    torch.testing.assert_close(model.eval().features(images), source.features(images), rtol=0, atol=0)
    how = {"sincos2d": "computed", "rotary2d": ""}.get(kind, "interpolated (bicubic)")
    what = "position embeddings of 2 blocks" if site == "layers" else "position embedding"
    said = [f"{what} {how} from a grid of 4x6 to 6x4"] if how else []
    assert [note for note in notes if "grid" in note] == said


def test_another_kind_of_positions_is_refused_by_name(make_model: Make) -> None:
    source = make_model()
    for changes in ({"position": "relative"}, {"position": "learned2d"}, {"position_site": "layers"}):
        with pytest.raises(UserError, match="do not fit.*pos_embed"):
            start_from(source.config.with_changes(image_size=(48, 32), **changes), source)


def test_the_start_model_is_not_changed_by_training(make_model: Make) -> None:
    source = make_model()
    before = source.norm.weight.detach().clone()
    model, _ = start_from(source.config, source)
    with torch.no_grad():
        model.norm.weight += 1
    torch.testing.assert_close(source.norm.weight, before, rtol=0, atol=0)


def test_a_choice_that_changes_the_function_is_said(make_model: Make) -> None:
    source = make_model()
    _, notes = start_from(source.config.with_changes(pool="avg"), source)
    assert "model.pool was token in the start model and is avg now" in notes


@pytest.mark.parametrize("change", [{"width": 64}, {"depth": 3}, {"pool": "map"}])
def test_another_shape_is_refused_by_name(make_model: Make, change: dict) -> None:
    source = make_model()
    with pytest.raises(UserError, match="do not fit"):
        start_from(source.config.with_changes(**change), source)
