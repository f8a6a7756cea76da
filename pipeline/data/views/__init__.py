"""Multi-crop views on whole batches: crops, colour, blur."""

from pipeline.data.views.multicrop import Multicrop, evaluation_view

__all__ = ["Multicrop", "evaluation_view"]
