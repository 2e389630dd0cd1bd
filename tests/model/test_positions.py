"""Position embeddings know their grid."""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.model.attention import rotate
from vitrail.model.positions import KINDS, rotary_2d, sincos_2d
from vitrail.model.resize import METHODS, resize_axes, resize_positions


def test_sines_and_cosines_are_those_of_the_formula() -> None:
    table = sincos_2d((3, 5), 16)
    row, column, k = 2, 3, 1
    omega = 10_000 ** (-k / 3)
    token = table[row * 5 + column]
    assert token[k].item() == pytest.approx(math.sin(column * omega), abs=1e-6)
    assert token[4 + k].item() == pytest.approx(math.cos(column * omega), abs=1e-6)
    assert token[8 + k].item() == pytest.approx(math.sin(row * omega), abs=1e-6)
    assert token[12 + k].item() == pytest.approx(math.cos(row * omega), abs=1e-6)


def test_sines_and_cosines_of_another_grid_keep_the_places_in_the_image() -> None:
    table = sincos_2d((6, 3), 16, counted_in=(3, 6))
    row, column, k = 4, 1, 2
    omega = 10_000 ** (-k / 3)
    y, x = (
        (row + 0.5) / 6 * 3 - 0.5,
        (column + 0.5) / 3 * 6 - 0.5,
    )  # of its centre, in rows and columns of the other grid
    token = table[row * 3 + column]
    assert token[k].item() == pytest.approx(math.sin(x * omega), abs=1e-6)
    assert token[8 + k].item() == pytest.approx(math.sin(y * omega), abs=1e-6)
    assert torch.equal(sincos_2d((6, 3), 16, counted_in=(6, 3)), sincos_2d((6, 3), 16))


def test_a_size_back_and_forth_leaves_sines_and_cosines_as_they_were() -> None:
    config = ViTConfig(image_size=(16, 24), patch_size=4, width=16, heads=2, mlp_width=32, depth=1, position="sincos2d")
    there = config.at_size((32, 32))
    assert there.position_grid == (4, 6)
    assert there.at_size((48, 8), 8).position_grid == (4, 6)
    assert there.at_size((16, 24)) == config
    assert torch.equal(KINDS["sincos2d"].create(there), KINDS["sincos2d"].resized(torch.empty(1), config, (8, 8)))
    with pytest.raises(UserError, match="position_grid"):
        ViTConfig(position_grid=(14, 14))


def test_rotary_angles_are_those_of_the_formula() -> None:
    angles = rotary_2d((3, 5), 16, base=100.0)
    row, column, k = 2, 1, 3
    period = 100 ** (k / 4)
    y, x = (row + 0.5) / 3 * 2 - 1, (column + 0.5) / 5 * 2 - 1
    token = angles[row * 5 + column]
    assert token[k].item() == pytest.approx(2 * math.pi * y / period, abs=1e-5)
    assert token[4 + k].item() == pytest.approx(2 * math.pi * x / period, abs=1e-5)
    torch.testing.assert_close(token[:8], token[8:])


def test_rotation_turns_pairs_of_channels_and_no_prefix() -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(8, 12), patch_size=4, width=32, heads=2, mlp_width=8, position="rotary2d", registers=1
    )
    rotation = KINDS["rotary2d"].place(None, config, config.grid, torch.device("cpu")).rotation
    assert rotation is not None
    q = torch.randn(3, 2, config.tokens, 16)
    turned = rotate(q, rotation)
    torch.testing.assert_close(turned[:, :, :2], q[:, :, :2], rtol=0, atol=0)
    angles = rotary_2d(config.grid, 16, config.rotary_base)[:, :8]
    pairs = torch.complex(q[:, :, 2:, :8], q[:, :, 2:, 8:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned[:, :, 2:], torch.cat([pairs.real, pairs.imag], dim=-1))


def test_rotary_attention_logits_depend_on_the_offset_alone() -> None:
    torch.manual_seed(0)
    angles = rotary_2d((4, 6), 8, base=100.0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    q, k = (rotate(x.expand(1, 1, 24, 8), (angles.cos(), angles.sin())) for x in (q, k))
    logits = (q @ k.transpose(-2, -1))[0, 0].reshape(4, 6, 4, 6)
    torch.testing.assert_close(logits[0, 0, 1, 2], logits[2, 3, 3, 5])
    assert not torch.isclose(logits[0, 0, 1, 2], logits[0, 0, 2, 1])


@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 2])
def test_a_patch_gets_its_rows_and_its_columns_vector(registers: int) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(12, 20),
        patch_size=4,
        width=16,
        heads=2,
        mlp_width=8,
        depth=1,
        position="learned2d",
        registers=registers,
    )
    model = ViT(config)
    rows, columns = model.pos_embed[0, :3], model.pos_embed[0, 3:]
    assert columns.shape == (5, 8)
    images = torch.randn(2, 3, 12, 20)
    tokens = model.embed(images)
    patches = model.patch_embed(images)
    for r in range(3):
        for c in range(5):
            expected = patches[:, r * 5 + c] + torch.cat([rows[r], columns[c]])
            torch.testing.assert_close(tokens[:, 1 + registers + r * 5 + c], expected)
    torch.testing.assert_close(tokens[:, :1], model.cls_token.expand(2, 1, 16), rtol=0, atol=0)


def test_rows_and_columns_are_interpolated_each_along_its_one_side() -> None:
    torch.manual_seed(0)
    table = torch.randn(1, 4 + 6, 3)
    resized = resize_axes(table, (4, 6), (9, 5), method="bilinear_corners")
    for old, new in ((table[:, :4], resized[:, :9]), (table[:, 4:], resized[:, 9:])):
        line = torch.nn.functional.interpolate(old.mT, new.shape[1], mode="linear", align_corners=True).mT
        torch.testing.assert_close(new, line)
    wider = resize_axes(table, (4, 6), (4, 12), method="bicubic_antialias")
    torch.testing.assert_close(wider[:, :4], table[:, :4])
    assert resize_axes(table, (4, 6), (4, 6), method="bicubic") is table


@pytest.mark.parametrize("method", [method for method in METHODS if method != "area"])  # whose means make steps
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


@pytest.mark.parametrize("new", [9, 20])
def test_bicubic_with_fixed_corners_is_torchvisions(new: int) -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    torch.manual_seed(0)
    table = torch.randn(1, 1 + 14 * 14, 8)
    state = OrderedDict({"encoder.pos_embedding": table.clone()})
    theirs = interpolate_embeddings(new * 16, 16, state)["encoder.pos_embedding"]
    ours = resize_positions(table, (14, 14), (new, new), prefix=1, method="bicubic_corners")
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("new", [(9, 9), (24, 24), (7, 28)])
def test_bilinear_with_fixed_corners_is_the_zoom_of_googles_code(new: tuple[int, int]) -> None:
    """Google's code calls scipy's zoom of order 1 on the grid of positions."""
    from scipy.ndimage import zoom

    torch.manual_seed(0)
    table = torch.randn(1, 1 + 14 * 14, 8)
    grid = table[0, 1:].reshape(14, 14, 8).double().numpy()
    theirs = torch.from_numpy(zoom(grid, (new[0] / 14, new[1] / 14, 1), order=1)).float().reshape(1, -1, 8)
    ours = resize_positions(table, (14, 14), new, prefix=1, method="bilinear_corners")
    torch.testing.assert_close(ours[:, 1:], theirs, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours[:, :1], table[:, :1], atol=0, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_column_is_interpolated_like_a_single_row(method: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 5, 4, 3)
    row = resize_positions(image.reshape(1, 20, 3), (5, 4), (1, 7), method=method)
    column = resize_positions(image.transpose(1, 2).reshape(1, 20, 3), (4, 5), (7, 1), method=method)
    torch.testing.assert_close(column, row)
    assert row.std() > 0.1


@pytest.mark.parametrize("new", [(7, 1), (2, 1), (1, 7), (1, 1), (5, 3)])
def test_antialiased_bicubic_is_pillows_resize_down_to_a_single_column(new: tuple[int, int]) -> None:
    torch.manual_seed(0)
    table = torch.randn(1, 4 * 6, 2)
    ours = resize_positions(table, (4, 6), new, method="bicubic_antialias").reshape(*new, 2)
    for channel in range(2):
        image = Image.fromarray(table[0, :, channel].reshape(4, 6).numpy())
        theirs = np.asarray(image.resize((new[1], new[0]), Image.Resampling.BICUBIC))
        torch.testing.assert_close(ours[..., channel], torch.from_numpy(theirs.copy()), atol=1e-5, rtol=0)


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
    model, larger = ViT(config), ViT(config.at_size((32, 24)))
    expected = {name: t for name, t in larger.state_dict().items() if name == "pos_embed"}
    larger.load_state_dict({**model.state_dict(), **expected})
    images = torch.randn(2, 3, 32, 24)
    torch.testing.assert_close(model.embed(images), larger.embed(images))
