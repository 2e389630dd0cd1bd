"""Images of several sizes in one packed sequence answer, and learn, as each batch does by itself."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from positions_cases import PLACED, randomised, small
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.model.drop_path import DropPath

# of the largest value: the same sums in float32, whose order depends on the length of the sequence
LARGEST_DIFFERENCE = 2e-6

SIZES = [(2, 12, 20), (1, 8, 8), (3, 20, 12), (1, 4, 24)]  # images, height, width; the second has few patches


def batches(*sizes: tuple[int, int, int], channels: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(count, channels, height, width) for count, height, width in sizes or SIZES]


def assert_near(ours: Tensor, expected: Tensor, relative: float = LARGEST_DIFFERENCE) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= relative * expected.abs().max()


CHOICES: list[dict[str, Any]] = [
    *({"position": kind, "position_site": site, "registers": 2} for kind, site in PLACED),
    {"position": "none"},
    {"position": "learned", "prefix_positions": False},
    {"position": "relative_bias", "class_token": False, "pool": "avg"},
    {"position": "rotary2d", "class_token": False, "pool": "map"},
    {"pool": "token_avg"},
    {"pool": "avg", "final_norm": "pooled"},
    {"distilled": True, "registers": 1},
    {"representation": 7},
    {"classes": 0},
    {"qk_norm": True, "gated_mlp": True, "layer_scale": 0.5, "pre_norm": True},
    {"patch_norm": True},
    {"stem": "conv"},
    {"stem": "hybrid", "stem_layers": (), "stem_root": "small", "stem_width": 32},
    {"stem": "hybrid", "stem_layers": (1,), "stem_root": "small", "stem_width": 32, "position": "relative"},
]


@torch.no_grad()
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_each_image_answers_as_it_does_by_itself(choice: dict) -> None:
    model = randomised(small(**choice))
    several = batches()
    alone = [model.features(batch) for batch in several]
    assert_near(model.features(several), torch.cat(alone))
    assert_near(model.encode(several), torch.cat([model.encode(batch).flatten(0, 1) for batch in several])[None])
    if model.config.classes:
        assert_near(model(tuple(several)), torch.cat([model(batch) for batch in several]))


@torch.no_grad()
@pytest.mark.parametrize("p", [2, 8])
def test_several_sizes_are_cut_into_another_patch_size_too(p: int) -> None:
    model = randomised(small(registers=1))
    several = batches((2, 8, 24), (1, 16, 8), (2, 16, 16))
    expected = torch.cat([model(batch, patch_size=p) for batch in several])
    assert_near(model(several, patch_size=p), expected)
    assert not torch.allclose(expected, model(several), rtol=0, atol=1e-2)


@torch.no_grad()
def test_two_batches_of_one_size_are_the_batch_of_both() -> None:
    model = randomised(small())
    images = batches((5, 12, 20))[0]
    assert_near(model([images[:2], images[2:]]), model(images))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_one_batch_in_a_list_is_the_batch_to_the_bit(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site))
    for batch in batches():
        assert torch.equal(model([batch]), model(batch))
        assert torch.equal(model.features((batch,)), model.features(batch))
        assert torch.equal(model.encode([batch]), model.encode(batch))


@torch.no_grad()
def test_no_image_sees_another_one() -> None:
    """Whatever stands in the others, to the bit: there is no mask that could let something through."""
    model = randomised(small(registers=1, position="relative_bias"))
    several = batches()
    before = model(several)
    others = [several[0], torch.full_like(several[1], torch.nan), several[2] * 100, several[3]]
    after = model(others)
    assert torch.equal(after[:2], before[:2])
    assert torch.equal(after[-1], before[-1])
    assert after[2].isnan().all()


@torch.no_grad()
def test_a_batch_without_images_takes_no_place() -> None:
    model = randomised(small())
    several = batches()
    assert_near(model([several[0][:0], *several, several[1][:0]]), model(several))
    assert model([several[0][:0], several[1][:0]]).shape == (0, 3)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_gradients_are_the_sum_of_those_by_themselves(choice: dict) -> None:
    if not small(**choice).classes:
        choice = {**choice, "classes": 3, "pool": "avg"}
    packed = randomised(small(**choice))
    apart = copy.deepcopy(packed)
    several = batches()
    weight = torch.randn(sum(map(len, several)), 3)
    (packed(several) * weight).sum().backward()
    for batch, its in zip(several, weight.split([len(batch) for batch in several]), strict=True):
        (apart(batch) * its).sum().backward()
    for (name, ours), expected in zip(packed.named_parameters(), apart.parameters(), strict=True):
        assert ours.grad is not None, name
        assert expected.grad is not None, name
        # sums over all images, some of which cancel: a factor of ten above that of the answers; softmax cancels
        # a bias of keys altogether
        largest = max(expected.grad.abs().max().item(), 0.1)
        assert (ours.grad - expected.grad).abs().max() <= 10 * LARGEST_DIFFERENCE * largest, name


@torch.no_grad()
def test_linear_layers_see_all_tokens_at_once_and_attention_one_size_at_a_time(monkeypatch: Any) -> None:
    """So that packing saves calls, and spends none on pairs of tokens in different images."""
    model = randomised(small())
    seen: list[tuple[int, ...]] = []
    attended: list[tuple[int, ...]] = []
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for block in model.blocks:
        block.mlp.fc1.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))

    def watched(q: Tensor, *others: Tensor, **arguments: Any) -> Tensor:
        attended.append(tuple(q.shape))
        return sdpa(q, *others, **arguments)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model(batches())
    assert seen == [(1, 2 * 16 + 5 + 3 * 16 + 7, 16)] * 2
    assert attended == [(2, 2, 16, 8), (1, 2, 5, 8), (3, 2, 16, 8), (1, 2, 7, 8)] * 2


# --- stochastic depth


def kept_tokens(model: ViT, several: list[Tensor]) -> list[Tensor]:
    """For each time a branch may be left out, which tokens kept it: (T,) each."""
    kept: list[Tensor] = []
    for drop in (module for module in model.modules() if isinstance(module, DropPath)):
        drop.register_forward_hook(lambda _, inputs, output: kept.append((output != 0).all(dim=-1)[0]))
    model(several)
    return kept


@torch.no_grad()
def test_stochastic_depth_drops_whole_images_and_each_by_itself() -> None:
    model = randomised(small(drop_path=0.5)).train()
    several = batches()
    lengths = [16, 16, 5, 16, 16, 16, 7]
    torch.manual_seed(0)
    runs = [
        [part for kept in kept_tokens(copy.deepcopy(model), several)[2:] for part in kept.split(lengths)]
        for _ in range(300)
    ]  # the first block, with its two branches, drops nothing
    assert all(part.all() or not part.any() for parts in runs for part in parts)
    whole = torch.tensor([[part.all().item() for part in parts] for parts in runs]).double()  # (300, 2 x 7)
    assert whole.shape == (300, 14)
    # a share of 300 coins has a deviation of 0.03, a correlation one of 0.06; of 14 and of 91, four deviations
    assert (whole.mean(0) - 0.5).abs().max() < 0.12
    correlations = torch.corrcoef(whole.T) - torch.eye(14)
    assert correlations.abs().max() < 0.24


def test_what_stochastic_depth_keeps_is_scaled_so_that_the_mean_stays() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    lengths = [3, 1, 4, 2]
    x = torch.ones(1, sum(lengths), 5)
    outputs = torch.stack([drop(x, lengths) for _ in range(2000)])
    assert outputs.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (outputs.mean(0) - 1).abs().max() < 0.06  # the deviation of the mean is 0.013
    assert torch.equal(drop.eval()(x, lengths), x)


# --- training, half precision


def test_dropout_leaves_packed_images_finite_and_learning() -> None:
    model = randomised(small(dropout=0.2, attention_dropout=0.2, drop_path=0.2, registers=1)).train()
    several = batches()
    torch.manual_seed(0)
    one, other = model(several), model(several)
    assert not torch.equal(one, other)
    one.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_packed_images_in_half_precision_answer_nearly_the_same(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site))
    half = copy.deepcopy(model).to(torch.bfloat16)
    several = batches()
    answer = model(several)
    rough = half([batch.bfloat16() for batch in several])
    assert rough.dtype == torch.bfloat16
    assert (answer - rough.float()).norm() < 0.1 * answer.norm()  # bfloat16 has three digits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(several)
    assert (answer - mixed.float()).norm() < 0.1 * answer.norm()


# --- what is refused


@pytest.mark.parametrize(
    ("several", "message"),
    [
        ([], "at least one batch of images; got none"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)], r"of shape \(B, 3, H, W\).*got \(1, 1, 8, 8\)"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9)], r"divisible by 4; got \(1, 3, 8, 9\)"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 0, 8)], r"got \(1, 3, 0, 8\)"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 12)], r"got \(3, 8, 8\)"),
    ],
    ids=["none", "channels", "side", "empty", "not a batch"],
)
def test_what_cannot_be_packed_is_refused(several: list[Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        randomised(small())(several)


@pytest.mark.parametrize("collect", [["tokens"], ["attention"], ["embedded", "normed"]])
def test_intermediates_are_of_one_size(collect: list[str]) -> None:
    model = randomised(small())
    with pytest.raises(UserError, match="of one batch of images of one size, not of several"):
        model(batches(), collect=collect)
    assert model(batches()[0], collect=collect)["logits"].shape == (2, 3)


def test_a_convolutional_stem_takes_its_statistics_over_all_images_of_a_packed_batch() -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(32, 32), patch_size=8, width=32, depth=1, heads=2, mlp_width=32, classes=3, stem="conv"
    )
    together, packed = ViT(config).train(), ViT(config).train()
    packed.load_state_dict(together.state_dict())
    images = 2 * torch.randn(4, 3, 32, 32) + 1
    expected, found = together(images), packed([images[:1], images[1:]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    for ours, theirs in zip(packed.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    for name, buffer in together.named_buffers():
        torch.testing.assert_close(packed.get_buffer(name), buffer, msg=name)
    packed([images[:2, :, :16], images[2:, :, :, :24]]).sum().backward()  # of two shapes
