"""The recipe: one training run, described completely. The trainer reads nothing else.

A teacher, a teacher assistant, a pre-trained student and the quantized student are all recipes. Recipes written in files are
short, because children (``init``, ``distill.teachers``, ``distill.cotrain``) take ``data``, ``optim`` and ``seed`` from the recipe
around them; :func:`kdsearch.spec.inherit.resolve_recipe` fills those in and gives the complete :class:`Recipe` of this module.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kdsearch.spec.base import FieldProblem, Flag, Frozen, Real, Whole, outside_key
from kdsearch.spec.precision import Precision

USER_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
DATA_SETS = ("digits", "cifar10", "cifar100", "imagefolder")
CIFAR_RESNETS = tuple(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110))
IMAGENET_RESNETS = ("resnet18", "resnet34", "resnet50")


def _one_of_or_user_code(names: tuple[str, ...]) -> Any:
    def check(value: str) -> str:
        if value in names or USER_CODE.fullmatch(value):
            return value
        raise ValueError(f"{value!r} is not known; allowed: {', '.join(names)}, or your own as package.module:function")

    return AfterValidator(check)


class Data(Frozen):
    """Data set and how it is split and augmented."""

    name: Annotated[str, _one_of_or_user_code(DATA_SETS)] = Field(
        "digits",
        description="digits (scikit-learn's 1,797 8×8 images, embedded), cifar10, cifar100 (torchvision), imagefolder, "
        "or package.module:function.",
    )
    root: str | None = Field(
        None,
        description="Folder of cifar10, cifar100 (downloaded on demand) or imagefolder; relative to where the command runs.",
        json_schema_extra=outside_key(),
    )
    validation: Real = Field(
        0.1,
        description="Share of the training part held out, stratified by class, for validation. An imagefolder with val/ uses that instead. "
        "0 trains on everything, val/ included, and needs evaluate_on: test.",
        ge=0,
        lt=1,
    )
    split_seed: Whole = Field(0, description="Seed of the validation split and of train_fraction.", ge=0)
    train_fraction: Real = Field(
        1.0, description="Share of the training images left after the split that is used, stratified by class.", gt=0, le=1
    )
    evaluate_on: Literal["validation", "test"] = Field(
        "validation", description="What the metric of each epoch is measured on. test is for repeating a paper, and is warned about."
    )
    augment: Literal["none", "crop_flip", "crop", "shift"] = Field(
        "none",
        description="none; crop_flip: zero padding by 4, random crop, horizontal flip (CIFAR standard); crop: the same without the "
        "flip; shift: random shift by at most 1 pixel (for digits).",
    )
    image_size: Whole | None = Field(
        None,
        description="imagefolder: side in pixels that pictures are resized and centre-cropped to; default: the first picture's.",
        ge=4,
        le=1024,
    )
    streamed: Flag = Field(
        False, description="imagefolder: decode pictures while training (ImageNet) instead of once into memory. The teacher then runs live."
    )
    workers: Whole = Field(2, description="streamed: decoding processes.", ge=0, json_schema_extra=outside_key())

    @property
    def on_everything(self) -> bool:
        """Whether validation images, those of an imagefolder's val/ too, are training images."""
        return self.validation == 0 and self.evaluate_on == "test"


class Model(Frozen):
    """Architecture and width of a network."""

    architecture: Annotated[str, _one_of_or_user_code(CIFAR_RESNETS + IMAGENET_RESNETS)] = Field(
        "resnet20", description="CIFAR ResNet 8 to 110 (6n+2), torchvision's resnet18/34/50, or package.module:function."
    )
    width: Real = Field(1.0, description="Factor on every width, truncated to int: resnet20 at 1.2 has 19/38/76 channels.", gt=0, le=64)
    shortcut: Literal["A", "B"] = Field("A", description="A: strided identity and zero padding; B: 1×1 convolution (He et al. 2016).")
    widen_stem: Flag = Field(True, description="Whether the first convolution is widened too.")


class Optim(Frozen):
    """Optimization of one network."""

    epochs: Whole = Field(30, description="Passes over the training data.", ge=1)
    batch_size: Whole = Field(128, description="Images per step; the last, smaller batch of an epoch is kept.", ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="SGD is with Nesterov momentum.")
    learning_rate: Real = Field(0.1, description="Peak learning rate.", gt=0)
    momentum: Real = Field(0.9, description="sgd only.", ge=0, lt=1)
    weight_decay: Real = Field(5e-4, description="On convolution and linear weights only.", ge=0)
    schedule: Literal["cosine", "step", "linear", "constant"] = Field(
        "cosine", description="Learning rate over the steps; step: ×0.1 at 1/2 and 3/4 of training."
    )
    warmup: Real = Field(0.0, description="Fraction of training in which the rate rises linearly from 0.", ge=0, lt=1)
    gradient_clip: Real | None = Field(None, description="Largest gradient norm; null is no clipping.", gt=0)
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Compute type: bfloat16 uses autocast.")


class Schedule(Frozen):
    """Coefficient λ over training: λ(t) = coefficient × shape(t), t the fraction of training done, set per step."""

    name: Literal["constant", "cr_linear", "cr_cosine", "cr_step"] = Field(
        "constant", description="constant, or coefficient reducing (CR, Shin et al. §4.5) by a linear, cosine or step law."
    )
    end: Real = Field(0.0, description="CR: share of the coefficient left at the end. Shin et al.: 0.", ge=0, le=1)
    steps: Whole = Field(4, description="cr_step: number of equal steps.", ge=2, le=100)
    warmup: Real = Field(0.0, description="Fraction of training in which λ rises linearly from 0.", ge=0, lt=1)


class Loss(Frozen):
    """Convention of the distillation loss. (1−λ)·H(y, p_S) + λ·s·H(p_T, p_S), probabilities softened at τ, s = τ² or 1."""

    soft: Literal["cross_entropy", "kl", "mse_logits"] = Field(
        "kl",
        description="Soft term: cross-entropy with or KL from the teacher's softened labels (same gradient), "
        "or mean squared error of logits.",
    )
    temperature_squared: Flag = Field(True, description="Multiply the soft term by τ² (Hinton et al. 2015). Shin et al. Eq. 3 has no τ².")
    reduction: Literal["batch_mean", "element_mean"] = Field(
        "batch_mean", description="Mean over images of the sum over classes, or mean over both (10 to 100 times weaker)."
    )
    hard_weight: Real | None = Field(None, description="Weight of the hard term; null is 1−λ.", ge=0)


class Hint(Frozen):
    """Hint (guidance) loss: L2 between a layer of the student and one of the teacher (Romero et al. 2014, Zhuang et al. 2018)."""

    student: str = Field(description="Name of the student's module, e.g. stage2.")
    teacher: str | None = Field(None, description="Name of the teacher's module; default the same name.")
    weight: Real = Field(1.0, description="Factor on the mean squared difference.", gt=0)


def _listed(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Pretrained(Frozen):
    """Weights brought from outside, in place of training."""

    file: str = Field(
        description="A .safetensors file, or a state_dict saved by torch (read with weights_only).", json_schema_extra=outside_key()
    )


class Cotrain(Frozen):
    """A full-precision network trained in the same loop as the student and acting as its teacher (Apprentice A, Guided)."""

    model: Model = Field(default_factory=Model, description="The network trained jointly.")
    init: Recipe | None = Field(None, description="Recipe whose trained weights it starts from.")
    hard_weight: Real = Field(1.0, description="Weight of its own hard-label term (Apprentice: α = 1).", ge=0)
    detach: Flag = Field(True, description="Whether the soft and hint terms send no gradient into it.")

    @model_validator(mode="after")
    def _start_fits(self) -> Cotrain:
        if self.init is not None:
            _same_network(self.init.model, self.model, "init", "model")
        return self


def _same_network(start: Model, network: Model, *path: str) -> None:
    """Weights to start from fit only the same network: architecture, width, shortcut and stem."""
    for field in Model.model_fields:
        there, here = getattr(start, field), getattr(network, field)
        if there != here:
            raise FieldProblem(f"is {there}, but the network it starts has {here}: weights would not fit", *path, field)


class Distill(Frozen):
    """Knowledge distillation into the network of this recipe."""

    teachers: tuple[Recipe, ...] = Field((), description="Trained teachers; their probabilities softened at τ are averaged.")
    cotrain: Cotrain | None = Field(None, description="A network trained jointly instead of trained teachers.")
    temperature: Real = Field(4.0, description="τ, softens both sides.", gt=0, le=1000)
    coefficient: Real = Field(0.5, description="λ, weight of the soft term (start value where a schedule reduces it).", ge=0, le=1)
    schedule: Annotated[Schedule, BeforeValidator(_listed)] = Field(
        default_factory=Schedule, description="How λ moves during training: a name, or a mapping with options."
    )
    loss: Loss = Field(default_factory=Loss, description="Loss convention.")
    hints: tuple[Hint, ...] = Field((), description="Hint losses on hidden layers; the teacher then runs live.")

    @model_validator(mode="after")
    def _one_source(self) -> Distill:
        if bool(self.teachers) == (self.cotrain is not None):
            raise ValueError("distill needs either teachers or cotrain, not both and not neither")
        if self.hints and len(self.teachers) > 1:
            raise FieldProblem("hints need a single teacher", "hints")
        return self


class Recipe(Frozen):
    """One training run. See the module's text."""

    data: Data = Field(default_factory=Data, description="Data set, split and augmentation.")
    model: Model = Field(default_factory=Model, description="Architecture and width.")
    precision: Precision | None = Field(None, description="Quantization; null is full precision.")
    init: Recipe | None = Field(None, description="Recipe whose trained weights are the start; null is from scratch.")
    distill: Distill | None = Field(None, description="Knowledge distillation; null trains with hard labels.")
    pretrained: Pretrained | None = Field(None, description="Weights from a file in place of training (for teachers).")
    optim: Optim = Field(default_factory=Optim, description="Optimization.")
    seed: Whole = Field(0, description="Initialisation, order of images and augmentation.", ge=0, lt=2**31)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.data.evaluate_on == "validation" and self.data.validation == 0 and self.data.name != "imagefolder":
            raise FieldProblem("0 leaves nothing to measure on; give a share such as 0.1, or evaluate_on: test", "data", "validation")
        if self.init is not None:
            _same_network(self.init.model, self.model, "init", "model")
        if self.pretrained is not None and (self.init or self.distill or self.precision):
            raise FieldProblem("pretrained replaces training: leave out init, distill and precision", "pretrained")
        return self

    def children(self) -> dict[str, Recipe]:
        """Recipes whose trained weights this one needs, by role path: ``init``, ``teachers.0``, ``cotrain.init``."""
        found: dict[str, Recipe] = {}
        if self.init is not None:
            found["init"] = self.init
        if self.distill is not None:
            found.update({f"teachers.{i}": teacher for i, teacher in enumerate(self.distill.teachers)})
            if self.distill.cotrain is not None and self.distill.cotrain.init is not None:
                found["cotrain.init"] = self.distill.cotrain.init
        return found


for _model in (Cotrain, Distill, Recipe):
    _model.model_rebuild()
