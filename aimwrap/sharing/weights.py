"""``model.safetensors``: a model's state with its checksum, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .._files import checksum
from .config import Config


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state.

    Args:
        model: the model, anywhere but on the meta device.
        path: of the file.

    Raises:
        ValueError: if its state is not made of tensors with values.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta:
            came = "a tensor without values" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the state of a saved model must be tensors, got {came} for {name!r}")
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if storage in seen else tensor  # safetensors holds no tensor under two names
        seen.add(storage)
    save_file(state, path, metadata={"format": "pt"})


def check_whole(model: nn.Module) -> None:
    """Refuse a model of which this process holds a share only, as FSDP2 leaves it.

    Raises:
        ValueError: if a parameter is a ``DTensor``.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):  # a DTensor's; not every build of torch has the class to import
            raise ValueError(
                f"a saved model must hold its weights itself, and {name!r} is spread over processes (a "
                f"{type(parameter).__name__}, as fully_shard makes them); gather them in all processes by "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options=StateDictOptions("
                "full_state_dict=True, cpu_offload=True)), load them into an AIM that was built alike, and save that"
            )


def read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    """Read the weights that a config describes.

    Args:
        path: of the file.
        config: with the file's size and checksum.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        ValueError: if the file is not the one described, or no safetensors file.
    """
    again = "download or copy it again, or save the model again"
    size = path.stat().st_size
    if size < config.bytes:
        raise ValueError(f"{path} is cut off: it has {size} of {config.bytes} bytes; {again}")
    if checksum(path) != config.sha256:
        raise ValueError(
            f"{path} is not the file that its config.json describes (the SHA-256 differs): it was changed or swapped, "
            f"or saving was interrupted; {again}"
        )
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:  # the latter two for dtypes that this version cannot hold
        raise ValueError(f"{path} cannot be read as a safetensors file ({error}); {again}") from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], channels_last: tuple[str, ...], strict: bool) -> None:
    """Load weights into a model, with the dtypes and the memory layout that they were saved with.

    Args:
        model: the model. Nothing of it changes unless the weights fit.
        weights: the tensors by name.
        channels_last: top-level parts of the model that have this memory format.
        strict: whether names must agree; shapes must in any case.

    Raises:
        ValueError: if they do not fit, naming what differs.
    """
    state = model.state_dict(keep_vars=True)
    differing = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(state[name].shape)} in the model"
        for name in state.keys() & weights.keys()
        if state[name].shape != weights[name].shape
    ]
    if strict:
        differing += [f"the file has no {name}" for name in state if name not in weights]
        differing += [f"the model has no {name}" for name in weights if name not in state]
    if differing:
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"{'; '.join(sorted(differing)[:3])}{more}")
    for part, module in model.named_children():
        dtypes = {w.dtype for name, w in weights.items() if name.startswith(f"{part}.") and w.is_floating_point()}
        if len(dtypes) == 1:
            module.to(dtypes.pop())  # with the buffers that are not saved
        if part in channels_last:
            module.to(memory_format=torch.channels_last)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in weights:
            tensor.data = tensor.data.to(weights[name].dtype)  # in place: it may have two names
    model.load_state_dict(weights, strict=strict)
