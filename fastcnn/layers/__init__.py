"""The layers, and the table of their names: the only classes that a model file can ask for.

A layer is public when the `__all__` of its file names it: this file and `fastcnn` take all of these.
"""

from typing import TYPE_CHECKING

from fastcnn.layers.activation import *
from fastcnn.layers.adaptive_pool import *
from fastcnn.layers.base import *
from fastcnn.layers.base import Layer
from fastcnn.layers.batch_norm import *
from fastcnn.layers.conv import *
from fastcnn.layers.conv_transpose import *
from fastcnn.layers.dropout import *
from fastcnn.layers.gain import *
from fastcnn.layers.join import *
from fastcnn.layers.linear import *
from fastcnn.layers.local_norm import *
from fastcnn.layers.lp_pool import *
from fastcnn.layers.norm import *
from fastcnn.layers.pad import *
from fastcnn.layers.pool import *
from fastcnn.layers.resample import *
from fastcnn.layers.separable import *
from fastcnn.layers.softmax import *
from fastcnn.layers.user_function import *
from fastcnn.layers.view import *

_CLASSES: dict[str, type[Layer]] = {
    name: kind for name, kind in tuple(globals().items()) if isinstance(kind, type) and issubclass(kind, Layer)
}
LAYERS = {name: kind for name, kind in _CLASSES.items() if kind is not Layer and not kind.holds_code}

if not TYPE_CHECKING:  # type checkers follow the imports above
    __all__ = ["LAYERS", *sorted(_CLASSES)]
