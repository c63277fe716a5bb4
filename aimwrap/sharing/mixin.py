"""``save_pretrained``, ``from_pretrained`` and ``push_to_hub``: as in huggingface_hub, over our own files."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download

from .._files import checksum, replacing_together
from ..base import Savable
from ..preprocessing import Preprocessing
from .card import MARKER, Metric, model_card
from .files import (
    CONFIG,
    WAY_OUT,
    WEIGHTS,
    Config,
    check_whole,
    load_weights,
    read_config,
    read_weights,
    write_weights,
)
from .rebuilding import Given, check_savable, config_of, rebuild

_CARD = "README.md"
_ELSEWHERE = {  # what save_pretrained takes in transformers, diffusers and huggingface_hub
    "safe_serialization": "the weights are always saved as safetensors, so leave it out",
    "is_main_process": "call it in one process only: if torch.distributed.get_rank() == 0",
    "max_shard_size": "the weights are always one file, so leave it out",
    "state_dict": "the model's own weights are saved; load others first, by model.load_state_dict(state_dict)",
    "config": "config.json is written from the model itself, so leave it out",
    "model_card_kwargs": "metrics= is what the card shows; model.generate_model_card() gives a card to change",
}


class Shareable(Savable):
    """Saving, loading and sharing, which :class:`~aimwrap.AIM` and :class:`~aimwrap.SecondLook` inherit."""

    @classmethod
    def _rebuilt(cls, config: Config, backbone: Given, where: str) -> Self:
        """Build the model that a config describes, with fresh weights."""
        if config["second_look"] is not None:
            raise ValueError(f"{where} holds a second look: load both by SecondLook.from_pretrained({where!r})")
        base = next(kind for kind in cls.__mro__ if Shareable in kind.__bases__)
        return cast("Self", rebuild(cls, base, config, backbone, where))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        metrics: Mapping[str, Metric] | None = None,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Save the model into a folder: ``config.json``, ``model.safetensors`` and ``README.md``, a model card.

        Not saved are what is frozen, the training mode, and the backbone's classifier, which is not part of the model.
        A model inside ``DistributedDataParallel`` is saved as ``wrapper.module``, by one process.

        Args:
            save_directory: the folder; it is made if it is not there. A model that was saved there is replaced; a card
                only while it has the line that says so. Links in it become files; the files that they point to stay.
            metrics: what to show in the card, by name: a number each, or ``(value, low, high)``. NaN is shown as
                undefined.
            class_names: assigned to ``model.class_names`` first, unless None.
            preprocessing: assigned to ``model.preprocessing`` first, unless None.
            push_to_hub: also push it, as :meth:`push_to_hub` does.
            repo_id: where to; the folder's name if None.
            **push_to_hub_kwargs: the other arguments of :meth:`push_to_hub`.

        Returns:
            The commit's address if pushed, else None.

        Raises:
            TypeError: if class names, preprocessing or metrics are of the wrong type, or an argument is unknown.
            ValueError: if there is not one name for each class, a value is infinite or outside of its interval, or the
                weights are spread over processes.

        Example:
            >>> import tempfile, torch
            >>> from aimwrap import AIM
            >>> model = AIM("torchvision/resnet18", backbone_kwargs={"num_classes": 2}).eval()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder, class_names=["cat", "dog"], metrics={"accuracy": (0.9, 0.88, 0.92)})
            ...     again = AIM.from_pretrained(folder)
            >>> images = torch.randn(1, 3, 64, 64)
            >>> again.class_names, torch.equal(again(images).logits, model(images).logits)
            (('cat', 'dog'), True)
        """
        _check_keywords(push_to_hub_kwargs)
        if not push_to_hub and (repo_id is not None or push_to_hub_kwargs):
            unused = [*(["repo_id"] if repo_id is not None else []), *push_to_hub_kwargs]
            raise TypeError(
                f"save_pretrained: {', '.join(unused)} is used only for pushing; add push_to_hub=True, or remove it"
            )
        if not isinstance(save_directory, str | os.PathLike) or os.path.isfile(save_directory):
            raise TypeError(f"save_directory must be a folder, or one to make, got {save_directory!r}")
        check_whole(self)
        aim, second_look = self._looks()
        if second_look is not None and Shareable not in type(aim).__bases__:
            raise TypeError(
                f"a second look at a {type(aim).__name__} cannot be saved, since an AIM would be loaded; save "
                "second.first and second.classifier.state_dict() each"
            )
        before = self.class_names, self.preprocessing
        folder = Path(save_directory).expanduser()
        try:
            check_savable(self, class_names, preprocessing)
            card = model_card(self, metrics, ".")  # what is wrong shows before anything is written
            folder.mkdir(parents=True, exist_ok=True)
            old = folder / _CARD
            own_card = old.exists() and MARKER not in old.read_text(encoding="utf-8", errors="replace")
            paths = [folder / name for name in (WEIGHTS, CONFIG, *(() if own_card else (_CARD,)))]
            with replacing_together(*paths) as (weights, config, *readme):
                write_weights(self, weights)
                described = config_of(self, weights.stat().st_size, checksum(weights))
                config.write_text(described, encoding="utf-8")
                try:
                    read_config(config)
                except ValueError as error:  # what would be refused when it is loaded is not saved
                    wrong = str(error).removeprefix(f"{config}: ").removesuffix(WAY_OUT)
                    raise ValueError(f"the model cannot be saved as it is: {wrong}") from error
                weights.chmod(config.stat().st_mode)  # safetensors' newer versions let the owner alone read its files
                for path in readme:
                    path.write_text(str(card), encoding="utf-8")
        except BaseException:
            self.class_names, self.preprocessing = before
            raise
        for kind in (kind for kind in ("onnx", "pt2") if (folder / f"model.{kind}").exists()):
            message = f"{folder / 'model'}.{kind} is of the model that was here before, and stays; write it again: "
            warnings.warn(f"{message}aimwrap export {folder} --format {kind}", stacklevel=2)
        if own_card and metrics:
            warnings.warn(
                f"{folder / _CARD} is your own and was kept, so the metrics are not in it; "
                "model.generate_model_card(metrics) writes a new one to copy from",
                stacklevel=2,
            )
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.resolve().name, metrics=metrics, **push_to_hub_kwargs)
        return None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        backbone: Given = None,
        map_location: str | torch.device | None = None,
        strict: bool = True,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Load a model from a folder or from the Hugging Face Hub.

        Files are data: they are checked, and run no code. A backbone is built by a name that timm or torchvision
        knows, without weights of its own, so from a folder nothing is downloaded. The model comes back in evaluation
        mode, with nothing frozen, and with the saved dtypes.

        Args:
            pretrained_model_name_or_path: a folder, or a repository's name (``"owner/name"``).
            backbone: a backbone like the saved one's, for a model that was not built by name. Its weights are
                overwritten, as AIM shares them. A pair of a second look with a network of its own: the first look's and
                this one, None for one that was built by name.
            map_location: the device to put the model on. None leaves it on the CPU, or where the given backbone is.
            strict: refuse weights whose names differ from the model's. If False, what the file does not have stays
                randomly initialised, or the given backbone's.
            force_download: download again what the Hub's cache has.
            token: the Hub's.
            cache_dir: the Hub's cache.
            local_files_only: look into the Hub's cache only.
            revision: a branch, tag or commit of the repository.

        Returns:
            The model.

        Raises:
            FileNotFoundError: if there is no such folder or repository, or a file is missing.
            TypeError: if the backbone is not a module, or the class's ``__init__`` does not take AIM's arguments.
            ValueError: if a file is damaged, of something else or too new, or the backbone does not fit.
        """
        source = pretrained_model_name_or_path
        if not isinstance(source, str | Path):
            raise TypeError(f"from_pretrained takes a folder or a repository's name, got {type(source).__name__}")
        # A folder here, and not a repository: a Path, an existing path, or written like a path.
        if isinstance(source, Path) or os.path.exists(source) or source.startswith((".", "/", "~")) or "\\" in source:
            config_path, weights_path = (_local(Path(source).expanduser(), name) for name in (CONFIG, WEIGHTS))
        else:
            hub = {"force_download": force_download, "token": token, "cache_dir": cache_dir, "revision": revision}
            config_path, weights_path = (
                _downloaded(str(source), name, local_files_only=local_files_only, **hub) for name in (CONFIG, WEIGHTS)
            )
        config = read_config(config_path)
        weights = read_weights(weights_path, config["weights"])
        model = cls._rebuilt(config, backbone, str(source))
        try:
            load_weights(model, weights, config["channels_last"], strict)
        except ValueError as error:
            raise ValueError(
                f"{weights_path}: the weights do not fit {config['backbone_was']} wrapped as {config['variant']}: "
                f"{error}. If the backbone was changed after it was built, change one in the same way and pass it as "
                "backbone= (--backbone); strict=False leaves out what only one of the two has"
            ) from error
        model.eval()
        return model if map_location is None else model.to(map_location)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: Mapping[str, Metric] | None = None,
        commit_message: str = "Save a model with aimwrap",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Save the model and upload it to the Hugging Face Hub, whose repository is made if it is not there.

        Args:
            repo_id: the repository, ``"owner/name"``.
            metrics: as in :meth:`save_pretrained`.
            commit_message: of the commit.
            private: whether a new repository is private; the owner's own default if None.
            token: the Hub's; the one that you logged in with if None.
            branch: the main one if None.
            create_pr: propose a change instead of making it.

        Returns:
            The commit's address.
        """
        hub = HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, metrics=metrics)
            repository = hub.create_repo(repo_id, exist_ok=True, private=private)
            self.generate_model_card(metrics, repository.repo_id).save(Path(folder, _CARD))
            commit = hub.upload_folder(
                repo_id=repository.repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
            )
        return str(commit)

    def generate_model_card(self, metrics: Mapping[str, Metric] | None = None, location: str = ".") -> ModelCard:
        """Write the model card that :meth:`save_pretrained` saves.

        Args:
            metrics: as in :meth:`save_pretrained`.
            location: where the card says to load the model from: a folder, or a repository's name.

        Returns:
            The card; ``str(card)`` is its text.
        """
        check_savable(self, None, None)
        return model_card(self, metrics, location)


def _check_keywords(given: Mapping[str, Any]) -> None:
    """Refuse arguments that neither saving nor pushing knows, and name what replaces them here."""
    saving, pushing = (
        [name for name, p in inspect.signature(method).parameters.items() if p.kind is p.KEYWORD_ONLY]
        for method in (Shareable.save_pretrained, Shareable.push_to_hub)
    )
    for name in given:
        if name not in pushing:
            meant = _ELSEWHERE.get(name) or f"it takes {', '.join(dict.fromkeys([*saving, *pushing]))}"
            raise TypeError(f"save_pretrained() got an unexpected keyword argument {name!r}; {meant}")


def _local(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_file():
        return path
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file; pass the folder that it is in, {str(folder.parent)!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; pass one that model.save_pretrained wrote")
    here = ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:5]) or "nothing"
    raise FileNotFoundError(
        f"{folder} has no {name}; it contains {here}. It was not written by model.save_pretrained, or saving was "
        "interrupted"
    )


def _downloaded(repo_id: str, name: str, **arguments: Any) -> Path:
    try:
        return Path(hf_hub_download(repo_id, name, **arguments))
    except (OSError, ValueError) as error:  # what the Hub's client raises comes from these two
        raise FileNotFoundError(
            f"{repo_id!r} is not a folder here, and not a repository whose {name} can be read: {error}"
        ) from error
