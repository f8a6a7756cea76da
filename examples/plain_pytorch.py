"""LeJEPA in a training loop of plain PyTorch."""

import timm
import torch

from pipeline.data.views import Multicrop
from pipeline.losses import lejepa_loss, random_directions

images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)  # yours: (N, C, H, W)
backbone = timm.create_model("test_convnext", num_classes=0)
projector = torch.nn.Linear(backbone.num_features, 16)
optimizer = torch.optim.AdamW([*backbone.parameters(), *projector.parameters()], lr=1e-3)
make_views, draws = Multicrop(num_global=2, num_local=0, global_px=32), torch.Generator().manual_seed(0)
for batch in images.split(16):
    views, _ = make_views(batch, generator=draws)  # (V, B, 3, 32, 32), normalised
    projections = projector(backbone(views.flatten(0, 1))).unflatten(0, views.shape[:2])  # (V, B, K)
    losses = lejepa_loss(projections, random_directions(16, 256), num_global=2, lamb=0.05)
    optimizer.zero_grad()
    losses.loss.backward()
    optimizer.step()
    print(f"loss {losses.loss:.3f}, prediction {losses.pred_loss:.3f}, SIGReg {losses.sigreg_loss:.3f}")
