"""LeJEPA and SIGReg (lejepa.py, kernels in blocks.py), the other objectives and tests of normality, spectra."""

from pipeline.losses.lejepa import LeJEPALoss, epps_pulley, lejepa_loss, random_directions, sigreg

__all__ = ["LeJEPALoss", "epps_pulley", "lejepa_loss", "random_directions", "sigreg"]
