"""What a configuration costs: parameters, tokens, FLOPs and memory, counted before anything is built.

Plain arithmetic on a ``ViTConfig``; torch is not imported. Parameter counts are exact. FLOPs count a multiply and an
add as two, in matrix products and convolutions only (norms, softmax and activations are below 1 % of the rest).
Symbols: N tokens, D width, A width of all heads together, M width of the MLP, H heads, p patch, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from vitrail.model import ModelConfig, resnet_cost
from vitrail.model.config import ViTConfig
from vitrail.model.reduction import Merging, block_tokens, followed, kept_patches, read_tokens
from vitrail.model.resnet_config import ResNetConfig

FLOAT32 = 4  # bytes


def parameters(config: ModelConfig) -> dict[str, int]:
    """Part -> trainable parameters; their sum is exactly that of the built model."""
    if isinstance(config, ResNetConfig):
        return resnet_cost.parameters(config)
    D, A, M = config.width, config.attention_width, config.mlp_width
    counts = {
        "patches": _stem_parameters(config),
        "position": _position_parameters(config),
        "prefix tokens": config.prefix_tokens * D,
        "attention projections": config.depth * (D * 3 * A + 3 * A * config.qkv_bias + A * D + D),
        "mlp": config.depth * _mlp_parameters(D, M, config.gated_mlp),
        "norms": _norm_parameters(config),
        "layer scale": 2 * config.depth * D if config.layer_scale is not None else 0,
        "pooling": D + 4 * (D * D + D) + 2 * D + _mlp_parameters(D, M) if config.pool == "map" else 0,
        "representation": (config.feature_width + 1) * (config.representation or 0),
        "head": (config.head_inputs + 1) * config.classes * (2 if config.distilled else 1),
    }
    return {part: count for part, count in counts.items() if count}


def flops(config: ModelConfig, merging: Merging | None = None, dropped: float = 0.0) -> dict[str, int]:
    """Part -> FLOPs of one forward pass on one image. Training takes about three times the sum.

    Every block is counted in full, as papers do; where the class token is pooled, the last one computes it alone, which
    saves about 10 / (12 ``depth``) of the sum (see ``ViT.features``).
    With tokens merged in the blocks, ``merging`` is what that takes: similarities, sums, and means of positions. Of a
    share of the patches that is dropped, the stem's work is done and no other. A ResNet has no tokens to reduce.

    ``attention projections`` (queries, keys, values, output) and ``mlp`` grow with N; ``attention scores`` (q k^T and
    the weighted sum of v: 4 N^2 A a block; relative positions add queries times offsets) grows with its square.
    """
    if isinstance(config, ResNetConfig):
        return resnet_cost.flops(config)
    D, A, M = config.width, config.attention_width, config.mlp_width
    blocks = block_tokens(config, merging, dropped)
    before, after = sum(seen for seen, _ in blocks), sum(left for _, left in blocks)
    pairs = sum(seen * seen for seen, _ in blocks)
    counts = {
        "patches": _stem_flops(config),
        "attention projections": 2 * before * (D * 3 * A + A * D),
        "attention scores": 4 * pairs * A + config.depth * 2 * _queries_times_offsets(config) * A,
        "mlp": (6 if config.gated_mlp else 4) * after * D * M,
        "merging": _merging_flops(config, blocks),
        "pooling": _map_pool_flops(config, blocks[-1][1] - config.prefix_tokens) if config.pool == "map" else 0,
        "representation": 2 * config.feature_width * (config.representation or 0),
        "head": 2 * config.head_inputs * config.classes * (2 if config.distilled else 1),
    }
    return {part: count for part, count in counts.items() if count}


def unread_flops(config: ModelConfig) -> int:
    """Of the sum of ``flops``, what a forward pass leaves out, as nothing reads it: see ``ViT.features``."""
    read = None if isinstance(config, ResNetConfig) else read_tokens(config)
    if isinstance(config, ResNetConfig) or read is None:
        return 0
    N, D, A, M = config.tokens, config.width, config.attention_width, config.mlp_width
    return (N - read) * (4 * D * A + 4 * N * A + (6 if config.gated_mlp else 4) * D * M)


def attention_share(config: ModelConfig) -> float:
    """The fraction of all FLOPs in the part of attention that grows with the square of the number of tokens."""
    counts = flops(config)
    return counts.get("attention scores", 0) / sum(counts.values())


def attention_matrix_bytes(config: ModelConfig, batch_size: int = 1, value_bytes: int = FLOAT32) -> int:
    """Bytes of one block's attention weights (B, H, N, N), were they written out; fused kernels never hold them."""
    if isinstance(config, ResNetConfig):
        return 0
    return batch_size * config.heads * config.tokens**2 * value_bytes


def inference_activation_bytes(config: ModelConfig, batch_size: int = 1, value_bytes: int = FLOAT32) -> int:
    """Peak bytes of activations in one forward pass without gradients, the images included.

    The widest moment of a block: its input with queries, keys, values, attention's result and its projection
    (3 D + 4 A a token), or its input, three more token widths and the MLP before and after its activation (4 D + 2 M).
    Positions that add to the scores need them written out. In a convolutional stem it is a convolution and its norm.
    """
    if isinstance(config, ResNetConfig):
        return resnet_cost.inference_activation_bytes(config, batch_size, value_bytes)
    D, A, M = config.width, config.attention_width, config.mlp_width
    image = config.channels * config.image_size[0] * config.image_size[1]
    turned = 2 * A if config.position == "rotary2d" or config.qk_norm else 0  # queries and keys beside what they were
    widest = config.tokens * max(3 * D + 4 * A + turned, 4 * D + (3 if config.gated_mlp else 2) * M)
    if config.stem == "conv":
        widest = max(widest, *(2 * pixels * channels for pixels, channels in _stem_outputs(config)))
    peak = value_bytes * _with_bias(config, batch_size, batch_size * (image + widest))
    if config.stem == "hybrid":
        of_stem = resnet_cost.backbone_inference_activation_bytes(
            config.backbone, config.image_size, batch_size, value_bytes
        )
        return max(peak, of_stem)
    return peak


def training_activation_bytes(
    config: ModelConfig, batch_size: int, value_bytes: int = FLOAT32, *, dropped: float = 0.0
) -> int:
    """Bytes of activations that one forward pass keeps for the backward pass; within 2 % of what torch keeps on a CPU.

    A block keeps, for each token: the input and the output of both norms (4 D) and their statistics, queries, keys and
    values (3 A), attention's result (A) and its sums of exponentials (H), the MLP before and after its activation
    (2 M); with LayerScale the two branches before scaling (2 D); with dropout its masks (2 D + M). Attention weights
    are not kept: the fused kernels compute them again, except with dropout on them, where torch's way on a CPU keeps
    three matrices a head. A gate keeps both halves of the first layer, the gate's activation and the product (4 M);
    rotary positions keep queries and keys beside what they were (2 A); norms of them too, with attention's result copied
    into another order (3 A) and their statistics (4 H). Learned positions that add to the scores keep the attention
    weights, and relative ones the patches' queries (A) and, whatever the batch, their table.

    Of a share of the patches that is ``dropped``, the stem and what stands before the blocks are kept alone.
    """
    if isinstance(config, ResNetConfig):
        return resnet_cost.training_activation_bytes(config, batch_size, value_bytes)
    D, A, M, H = config.width, config.attention_width, config.mlp_width, config.heads
    N = config.prefix_tokens + kept_patches(config.tokens - config.prefix_tokens, dropped)
    of_token = 4 * D + 4 + 4 * A + H + (4 if config.gated_mlp else 2) * M
    if config.qk_norm:
        of_token += 3 * A + 4 * H
    if config.position == "rotary2d":
        of_token += 2 * A
    if config.layer_scale is not None:
        of_token += 2 * D
    if config.dropout:
        of_token += 2 * D + M
    n, biased = N - config.prefix_tokens, config.position in ("relative", "relative_bias")
    matrices = 3 if config.attention_dropout else int(biased)
    block = N * (of_token - H * biased) + matrices * H * N * N + (n * A if config.position == "relative" else 0)
    of_end = {"avg": D, "token": 2 * D, "token_avg": 2 * D, "map": 4 * D}[config.pool]
    of_end += D * ((config.final_norm == "tokens") - 1)
    of_start = config.tokens * D * (config.pre_norm + (config.dropout > 0))
    of_start += N * 2 * A // H * (config.position == "rotary2d" and dropped > 0)  # each image has its own angles
    kept = batch_size * value_bytes * (config.depth * block + N * of_end + of_start + _stem_activations(config))
    kept += value_bytes * (_position_parameters(config) if config.position == "relative" else 0)
    if config.stem == "hybrid":
        kept += resnet_cost.backbone_training_activation_bytes(
            config.backbone, config.image_size, batch_size, value_bytes
        )
    return kept


def training_bytes(
    config: ModelConfig,
    batch_size: int,
    *,
    activation_bytes: int = FLOAT32,
    optimizer_states: int = 2,
    ema: bool = False,
    dropped: float = 0.0,
) -> int:
    """Bytes that one training step needs: weights, gradients, optimizer state and the kept activations.

    An upper bound by a few per cent to a third: activations are freed while the gradients grow.

    Args:
        config: the model.
        batch_size: images a step on one device (a micro-batch, if gradients are accumulated).
        activation_bytes: bytes of one activation: 4 for float32, 2 for bfloat16.
        optimizer_states: float32 tensors that the optimizer keeps for each parameter: 2 for Adam, 1 for momentum.
        ema: whether an averaged copy of the weights is kept.
        dropped: the share of the patches that every step leaves out.
    """
    copies = 2 + optimizer_states + int(ema)  # weights, gradients, states, average
    total = sum(parameters(config).values())
    return copies * total * FLOAT32 + training_activation_bytes(config, batch_size, activation_bytes, dropped=dropped)


def readable(number: float, unit: str) -> str:
    """Three digits and a decimal prefix.

    >>> readable(35_127_656_448, "FLOPs")
    '35.1 GFLOPs'
    """
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(number) >= 0.9995 * 10**power:
            scaled = number / 10**power
            return f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f} {prefix}{unit}"
    return f"{number:.3g} {unit}"


@dataclass(frozen=True)
class Cost:
    """All that can be said about a configuration without building it; ``to_dict`` is what ``info --json`` prints."""

    config: ModelConfig
    batch_size: int = 32
    """Images a training step."""

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(parameters(self.config).values())

    @property
    def flops(self) -> int:
        """FLOPs of one forward pass on one image."""
        return sum(flops(self.config).values())

    @property
    def memory(self) -> dict[str, int]:
        """What for -> bytes in float32: inference on one image, training with AdamW at ``batch_size``."""
        weights = self.parameters * FLOAT32
        activations = inference_activation_bytes(self.config)
        return {
            "weights": weights,
            "inference_activations": activations,
            "inference": weights + activations,
            "training_activations": training_activation_bytes(self.config, self.batch_size),
            "optimizer_state": 2 * weights,
            "training": training_bytes(self.config, self.batch_size),
            "attention_matrix": attention_matrix_bytes(self.config),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON's view: totals, then the same by part, and memory in bytes."""
        return {
            "parameters": self.parameters,
            "tokens": getattr(self.config, "tokens", None),
            "grid": list(self.config.grid),
            "flops": self.flops,
            "attention_share": attention_share(self.config),
            "memory": self.memory,
            "batch_size": self.batch_size,
            "parameters_by_part": parameters(self.config),
            "flops_by_part": flops(self.config),
            "config": self.config.to_dict(),
        }


def _mlp_parameters(D: int, M: int, gated: bool = False) -> int:
    hidden = 2 * M if gated else M
    return D * hidden + hidden + M * D + D


def _position_parameters(config: ViTConfig) -> int:
    if config.position in ("sincos2d", "rotary2d", "none"):
        return 0
    return prod(config.position_shape) * (config.depth if config.site == "layers" else 1)


def _queries_times_offsets(config: ViTConfig) -> int:
    """Products a head and block of relative positions: each patch's query with the 2 n - 1 offsets in raster order."""
    patches = config.tokens - config.prefix_tokens
    return patches * (2 * patches - 1) if config.position == "relative" else 0


def _with_bias(config: ViTConfig, batch_size: int, peak: int) -> int:
    """The peak of inference, in values, where positions add to the scores; else as it was."""
    N, D, A, H = config.tokens, config.width, config.attention_width, config.heads
    image = config.channels * config.image_size[0] * config.image_size[1]
    if config.position == "relative":
        # queries times offsets and the same by pair, beside queries, keys and values; and the table, turned round
        scores = H * (_queries_times_offsets(config) + N * N)
        return max(peak, batch_size * (image + N * (2 * D + 3 * A) + scores)) + config.position_shape[0] * A
    if config.position == "relative_bias":
        # one for all images; it is put together from copies, beside that of the block before
        matrix, copies = H * N * N, 2 + (config.prefix_tokens > 0) + (config.site == "layers")
        return max(peak + matrix, batch_size * (image + N * D) + copies * matrix)
    return peak


def _norm_parameters(config: ViTConfig) -> int:
    """Scale and shift of every norm but those of the stem."""
    D = config.width
    last = {"tokens": D, "pooled": config.feature_width, "none": 0}[config.final_norm]
    of_heads = 2 * config.attention_width // config.heads if config.qk_norm else 0
    return 2 * (config.depth * (2 * D + of_heads) + config.pre_norm * D + last)


def _stem_parameters(config: ViTConfig) -> int:
    D, bias = config.width, config.width if config.patch_bias else 0
    if config.stem == "linear":
        pixels = config.channels * config.patch_size**2
        return pixels * D + bias + (2 * (pixels + D) if config.patch_norm else 0)
    if config.stem == "hybrid":
        backbone = sum(resnet_cost.backbone_parameters(config.backbone).values())
        return backbone + _hybrid_patch(config) * D + bias
    count, before = 0, config.channels
    for channels in config.stem_channels:
        count += 9 * before * channels + 2 * channels  # a 3x3 kernel without bias, a batch norm's scale and shift
        before = channels
    return count + before * D + bias


def _hybrid_patch(config: ViTConfig) -> int:
    """Values of the backbone's feature map that the hybrid's patch matrix turns into one token."""
    side = config.patch_size // config.backbone.stride
    return config.backbone.width * side**2


def _stem_flops(config: ViTConfig) -> int:
    h, w = config.grid
    if config.stem == "linear":
        return 2 * h * w * config.channels * config.patch_size**2 * config.width
    if config.stem == "hybrid":
        backbone = resnet_cost.backbone_flops(config.backbone, config.image_size)
        return sum(backbone.values()) + 2 * h * w * _hybrid_patch(config) * config.width
    count, before = 0, config.channels
    for pixels, channels in _stem_outputs(config):
        count += 2 * pixels * 9 * before * channels
        before = channels
    return count + 2 * h * w * before * config.width


def _stem_activations(config: ViTConfig) -> int:
    """Values that the stem keeps for one image's backward pass: its input; and each convolution's, norm's and ReLU's."""
    image = config.channels * config.image_size[0] * config.image_size[1]
    if config.stem == "hybrid":
        return 0  # counted with the backbone
    if config.stem == "linear":
        tokens = config.tokens - config.prefix_tokens
        return 2 * image + tokens * config.width if config.patch_norm else image
    # a batch norm keeps its input; ReLU works in place, and its output is the next convolution's input
    return image + sum(2 * pixels * channels for pixels, channels in _stem_outputs(config))


def _stem_outputs(config: ViTConfig) -> list[tuple[int, int]]:
    """(pixels, channels) after each strided convolution."""
    H, W = config.image_size
    return [((H >> step) * (W >> step), channels) for step, channels in enumerate(config.stem_channels, start=1)]


def _merging_flops(config: ViTConfig, blocks: Sequence[tuple[int, int]]) -> int:
    """Cosines of every pair of the two sets, the sums of what is merged; and, where positions come in at the blocks, the
    same for the members of each token, and means of the positions over these."""
    N, D, P = config.tokens, config.width, config.prefix_tokens
    table = 2 * config.attention_width // config.heads if config.position == "rotary2d" else D
    count = 0
    for seen, left in blocks:
        second, rest = (seen - P + P % 2) // 2, (seen - P + 1 - P % 2) // 2
        if seen != left:
            count += 2 * second * rest * (config.attention_width // config.heads)
            count += 2 * second * (seen - left) * (D + N * followed(config))
        if seen != blocks[0][0] and followed(config):
            count += 2 * seen * N * table
    return count


def _map_pool_flops(config: ViTConfig, patches: int) -> int:
    """One learned query attends to every patch: its projection, keys and values, scores and sum, output, MLP."""
    N, D, M = patches, config.width, config.mlp_width
    return 2 * D * D + 2 * N * D * 2 * D + 4 * N * D + 2 * D * D + 4 * D * M
