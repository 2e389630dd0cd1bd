"""The moving average of the weights."""

import torch

from vitrail.model import ViT, ViTConfig
from vitrail.training.ema import Ema

CONFIG = ViTConfig(image_size=(8, 8), patch_size=4, width=8, depth=1, heads=2, mlp_width=16, classes=3, stem="conv")


def test_it_follows_the_weights_and_the_norms_statistics() -> None:
    torch.manual_seed(0)
    model = ViT(CONFIG)
    ema = Ema(model, 0.9)
    key, statistic = "blocks.0.mlp.fc1.weight", "patch_embed.proj.1.running_mean"
    expected = model.state_dict()[key].clone()
    for step in range(30):
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.state_dict()[key]
        ema.update(model, step)
    torch.testing.assert_close(ema.tensors[key], expected)
    assert not torch.equal(ema.tensors[statistic], model.state_dict()[statistic])


def test_the_model_gets_its_own_weights_back() -> None:
    torch.manual_seed(1)
    model = ViT(CONFIG)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    own = {name: t.clone() for name, t in model.state_dict().items()}
    with ema.in_place_of(model):
        assert not torch.equal(model.norm.bias, own["norm.bias"])
    assert all(torch.equal(t, own[name]) for name, t in model.state_dict().items())
