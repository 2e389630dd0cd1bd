"""transformers' model folders, both ways: the families that open here, in the order in which they are asked."""

from vitrail.errors import UserError
from vitrail.weights.formats.format import Format, ModelConfig
from vitrail.weights.formats.transformers import bit, clip, dinov2, dinov3, siglip, vit
from vitrail.weights.found import CONFIG, Found

# the end of a name that only transformers gives: of the patch matrix of one of its families, or BiT's first convolution
_ENDS = (
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
    "embedder.convolution.weight",
)


def _is_without_config(found: Found) -> bool:
    return not found.config and any(name.endswith(_ENDS) for name in found.shapes)


def _refuse(found: Found) -> ModelConfig:
    raise UserError(
        f"{found.path}: its tensors are named as transformers does, and what they do not tell (heads, epsilon, activation) "
        f"stands in transformers' {CONFIG}, which is missing: put it beside"
    )


FORMATS = (
    *vit.FORMATS,
    *dinov2.FORMATS,
    *dinov3.FORMATS,
    *clip.FORMATS,
    *siglip.FORMATS,
    *vit.WITHOUT_CLASS_TOKEN,
    *bit.FORMATS,
    Format("transformers", "transformers", _is_without_config, _refuse, lambda *_: (), lambda *_: None),
)
