"""Probes and label-free statistics of any embedding matrix."""

import torch

from pipeline.losses import random_directions
from pipeline.losses.spectrum import effective_rank, singular_values, slice_epps_pulley
from pipeline.probing import Probe, Split, Task, evaluate

labels = torch.arange(2000) % 10  # yours: (N,) int64; torch.from_numpy takes arrays
embeddings = torch.nn.functional.one_hot(labels, 64) + 0.1 * torch.randn(2000, 64)  # yours: (N, D) float32
train, test = Split(embeddings[:1500], labels[:1500]), Split(embeddings[1500:], labels[1500:])
scores = evaluate(train, test, Task(num_classes=10, settings=Probe(), seed=0))
print(f"linear {scores['linear_top1']:.3f}, k-NN {scores['knn_top1']:.3f}, 1-shot {scores['linear_top1_1shot']:.3f}")
rankme = effective_rank(singular_values(test.features))  # in [1, D]
slices = slice_epps_pulley(test.features, random_directions(64, 256), standardised=True)  # (S,), small if Gaussian
print(f"RankMe {rankme:.1f}, Epps-Pulley {slices.mean():.3f}")
