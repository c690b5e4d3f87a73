"""Every generator learns eight photos by heart, and trains in two processes with every kind of loss."""

import pytest
import torch
from torch.nn import functional as F
from training import launch, processes, settings
from training import losses as read_losses

from streamgan.core.color import HEADS
from streamgan.losses import RECONSTRUCTION
from streamgan.metrics.functional import psnr
from streamgan.models import GENERATORS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Eight photos of soft colours, uint8 (8, 3, 48, 48)."""
    torch.manual_seed(0)
    coarse = torch.rand(8, 3, 5, 5)
    return (255 * F.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1)).round().to(torch.uint8)


def build(name: str, **more) -> torch.nn.Module:
    torch.manual_seed(0)
    return GENERATORS[name](**{"out_channels": 2, "size": 48, "width": 16, **more})


@pytest.mark.parametrize("name", sorted(GENERATORS.keys() - {"zhang"}))  # which learns classes
def test_a_generator_learns_eight_photos(name, photos):
    head = HEADS["lab"]
    given, target = head.encode(photos, None)
    model = build(name, **({"depth": 3} if name == "ddcolor" else {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    best = 0.0
    for step in range(600):
        loss = RECONSTRUCTION["smooth_l1"](model(given), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                best = max(best, psnr(head.decode(given, model(given)), photos / 255).mean().item())
            if best >= 28:
                return
    pytest.fail(f"{best:.1f} dB")


@pytest.mark.dist
@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_two_processes_train_every_generator_with_every_loss(generator, shard_set, tmp_path):
    words = [f"model.generator={generator}", "model.width=8", "loss.gan=wgan", "model.discriminator=unet"]
    words += ["loss.r1_weight=1", "loss.r1_every=2", "loss.colourfulness_weight=0.1", "run.steps=5"]
    words += [f"model.depth={3 if generator in ('ddcolor', 'unet', 'paper_cnn') else 'null'}"]
    if generator == "zhang":
        words.append("loss.rec=cross_entropy")
    done = launch(processes(2), "launch/train.py", *settings(shard_set, tmp_path / "run", *words))
    assert done.returncode == 0, done.stderr
    seen = read_losses(tmp_path / "run")
    assert {"loss/gp", "loss/r1", "loss/g_cf", "loss/g_adv"} <= seen[5].keys()
