"""LeJEPA in a LightningModule; needs `pip install ".[lightning]"`."""

import lightning
import timm
import torch

from pipeline.data.views import Multicrop
from pipeline.losses import lejepa_loss, random_directions


class LeJEPA(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("test_convnext", num_classes=0)
        self.projector = torch.nn.Linear(self.backbone.num_features, 16)
        self.make_views = Multicrop(num_global=2, num_local=0, global_px=32)

    def training_step(self, images: torch.Tensor) -> torch.Tensor:
        draws = torch.Generator(self.device).manual_seed(self.global_step)
        views, _ = self.make_views(images, generator=draws)  # (V, B, 3, 32, 32)
        projections = self.projector(self.backbone(views.flatten(0, 1))).unflatten(0, views.shape[:2])
        losses = lejepa_loss(projections, random_directions(16, 256, device=self.device), num_global=2, lamb=0.05)
        self.log_dict(losses._asdict(), prog_bar=True)
        return losses.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)  # yours: (N, C, H, W)
trainer = lightning.Trainer(max_epochs=1, accelerator="auto", logger=False, enable_checkpointing=False)
trainer.fit(LeJEPA(), torch.utils.data.DataLoader(images, batch_size=16))
print(f"loss {trainer.callback_metrics['loss']:.3f}")
