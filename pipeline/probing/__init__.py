"""Linear, k-NN and few-shot probes, fine-tuning, health of embeddings."""

from pipeline.probing.probes import Split, Task, evaluate, few_shot_probe, knn_probe, linear_probe
from pipeline.schema.probe import Probe

__all__ = ["Probe", "Split", "Task", "evaluate", "few_shot_probe", "knn_probe", "linear_probe"]
