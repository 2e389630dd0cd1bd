"""A trained S/16 for the benchmarks without training one: a published backbone with a linear head for the classes of a data set.

    python benchmarks/probed.py MODEL DATA --out FOLDER [--image-size 224] [--patch-size 16]

MODEL is any Vision Transformer that vitrail opens, such as a DINOv2 S/14; DATA has labels. The backbone is brought to the
image size and the patch size; LayerScale, which plain models of other libraries do not have, is multiplied into the matrices
before it, which changes no answer; the head is softmax regression on the features of the training images (L-BFGS). The
model folder opens in vitrail, in timm, and after conversion in transformers. Takes minutes on a CPU: one forward pass for
each image. Prints the accuracy on the test images.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.open import open_data
from vitrail.data.samples import Samples
from vitrail.evaluation.run import infer
from vitrail.model import ViT
from vitrail.weights.folder import save
from vitrail.weights.load import load
from vitrail.weights.resize import resize

PENALTY = 1e-3  # on the squares of the head's weights
STEPS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--at-most", type=int, help="training images, evenly spaced; by default all")
    options = parser.parse_args()
    data = open_data(options.data, val_fraction=0.0)
    backbone = load(options.model)
    if not isinstance(backbone, ViT):
        raise SystemExit(f"{options.model} is no Vision Transformer")
    model = with_head(
        without_layer_scale(resize(backbone, options.image_size, options.patch_size)), len(data.train.labels)
    )
    model.labels = tuple(data.train.labels)
    # a centre crop begins at another pixel in timm than in transformers; a squashed image is the same in both
    model.preprocess = dataclasses.replace(model.preprocess, mode="squash", crop_fraction=1.0)
    train = data.train
    if options.at_most is not None and options.at_most < len(train):
        train = train.subset(torch.linspace(0, len(train) - 1, options.at_most).long().numpy())
    fit(model, train)
    save(model, options.out)
    if data.test is not None:
        logits = infer(model, data.test)
        right = (logits.argmax(1) == torch.as_tensor(data.test.targets)).float().mean()
        print(f"{options.out}: {right:.2%} of {len(data.test)} test images")


def without_layer_scale(model: ViT) -> ViT:
    """The same function without LayerScale: gamma (W x + b) = (gamma W) x + gamma b."""
    if model.config.layer_scale is None:
        return model
    plain = ViT(model.config.with_changes(layer_scale=None))
    weights = dict(model.state_dict())
    for name in list(weights):
        if name.endswith("gamma"):
            gamma = weights.pop(name)
            before = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
            weights[f"{before}.weight"] = gamma[:, None] * weights[f"{before}.weight"]
            weights[f"{before}.bias"] = gamma * weights[f"{before}.bias"]
    plain.load_state_dict(weights)
    plain.preprocess = model.preprocess
    return plain.eval()


def with_head(model: ViT, classes: int) -> ViT:
    """The model with another head, not yet trained."""
    found = ViT(model.config.with_changes(classes=classes))
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    missing, unexpected = found.load_state_dict(kept, strict=False)
    assert not unexpected
    assert set(missing) == {"head.weight", "head.bias"}
    found.preprocess = model.preprocess
    return found.eval()


def fit(model: ViT, train: Samples) -> None:
    """Train the head on the features of these images."""
    features = infer(model, train, features=True, progress=progress)
    targets = torch.as_tensor(train.targets).long()
    weight, bias = softmax_regression(features, targets, model.config.classes)
    assert isinstance(model.head, nn.Linear)
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)


def progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} images", end="\n" if done == total else "", flush=True)


def softmax_regression(features: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and biases (C,) on features (n, D) as they are."""
    centre, scale = features.mean(0), features.std(0) + 1e-6
    x = (features - centre) / scale
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, targets) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    weight, bias = weight.detach() / scale, bias.detach()
    return weight, bias - weight @ centre


if __name__ == "__main__":
    main()
