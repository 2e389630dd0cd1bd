"""Recipe: every hyper-parameter of a training run, documented and checked. A recipe is frozen."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vitrail.errors import UserError, did_you_mean
from vitrail.model import ModelConfig, ViTConfig, is_resnet, model_variant
from vitrail.model.config import documented_fields
from vitrail.model.fields import descriptions
from vitrail.model.reduction import require_reducible
from vitrail.model.resnet_config import ROOTS, ResNetConfig
from vitrail.recipes.fields import Count, Fraction, Group, NonNegative, Positive, Probability, Size
from vitrail.recipes.resolution import Resolution


class Optimizer(Group):
    name: Literal["adamw", "adam", "sgd", "muon"] = Field(
        "adamw",
        description="adamw, adam, sgd (with momentum), or muon (a ViT's hidden matrices by Muon, all else by AdamW)",
    )
    lr: Positive = Field(1e-3, description="learning rate at the end of the warm-up")
    weight_decay: NonNegative = Field(
        0.05, description="decoupled weight decay, times the learning rate; for adam and sgd the L2 penalty's factor"
    )
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="moment decays of adamw and adam")
    eps: Positive = Field(1e-8, description="epsilon of adamw and adam")
    momentum: Probability = Field(0.9, description="momentum of sgd and muon")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="learning-rate factor from each block to the one below it; 1 for the same everywhere"
    )
    head_lr_scale: Positive = Field(1.0, description="learning-rate factor of the head")
    clip: NonNegative = Field(1.0, description="gradients are scaled down to this global norm; 0 for no clipping")
    accumulate: Count = Field(1, description="parts that a batch is cut into, one after the other, to save memory")


class Schedule(Group):
    name: Literal["cosine", "linear", "constant"] = Field("cosine", description="shape of the decay after the warm-up")
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="steps of warm-up, at most a fifth of the run"
    )
    warmup_epochs: NonNegative | None = Field(None, description="the same in epochs; give one of the two")
    final_fraction: Fraction = Field(0.0, description="learning rate at the last step, as a fraction of optimizer.lr")

    @model_validator(mode="after")
    def _one_warmup(self) -> "Schedule":
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("give warmup_steps or warmup_epochs, not both")
        return self


class Augment(Group):
    crop: Literal["none", "random_resized"] = Field("none", description="none, or random_resized crops of each image")
    scale: tuple[Positive, Positive] = Field((0.25, 1.0), description="area of a random crop, least and most")
    ratio: tuple[Positive, Positive] = Field((0.75, 4 / 3), description="aspect ratio of a random crop, least and most")
    flip: Fraction = Field(0.5, description="probability of a left-right flip")
    policy: Literal["none", "randaugment", "trivial", "three"] = Field(
        "none", description="per image: randaugment, trivial (TrivialAugment) or three (3-Augment of DeiT III)"
    )
    randaugment_layers: Count = Field(2, description="operations of RandAugment on one image")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = Field(10, description="RandAugment's strength, 0 to 30")
    rotate: NonNegative = Field(0.0, description="greatest rotation either way, in degrees")
    translate: Fraction = Field(0.0, description="greatest shift either way, as a fraction of the side")
    zoom: Probability = Field(0.0, description="greatest change of scale either way, as a fraction")
    shear: NonNegative = Field(0.0, description="greatest shear either way, in degrees")
    color_jitter: NonNegative = Field(0.0, description="strength of changes of brightness, contrast and saturation")
    erase: Fraction = Field(0.0, description="probability that a random box of the image is erased")


class Mixup(Group):
    mixup: NonNegative = Field(0.0, description="alpha of mixup's Beta distribution; 0 for none")
    cutmix: NonNegative = Field(0.0, description="alpha of cutmix's Beta distribution; 0 for none")
    probability: Fraction = Field(1.0, description="share of steps whose batch is mixed")


class Regularization(Group):
    dropout: Probability = Field(0.0, description="dropout after dense layers and on the tokens before the first block")
    attention_dropout: Probability = Field(0.0, description="dropout on the attention weights")
    drop_path: Probability = Field(0.0, description="stochastic depth of the last block, rising from 0 at the first")
    drop_path_mode: Literal["mask", "skip"] = Field(
        "mask",
        description="stochastic depth: mask computes every branch and drops some; skip computes none of what it drops, which "
        "is faster, with as many images in every step (of a ViT, and not where images are packed)",
    )
    label_smoothing: Probability = Field(0.0, description="share of the target that is spread over all classes")
    patch_drop: Probability = Field(
        0.0,
        description="share of each training image's patches that a step leaves out, others each time (PatchDropout): steps "
        "cost less, and an epoch teaches less",
    )
    patch_drop_until: Fraction = Field(
        1.0, description="the part of the run in which patches are dropped; after it every step sees whole images"
    )

    def patch_drop_at(self, step: int, total: int) -> float:
        """The share of the patches that this step of the run leaves out."""
        return self.patch_drop if step < self.patch_drop_until * total else 0.0


class Ema(Group):
    decay: Probability = Field(
        0.0, description="moving average of the weights, evaluated and saved in their place; 0 for none"
    )


class Data(Group):
    source: str | None = Field(None, description="DATA of the run: digits, a folder, a file or hf:NAME")
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="processes that load images; null chooses. The result is the same for any number"
    )
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of the training images held out where the data has no val of its own"
    )
    test_fraction: Probability = Field(
        0.0, description="share of the training images held out for the final evaluation where the data has no test"
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="share of the training images that is used, with every class; a smaller share is part of a larger one",
    )
    skip_bad: bool = Field(False, description="leave out images that cannot be read; otherwise they are an error")
    cache: bool | Literal["memory", "file"] | None = Field(
        None,
        description="true keeps resized images in memory, where they are the same every epoch; null does if they fit; "
        "memory or file keeps training images decoded and reduced, of which random crops are cut, and in a file for later "
        "runs too",
    )
    cache_size: Count | None = Field(
        None,
        description="memory, file: shorter side of the images kept, at most; null: that of the image size, divided by the "
        "root of the least area of a random crop; twice that of the image size without random crops",
    )
    cache_folder: str | None = Field(None, description="file: where it is kept; null: the user's cache")
    mode: Literal["crop", "squash", "pad", "native"] | None = Field(
        None,
        description="how an image is brought to image_size: crop, squash, pad, or native (its own aspect ratio, with at "
        "most as many patches); null: the start's, or crop",
    )
    crop_fraction: Annotated[float, Field(ge=0.01, le=1)] | None = Field(
        None, description="part of the resized image that the centre crop keeps; null: the start's, or 1"
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        None, description="interpolation of the resize; null: the start's, or bicubic"
    )
    mean: tuple[float, ...] | None = Field(None, description="mean a channel, 0 to 1; null: the start's, or 0.5")
    std: tuple[Positive, ...] | None = Field(None, description="deviation a channel; null: the start's, or 0.5")

    @property
    def keeps_reduced(self) -> bool:
        """Whether training cuts its views from images that are kept decoded and reduced."""
        return isinstance(self.cache, str)

    @model_validator(mode="after")
    def _cache_is_used(self) -> "Data":
        if self.cache_size is not None and not self.keeps_reduced:
            raise ValueError("cache_size is for cache=memory and cache=file")
        if self.cache_folder is not None and self.cache != "file":
            raise ValueError("cache_folder is for cache=file")
        return self


class Checkpoint(Group):
    every: Count | None = Field(None, description="steps between checkpoints; null: at every evaluation")
    keep: Count = Field(2, description="newest checkpoints kept; that of the best model is kept besides")


class Guard(Group):
    nonfinite: Literal["skip", "stop"] = Field(
        "skip", description="a step whose loss or gradient is not finite moves nothing: go on after it, or stop"
    )
    most_skipped: Annotated[int, Field(ge=0)] = Field(
        5, description="such steps one after another that a run goes on after; one more stops it"
    )
    spike: Annotated[float, Field(gt=1)] | None = Field(
        None,
        description="a logged loss above so many times the mean of the ten before it takes the weights back to the "
        "checkpoint before it, and leaves out the images that it came with; null: never",
    )
    most_rollbacks: Count = Field(3, description="such returns in a run; one more stops it")


class Evaluate(Group):
    every: Count | None = Field(None, description="steps between evaluations; null: every epoch, at most 20 in a run")


class Recipe(Group):
    """All that decides what a training run computes. Refuses unknown keys and impossible values, by name."""

    epochs: Positive | None = Field(None, description="passes over the training images; give epochs or steps")
    steps: Count | None = Field(None, description="optimiser steps; give epochs or steps")
    batch_size: Count = Field(128, description="images a step, over all processes")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of initial values, order, augmentation and steps")
    image_size: Size | None = Field(None, description="height and width; null: the start's, or chosen from the data")
    resolution: Resolution = Field(default_factory=Resolution)
    model: dict[str, Any] = Field(
        default_factory=dict, description="variant (S/16, R50x1 ...), and any field of the model's configuration"
    )
    init: str | None = Field(None, description="the model that the run starts from; null for random weights")
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="cross-entropy of softmax, or of a sigmoid a class"
    )
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    augment: Augment = Field(default_factory=Augment)
    mixup: Mixup = Field(default_factory=Mixup)
    regularization: Regularization = Field(default_factory=Regularization)
    ema: Ema = Field(default_factory=Ema)
    data: Data = Field(default_factory=Data)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    guard: Guard = Field(default_factory=Guard)
    precision: Literal["auto", "float32", "bf16", "bf16-tokens"] = Field(
        "auto",
        description="auto takes bf16 where the hardware computes with it, float32 elsewhere; bf16-tokens also keeps a "
        "ViT's tokens in bf16 between its blocks, which is faster, and rounds what they add up",
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="of several processes: ddp gives each the whole model, fsdp cuts it up between them; auto takes fsdp "
        "where a step would fill four fifths of a GPU",
    )
    compile: bool | None = Field(None, description="torch.compile; null: on a GPU, for long runs of one size")

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and only one of them")
        if self.batch_size % self.optimizer.accumulate:
            raise ValueError("batch_size must be divisible by optimizer.accumulate")
        for key in self.model:
            if key not in MODEL_KEYS:
                raise ValueError(f"unknown key 'model.{key}': {did_you_mean(key, MODEL_KEYS)}")
        if self.init is None or "variant" in self.model:  # else the start model says what it is
            self._check_kind()
        return self

    def _check_kind(self) -> None:
        """Refuse keys that the kind of model that the variant is does not have."""
        resnet, named = is_resnet(self.variant), self.variant if "variant" in self.model else None
        for key in self.model:
            if not has_key(self.variant, key):
                raise ValueError(no_such_choice(key, named, resnet=resnet))
        if not resnet and self.model.get("stem") in ROOTS:
            raise ValueError(no_such_choice("stem", named, resnet=False, value=str(self.model["stem"])))

    @property
    def variant(self) -> str:
        """The name of the model's variant."""
        return str(self.model.get("variant", _VARIANT))

    def to_dict(self) -> dict[str, Any]:
        """Every value as plain lists, numbers and strings, group by group, ready for YAML or JSON."""
        return self.model_dump(mode="json")

    def architecture(self, *, classes: int, image_size: tuple[int, int] | None = None, **changes: Any) -> ModelConfig:
        """The model's configuration: its variant, the fields set in ``model``, dropout and drop path.

        Raises:
            UserError: it cannot be built; it is a ResNet, and the recipe asks for dropout; or it cannot drop patches.
        """
        fields = {**self.model, **changes}
        fields.pop("variant", None)
        size = image_size or self.image_size
        if size is not None:
            fields["image_size"] = size
        drops: dict[str, float] = {"drop_path": self.regularization.drop_path}
        if is_resnet(self.variant):
            self.refuse_dropout(self.variant)
        else:
            drops["dropout"] = self.regularization.dropout
            drops["attention_dropout"] = self.regularization.attention_dropout
        config = model_variant(self.variant, classes=classes, **{**drops, **fields})
        self.check_patch_drop(config)
        return config

    def check_patch_drop(self, config: ModelConfig) -> None:
        """A UserError if the recipe drops patches of a Vision Transformer that cannot do without them."""
        if self.regularization.patch_drop and isinstance(config, ViTConfig):
            require_reducible(config, "regularization.patch_drop")

    def refuse_dropout(self, name: str) -> None:
        """A UserError if the recipe asks for what ``name``, a ResNet, does not have: dropout, or work to skip."""
        if self.regularization.drop_path_mode == "skip":
            raise UserError(f"regularization.drop_path_mode: {name} is a ResNet, which has mask alone; leave it out")
        for key in ("dropout", "attention_dropout", "patch_drop"):
            if getattr(self.regularization, key):
                raise UserError(f"regularization.{key}: {name} is a ResNet, which has no place for it; set it to 0")


_VARIANT = "S/16"
# What a named variant decides.
VARIANT_KEYS = (
    *("patch_size", "width", "depth", "heads", "head_width", "mlp_width"),
    *("stem", "stem_width", "stem_layers", "stem_root"),
    *("layers", "width_factor", "root_width"),
)
# image_size has its own key, classes comes from the data, and the three kinds of dropout are regularization's.
_ELSEWHERE = {"image_size", "classes", "dropout", "attention_dropout", "drop_path"}
_VIT_FIELDS, _RESNET_FIELDS = (
    {name: doc for name, doc in fields.items() if name not in _ELSEWHERE}
    for fields in (documented_fields(), descriptions(ResNetConfig))
)
MODEL_KEYS = ["variant", *dict.fromkeys([*_VIT_FIELDS, *_RESNET_FIELDS])]


def has_key(variant: str, key: str) -> bool:
    """Whether the kind of model that a variant is has this key of ``model``."""
    return key == "variant" or key in (_RESNET_FIELDS if is_resnet(variant) else _VIT_FIELDS)


def kept_with(variant: str, key: str) -> bool:
    """Whether a recipe's key of ``model`` outlives the naming of a variant: it is not the variant's to say."""
    return key not in VARIANT_KEYS and has_key(variant, key)


def no_such_choice(key: str, name: str | None, *, resnet: bool, value: str | None = None) -> str:
    """Words for a key of ``model``, or a value of it, that the variant or the model of this name does not have.

    Args:
        key: such as ``layers``.
        name: None where the person named no variant.
        resnet: whether it is a ResNet.
        value: None where it has no such key at all.
    """
    choice = f"model.{key}" if value is None else f"model.{key}={value}"
    if resnet:
        return f"{choice}: {name} is a ResNet, which has no such choice"
    if name is None:
        return f"{choice}: a choice of ResNets, and none is named: name --model R50x1, or leave it out"
    return f"{choice}: {name} is a Vision Transformer, which has no such choice; R50x1, a ResNet, has"


def documented_keys() -> dict[str, tuple[Any, str]]:
    """Every key by its path -> (default, description)."""
    keys: dict[str, tuple[Any, str]] = {}
    for name, field in Recipe.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            for key, inner in group.model_fields.items():
                keys[f"{name}.{key}"] = (inner.get_default(call_default_factory=True), inner.description or "")
        elif name == "model":
            keys["model.variant"] = (_VARIANT, "a named size and patch size: Ti/16, S/16 ...; or a ResNet: R50x1 ...")
            keys |= {f"model.{key}": (None, _meaning(key)) for key in MODEL_KEYS[1:]}
        else:
            keys[name] = (field.get_default(call_default_factory=True), field.description or "")
    return keys


def _meaning(key: str) -> str:
    """What a key of ``model`` means, to each kind of model that has it."""
    of_vit, of_resnet = _VIT_FIELDS.get(key), _RESNET_FIELDS.get(key)
    if of_vit is None:
        return f"of a ResNet: {of_resnet}"
    return of_vit if of_resnet in (None, of_vit) else f"{of_vit}; of a ResNet: {of_resnet}"


def known_keys() -> list[str]:
    """Every key by its path."""
    return list(documented_keys())
