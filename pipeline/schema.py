"""The sections of params.yaml: every key with its type, range and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from pipeline.catalogue import Dataset, DatasetName
from pipeline.validation import ParamsError, Strict, explain, read_yaml

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Rgb = Annotated[list[float], Field(min_length=3, max_length=3)]


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> int | float:
    """Check a number but leave 1 an int: cell keys spell it as DVC does."""
    check(value)
    return value


def _plain(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check one value, with one message instead of one for each type that it might have had."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"must be true, false, a finite number, text or null, got {value!r}") from None


Lambda = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_written)]
Plain = Annotated[bool | int | float | str | None, WrapValidator(_plain)]
Value = Annotated[bool | int | float | str, WrapValidator(_plain)]


AxisName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Axis(Strict):
    """One more axis of a grid: any setting of `pretrain` or `probe`, or a name for `overrides` to act on."""

    sets: list[Annotated[str, Field(pattern=r"^(pretrain|probe)(\.[A-Za-z_][A-Za-z0-9_]*)+$")]] = Field(
        [], description="dotted paths that get the value, e.g. pretrain.sigreg.t_max"
    )
    values: list[Value] = Field(min_length=1)


class BackboneRule(Strict):
    """All timm architectures of some families up to a size; `python -m stages.expand` lists them in backbones.txt."""

    families: list[str] = Field(min_length=1)
    max_params: float = Field(gt=0, description="largest number of parameters, without a classifier")


class Grid(Strict):
    """The axes of the benchmark; every combination is one cell.

    Axes, models, targets and only_published are for pipelines with a cells.yaml (`python -m stages.expand`).
    """

    datasets: list[str] = Field(min_length=1, description="names from `datasets`")
    backbones: list[str] = Field([], description="timm model names")
    lambdas: list[Lambda] = Field(min_length=1, description="weight of SIGReg; the prediction loss has 1 - lambda")
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(min_length=1)
    axes: dict[AxisName, Axis] = Field({}, description="further axes, by name")
    models: list[str] = Field([], description="frozen models from `models`, probed beside the trained backbones")
    targets: list[str] = Field([], description="data sets to probe on; none: the one that was trained on")
    only_published: bool = Field(False, description="keep the cells that published.csv has a row for")
    selected: list[str] = Field([], description="axes whose best value, on held-out training images, a table shows")

    @model_validator(mode="after")
    def _something_to_probe(self) -> Grid:
        if not self.backbones and not self.models:
            raise ValueError("backbones must have at least one name, got none; add one (or one to models)")
        return self

    @model_validator(mode="after")
    def _axes_exist(self) -> Grid:
        known = {"dataset", "backbone", "lambda", "target", *self.axes}
        unknown = [name for name in self.selected if name not in known]
        if unknown:
            raise ValueError(f"selected must name axes ({', '.join(sorted(known))}), got {', '.join(unknown)}")
        return self

    @field_validator("datasets", "backbones", "lambdas", "seeds", "models", "targets", "selected")
    @classmethod
    def _distinct(cls, values: list) -> list:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"must not repeat a value, got {', '.join(twice)} more than once; remove the copies")
        return values


class Views(Strict):
    """Multi-crop augmentation; defaults are the paper's (section 2 of the paper facts)."""

    num_global: int = Field(2, ge=1, le=32, description="global views an image")
    num_local: int = Field(6, ge=0, le=32, description="local views an image")
    global_px: int = Field(224, ge=8, le=1024)
    local_px: int = Field(98, ge=8, le=1024)
    global_scale: Range = Field([0.3, 1.0], description="area of a global crop as a fraction of the image")
    local_scale: Range = Field([0.05, 0.3], description="area of a local crop as a fraction of the image")
    ratio: Range = Field([3 / 4, 4 / 3], description="width / height of a crop")
    flip_prob: Fraction = 0.5
    jitter_prob: Fraction = 0.8
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: float = Field(0.1, ge=0, le=0.5)
    grey_prob: Fraction = 0.2
    blur_prob: Fraction = 0.5
    blur_sigma: Range = Field([0.1, 2.0], description="standard deviation of the blur, px")
    solarize_prob: Fraction = 0.2
    solarize_threshold: int = Field(128, ge=0, le=256, description="grey level of 0..255 from which pixels invert")
    mean: Rgb = Field([0.485, 0.456, 0.406], description="of the pixels in [0, 1]; ImageNet's")
    std: Rgb = Field([0.229, 0.224, 0.225], description="of the pixels in [0, 1]; ImageNet's")

    @field_validator("global_scale", "local_scale", "ratio", "blur_sigma")
    @classmethod
    def _rising(cls, values: list[float], info: Any) -> list[float]:
        low, high = values
        if not 0 < low <= high:
            raise ValueError(f"must be [low, high] with 0 < low <= high, got {values}")
        if info.field_name.endswith("scale") and high > 1:
            raise ValueError(f"must not exceed the whole image (1.0), got {values}")
        return values

    @field_validator("std")
    @classmethod
    def _positive(cls, values: list[float]) -> list[float]:
        if min(values) <= 0:
            raise ValueError(f"must be > 0 in each channel, got {values}")
        return values


class Backbone(Strict):
    """What timm is asked for beside the name."""

    patch_size: int | None = Field(None, ge=1, le=64, description="px; null keeps the architecture's own")
    drop_path_rate: Fraction = Field(0.0, description="stochastic depth; the paper uses 0.1 for ViT")
    kwargs: dict[str, Plain] = Field({}, description="further arguments of timm.create_model")


class Projector(Strict):
    """MLP with BatchNorm from embedding to projection."""

    embed_dim: int | None = Field(
        None, ge=1, le=65536, description="width of a linear head between backbone and MLP; null: none"
    )
    hidden_dims: list[Annotated[int, Field(ge=1)]] = Field([2048, 2048], description="widths of the hidden layers")
    proj_dim: int = Field(64, ge=2, le=65536)


class Sigreg(Strict):
    """Sketched isotropic Gaussian regularisation."""

    statistic: str = Field("epps_pulley", description="a name of pipeline.statistics")
    num_slices: int = Field(1024, ge=1, le=1_000_000)
    t_max: Positive = Field(3.0, le=100, description="the characteristic functions are compared on [-t_max, t_max]")
    num_knots: int = Field(17, ge=2, le=4096, description="trapezoid knots on [0, t_max]")


class Predictor(Strict):
    """MLP on the projections of every view before they are compared with the centre; the paper finds it needless."""

    enabled: bool = False
    hidden_dim: int = Field(2048, ge=1)


class Swa(Strict):
    """Stochastic weight averaging of backbone and projector: the averaged encoder makes the centres, without gradient.

    The paper finds that it helps vision transformers a little.
    """

    enabled: bool = False
    decay: float = Field(0.996, ge=0, lt=1, description="of the exponential moving average, a step")


class Optimizer(Strict):
    """AdamW."""

    lr: Positive = Field(5e-4, le=10)
    weight_decay: float = Field(
        5e-2, ge=0, le=10, description="not applied to biases, norms and one-dimensional weights"
    )
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.9, 0.999], min_length=2, max_length=2)


class Schedule(Strict):
    """Linear warm-up, then cosine."""

    warmup_epochs: float = Field(10, ge=0)
    final_lr_frac: Fraction = Field(1e-3, description="last learning rate as a fraction of the peak")


class Loader(Strict):
    """How images reach the device; never changes a result."""

    memory_gb: float = Field(4.0, ge=0, description="a split up to this size is kept in memory as uint8")
    num_workers: int = Field(2, ge=0, le=256, description="decoding processes of larger sets")


class Pretrain(Strict):
    """LeJEPA pretraining."""

    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=2, le=1_000_000)
    load_px: int = Field(256, ge=8, le=4096, description="larger images are resized to this square when loaded")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where CUDA has it")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    channels_last: bool = Field(False, description="memory format of backbone and views; faster for some backbones")
    compile: bool = Field(False, description="torch.compile of the backbone; minutes of start-up")
    views: Views = Views()
    backbone: Backbone = Backbone()
    projector: Projector = Projector()
    sigreg: Sigreg = Sigreg()
    predictor: Predictor = Predictor()
    swa: Swa = Swa()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loader: Loader = Loader()

    @model_validator(mode="after")
    def _warmup_fits(self) -> Pretrain:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be < epochs, got {self.schedule.warmup_epochs:g} of {self.epochs}"
            )
        return self


class Linear(Strict):
    """Linear probe: every setting is trained at once, the best on held-out training images is reported."""

    learning_rates: list[Positive] = Field([1e-3, 3e-3, 1e-2, 3e-2], min_length=1)
    weight_decays: Annotated[
        list[Annotated[float, Field(ge=0, le=10)]],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    ] = Field(
        [1e-6],
        min_length=1,
        validation_alias=AliasChoices("weight_decays", "weight_decay"),
        description="tried with every learning rate; one number may be written as `weight_decay`",
    )
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(512, ge=1)


class Knn(Strict):
    """Weighted nearest neighbours by cosine similarity."""

    k: int = Field(20, ge=1)
    temperature: Positive = 0.07


class FewShot(Strict):
    """Closed-form ridge classifier on a few labelled images a class; in mode finetune the shots are fine-tuned on."""

    shots: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 10], description="labelled images a class; a class that has fewer gives all of them"
    )
    num_draws: int = Field(3, ge=1, le=1000, description="random subsets; mean and standard deviation are reported")
    ridge: Positive = Field(1.0, description="penalty, as a multiple of the mean squared feature norm")


class Finetune(Strict):
    """Full fine-tuning: AdamW on backbone and linear head, warm-up and cosine, random resized crops and flips."""

    epochs: int = Field(30, ge=1, description="passes over the training images; a last partial batch is left out")
    min_steps: int = Field(200, ge=1, description="a run of fewer steps, on a few images, gets more passes")
    batch_size: int = Field(64, ge=2)
    learning_rates: list[Positive] = Field(
        [1e-4, 1e-3], min_length=1, description="the best on held-out images is reported; one is not tried out"
    )
    few_shot_lr: Positive = Field(1e-4, description="of the few-shot runs: few labels leave none to tune it on")
    num_draws: int = Field(1, ge=1, le=1000, description="random subsets for each number of shots")
    weight_decay: float = Field(0.05, ge=0, le=10, description="not applied to biases, norms and other vectors")
    warmup_frac: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of the steps")
    crop_scale: Range = Field([0.3, 1.0], description="area of a crop as a fraction of the image")
    flip_prob: Fraction = 0.5

    @field_validator("crop_scale")
    @classmethod
    def _within_the_image(cls, values: list[float]) -> list[float]:
        if not 0 < values[0] <= values[1] <= 1:
            raise ValueError(f"must be [low, high] with 0 < low <= high <= 1, got {values}")
        return values


class Probe(Strict):
    """Evaluation of a backbone, beside the same one at random initialisation and beside raw pixels."""

    mode: Literal["frozen", "finetune"] = Field(
        "frozen", description="finetune: backbones' linear scores are fine-tuned; k-NN and raw pixels stay as they are"
    )
    site: Literal["pooled", "cls_last2", "patch_mean"] = Field(
        "pooled", description="features that are probed: see pipeline.features.site_extractor"
    )
    baselines: list[Literal["random_init", "raw_pixels"]] = Field(
        ["random_init", "raw_pixels"], description="measured beside the backbone; [] for none"
    )
    holdout_frac: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="of the training set, for tuning")
    batch_size: int = Field(256, ge=1, description="images a forward pass of the frozen backbone")
    linear: Linear = Linear()
    knn: Knn = Knn()
    few_shot: FewShot = FewShot()
    finetune: Finetune = Finetune()


class Report(Strict):
    """What the comparison shows."""

    title: str = "LeJEPA benchmark"
    claim: str = Field("", description="what the paper says the table shows")
    decimals: int = Field(1, ge=0, le=4, description="of a percentage")


class Model(Strict):
    """A frozen public model of the catalogue `models`: probed as it was published, never trained here."""

    backbone: str = Field(
        min_length=1, description="timm name with the tag of its weights, as vit_small_patch14_dinov2.lvd142m"
    )
    pretrained_path: str | None = Field(
        None, min_length=1, description="local safetensors (or a torch file of tensors alone); null: timm's download"
    )
    checkpoint_key: str | None = Field(
        None, min_length=1, description="entry of a torch checkpoint that holds the weights; null: timm's choice"
    )
    img_size: int | None = Field(None, ge=8, le=1024, description="px; null: the size of the published weights")
    kwargs: dict[str, Plain] = Field({}, description="further arguments of timm.create_model, as global_pool: token")
    mean: Rgb | None = Field(None, description="of the pixels in [0, 1]; null: as published")
    std: Rgb | None = Field(None, description="of the pixels in [0, 1]; null: as published")

    @classmethod
    def catalogue(cls, path: str | Path = "params.yaml") -> dict[str, Model]:
        """Read and validate the `models` section alone (what a download needs)."""
        kind = dict[DatasetName, cls]
        try:
            return TypeAdapter(kind).validate_python(read_yaml(path).get("models", {}))
        except ValidationError as error:
            raise ParamsError(str(path), explain(error, kind, prefix=("models",))) from None


class When(Strict):
    """Shell-style patterns that select cells; absent means any."""

    dataset: str = "*"
    backbone: str = "*"
    axes: dict[str, str] = Field({}, description="pattern of each named axis' value; true, false in lower case")


class Override(Strict):
    """Settings for some of the cells; later entries win."""

    when: When
    pretrain: dict[str, Any] = Field({}, description="keys of the section to replace, nested")
    probe: dict[str, Any] = Field({}, description="keys of the section to replace, nested")


class Params(Strict):
    """The whole of params.yaml."""

    based_on: str | None = Field(
        None, description="folder beside this one whose pretrain, probe and overrides hold where this file is silent"
    )
    grid: Grid
    datasets: dict[DatasetName, Dataset]
    models: dict[DatasetName, Model] = Field({}, description="frozen public models that a grid may probe")
    pretrain: Pretrain
    probe: Probe = Probe()
    report: Report = Report()
    overrides: list[Override] = Field([], description="in order; a later one wins")
    shares: list[str] = Field(
        [], description="folders beside this one whose equal pretrainings are used instead of repeated"
    )
