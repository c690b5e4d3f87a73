"""Validation during training: the EMA generator on a fixed part of its split, beside the baselines."""

from accelerate import Accelerator
from torch import Tensor, nn

from streamgan.core.color import Head
from streamgan.core.logs import say
from streamgan.core.settings import TrainConfig
from streamgan.data.loader import Loader, build_eval_loader
from streamgan.data.order.mixture import split_size
from streamgan.data.workers.samples import Batch

from .build import reading, shard_sets
from .evaluate import measure_median_ab, sample_rows, score_baselines, score_generator
from .networks import Networks
from .terms import pixel_loss


class Validation:
    """Scores and sample rows of a run. Baselines and the sample batch are read once and kept."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator):
        self._config, self._accelerator = config, accelerator
        self._shards = shard_sets(config)
        self.split = "val" if split_size(self._shards, "val") else "train"
        self._num_samples = min(config.run.sample_images, split_size(self._shards, self.split))
        if self.split == "train":
            say("data.shards: no validation split; validating on training images")
        self._baselines: dict[str, float] | None = None
        self._sample_batch: Batch | None = None

    def scores(self, ema: nn.Module, head: Head) -> dict[str, float]:
        """`val/loss`, `val/psnr`, ... of the EMA generator, `val/gray_psnr`, ... of the baselines."""
        loader = self._loader()
        scores = score_generator(
            ema, head, loader, accelerator=self._accelerator, reconstruction=pixel_loss(self._config.loss)
        )
        if self._baselines is None:
            train = self._loader(
                "train", num_images=self._config.run.validate_images, every_rank_reads_all=True
            )
            median = measure_median_ab(train, self._accelerator.device)
            baselines = score_baselines(loader, accelerator=self._accelerator, median_2=median)
            self._baselines = {
                f"val/{name}_{metric}": row[metric]
                for name, row in baselines.items()
                for metric in ("psnr", "ssim")
            }
        return {f"val/{metric}": value for metric, value in scores.items()} | self._baselines

    def samples(self, networks: Networks, head: Head) -> list[Tensor]:
        """Rows gray | G | EMA | truth of the same images every time."""
        if self._sample_batch is None:
            count = self._num_samples
            loader = self._loader(num_images=count, batch=count, every_rank_reads_all=True)
            self._sample_batch = next(iter(loader))
        return sample_rows(
            networks.plain_generator, networks.ema, head, self._sample_batch, self._accelerator.device
        )

    def _loader(
        self,
        split: str | None = None,
        *,
        num_images: int | None = None,
        batch: int | None = None,
        every_rank_reads_all: bool = False,
    ) -> Loader:
        data, alone = self._config.data, every_rank_reads_all
        local = max(1, data.batch // self._accelerator.num_processes // self._config.optim.accumulate)
        return build_eval_loader(
            self._shards,
            split or self.split,
            batch=batch or local,
            size=data.size,
            workers=data.workers,
            rank=0 if alone else self._accelerator.process_index,
            world=1 if alone else self._accelerator.num_processes,
            num_images=num_images or self._config.run.validate_images,
            gray="twin" if data.gray == "twin" else None,
            pin_memory=self._accelerator.device.type == "cuda",
            **reading(data),
        )
