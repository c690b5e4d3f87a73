"""Peak memory of a training step in bf16 at two sizes of the batch, and the batch that other cards hold.

What a step takes grows with the batch by the same amount per image, on top of weights, optimizers and their
copies; two measurements give both. The batch is rounded down to a multiple of 4, a tenth is kept free.
"""

from collections.abc import Iterator, Sequence

import torch
from common import markdown

from .arms import MODELS, config_of, our_step
from .step import WARM_CALLS
from .task import Result, Task, on_gpu, peak_memory

NAMES = ("default", "pix2pix", "paper, 512 px", "ddcolor")
BATCHES = (4, 16)
CARDS_GB = (8, 16, 24, 80)
FREE, MULTIPLE = 0.1, 4


def measure(task: Task) -> Iterator[Result]:
    result: Result = {"rows": {}}
    for name in task.choose(NAMES, NAMES[:1]):
        row: Result = {"batches": [], "peak_gb": []}
        result["rows"][name] = row
        for batch in task.choose(BATCHES, (2, 4)):
            record: Result = {}
            try:
                with peak_memory(record):
                    call = our_step(config_of(task, name, f"data.batch={batch}"))
                    for _ in range(task.choose(WARM_CALLS, 1)):
                        call()
            except torch.OutOfMemoryError as error:
                row["error"] = " ".join(str(error).split())[:200]
                break
            finally:
                call = None  # its networks make room for the next
            row["batches"].append(batch)
            if "peak_gb" in record:
                row["peak_gb"].append(record["peak_gb"])
        yield result
    if on_gpu():
        free, total = torch.cuda.mem_get_info()
        result["context_gb"] = (total - free - torch.cuda.memory_reserved()) / 1e9
        yield result


def parts(batches: Sequence[int], peaks_gb: Sequence[float]) -> tuple[float, float]:
    """(GB whatever the batch, GB per image), from the peaks of two batches."""
    per_image = (peaks_gb[1] - peaks_gb[0]) / (batches[1] - batches[0])
    return peaks_gb[0] - batches[0] * per_image, per_image


def batch_that_fits(card_gb: float, fixed_gb: float, per_image_gb: float) -> int:
    """The largest multiple of 4 whose step leaves a tenth of the card free; 0 if there is none."""
    return max(0, int((card_gb * (1 - FREE) - fixed_gb) / per_image_gb) // MULTIPLE * MULTIPLE)


def report(result: Result) -> str:
    context, rows = result.get("context_gb", 0.0), []
    for name, row in result["rows"].items():
        source, size, _ = MODELS[name]
        head = [f"`{source}.yaml`, {size} px"]
        if len(row["peak_gb"]) < 2:
            why = row.get("error", "not measured: no card")
            rows.append([*head, why, *["-"] * (2 + len(CARDS_GB))])
            continue
        fixed, per_image = parts(row["batches"], row["peak_gb"])
        measured = ", ".join(
            f"{batch}: {peak:.2f}" for batch, peak in zip(row["batches"], row["peak_gb"], strict=True)
        )
        fits = [str(batch_that_fits(card, context + fixed, per_image) or "none") for card in CARDS_GB]
        rows.append([*head, measured, f"{fixed:.2f}", f"{per_image:.3f}", *fits])
    table = markdown(
        ["recipe", "peak GB by batch", "GB whatever the batch", "GB per image",
         *(f"batch for {card} GB" for card in CARDS_GB)],
        rows,
    )  # fmt: skip
    if not context:
        return table
    return (
        f"The batches are projected from the two peaks, with {context:.2f} GB for CUDA itself and {FREE:.0%} "
        f"left free; what does not fit trains with `optim.accumulate`.\n\n{table}"
    )
