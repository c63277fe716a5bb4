"""Attribution maps of AIM and of plain classifiers, by captum and grad-cam (extra ``attribution``).

:class:`LogitsView` shows AIM to such libraries as the classifier they expect; :func:`cam_layer_of` finds the layer that
they hook on a plain one. Neither needs the extra. The four functions call the libraries with the choices made here and
leave the model as they found it.
"""

from .methods import grad_cam, guided_backprop, guided_grad_cam, score_cam
from .view import LogitsView, cam_layer_of

__all__ = ["LogitsView", "cam_layer_of", "grad_cam", "guided_backprop", "guided_grad_cam", "score_cam"]
