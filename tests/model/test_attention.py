"""The fast path of attention and the one written out are the same attention."""

import copy

import pytest
import torch

from positions_cases import PLACED, randomised, small


@pytest.mark.parametrize(("kind", "site"), [("none", None), *PLACED])
@pytest.mark.parametrize("prefix", [{"class_token": False, "pool": "avg"}, {"registers": 2}])
def test_both_paths_agree_with_every_position_embedding(kind: str, site: str | None, prefix: dict) -> None:
    model = randomised(small(position=kind, position_site=site, **prefix))
    written_out = copy.deepcopy(model)
    images = torch.randn(2, 3, 20, 12)
    out = written_out(images, collect=["attention"])
    with torch.no_grad():  # where kernels are fused with learned biases too
        torch.testing.assert_close(out["logits"], model(images), atol=1e-4, rtol=1e-4)
    logits = model(images)
    torch.testing.assert_close(out["logits"], logits, atol=1e-4, rtol=1e-4)
    for weights in out["attention"]:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    logits.sum().backward()
    out["logits"].sum().backward()
    for (name, one), other in zip(model.named_parameters(), written_out.parameters(), strict=True):
        # sums of up to hundreds of terms in another order
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", ["none", "relative", "relative_bias"])
def test_dropout_on_the_weights_acts_in_training_alone(kind: str) -> None:
    model = randomised(small(position=kind, attention_dropout=0.5))
    images = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(model(images), model(images), rtol=0, atol=0)
    model.train()
    torch.manual_seed(1)
    first, second = model(images), model(images)
    torch.manual_seed(1)
    torch.testing.assert_close(model(images), first, rtol=0, atol=0)
    assert not torch.allclose(first, second, atol=1e-2)
