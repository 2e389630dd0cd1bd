"""Keys that transformers' configurations share: sizes, activations, labels, and those that change no answer.

Values of the wrong kind, and what has no equal here, are refused by their key.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.errors import UserError
from vitrail.model.config import POSITIONS, ViTConfig
from vitrail.weights.files.untrusted import shown
from vitrail.weights.formats.layouts import other_positions
from vitrail.weights.found import CONFIG, Found

Json = Mapping[str, Any]

# their hidden_act -> ours; the first of several is the one written
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# of every model: about files, training, text generation or what a backbone gives to others, and not about answers
_WITHOUT_EFFECT = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "add_cross_attention",
    "apply_layernorm", "architectures", "attention_dropout", "attention_probs_dropout_prob", "auto_map",
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "drop_path_rate",
    "dropout", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "encoder_stride", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing", "hidden_dropout_prob", "id2label", "initializer_factor", "initializer_range",
    "is_decoder", "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "model_type",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences", "out_features",
    "out_indices", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix",
    "problem_type", "remove_invalid_values", "repetition_penalty", "reshape_hidden_states", "return_dict",
    "return_dict_in_generate", "sep_token_id", "stage_names", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_last_hidden_states", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "use_bfloat16",
}  # fmt: skip
# of every model -> the values that ask for nothing
_NOTHING_ASKED: Mapping[str, tuple[Any, ...]] = {
    "pruned_heads": ({},),
    "per_layer_config": ({},),
    "quantization_config": ({},),
    "adapters": ({},),
}


_LARGEST = 10**9  # of any number that makes a model
_SAID = 10  # unknown keys that are named
_AROUND_TOWERS = ("vision_config", "text_config", "projection_dim", "logit_scale_init_value")
_ALWAYS: Mapping[str, tuple[Any, ...]] = {"stem": ("linear",), "patch_norm": (False,), "qk_norm": (False,)}


@dataclass(frozen=True)
class Keys:
    """A configuration's keys, and transformers' defaults for those that it leaves out or gives as null."""

    document: Path
    given: Json
    defaults: Json

    def __getitem__(self, key: str) -> Any:
        value = self.given.get(key)
        return self.defaults.get(key) if value is None else value

    def whole(self, key: str) -> int:
        """A whole number."""
        value = self.number(key)
        if value != int(value):
            raise self.refusal(key, "a whole number is needed")
        return int(value)

    def wholes(self, key: str, most: int) -> tuple[int, ...]:
        """A list of whole numbers above 0, at most so many."""
        values = self[key]
        listed = isinstance(values, list) and 1 <= len(values) <= most
        if not listed or not all(type(value) is int and 0 < value < _LARGEST for value in values):
            raise self.refusal(key, f"a list of 1 to {most} whole numbers is needed")
        return tuple(values)

    def number(self, key: str) -> float:
        """Any number."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
            raise self.refusal(key, f"a number below {_LARGEST:,} is needed")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self[key]
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise self.refusal(key, "true or false is needed")
        return bool(value)

    def choice(self, key: str, names: Mapping[str, str]) -> str:
        """One of some names -> ours."""
        value = self[key]
        if not isinstance(value, str) or value not in names:
            raise self.refusal(key, f"{', '.join(names)} have an equal here")
        return names[value]

    def sides(self, key: str) -> tuple[int, int]:
        """Height and width, given as one number or two."""
        value = self[key]
        both = list(value) if isinstance(value, list | tuple) else [value, value]
        if len(both) == 1:
            both *= 2
        if len(both) != 2 or not all(isinstance(side, int) and 0 < side < _LARGEST for side in both):
            raise self.refusal(key, "a number of pixels, or height and width, are needed")
        return both[0], both[1]

    def patch_size(self) -> int:
        """The side of a patch."""
        height, width = self.sides("patch_size")
        if height != width:
            raise self.refusal("patch_size", "patches are square here")
        return height

    def image_size(self) -> tuple[int, int]:
        """Height and width that whole patches fill: what is beyond never enters one (see ``cut_note``)."""
        patch = self.patch_size()
        height, width = self.sides("image_size")
        return max(height // patch, 1) * patch, max(width // patch, 1) * patch

    def head_width(self) -> int | None:
        """Of ``head_dim``, which is no key of its own but is read where it is given; None where the width implies it."""
        if (
            self["head_dim"] is None
            or self.whole("head_dim") * self.whole("num_attention_heads") == self["hidden_size"]
        ):
            return None
        return self.whole("head_dim")

    def refuse(self, nothing_asked: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse keys without an equal here, unless their value asks for nothing."""
        for key, values in {**_NOTHING_ASKED, **nothing_asked}.items():
            if self[key] is not None and self[key] not in values:
                raise self.refusal(key, f"{' or '.join(map(repr, values)) or 'null'} has")

    def refusal(self, key: str, why: str) -> UserError:
        """The error for a key."""
        return UserError(f"{self.document}: {key} = {shown(repr(self[key]))} has no equal here: {why}")

    def unknown(self, known: Iterable[str], given: Json) -> list[str]:
        """Keys that neither a family nor every model has."""
        known = {*known, *self.defaults, *_WITHOUT_EFFECT, *_NOTHING_ASKED}
        return [key for key in given if key not in known]


def nested(found: Found, older_defaults: Json | None = None) -> Json:
    """The keys of the tower for images of a model that has several; those of the model itself where it has only one.

    Args:
        found: the model.
        older_defaults: of a family whose old files have a second version of the tower, ``vision_config_dict``. As in
            transformers it overrides the first, and so do its defaults for what it leaves out.
    """
    tower = found.config.get("vision_config")
    older = found.config.get("vision_config_dict") if older_defaults is not None else None
    if tower is None and older is None and "vision_config" not in found.config:
        return found.config
    for name, value in (("vision_config", tower), ("vision_config_dict", older)):
        if not isinstance(value, Mapping | None):
            raise UserError(f"{found.document}: {name} is no table of keys: {shown(repr(value))}")
    return {**(tower or {}), **({} if older is None else {**(older_defaults or {}), **older})}


def vit_fields(keys: Keys) -> dict[str, Any]:
    """Fields of ViTConfig that every family has under the same keys."""
    return {
        "image_size": keys.image_size(),
        "patch_size": keys.patch_size(),
        "channels": keys.whole("num_channels"),
        "width": keys.whole("hidden_size"),
        "depth": keys.whole("num_hidden_layers"),
        "heads": keys.whole("num_attention_heads"),
        "norm_eps": keys.number("layer_norm_eps"),
        "position_interpolation": "bicubic",
    }


def vit_keys(config: ViTConfig) -> dict[str, Any]:
    """The inverse of ``vit_fields``."""
    return {
        "image_size": size_key(config.image_size),
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "layer_norm_eps": config.norm_eps,
    }


def architecture(found: Found, known: Sequence[str], default: str) -> str:
    """The class of transformers whose weights these are, which ``architectures`` names.

    Raises:
        UserError: a class that is not ``known``.
    """
    named = found.config.get("architectures")
    if not named:
        return default
    if not isinstance(named, list) or len(named) != 1 or named[0] not in known:
        given = shown(repr(named))
        raise UserError(f"{found.document}: architectures = {given} has no equal here: {', '.join(known)} have")
    return str(named[0])


def class_count(config: Json) -> int:
    """Number of classes of a classifier; transformers counts the labels, and has two where nothing is said."""
    names = config.get("id2label")
    if isinstance(names, Mapping):
        return len(names)
    count = config.get("num_labels", 2)
    return count if isinstance(count, int) else 2


def labels(config: Json) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where there are none but ``LABEL_0`` and so on, or gaps."""
    names = config.get("id2label")
    if not isinstance(names, Mapping):
        return ()
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
    except ValueError:
        return ()
    if by_index.keys() != set(range(len(by_index))):
        return ()
    ordered = tuple(by_index[index] for index in range(len(by_index)))
    return () if ordered == _placeholders(len(ordered)) else ordered


def label_keys(classes: int, names: Sequence[str]) -> dict[str, Any]:
    """``id2label`` and ``label2id``, from whose length transformers takes the number of classes."""
    names = tuple(names) or _placeholders(classes)
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def activation_key(config: ViTConfig) -> str:
    """Our activation -> their ``hidden_act``."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)


def size_key(size: tuple[int, int]) -> int | list[int]:
    """Height and width, as one number where they are equal: some of transformers' code takes no two."""
    return size[0] if size[0] == size[1] else list(size)


def difference(config: Any, wanted: Mapping[str, tuple[Any, ...]]) -> str | None:
    """The first field that has another value than a family can build, in words; None where none has.

    No family has a stem that is not linear, norms around the patches, or norms of queries and keys.
    """
    if not isinstance(config, ViTConfig):
        return "it is no Vision Transformer"
    for name, values in {**_ALWAYS, **wanted}.items():
        value = getattr(config, name)
        if value not in values:
            return f"its {name} {_word(value)}, where it has {' or '.join(_word(one) for one in values)}"
    return other_positions(config, POSITIONS)


def cut_note(keys: Keys) -> tuple[str, ...]:
    """Says where whole patches do not fill the images."""
    size, filled = keys.sides("image_size"), keys.image_size()
    if size == filled:
        return ()
    return (
        f"images of {size[0]}x{size[1]} are {filled[0]}x{filled[1]} here, their middle: transformers leaves out the last "
        f"rows and columns, which fill no patch of {keys.patch_size()} pixels",
    )


def unknown_note(keys: Keys, known: Iterable[str], whole: Json | None = None) -> tuple[str, ...]:
    """Says which keys were passed over without being understood.

    Args:
        keys: of the model.
        known: those of the family that are not read.
        whole: the keys around those of a tower, where the model has several.
    """
    around = [] if whole is None else keys.unknown((*known, *_AROUND_TOWERS), whole)
    unknown = list(dict.fromkeys([*keys.unknown(known, keys.given), *around]))
    if not unknown:
        return ()
    names = ", ".join(shown(key, 60) for key in unknown[:_SAID]) + (", ..." if len(unknown) > _SAID else "")
    return (f"{CONFIG} has keys that are unknown here and passed over: {names}",)


def _placeholders(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{index}" for index in range(count))


def _word(value: object) -> str:
    return "none" if value is None else str(value).lower()
