"""Pooling: the maximum or the mean of every window, channel by channel.

    x (N, D, H, W, C)   window (T, R, S)   y (N, O, P, Q, C)

Window (o, p, q) starts at pixel (o, p, q) * stride - pad. The outputs may be more than fit
(ceil_mode): the last windows then hang over the padded image. Pixels outside the image never win a
maximum and add 0 to a mean.

Forward, a block of output rows stays in the first-level cache while the taps of the window pass
over it one after another, each in long vector loops (`windows.find_runs`). Backward, every thread
owns rows of dx and collects what falls into them.
"""

from fastcnn.kernels.cpu.avg_pool import avg_pool_backward_input, avg_pool_forward
from fastcnn.kernels.cpu.max_pool import max_pool_backward_input, max_pool_forward

__all__ = [
    "avg_pool_backward_input",
    "avg_pool_forward",
    "max_pool_backward_input",
    "max_pool_forward",
]
