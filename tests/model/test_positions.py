"""Position embeddings know their grid."""

import math

import pytest
import torch

from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.model.positions import sincos_2d
from vitrail.model.resize import METHODS, resize_positions


def test_sines_and_cosines_are_those_of_the_formula() -> None:
    table = sincos_2d((3, 5), 16)
    row, column, k = 2, 3, 1
    omega = 10_000 ** (-k / 3)
    token = table[row * 5 + column]
    assert token[k].item() == pytest.approx(math.sin(column * omega), abs=1e-6)
    assert token[4 + k].item() == pytest.approx(math.cos(column * omega), abs=1e-6)
    assert token[8 + k].item() == pytest.approx(math.sin(row * omega), abs=1e-6)
    assert token[12 + k].item() == pytest.approx(math.cos(row * omega), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_ramp_stays_linear_inside(method: str) -> None:
    rows = torch.arange(8.0)[:, None].expand(8, 6).reshape(1, 48, 1)
    prefix = torch.tensor([[[100.0], [200.0]]])
    resized = resize_positions(torch.cat([prefix, rows], 1), (8, 6), (16, 12), prefix=2, method=method)
    assert resized.shape == (1, 2 + 192, 1)
    torch.testing.assert_close(resized[:, :2], prefix)
    inside = resized[0, 2:, 0].reshape(16, 12)[4:-4, 6]
    line = torch.linspace(inside[0], inside[-1], 8)
    torch.testing.assert_close(inside, line, atol=0.1, rtol=0)


def test_corners_stay_where_corners_are_aligned() -> None:
    table = torch.randn(1, 20, 4)
    resized = resize_positions(table, (4, 5), (9, 11), method="bilinear_corners").reshape(9, 11, 4)
    old = table.reshape(4, 5, 4)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(resized[row, column], old[row, column], atol=1e-5, rtol=0)


def test_antialiased_bicubic_is_timms() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    table = torch.randn(1, 1 + 14 * 14, 8)
    theirs = timm_layers.resample_abs_pos_embed(table, new_size=[7, 28], old_size=[14, 14], num_prefix_tokens=1)
    ours = resize_positions(table, (14, 14), (7, 28), prefix=1, method="bicubic_antialias")
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_equal_token_counts_of_different_grids_are_not_the_same() -> None:
    table = torch.randn(1, 36, 4)
    assert not torch.equal(resize_positions(table, (6, 6), (4, 9)), table)
    assert resize_positions(table, (6, 6), (6, 6)) is table


def test_a_table_of_another_length_and_an_unknown_method_are_refused() -> None:
    with pytest.raises(UserError, match="37 rows is not 0 \\+ 6 x 6"):
        resize_positions(torch.randn(1, 37, 4), (6, 6), (7, 7))
    with pytest.raises(UserError, match="did you mean bicubic"):
        resize_positions(torch.randn(1, 36, 4), (6, 6), (7, 7), method="bicubc")


@torch.no_grad()
def test_fixed_positions_are_computed_anew_at_another_size() -> None:
    config = ViTConfig(image_size=(16, 16), patch_size=4, width=16, heads=2, mlp_width=32, depth=1, position="sincos2d")
    model, larger = ViT(config), ViT(config.with_changes(image_size=(32, 24)))
    expected = {name: t for name, t in larger.state_dict().items() if name == "pos_embed"}
    larger.load_state_dict({**model.state_dict(), **expected})
    images = torch.randn(2, 3, 32, 24)
    torch.testing.assert_close(model.embed(images), larger.embed(images))
