"""The section `pretrain` of params.yaml: every key with its type, range and meaning, and what determines a result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.catalogue.types import Fraction, Plain, Positive, Range, Rgb
from pipeline.catalogue.validation import Strict


class Runtime(Strict):
    """A section that never changes a result.

    `Pretrain.result_key` leaves it out. It reaches a stage by execution.json, on which no stage of DVC depends; a new
    one is named there as well (`Execution` in pipeline/schema/resolved.py).
    """


class Views(Strict):
    """Multi-crop augmentation; defaults are the paper's (LeJEPA, arXiv 2511.08544)."""

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
    small_stem: bool = Field(False, description="of a ResNet, 3x3 and no max-pooling, for images of about 32 px")
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

    statistic: str = Field("epps_pulley", description="a name of pipeline.losses.univariate")
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


class Loader(Runtime):
    """How images reach the device."""

    memory_gb: float = Field(4.0, ge=0, description="a split up to this size is kept in memory as uint8")
    num_workers: int = Field(2, ge=0, le=256, description="decoding processes of larger sets")


class PretrainHealth(Runtime):
    """What is watched during training, on held-out images without labels."""

    num_images: int = Field(
        512, ge=0, le=100_000, description="of the test split, embedded after every epoch; 0: none, nothing is watched"
    )
    num_slices: int = Field(64, ge=1, le=65_536, description="fixed directions of the Epps-Pulley statistic")


class Checkpoint(Runtime):
    """When the state of a run is kept."""

    minutes: Positive = Field(
        10, description="a state is kept after every epoch and, within longer ones, after so many minutes"
    )


class Layout(Runtime):
    """How a batch is laid out over processes and passes; changes weights by rounding alone (and draws of dropout)."""

    processes: int = Field(1, ge=1, le=64, description="of a machine: 1 on a CPU, else as many as GPUs are to be used")
    micro_batch_size: int | None = Field(
        None, ge=1, description="images a pass of the backbone in each process, if all at once do not fit into memory"
    )
    checkpoint_activations: bool = Field(
        False, description="backward passes compute the blocks of the backbone again, of which only the inputs are kept"
    )
    sharded: bool = Field(
        False,
        description="each of several processes holds a part of weights, gradients, moments and averages (FSDP2)",
    )


class Alarms(Strict):
    """When training is said to have gone wrong: collapse, an exploding loss, a starving loader.

    A collapse is looked for after the warm-up and the first 50 steps. Starvation, which depends on the machine, only
    warns.
    """

    action: Literal["flag", "stop", "fail"] = Field(
        "flag", description="flag: train on; stop: end training there, keep its weights; fail: the stage fails"
    )
    min_rank: float = Field(1.5, ge=0, description="collapse: an effective rank (RankMe) below this; 0: never")
    min_std: float = Field(
        0.01,
        ge=0,
        description="collapse: projections' root mean variance below this, where their scale is fixed; 0: never",
    )
    max_loss_ratio: float = Field(10.0, gt=1, description="explosion: an epoch's loss over the lowest before it")
    max_wait_frac: Fraction = Field(0.5, description="starvation: part of an epoch spent waiting for images; 1: never")


class Pretrain(Strict):
    """Pretraining."""

    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=2, le=1_000_000)
    load_px: int = Field(
        256,
        ge=8,
        le=4096,
        description="images of one size up to this side are read whole; of others views are cut from each photograph",
    )
    shuffle_window_gb: float = Field(
        4.0,
        ge=0.1,
        description="larger sets are shuffled within a moving window of so many 1e9 bytes of encoded images",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where CUDA has it")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    channels_last: bool = Field(
        True, description="memory format of backbone and views; 1.05 to 1.2 times faster: reports/benchmarks/step.md"
    )
    compile: bool = Field(False, description="torch.compile of the backbone; minutes of start-up")
    sync_batchnorm: bool = Field(True, description="under several processes BatchNorm normalises over all their images")
    views: Views = Views()
    backbone: Backbone = Backbone()
    projector: Projector = Projector()
    objective: str = Field("lejepa", description="what is minimised; names: docs/objectives.md")
    objectives: dict[str, dict[str, Plain]] = Field(
        {}, description="settings of objectives, by name; those of lejepa are the section sigreg"
    )
    sigreg: Sigreg = Sigreg()
    predictor: Predictor = Predictor()
    swa: Swa = Swa()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loader: Loader = Loader()
    health: PretrainHealth = PretrainHealth()
    checkpoint: Checkpoint = Checkpoint()
    layout: Layout = Layout()
    alarms: Alarms = Alarms()

    @model_validator(mode="after")
    def _warmup_fits(self) -> Pretrain:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be < epochs, got {self.schedule.warmup_epochs:g} of {self.epochs}"
            )
        return self

    @model_validator(mode="after")
    def _layout_is_possible(self) -> Pretrain:
        if self.layout.sharded and self.compile:
            raise ValueError("layout.sharded must be false where compile is true, got true; set either to false")
        return self

    def objective_settings(self) -> dict[str, Any]:
        """Return the settings of the objective that are not left to its defaults."""
        return self.sigreg.model_dump() if self.objective == "lejepa" else dict(self.objectives.get(self.objective, {}))

    @classmethod
    def runtime_sections(cls) -> set[str]:
        """Return the names of the sections that never change a result."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Runtime)}

    def result_key(self) -> dict[str, Any]:
        """Return the settings that determine the weights, as JSON value: equal keys, equal weights.

        DVC's dependency, the identity of checkpoints and the sharing of pretrainings are made of it. What is watched
        counts where an alarm may end the training early and keep the weights.
        """
        key = self.model_dump(mode="json", exclude=self.runtime_sections())
        key["objectives"] = {name: told for name, told in self.objectives.items() if name == self.objective}
        if self.objective != "lejepa":
            del key["sigreg"]
        if self.alarms.action == "stop":
            key["health"] = {"num_images": self.health.num_images}
        return key
