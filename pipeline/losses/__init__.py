"""LeJEPA and SIGReg (lejepa.py, kernels in blocks.py), other tests of normality, spectra, a run's objective."""

from pipeline.losses.lejepa import LeJEPALoss, epps_pulley, lejepa_loss, random_directions, sigreg

__all__ = ["LeJEPALoss", "epps_pulley", "lejepa_loss", "random_directions", "sigreg"]
