"""Positions that add to the scores of attention: each pair gets what its offset says."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from positions_cases import randomised, small
from vitrail.errors import UserError
from vitrail.model import ViTConfig
from vitrail.model.positions import KINDS, by_pair
from vitrail.model.resize import METHODS, resize_offsets, resize_raster_offsets

PREFIXES = [{"class_token": False, "pool": "avg"}, {}, {"registers": 2}]


def bias(config: ViTConfig, table: Tensor, q: Tensor) -> Tensor:
    """What the kind adds to the scores of these queries, on the configuration's own grid."""
    function = KINDS[config.position].place(table, config, config.grid, torch.device("cpu")).bias
    assert function is not None
    return function(q)


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (4, 8), (4, 4)])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_relative_scores_are_the_query_times_the_embedding_of_the_offset(size: tuple[int, int], prefix: dict) -> None:
    torch.manual_seed(0)
    config = small(position="relative", image_size=size, **prefix)
    n, P, K = config.grid[0] * config.grid[1], config.prefix_tokens, 8
    table, q = torch.randn(2 * n - 1, 16), torch.randn(3, 2, config.tokens, K)
    assert table.shape == config.position_shape
    expected = torch.zeros(3, 2, P + n, P + n)
    for head in range(2):
        for i in range(n):
            for j in range(n):
                r = table[(i - j) + n - 1, head * K : (head + 1) * K]
                expected[:, head, P + i, P + j] = q[:, head, P + i] @ r / K**0.5
    torch.testing.assert_close(bias(config, table, q), expected)


@torch.no_grad()
def test_relative_attention_is_the_formula() -> None:
    """softmax((q k^T + q r) / sqrt(K)) v, with the queries that the content's attention has, after their norm."""
    model = randomised(small(position="relative", class_token=False, pool="avg", qk_norm=True))
    attention, table = model.blocks[1].attn, model.blocks[1].pos_embed
    x = torch.randn(2, 15, 16)
    place = KINDS["relative"].place(table, model.config, (3, 5), torch.device("cpu"))
    q, k, v = attention.qkv(x).reshape(2, 15, 3, 2, 8).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    offsets = torch.arange(15)[:, None] - torch.arange(15) + 14
    r = table.reshape(29, 2, 8)[offsets]  # (query, key, head, K)
    scores = torch.einsum("bhik,bhjk->bhij", q, k) + torch.einsum("bhik,ijhk->bhij", q, r)
    heads = (scores / 8**0.5).softmax(-1) @ v
    expected = attention.proj(heads.transpose(1, 2).reshape(2, 15, 16))
    for collected in ({}, {"attention": []}):
        torch.testing.assert_close(attention(x, place, collected), expected)


def test_the_view_by_pair_takes_every_offset_from_its_column() -> None:
    for n in (1, 2, 7):
        of_offsets = torch.randn(3, n, 2 * n - 1)
        expected = torch.stack([of_offsets[:, i, n - 1 - i : 2 * n - 1 - i] for i in range(n)], dim=1)
        torch.testing.assert_close(by_pair(of_offsets), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (4, 8), (4, 4)])
@pytest.mark.parametrize("prefix", [*PREFIXES, {"prefix_positions": False}])
def test_a_bias_is_that_of_its_offset_in_rows_and_columns(size: tuple[int, int], prefix: dict) -> None:
    torch.manual_seed(0)
    config = small(position="relative_bias", image_size=size, **prefix)
    (h, w), P = config.grid, config.prefix_tokens
    table = torch.randn(config.position_shape)
    of_prefix = 3 if P and config.prefix_positions else 0
    assert table.shape == ((2 * h - 1) * (2 * w - 1) + of_prefix, 2)
    to_patch, to_prefix, within = table[-3:] if of_prefix else torch.zeros(3, 2)
    expected = torch.zeros(2, config.tokens, config.tokens)
    expected[:, :P, P:], expected[:, P:, :P] = to_patch[:, None, None], to_prefix[:, None, None]
    expected[:, :P, :P] = within[:, None, None]
    for i in range(h * w):
        for j in range(h * w):
            rows, columns = i // w - j // w, i % w - j % w
            expected[:, P + i, P + j] = table[(rows + h - 1) * (2 * w - 1) + columns + w - 1]
    torch.testing.assert_close(bias(config, table, torch.randn(3, 2, config.tokens, 8))[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(12, 20), (16, 16)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_biases_are_timms(size: tuple[int, int], prefix: int) -> None:
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    config = small(position="relative_bias", image_size=size, class_token=bool(prefix), pool="avg")
    theirs = layers.RelPosBias(window_size=config.grid, num_heads=2, prefix_tokens=prefix)
    table = theirs.relative_position_bias_table
    torch.nn.init.normal_(table)
    assert table.shape == config.position_shape
    ours = bias(config, table, torch.randn(3, 2, config.tokens, 8))
    torch.testing.assert_close(ours, theirs.get_bias(), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("site", ["layers", "shared"])
def test_a_model_with_biases_is_timms_beit(site: str) -> None:
    beit = pytest.importorskip("timm.models.beit")
    theirs = beit.Beit(
        img_size=(12, 20),
        patch_size=4,
        num_classes=3,
        global_pool="token",
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_ratio=1.5,
        init_values=None,
        use_abs_pos_emb=False,
        use_rel_pos_bias=site == "layers",
        use_shared_rel_pos_bias=site == "shared",
    ).eval()
    ours = randomised(small(position="relative_bias", position_site=site))
    state = dict(ours.state_dict())
    for i in range(2):
        q, k, v = state.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        k.zero_()  # BEiT's keys have no bias
        state |= {f"blocks.{i}.attn.q_bias": q, f"blocks.{i}.attn.v_bias": v}
    for name in [name for name in state if name.endswith("pos_embed")]:
        layer = name.replace("pos_embed", "attn" if site == "layers" else "rel_pos_bias")
        state[f"{layer}.relative_position_bias_table"] = state.pop(name)
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 12, 20)
    expected = theirs(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)


# --- at another grid


def test_biases_at_another_grid_are_timms_bicubic_ones() -> None:
    timm = pytest.importorskip("timm.layers.pos_embed_rel")
    torch.manual_seed(0)
    table = torch.randn(7 * 7 + 3, 2)
    theirs = timm.resize_rel_pos_bias_table_simple(table, (6, 9), (11 * 17 + 3, 2))
    ours = resize_offsets(table, (4, 4), (6, 9), method="bicubic")
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_no_offset_stays_no_offset_and_the_prefix_stays(method: str) -> None:
    """A table that is even in rows and columns is even at any size, with its peak in the middle."""
    rows, columns = torch.arange(-2.0, 3)[:, None].abs(), torch.arange(-4.0, 5).abs()
    table = torch.cat([-(rows + columns).reshape(-1, 1), torch.tensor([[7.0], [8.0], [9.0]])])
    for h, w in ((5, 3), (2, 9), (4, 1), (1, 1)):
        resized = resize_offsets(table, (3, 5), (h, w), method=method)
        torch.testing.assert_close(resized[-3:], table[-3:], rtol=0, atol=0)
        image = resized[:-3].reshape(2 * h - 1, 2 * w - 1)
        torch.testing.assert_close(image, image.flip(0, 1), atol=1e-4, rtol=0)
        assert image.argmax() == image.numel() // 2
    assert image.item() == 0  # the only offset of a single patch
    assert resize_offsets(table, (3, 5), (3, 5), method=method) is table


@pytest.mark.parametrize("new", [(2, 3), (4, 4), (1, 6), (5, 1)])
def test_raster_offsets_at_another_grid_are_the_nearest_to_all_pairs_of_the_resized_image(new: tuple[int, int]) -> None:
    torch.manual_seed(0)
    (h, w), (h2, w2) = (3, 5), new
    table = torch.randn(2 * h * w - 1, 2)
    image = torch.stack(
        [table[r * w + c + h * w - 1] for r in range(1 - h, h) for c in range(1 - w, w)]
    )  # what the raster table says of each offset in rows and columns
    wanted = resize_offsets(image, (h, w), new, method="bicubic").reshape(2 * h2 - 1, 2 * w2 - 1, 2)
    n = h2 * w2
    pairs = [(i, j) for i in range(n) for j in range(n)]
    offsets = torch.tensor([i - j + n - 1 for i, j in pairs])
    values = torch.stack([wanted[i // w2 - j // w2 + h2 - 1, i % w2 - j % w2 + w2 - 1] for i, j in pairs])
    best = torch.linalg.lstsq(F.one_hot(offsets, 2 * n - 1).double(), values.double()).solution.float()
    torch.testing.assert_close(resize_raster_offsets(table, (h, w), new, method="bicubic"), best)


def test_raster_offsets_of_one_row_lose_nothing() -> None:
    torch.manual_seed(0)
    table = torch.randn(9, 3)
    resized = resize_raster_offsets(table, (1, 5), (1, 8), method="bilinear_corners")
    line = F.interpolate(table.T[None], 15, mode="linear", align_corners=True)[0].T
    torch.testing.assert_close(resized, line)
    assert resize_raster_offsets(table, (1, 5), (1, 5), method="bicubic") is table


def test_a_table_in_half_precision_is_weighed_in_single() -> None:
    torch.manual_seed(0)
    table = torch.randn(2 * 20 * 20 - 1, 3).bfloat16()
    resized = resize_raster_offsets(table, (20, 20), (30, 25), method="bicubic")
    exact = resize_raster_offsets(table.float(), (20, 20), (30, 25), method="bicubic")
    assert resized.dtype == torch.bfloat16
    torch.testing.assert_close(resized, exact.bfloat16(), rtol=0, atol=0)


def test_relative_positions_have_no_place_at_the_stem() -> None:
    for kind in ("relative", "relative_bias"):
        with pytest.raises(UserError, match="position_site is stem, where relative.* have layers or shared"):
            small(position=kind, position_site="stem")
