"""Pooling: the maximum, the mean or the norm of every window, channel by channel.

    x (N, D, H, W, C)   window (T, R, S)   y (N, O, P, Q, C)

Window (o, p, q) starts at pixel (o, p, q) * stride - pad. The outputs may be more than fit
(ceil_mode): the last windows then hang over the padded image. Pixels outside the image never win a
maximum and add 0 to a mean.

All of it is one loop: for a few vectors of channels, over the taps of their window (`pooling/window_code.py`), with
tables that say where taps are (`pooling/window_tables.py`). Backward, a pixel collects from the windows over it by the
transposed tables; where windows stand side by side, each writes its own pixels.
"""

from fastcnn.kernels.cpu.pooling.average import (
    adaptive_avg_pool_backward_input,
    adaptive_avg_pool_forward,
    avg_pool_backward_input,
    avg_pool_forward,
    gaussian_pool_backward_input,
    gaussian_pool_forward,
)
from fastcnn.kernels.cpu.pooling.indices import adaptive_max_pool_positions, max_pool_positions
from fastcnn.kernels.cpu.pooling.lp import lp_pool_backward_input, lp_pool_forward
from fastcnn.kernels.cpu.pooling.max import (
    adaptive_max_pool_backward_input,
    adaptive_max_pool_forward,
    max_pool_backward_input,
    max_pool_forward,
)

__all__ = [
    "adaptive_avg_pool_backward_input",
    "adaptive_avg_pool_forward",
    "adaptive_max_pool_backward_input",
    "adaptive_max_pool_forward",
    "adaptive_max_pool_positions",
    "avg_pool_backward_input",
    "avg_pool_forward",
    "gaussian_pool_backward_input",
    "gaussian_pool_forward",
    "lp_pool_backward_input",
    "lp_pool_forward",
    "max_pool_backward_input",
    "max_pool_forward",
    "max_pool_positions",
]
