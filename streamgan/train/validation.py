"""Validation during training: the EMA generator on a fixed part of its split, beside the baselines."""

from accelerate import Accelerator
from torch import Tensor

from streamgan.core.logs import say
from streamgan.core.settings import TrainConfig
from streamgan.data.loader import Loader, evaluation_loader
from streamgan.data.reading import ALONE, Ranks
from streamgan.data.shards.joint import split_size
from streamgan.data.workers.batch import Batch

from .build import build_head, build_reading
from .evaluate import measure_median_ab, sample_rows, score_baselines, score_generator
from .networks import Networks
from .report import RunReport
from .schedule import Due
from .terms import pixel_loss


class Validation:
    """Scores and sample rows of a run. Baselines and the sample batch are read once and kept."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, networks: Networks):
        self._config, self._accelerator, self._networks = config, accelerator, networks
        self._head = build_head(config)
        self._reading = build_reading(config, pin_memory=accelerator.device.type == "cuda")
        source = self._reading.source
        self.split = "val" if split_size(source, "val") else "train"
        self._num_samples = min(config.run.sample_images, split_size(source, self.split))
        if self.split == "train":
            say("data.shards: no validation split; validating on training images")
        self._baselines: dict[str, float] | None = None
        self._sample_batch: Batch | None = None

    def __call__(self, step: int, due: Due, report: RunReport) -> dict[str, float]:
        """The figures of the validation that is due, else nothing; they and the samples are shown."""
        figures = self._scores() if due.validate else {}
        if due.sample and report.active:
            report.grid(step, "samples/val", self._samples())
        if figures:
            report.figures(step, figures)
        return figures

    def _scores(self) -> dict[str, float]:
        """`val/loss`, `val/psnr`, ... of the EMA generator, `val/gray_psnr`, ... of the baselines."""
        loader = self._loader()
        scores = score_generator(
            self._networks.ema,
            self._head,
            loader,
            accelerator=self._accelerator,
            reconstruction=pixel_loss(self._config.loss),
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

    def _samples(self) -> dict[str, Tensor]:
        """Rows gray, generator, average, truth of the same images every time."""
        if self._sample_batch is None:
            count = self._num_samples
            loader = self._loader(num_images=count, batch=count, every_rank_reads_all=True)
            self._sample_batch = next(iter(loader))
        generator, ema = self._networks.plain_generator, self._networks.ema
        return sample_rows(generator, ema, self._head, self._sample_batch, self._accelerator.device)

    def _loader(
        self,
        split: str | None = None,
        *,
        num_images: int | None = None,
        batch: int | None = None,
        every_rank_reads_all: bool = False,
    ) -> Loader:
        config, world = self._config, self._accelerator.num_processes
        return evaluation_loader(
            self._reading,
            split or self.split,
            batch=batch or max(1, config.data.batch // world // config.optim.accumulate),
            num_images=num_images or config.run.validate_images,
            ranks=ALONE if every_rank_reads_all else Ranks(self._accelerator.process_index, world),
        )
