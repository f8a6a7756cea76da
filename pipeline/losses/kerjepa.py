"""KerJEPA without slices: kernel discrepancies between the projections of a view and N(0, I).

Shapes: N images of all processes, K projection. Both are multivariate statistics (`losses.multivariate`), N times the
squared discrepancy as SIGReg is, so that lambda weighs them on SIGReg's scale; the paper leaves the factor N out. The
kernels' width is `bandwidth` * sqrt(K), since samples of N(0, I) lie about sqrt(2 K) apart.

Source: Zimmermann et al., "KerJEPA", arXiv 2512.19605 (KSD with IMQ kernel: 91.90 on Imagenette, LeJEPA 91.13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.losses.multivariate import ksd_imq, mmd
from pipeline.losses.projected import Projected, Regularised, check_positive


@dataclass(frozen=True)
class MMD(Regularised):
    """Maximum mean discrepancy with a Gaussian kernel: LeJEPA's statistic before it is sliced."""

    bandwidth: float = 1.0

    sums_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the bandwidth."""
        check_positive(bandwidth=self.bandwidth)

    def regularisers(self, seen: Projected) -> dict[str, Tensor]:
        """Return N MMD^2, mean over views."""
        return {"mmd_loss": mmd(seen.projections, bandwidth=self.bandwidth).mean()}


@dataclass(frozen=True)
class KSDIMQ(Regularised):
    """Kernel Stein discrepancy with an inverse multiquadric kernel of an exponent in (0, 1)."""

    bandwidth: float = 1.0
    exponent: float = 0.5

    sums_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check bandwidth and exponent."""
        check_positive(bandwidth=self.bandwidth)
        if not 0 < self.exponent < 1:
            raise ValueError(f"exponent must be in (0, 1), got {self.exponent:g}")

    def regularisers(self, seen: Projected) -> dict[str, Tensor]:
        """Return N KSD^2, mean over views."""
        return {"ksd_loss": ksd_imq(seen.projections, bandwidth=self.bandwidth, exponent=self.exponent).mean()}
