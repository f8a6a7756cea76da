"""timm backbones, projector, weights, probe sites."""
