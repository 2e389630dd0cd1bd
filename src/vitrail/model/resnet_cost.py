"""What a ResNet, or the ResNet below a hybrid Vision Transformer, costs: counted before anything is built.

Plain arithmetic; torch is not imported. Parameter counts are exact. FLOPs count a multiply and an add as two, in
convolutions and the head alone. Whatever the padding, stride 2 halves a feature map's sides and rounds up.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vitrail.model.resnet_config import BackboneConfig, ResNetConfig, backbone_width, norm_groups

FLOAT32 = 4  # bytes
INDEX = 8  # bytes of the place that max pooling remembers for each value

Size = tuple[int, int]


def parameters(config: ResNetConfig) -> dict[str, int]:
    """Part -> trainable parameters; their sum is exactly that of the built model."""
    counts = _by_part(_resnet(config), _parameters)
    counts |= {"final norm": 2 * config.width, "head": (config.width + 1) * config.classes}
    return {part: count for part, count in counts.items() if count}


def flops(config: ResNetConfig) -> dict[str, int]:
    """Part -> FLOPs of one forward pass on one image. Training takes about three times the sum."""
    counts = _by_part(_resnet(config), _flops) | {"head": 2 * config.width * config.classes}
    return {part: count for part, count in counts.items() if count}


def inference_activation_bytes(config: ResNetConfig, batch_size: int = 1, value_bytes: int = FLOAT32) -> int:
    """Peak bytes of activations in one forward pass without gradients, the images included.

    The widest moment of the stem or of a unit, with the standardised copy of the kernels in use. oneDNN, on a CPU,
    brings things into an order of its own, which is counted: the input and the kernels of a 3x3 or strided convolution,
    the output of the first.
    """
    image = config.channels * _pixels(config.image_size)
    return batch_size * value_bytes * image + _peak(_resnet(config), batch_size, value_bytes)


def training_activation_bytes(config: ResNetConfig, batch_size: int, value_bytes: int = FLOAT32) -> int:
    """Bytes of activations that one forward pass keeps for the backward pass; within 1 % of what torch keeps on a CPU.

    A norm keeps its input, a ReLU its output, which is the next convolution's input, and a convolution its standardised
    kernels: the first two grow with the batch.
    """
    width = config.width  # of the features, which the head keeps; before it stand the final norm and its ReLU
    ends = _Held(2 * width * _pixels(config.grid) + _statistics(width) + width)
    return ends.bytes(batch_size, value_bytes) + _kept(_resnet(config), batch_size, value_bytes)


def backbone_parameters(config: BackboneConfig) -> dict[str, int]:
    """Part -> trainable parameters of a hybrid's ResNet; the patch matrix behind it is not included."""
    return _by_part(_backbone(config, (1, 1)), _parameters)


def backbone_flops(config: BackboneConfig, image_size: Size) -> dict[str, int]:
    """Part -> FLOPs of a hybrid's ResNet on one image; the patch matrix behind it is not included."""
    return _by_part(_backbone(config, image_size), _flops)


def backbone_inference_activation_bytes(
    config: BackboneConfig, image_size: Size, batch_size: int = 1, value_bytes: int = FLOAT32
) -> int:
    """Peak bytes of activations in a hybrid's ResNet without gradients; the images are not included."""
    return _peak(_backbone(config, image_size), batch_size, value_bytes)


def backbone_training_activation_bytes(
    config: BackboneConfig, image_size: Size, batch_size: int, value_bytes: int = FLOAT32
) -> int:
    """Bytes that a hybrid's ResNet keeps for the backward pass: its images, padded where they are, and its output."""
    return _kept(_backbone(config, image_size), batch_size, value_bytes)


@dataclass(frozen=True)
class _Held:
    """What memory holds at once: values and pooling indices for each image, and values that all images share."""

    values: int
    shared: int = 0
    indices: int = 0

    def bytes(self, batch_size: int, value_bytes: int) -> int:
        return value_bytes * (batch_size * self.values + self.shared) + INDEX * batch_size * self.indices


@dataclass(frozen=True)
class _Conv:
    """Channels before and after, the kernel's side, and the pixels of the output."""

    before: int
    after: int
    side: int
    pixels: int

    @property
    def weights(self) -> int:
        return self.before * self.after * self.side**2


@dataclass(frozen=True)
class _Part:
    """The stem or one unit: what it is made of, what training keeps, and the widest moments without gradients."""

    convolutions: tuple[_Conv, ...]
    norms: tuple[int, ...]  # channels of each
    kept: _Held
    moments: tuple[_Held, ...]


_Parts = dict[str, list[_Part]]


def _by_part(parts: _Parts, count: Callable[[_Part], int]) -> dict[str, int]:
    return {name: sum(map(count, members)) for name, members in parts.items()}


def _parameters(part: _Part) -> int:
    return sum(c.weights for c in part.convolutions) + sum(2 * channels for channels in part.norms)


def _flops(part: _Part) -> int:
    return sum(2 * c.pixels * c.weights for c in part.convolutions)


def _kept(parts: _Parts, batch_size: int, value_bytes: int) -> int:
    total = 0
    for part in (part for members in parts.values() for part in members):
        # standardised kernels, and the mean and deviation of each
        shared = sum(c.weights + 2 * c.after for c in part.convolutions)
        values = part.kept.values + sum(map(_statistics, part.norms))
        total += replace(part.kept, values=values, shared=shared).bytes(batch_size, value_bytes)
    return total


def _peak(parts: _Parts, batch_size: int, value_bytes: int) -> int:
    moments = (moment for members in parts.values() for part in members for moment in part.moments)
    return max(moment.bytes(batch_size, value_bytes) for moment in moments)


def _resnet(config: ResNetConfig) -> _Parts:
    size = config.image_size if config.stem == "small" else _halved(_halved(config.image_size))
    return {"stem": [_stem(config)], **_stages(config.layers, config.root_channels, size, _pre_activation_unit)}


def _backbone(config: BackboneConfig, image_size: Size) -> _Parts:
    size = image_size if config.root == "small" else _halved(_halved(image_size))
    stages = _stages(config.layers, config.root_width, size, _post_activation_unit)
    return {"stem": [_root(config, image_size)], **stages}


def _stages(layers: tuple[int, ...], root_width: int, size: Size, unit: Callable[..., _Part]) -> _Parts:
    """Units by stage, from the size of the stem's feature map on."""
    parts: _Parts = {}
    before = root_width
    for stage, units in enumerate(layers):
        after = backbone_width(layers[: stage + 1], root_width)
        out = size if stage == 0 else _halved(size)
        first = unit(before, after, size, out, held=0)
        later = unit(after, after, out, out, held=before * _pixels(size))  # the stage's input is held to its end
        parts[f"stage {stage + 1}"] = [first] + [later] * (units - 1)
        before, size = after, out
    return parts


def _stem(config: ResNetConfig) -> _Part:
    channels, width, size = config.channels, config.root_channels, config.image_size
    image = channels * _pixels(size)
    if config.stem == "small":
        conv = _Conv(channels, width, 3, _pixels(size))
        return _Part((conv,), (), _Held(image), (_Held(2 * width * _pixels(size), conv.weights),))
    half, pooled = _halved(size), _halved(_halved(size))
    conv = _Conv(channels, width, 7, _pixels(half))
    padded = width * (half[0] + 2) * (half[1] + 2)
    out = width * _pixels(pooled)
    moments = (
        _Held(2 * width * _pixels(half), conv.weights),
        _Held(width * _pixels(half) + padded + out, indices=out),
    )
    return _Part((conv,), (), _Held(image + padded, indices=out), moments)


def _root(config: BackboneConfig, size: Size) -> _Part:
    channels, width = config.channels, config.root_width
    if config.root == "small":
        conv, full = _Conv(channels, width, 3, _pixels(size)), width * _pixels(size)
        kept = _Held(channels * _pixels(size) + 2 * full)
        return _Part((conv,), (width,), kept, (_Held(2 * full, conv.weights),))
    half, pooled = _halved(size), _halved(_halved(size))
    conv = _Conv(channels, width, 7, _pixels(half))
    image, padded = channels * _padded(size, 7), width * _padded(half, 3)
    full, out = width * _pixels(half), width * _pixels(pooled)
    moments = (
        _Held(image + 2 * full, conv.weights),
        _Held(full + padded + out, indices=out),
    )
    return _Part((conv,), (width,), _Held(image + 2 * full + padded + out, indices=out), moments)


def _pre_activation_unit(before: int, after: int, size: Size, out: Size, *, held: int) -> _Part:
    middle, projects = after // 4, before != after
    convolutions, proj = _bottleneck(before, after, _pixels(size), _pixels(out))
    x, a, b, c = before * _pixels(size), middle * _pixels(size), middle * _pixels(out), after * _pixels(out)
    shortcut = c if projects else 0
    copies = 1 if size == out else 2  # oneDNN's, of a strided convolution's input and kernels
    conv1, conv2, conv3 = (conv.weights for conv in convolutions)
    moments = (
        _Held((1 + copies) * x + shortcut, copies * proj.weights if projects else 0),
        _Held(2 * x + shortcut + a, conv1),
        _Held(x + shortcut + 3 * a + b, 2 * conv2),
        _Held(x + shortcut + 2 * b + c, conv3),
        _Held(x + shortcut + 2 * c),
    )
    return _Part(
        (*convolutions, proj) if projects else convolutions,
        (before, middle, middle),
        _Held(2 * (x + a + b)),
        tuple(replace(moment, values=moment.values + held) for moment in moments),
    )


def _post_activation_unit(before: int, after: int, size: Size, out: Size, *, held: int) -> _Part:
    middle, projects = after // 4, before != after
    convolutions, proj = _bottleneck(before, after, _pixels(size), _pixels(out))
    x, a, b, c = before * _pixels(size), middle * _pixels(size), middle * _pixels(out), after * _pixels(out)
    padded = middle * _padded(size, 3) if size != out else 0
    shortcut = c if projects else 0
    copies = 1 if size == out else 2  # oneDNN's, of a strided convolution's input and kernels
    conv1, conv2, conv3 = (conv.weights for conv in convolutions)
    moments = (
        _Held(x + 2 * shortcut),  # the shortcut's norm
        _Held(copies * x + shortcut, copies * proj.weights if projects else 0),
        _Held(x + shortcut + a, conv1),
        _Held(x + shortcut + 2 * a),  # the first norm
        _Held(x + shortcut + a + padded + (padded or a) + b, 2 * conv2),
        _Held(x + shortcut + a + 2 * b),  # the second
        _Held(x + shortcut + b + c, conv3),
        _Held(x + shortcut + b + 2 * c),  # the third
    )
    return _Part(
        (*convolutions, proj) if projects else convolutions,
        (middle, middle, after, after) if projects else (middle, middle, after),
        _Held(2 * (a + b + c) + padded + shortcut),
        tuple(replace(moment, values=moment.values + held) for moment in moments),
    )


def _bottleneck(before: int, after: int, pixels: int, out: int) -> tuple[tuple[_Conv, _Conv, _Conv], _Conv]:
    """The three convolutions of a unit, and the one on the shortcut of a unit that changes the shape."""
    middle = after // 4
    three = (_Conv(before, middle, 1, pixels), _Conv(middle, middle, 3, out), _Conv(middle, after, 1, out))
    return three, _Conv(before, after, 1, out)


def _statistics(channels: int) -> int:
    """What a norm keeps for one image: the mean and the deviation of each group."""
    return 2 * norm_groups(channels)


def _halved(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)


def _padded(size: Size, side: int) -> int:
    """Pixels of a feature map with the zeros that SAME puts around it for a window at stride 2."""
    rows, columns = (2 * (half - 1) + side for half in _halved(size))
    return rows * columns


def _pixels(size: Size) -> int:
    return size[0] * size[1]
