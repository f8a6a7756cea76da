"""Timm backbones, projector, weights, probe sites, features of a split."""
