"""Training: wiring, the GAN step, checkpoints, evaluation, reports and the loop that ties them together."""
