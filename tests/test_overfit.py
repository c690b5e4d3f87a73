"""Every generator learns four photos by heart, and trains in two processes with every kind of loss."""

import pytest
import torch
from torch.nn import functional as F
from training import losses as read_losses
from training import settings

from streamgan.core.ab_bins import bin_centres, soft_encode
from streamgan.core.color import HEADS
from streamgan.losses import RECONSTRUCTION, class_weights, rebalanced_cross_entropy
from streamgan.metrics.functional import psnr
from streamgan.models import GENERATORS, build_generator
from streamgan.train.class_prior import count_classes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Four photos of soft colours, uint8 (4, 3, 32, 32)."""
    torch.manual_seed(0)
    coarse = torch.rand(4, 3, 4, 4)
    return (255 * F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)).round().to(torch.uint8)


def learn(name: str, photos: torch.Tensor, loss_of, is_learned, *, head: str = "lab") -> None:
    """Train a small generator until `is_learned(model)`, which is asked every 20 steps; fails after 600."""
    torch.manual_seed(0)
    more = {"depth": 3} if name == "ddcolor" else {}
    channels = HEADS[head].channels
    model = build_generator(name, out_channels=channels, bounded=head == "rgb", size=32, width=16, **more)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(600):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        if step % 20 == 19 and is_learned(model):
            return
    pytest.fail("not learned in 600 steps")


@pytest.mark.parametrize(
    ("name", "head"),
    [*((name, "lab") for name in sorted(GENERATORS.keys() - {"zhang"})), ("paper_cnn", "rgb")],
)
def test_a_generator_learns_four_photos_to_28_db(name, head, photos):
    chosen = HEADS[head]
    given, target = chosen.encode(photos, None)
    best = 0.0

    def is_learned(model: torch.nn.Module) -> bool:
        nonlocal best
        with torch.no_grad():
            best = max(best, psnr(chosen.decode(given, model(given)), photos / 255).mean().item())
        return best >= 28

    learn(name, photos, lambda m: RECONSTRUCTION["smooth_l1"](m(given), target), is_learned, head=head)


def test_the_classifier_learns_the_classes_of_four_photos(photos):
    """Its PSNR says little here: even the true colours at a quarter of the size score 27.8 dB.

    Nor can its loss fall to zero: soft targets have an entropy, a sixth of the first loss. What is above it
    must fall below a tenth.
    """
    given, target = HEADS["lab"].encode(photos, None)
    centres = bin_centres()
    weights = class_weights(count_classes([photos], centres), centres)
    bins, shares = soft_encode(F.avg_pool2d(target, 4), centres)
    entropy = -(weights[bins[:, 0]] * (shares * shares.log()).sum(1)).mean().item()
    losses: list[float] = []

    def loss_of(model: torch.nn.Module) -> torch.Tensor:
        logits = model(given, with_logits=True)[1]
        loss = rebalanced_cross_entropy(logits, target, centres_Q2=centres, weights_Q=weights)
        losses.append(loss.item())
        return loss

    learn("zhang", photos, loss_of, lambda _: losses[-1] - entropy < 0.1 * (losses[0] - entropy))
    assert 0 < entropy < losses[-1]


@pytest.mark.dist
@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_two_processes_train_every_generator_with_every_loss(generator, template, shard_set, tmp_path):
    words = [f"model.generator={generator}", "model.width=8", "loss.gan=wgan", "model.discriminator=unet"]
    words += ["loss.r1_weight=1", "loss.r1_every=2", "loss.colourfulness_weight=0.1", "run.steps=5"]
    words += [f"model.depth={3 if generator in ('ddcolor', 'unet', 'paper_cnn') else 'null'}"]
    if generator == "zhang":
        words.append("loss.rec=cross_entropy")
    template.run_ranks(settings(shard_set, tmp_path / "run", *words))
    seen = read_losses(tmp_path / "run")
    assert {"loss/gp", "loss/r1", "loss/g_cf", "loss/g_adv"} <= seen[5].keys()
