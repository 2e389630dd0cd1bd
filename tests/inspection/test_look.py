"""Attention asked for row by row is the attention of the forward pass."""

import pytest
import torch

import vitrail.inspection.look as looking
from vitrail.errors import UserError
from vitrail.inspection.look import look
from vitrail.model import ResNet, ResNetConfig, ViT, ViTConfig

KINDS = ["learned", "sincos2d", "relative", "relative_bias", "rotary2d"]


def model_of(**changes: object) -> ViT:
    torch.manual_seed(0)
    values = {
        "image_size": (32, 48),
        "patch_size": 8,
        "width": 32,
        "depth": 2,
        "heads": 4,
        "mlp_width": 48,
        "classes": 5,
    }
    model = ViT(ViTConfig(**{**values, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"registers": 3}, {"class_token": False, "pool": "avg"}], ids=str)
def test_rows_are_those_of_the_explicit_path(
    kind: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(position=kind, **changes).eval()
    images = torch.randn(2, 3, 48, 40)
    seen = look(model, images, tokens=True)
    with torch.no_grad():
        out = model(images, collect=("attention", "tokens"))
    monkeypatch.setattr(looking, "CHUNK_BYTES", 2 * 4 * seen.count * 4 * 7)  # seven rows at a time
    slices = list(seen.rows())
    assert len(slices) == -(-seen.count // 7)
    for layer, expected in zip(seen.layers, out["attention"], strict=True):
        found = torch.cat([layer.weights(rows) for rows in slices], dim=2)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.sum(-1), torch.ones(2, 4, seen.count))
    torch.testing.assert_close(seen.logits, out["logits"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(seen.tokens[-1], out["tokens"][-1], atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(seen.logits, model.classify(model.pool(model.encode(images))))  # the fused path, to the bit


def test_a_query_is_a_share_of_the_tokens() -> None:
    seen = look(model_of(registers=2), torch.randn(1, 3, 16, 24))
    assert seen.row("class").nonzero().tolist() == [[0]]
    assert seen.row((1, 2)).nonzero().tolist() == [[3 + 5]]
    torch.testing.assert_close(seen.row("mean"), torch.tensor([0.0] * 3 + [1 / 6] * 6))
    without = look(model_of(class_token=False, pool="avg"), torch.randn(1, 3, 16, 24))
    assert torch.equal(without.row("class"), without.row("mean"))
    for query in ((2, 0), (0, 3), (-1, 0), "first", (1, 2, 3)):
        with pytest.raises(UserError, match="query"):
            seen.row(query)


def test_a_model_is_left_in_its_mode_and_a_resnet_is_refused() -> None:
    model = model_of(dropout=0.5).train()
    first, second = (look(model, torch.ones(1, 3, 32, 48)).logits for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    with pytest.raises(UserError, match="ResNet"):
        look(ResNet(ResNetConfig(layers=(1,), image_size=(32, 32), classes=2)), torch.ones(1, 3, 32, 32))
