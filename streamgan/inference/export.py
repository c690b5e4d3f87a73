"""A generator for other programs: as a graph of ONNX or of torch.export, for images of any size.

The graph is the network alone: `l` (B, 1, H, W) in [-1, 1] -> `chroma` (B, C, H, W), any B, H, W. What the
numbers mean stands in the file: head, and how l and chroma come from and become colours.
"""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamgan.core.color import AB_SCALE
from streamgan.core.errors import CheckFailed, ConfigError
from streamgan.core.storage.files import atomic_write

from .weights import Weights

TOLERANCE = 1e-3
_TRACED = (2, 1, 104, 88)
_CHECKED = ((1, 1, 104, 88), (2, 1, 131, 97), (1, 1, 61, 203))  # only the first was seen by the exporter
_MEANING = {
    "lab": f"l = L / 50 - 1; chroma = (a, b) / {AB_SCALE:g} of CIE Lab (D65)",
    "ycbcr": "l = 2 Y - 1; chroma = 2 (Cb, Cr) of BT.601, full range",
    "rgb": "l = L / 50 - 1 of CIE Lab (D65); chroma = sRGB in [0, 1]",
}


def export_program(weights: Weights) -> ExportedProgram:
    """The generator as torch.export has it, with batch, height and width as symbols."""
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    # Else the exporter would branch on whether the example's sides are multiples, or 1, and so refuse others.
    # The fused attention of a CPU has branches of its own for a batch of one.
    oblivious = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with oblivious, sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(weights.generator, (torch.rand(_TRACED),), dynamic_shapes=(sizes,))


def about(weights: Weights) -> dict[str, str]:
    """What a program has to know about the graph."""
    head = weights.head_name
    return {"format": "streamgan", "head": head, "meaning": _MEANING[head], "size": str(weights.size)}


def export_torch(weights: Weights, out: Path) -> dict[str, Any]:
    """Write a .pt2 file for torch.export.load; the largest difference, as `export_onnx` does.

    Attention and the maps of timm guard against a batch of one without need: `module(check_guards=False)`.
    """
    program = export_program(weights)
    result = _compare(weights, program.module(check_guards=False), out)
    packed = io.BytesIO()  # on a full disk torch's own writer speaks of a defect
    with warnings.catch_warnings(action="ignore"):  # of torch's own writer, about weights that are whole
        torch.export.save(program, packed, extra_files={"about.json": json.dumps(about(weights))})
    with atomic_write(out) as file:
        file.write(packed.getbuffer())
    return result


def export_onnx(weights: Weights, out: Path) -> dict[str, Any]:
    """Write an ONNX file that onnxruntime runs like the network: the largest difference at three sizes.

    CheckFailed, and no file, if that is more than 1e-3. ConfigError if the extra is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (the exporter of torch is written in it)
    except ImportError as error:
        what = f"ONNX needs a package that is not installed ({error.name})"
        raise ConfigError("--to onnx", what, "pip install 'streamgan[onnx]'") from error
    made = torch.onnx.export(
        export_program(weights), dynamo=True, input_names=["l"], output_names=["chroma"], verbose=False
    )
    assert made is not None
    made.model.metadata_props.update(about(weights))
    data = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"l": image.numpy()})[0])

    result = _compare(weights, run, out)
    with atomic_write(out) as file:
        file.write(data)
    return result


@torch.inference_mode()
def _compare(weights: Weights, other: Any, out: Path) -> dict[str, Any]:
    noise = torch.Generator().manual_seed(0)
    differences = {}
    for shape in _CHECKED:
        image = torch.rand(shape, generator=noise) * 2 - 1
        expected = weights.generator(image)
        differences["x".join(map(str, shape))] = float((other(image) - expected).abs().max())
    worst = max(differences.values())
    if not worst <= TOLERANCE:
        what = f"the exported graph differs from the network by {worst:.2g} (more than {TOLERANCE:g})"
        raise CheckFailed(out, what, "report this model and its settings", {"differences": differences})
    return {"max_difference": worst, "differences": differences}
