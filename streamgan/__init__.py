"""streamgan: stream large photo sets into colorization GANs, exactly resumable on any number of GPUs."""

__version__ = "0.1.0"
