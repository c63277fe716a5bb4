"""One function per format: trace the model, write the artefact, load it back, and compare.

What torch's exporters need differs by version, so that they are called here and nowhere else.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

from .._choices import ExportFormat as Format
from .._files import is_full, replacing
from .._text import first_line, table
from ..taps.hooks import HookProgram
from .parity import LEAST_AGREEMENT, Parity, ParityError, Runnable, measure_parity, seeded_images
from .pooling import without_rounding_up
from .serving import ServingModel

OLDEST_TORCH: dict[Format, tuple[int, int]] = {  # where the library's own lower bound is not enough
    "onnx": (2, 7),  # before, the converter fails
    "aotinductor": (2, 9),  # before, what is compiled can corrupt memory: the feature-preserving head's does
}
LARGEST_BATCH = 2**20  # torch 2.6 wants a bound
METADATA_FILE = "aimwrap.json"  # inside a .pt2


class Exported(NamedTuple):
    """The written artefact, and how far it is from the model; ``print`` shows it as a table.

    Attributes:
        path: of the artefact.
        format: ``"onnx"``, ``"pt2"`` or ``"aotinductor"``.
        image_size: (H, W) that it was exported with.
        dynamic: the axes of the images that may have another size: ``("batch", "height", "width")``, or
            ``("batch",)`` where the image size is fixed.
        parity: of every output, in their order.
        tried: shapes of the images that parity was measured on.
    """

    path: Path
    format: Format
    image_size: tuple[int, int]
    dynamic: tuple[str, ...]
    parity: tuple[Parity, ...]
    tried: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers, for JSON."""
        return {
            **self._asdict(),
            "path": str(self.path),
            "dynamic": list(self.dynamic),
            "parity": [row._asdict() for row in self.parity],
        }

    def __str__(self) -> str:
        height, width = self.image_size
        free = "any batch size" + (" and image size" if "height" in self.dynamic else f", images of {height} x {width}")
        rows = [("output", "relative difference", "positions that agree")]
        for row in self.parity:
            difference = "" if row.difference is None else f"{row.difference:.1e}"
            rows.append((row.output, difference, "" if row.agreement is None else f"{row.agreement:.2%}"))
        tried = ", ".join(" x ".join(map(str, shape)) for shape in self.tried)
        return "\n".join(
            [f"{self.path} ({self.format}): {free}", table(rows, indent="  "), f"  Tried on images of {tried}."]
        )


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic_size: bool = True,
    class_names: Sequence[str] | None = None,
    preprocessing: Any = None,
    images: Tensor | None = None,
    tolerance: float = 1e-3,
) -> Exported:
    """Write an ONNX model with named outputs, and compare ONNX Runtime's results with the model's.

    Its metadata holds what a server needs in addition: classes, preprocessing, variant, stages. The model is left as
    it is; its copy is exported on the CPU, in float32.

    Args:
        model: an :class:`~aimwrap.AIM` or a :class:`~aimwrap.SecondLook`.
        path: of the file to write, ending in ``.onnx``.
        image_size: (H, W), or the side of square images; the preprocessing's if None.
        dynamic_size: whether to try for any image size. Where the backbone fixes it, a warning says so.
        class_names: K names; the model's own if None, or the classes' numbers where it has none.
        preprocessing: a mapping or NamedTuple with ``image_size``, ``mean`` and ``std``, and perhaps ``interpolation``
            (``"bicubic"``), ``crop`` (0.875, the share of the shorter side that the central crop keeps) and ``squash``
            (False); the model's own if None.
        images: your own normalised images (N, C, H, W) to compare on, in addition to seeded ones.
        tolerance: largest difference of logits and of contributions that passes, relative to the largest value.

    Returns:
        Where it is, which axes are free, and the parity measured.

    Raises:
        ImportError: if the extra ``export`` is not installed.
        ParityError: if the artefact computes something else; no file is written.
        RuntimeError: if torch is too old for the format.
        TypeError: if the model is neither.
        ValueError: if an argument does not fit, or the model cannot be exported.
    """
    return _export(_Onnx(), model, path, image_size, dynamic_size, class_names, preprocessing, images, tolerance)


_DEFAULTS: dict[str, Any] = export_onnx.__kwdefaults__ or {}


def export_program(model: nn.Module, path: str | Path, **arguments: Any) -> Exported:
    """Write a ``torch.export`` program, which ``torch.export.load(path).module()`` runs without this library.

    The metadata is the extra file ``aimwrap.json`` in it; what is exported stays on the model's device. All arguments,
    returns and errors as for :func:`export_onnx`; the path ends in ``.pt2``, and no extra is needed.
    """
    return _export(_Program(), model, path, **{**_DEFAULTS, **arguments})


def export_aotinductor(model: nn.Module, path: str | Path, **arguments: Any) -> Exported:
    """Compile the model ahead of time, for this kind of machine and for the model's device.

    ``torch._inductor.aoti_load_package(path)`` runs it, and its ``get_metadata()`` gives the metadata. It takes a C++
    compiler and a minute or more; ``dynamic_size=False`` takes less. Arguments, returns and errors as for
    :func:`export_onnx`; the path ends in ``.pt2``. No extra is needed, and a missing compiler is a RuntimeError.
    """
    return _export(_AotInductor(), model, path, **{**_DEFAULTS, **arguments})


class _Onnx:
    format: Format = "onnx"
    suffix = ".onnx"

    def __init__(self) -> None:
        _check_torch(self.format)
        try:
            import onnxruntime
            import onnxscript  # noqa: F401  # torch's exporter needs it, and says so less plainly
        except ImportError as error:
            raise ImportError('ONNX needs onnx, onnxscript and onnxruntime: pip install "aimwrap[export]"') from error
        self.onnxruntime = onnxruntime

    def write(self, program: Any, serving: ServingModel, path: Path, metadata: dict[str, str]) -> None:
        names = list(serving.output_names)
        onnx_program = torch.onnx.export(
            _with_plain_attention(program), (), input_names=["images"], output_names=names, dynamo=True, verbose=False
        )
        assert onnx_program is not None
        onnx_program.model.metadata_props.update(metadata)
        onnx_program.save(path)

    def load(self, path: Path) -> Runnable:
        session = self.onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(
            zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True)
        )


def _with_plain_attention(program: Any) -> Any:
    """Attention over windows of windows (Twins) spelled out: torch's converter to ONNX knows four dimensions only."""
    attention = torch.ops.aten.scaled_dot_product_attention.default
    calls = [node for node in program.graph.nodes if node.target is attention]
    if all(call.args[0].meta["val"].ndim == 4 for call in calls):
        return program
    return program.run_decompositions({attention: _plain_attention})


def _plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Softmax(Q K^T scale + mask) V, of any number of dimensions, as in evaluation."""
    weights = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        weights = weights + weights.new_full(weights.shape[-2:], -torch.inf).triu(1)
    if enable_gqa:
        raise NotImplementedError("grouped queries are not spelled out")  # no backbone of timm or torchvision has them
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else weights + attn_mask
    return weights.softmax(-1) @ value


class _Program:
    format: Format = "pt2"
    suffix = ".pt2"

    def write(self, program: Any, serving: ServingModel, path: Path, metadata: dict[str, str]) -> None:
        file = BytesIO()  # on a full disk, torch's own writer ends the process
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})
        path.write_bytes(file.getbuffer())

    def load(self, path: Path) -> Runnable:
        return torch.export.load(path).module()


class _AotInductor:
    format: Format = "aotinductor"
    suffix = ".pt2"

    def __init__(self) -> None:
        _check_torch(self.format)
        compilers = [os.environ.get("CXX"), "g++", "clang++", "cl"]
        if not any(shutil.which(compiler) for compiler in compilers if compiler):
            raise RuntimeError(
                "AOTInductor needs a C++ compiler, and found neither g++ nor clang++; install one, or set the "
                "environment variable CXX to its name"
            )

    def write(self, program: Any, serving: ServingModel, path: Path, metadata: dict[str, str]) -> None:
        torch._inductor.aoti_compile_and_package(
            without_rounding_up(program), package_path=str(path), inductor_configs={"aot_inductor.metadata": metadata}
        )

    def load(self, path: Path) -> Runnable:
        return torch._inductor.aoti_load_package(str(path))


def _export(
    writer: _Onnx | _Program | _AotInductor,
    model: nn.Module,
    path: str | Path,
    image_size: int | tuple[int, int] | None,
    dynamic_size: bool,
    class_names: Sequence[str] | None,
    preprocessing: Any,
    images: Tensor | None,
    tolerance: float,
) -> Exported:
    """All three exports, with the arguments of the first."""
    path = Path(path)
    if path.suffix != writer.suffix:
        raise ValueError(f"path must end in {writer.suffix} for the format {writer.format}, got {path}")
    serving = ServingModel(model)
    if writer.format == "onnx":
        serving.cpu()
    metadata = serving.metadata(class_names, preprocessing)
    size = _checked_size(image_size, serving, metadata)
    if images is not None and (images.ndim != 4 or tuple(images.shape[2:]) != size):
        raise ValueError(
            f"images must be (N, C, {size[0]}, {size[1]}), of the size that is exported, got {tuple(images.shape)}; "
            "normalise and resize them as for the model, or pass image_size= (--image-size)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    reason = None
    if dynamic_size and any(isinstance(part, Conv2dSame | MaxPool2dSame | AvgPool2dSame) for part in serving.modules()):
        # Not even tried: torch computed for ten minutes on a small EfficientNet-Lite0.
        reason = "the backbone pads as TensorFlow does, by rounded sizes, for which torch.export takes very long"
    with replacing(path, wait=False) as draft:
        for free in (True, False) if dynamic_size and reason is None else (False,):
            try:
                exported = _attempt(writer, serving, draft, metadata, size, free, images)
                break
            except Exception as error:  # the exporters have no error in common; the fixed size says whether it matters
                if is_full(error):
                    raise
                reason = first_line(error)
                if not free:
                    raise ValueError(_why_not(writer, serving, error)) from error
        _check_parity(exported, path, tolerance)
    if reason is not None:
        warnings.warn(
            f"{path} takes images of {size[0]} x {size[1]} only; for any size: {reason}. dynamic_size=False "
            "(--fixed-size) silences this warning",
            stacklevel=3,
        )
    return exported._replace(path=path)


def _attempt(
    writer: _Onnx | _Program | _AotInductor,
    serving: ServingModel,
    draft: Path,
    metadata: dict[str, str],
    size: tuple[int, int],
    dynamic_size: bool,
    images: Tensor | None,
) -> Exported:
    """Write a draft and compare it on several batch sizes, and image sizes where they are free."""
    channels, (height, width) = serving.first.in_channels, size
    device = next(serving.parameters()).device
    stride = serving.first.taps[-1].stride
    sizes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    tried = [(1, channels, height, width), (3, channels, height, width)]
    if dynamic_size:
        sizes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        tried += [(2, channels, height + stride, width), (1, channels, height + 1, width + stride // 2 + 1)]
    example = seeded_images((2, channels, height, width)).to(device)
    with torch.no_grad():
        program = torch.export.export(serving, (example,), dynamic_shapes=(sizes,), strict=False)
    for axis, allowed in program.range_constraints.items():  # torch may have narrowed one to the size of the example
        if allowed.is_int and allowed.upper < LARGEST_BATCH:
            raise ValueError(f"the backbone allows at most {allowed.upper} along axis {axis}, which is not any size")
    writer.write(program, serving, draft, metadata)
    batches = [seeded_images(shape).to(device) for shape in tried]
    if images is not None:
        batches.append(images.to(example))
    parity = measure_parity(serving, writer.load(draft), batches)
    dynamic = ("batch", "height", "width") if dynamic_size else ("batch",)
    return Exported(draft, writer.format, size, dynamic, parity, tuple(tuple(batch.shape) for batch in batches))


def _check_parity(exported: Exported, path: Path, tolerance: float) -> None:
    failed = [row for row in exported.parity if not row.holds(tolerance)]
    if not failed:
        return
    other = "dynamic_size=False (--fixed-size), or another" if "height" in exported.dynamic else "Another"
    raise ParityError(
        f"{path} was not written: it would not compute what the model computes: {'; '.join(map(str, failed))}; allowed "
        f"are {tolerance:.1e} and {LEAST_AGREEMENT:.1%}. It was tried on images of "
        f"{', '.join(map(str, exported.tried))}. {other} version of torch or of the format's runtime may do better; "
        "in Python, tolerance= allows more",
        exported.parity,
    )


def _check_torch(wanted: Format) -> None:
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH[wanted]:
        needed = ".".join(map(str, OLDEST_TORCH[wanted]))
        raise RuntimeError(
            f"{wanted} needs torch {needed} or newer, this is {torch.__version__}: pip install -U torch, or write a "
            "torch.export program instead (export_program; --format pt2)"
        )


def _checked_size(
    asked: int | Sequence[int] | None, serving: ServingModel, metadata: dict[str, str]
) -> tuple[int, int]:
    """(H, W) to export with, tried on the model: an exporter's own message about a wrong size does not help."""
    own = json.loads(metadata["preprocessing"])["image_size"]
    sides = own if asked is None else [asked, asked] if isinstance(asked, int) else list(asked)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size must be (H, W) in pixels, or the side of square images, got {asked!r}")
    height, width = sides
    model = serving.first
    least, probed = model._least_side, " x ".join(map(str, model._recipe.image_shape[1:]))
    if min(sides) < least:
        raise ValueError(
            f"image_size must be at least {least} x {least}, one position of {model.variant}'s deepest map, "
            f"got {height} x {width}; {probed} works"
        )
    like = next(serving.parameters())
    try:
        with torch.no_grad():
            serving(torch.zeros(1, model.in_channels, height, width, device=like.device))
    except Exception as error:  # the user's forward may raise anything
        raise ValueError(
            f"image_size must be one that the backbone takes, got {height} x {width}: {first_line(error)}; {probed} "
            "works"
        ) from error
    return height, width


def _why_not(writer: _Onnx | _Program | _AotInductor, serving: ServingModel, error: Exception) -> str:
    tapped = serving.first.backbone
    hint = (
        f". {tapped.tapped_architecture} is tapped by hooks, since no graph of it could be traced, and such a backbone "
        "cannot be exported; most often its forward makes decisions that depend on the input"
        if isinstance(tapped.tapped_program, HookProgram)
        else ""
    )
    if writer.format == "onnx" and not hint:
        hint = f". This is torch {torch.__version__}; a newer one, with a newer onnxscript, may convert it"
    return f"{serving.first.variant} cannot be exported to {writer.format}: {first_line(error)}{hint}"
