"""The section `trials`: objectives that are compared on one recipe, and how each of them is tuned."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from pipeline.catalogue.datasets import DatasetName
from pipeline.catalogue.types import Architecture, Distinct, Positive, SafeName
from pipeline.catalogue.validation import Strict, explain
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Probe

LAMBDA = "lambda"
"""Setting that is no objective's own: the weight of a regulariser against the prediction loss."""


class Trials(Strict):
    """Section `trials`: objective x data set x seed; learning rate and weight are tuned, all else is shared."""

    datasets: Distinct[DatasetName]
    objectives: Distinct[SafeName] = Field(description="names: docs/objectives.md")
    reference: SafeName = Field("lejepa", description="objective whose wall time the others get as well")
    weights: dict[SafeName, dict[str, Distinct[Annotated[float, Field(ge=0)]]]] = Field(
        description="of each objective the setting that is tuned, lambda or one of its own, and the values tried"
    )
    learning_rates: Distinct[Positive] = Field(description="tried with every weight")
    tuning_epochs: int = Field(ge=1, description="of each training of the tuning")
    tuning_seed: int = Field(ge=0, lt=2**31, description="of these trainings and of the held-out images")
    holdout_frac: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="of the training images: the tuning sees them neither in training nor in its probe"
    )
    seeds: Distinct[Annotated[int, Field(ge=0, lt=2**31)]] = Field(description="of the trainings that are compared")
    num_train: int | None = Field(
        None, ge=2, description="training images, equally many of each class, drawn with seed 0; null, or more: all"
    )
    backbone: Architecture
    pretrain: Pretrain = Field(description="as in a grid; objective, its weight and the learning rate come from above")
    views: dict[DatasetName, dict[str, Any]] = Field({}, description="changes of pretrain.views for a data set")
    probe: Probe = Probe()

    @model_validator(mode="after")
    def _weights_fit(self) -> Trials:
        if self.reference not in self.objectives:
            raise ValueError(f"reference must be one of objectives, got {self.reference}; add it or name another")
        if missing := [name for name in self.objectives if name not in self.weights]:
            raise ValueError(f"weights must name what is tuned of every objective; add {', '.join(missing)}")
        if odd := [name for name, tuned in self.weights.items() if len(tuned) != 1]:
            raise ValueError(f"weights must name one setting of an objective, not so of {', '.join(odd)}")
        for name in self.objectives:
            setting, values = self.tuned(name)
            if setting == LAMBDA and max(values) >= 1:
                raise ValueError(f"weights.{name}.lambda must be in [0, 1), got {max(values):g}")
        return self

    @model_validator(mode="after")
    def _trainings_are_sound(self) -> Trials:
        for dataset, epochs in product(self.datasets, (self.tuning_epochs, self.pretrain.epochs)):
            try:
                self.settings_of(dataset, self.reference, weight=0.0, epochs=epochs)
            except ValidationError as error:
                lines = "; ".join(explain(error, Pretrain))
                raise ValueError(f"of {dataset} with {epochs} epochs: {lines}") from None
        return self

    def tuned(self, objective: str) -> tuple[str, list[float]]:
        """Return the setting of an objective that is tuned, and the values tried."""
        ((name, values),) = self.weights[objective].items()
        return name, values

    def settings_of(
        self, dataset: str, objective: str, *, weight: float, epochs: int, lr: float | None = None
    ) -> Pretrain:
        """Return the settings of a training; lr None: that of the section."""
        told, (name, _) = self.pretrain.model_dump(), self.tuned(objective)
        told |= {"epochs": epochs, "objective": objective}
        told["views"] |= self.views.get(dataset, {})
        told["optimizer"] |= {} if lr is None else {"lr": lr}
        if name != LAMBDA:
            told["objectives"] = {objective: told["objectives"].get(objective, {}) | {name: weight}}
        return Pretrain.model_validate(told)

    def lamb(self, objective: str, weight: float) -> float:
        """Return lambda of a training; 0 where the objective is weighed by a setting of its own and has none."""
        return float(weight) if self.tuned(objective)[0] == LAMBDA else 0.0
