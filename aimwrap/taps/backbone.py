"""A backbone that stops at its deepest tap and returns the tapped maps: what :class:`~aimwrap.AIM` runs."""

from __future__ import annotations

from torch import Tensor, nn

from .graph import GraphProgram
from .layout import Layout
from .usage import OwnCodeProgram

Program = GraphProgram | OwnCodeProgram  # how the tapped outputs of a backbone are computed


class TappedBackbone(nn.Module):
    """A backbone that stops at its deepest tap and returns the tapped maps.

    Its parameters are the backbone's own, under their own names, so the backbone's checkpoints load into it. What comes
    after the deepest tap is removed: it is neither run nor trained. It follows ``train()`` and ``eval()``, also after
    ``deepcopy`` and ``pickle``.

    Args:
        model: the backbone whose parameters are shared.
        program: how its tapped outputs are computed.
        layouts: for each of them, how it becomes an (N, C, H, W) map.
    """

    def __init__(self, model: nn.Module, program: Program, layouts: dict[str, Layout]) -> None:
        super().__init__()
        # Attributes, as the methods below, have names that no submodule of a backbone will have.
        self.tapped_architecture = type(model).__name__
        self._aimwrap_program = program.settled(self, model)
        self._aimwrap_layouts = layouts
        self._aimwrap_frozen: frozenset[str] = frozenset()  # modules that train() leaves in evaluation mode
        self._aimwrap_held: frozenset[str] = frozenset()  # maps that are computed as in evaluation
        self.training = model.training

    @property
    def tapped_program(self) -> Program:
        """Computes the tapped outputs."""
        return self._aimwrap_program

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the backbone on images (N, C, H, W): the tapped maps (N, C_l, H_l, W_l) by name."""
        outputs = self._aimwrap_program.run(self, images)
        return {name: layout.to_map(outputs[name], images) for name, layout in self._aimwrap_layouts.items()}

    def freeze_tapped(self, up_to: str | None = None) -> None:
        """Stop training everything, or what one map depends on; such modules stay in evaluation mode.

        Args:
            up_to: name of a map, or None for all of the backbone.
        """
        modules = dict(self.named_modules(remove_duplicate=False))
        parts = {**modules, **dict(self.named_parameters(remove_duplicate=False))}
        names = {""} if up_to is None else self._aimwrap_program.names_up_to(up_to)
        for name in names & parts.keys():
            parts[name].requires_grad_(False)
        self._aimwrap_frozen |= names & modules.keys()
        self._aimwrap_held |= {up_to} if up_to is not None else set()
        self._aimwrap_program.freeze(tuple(sorted(self._aimwrap_held)))
        self._hold_frozen()

    def freeze_tapped_statistics(self) -> None:
        """Keep norms with running statistics in evaluation mode; their weights go on training."""
        norms = {name for name, m in self.named_modules() if getattr(m, "running_mean", None) is not None}
        self._aimwrap_frozen |= norms
        self._hold_frozen()

    def unfreeze_tapped(self) -> None:
        """Train everything again, from the next :meth:`train` on."""
        self.requires_grad_(True)
        self._aimwrap_frozen, self._aimwrap_held = frozenset(), frozenset()
        self._aimwrap_program.freeze(())

    def train(self, mode: bool = True) -> TappedBackbone:
        """Switch to training or evaluation mode, as ``nn.Module.train`` does, except for what is frozen."""
        super().train(mode)
        self._aimwrap_program.train(mode)
        self._hold_frozen()
        return self

    def _hold_frozen(self) -> None:
        for name in self._aimwrap_frozen:
            for module in self.get_submodule(name).modules():
                module.training = False

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        taken = f"{self.tapped_architecture} up to its deepest tap"
        return f"{type(self).__name__}({taken}, {parameters / 1e6:.2f} M parameters)"
