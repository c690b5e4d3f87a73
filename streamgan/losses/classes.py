"""Class-rebalanced cross-entropy over the bins of the ab plane.

Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016, https://arxiv.org/abs/1603.08511 (equations 2
to 4). Rare colours count more, so that the frequent grays do not win everywhere.

Published (resources/caffe_traininglayers.py of https://github.com/richzhang/colorization): the 10 nearest
bins share a pixel, where the paper has 5; the truth is every fourth pixel; a photo without any |a| or |b|
above 5 counts nothing; a prior of ImageNet, mixed with a uniform share over the bins that occur there. Here:
5, as in the paper; the mean of 4 x 4 pixels, which has no aliasing; all photos count, because a set may hold
gray ones on purpose; the prior of the training photos, with a share for every bin.

Shape suffixes: B batch, H height, W width, h w the map of logits, Q bins, K nearest bins, 2 for a, b.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from streamgan.core.ab_bins import SIGMA, soft_encode


def class_weights(counts_Q: Tensor, centres_Q2: Tensor, *, uniform_share: float = 0.5) -> Tensor:
    """Weights of the classes from how many pixels each has, float32 (Q,).

    The shares are smoothed by a Gaussian of sigma 5 over the ab plane and mixed with a uniform share (the
    paper's lambda, in [0, 1]); at 1 all weights are 1. No share is below that of one pixel, so no weight is
    infinite, not even that of an empty bin. The mean weight over the smoothed shares is 1.
    """
    prior_Q = counts_Q.double() / counts_Q.sum()
    kernel_QQ = torch.exp(-torch.cdist(centres_Q2.double(), centres_Q2.double()).square() / (2 * SIGMA**2))
    smooth_Q = (kernel_QQ / kernel_QQ.sum(0)) @ prior_Q  # every bin hands out all it has
    mixed_Q = (1 - uniform_share) * smooth_Q + uniform_share / len(prior_Q)
    weights_Q = 1 / mixed_Q.clamp(min=1 / counts_Q.sum())
    return (weights_Q / (weights_Q @ smooth_Q)).float()


def rebalanced_cross_entropy(
    logits_BQhw: Tensor, target_B2HW: Tensor, *, centres_Q2: Tensor, weights_Q: Tensor
) -> Tensor:
    """Cross-entropy with the five nearest bins of every pixel, times the weight of the nearest one.

    The target is ab / 110 of the photo: 4 times as large as the map of logits, or a little less where the
    network has padded it; then the border counts as far as there is a whole pixel of truth. A float32 scalar,
    the mean over the pixels of the map.
    """
    with torch.no_grad():
        target_B2hw = F.avg_pool2d(target_B2HW.float(), 4)
        bins_BKhw, shares_BKhw = soft_encode(target_B2hw, centres_Q2)
        weight_Bhw = weights_Q[bins_BKhw[:, 0]]
    height, width = target_B2hw.shape[-2:]
    log_BQhw = F.log_softmax(logits_BQhw[..., :height, :width].float(), 1)
    entropy_Bhw = -(shares_BKhw * log_BQhw.gather(1, bins_BKhw)).sum(1)
    return (weight_Bhw * entropy_Bhw).mean()
