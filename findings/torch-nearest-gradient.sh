#!/usr/bin/env bash
# PyTorch 2.13.0, torch.nn.functional.interpolate(mode="nearest", scale_factor=1.1) of 5 pixels to 5.
#
# Expected: the gradient by the input is the transpose of the forward pass: an output's gradient goes to the pixel it copied.
# Behaviour: forward in 1-D and 3-D divides by the factor given (pixels 0 0 1 2 3), while backward finds the pixels from the two
# sizes alone (0 1 2 3 4), so that most gradients go to pixels that were not read. In 2-D small images go by the sizes both ways,
# so the same factor copies other pixels than in 1-D and 3-D.
# Seen (rank, pixels read forward, pixels that the gradients go to):
#     1 [0, 0, 1, 2, 3] [0, 1, 2, 3, 4]
#     2 [0, 1, 2, 3, 4] [0, 1, 2, 3, 4]
#     3 [0, 0, 1, 2, 3] [0, 1, 2, 3, 4]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6

cat >"$work/show.py" <<'PYTHON'
import torch
from torch.nn.functional import interpolate

for rank in (1, 2, 3):
    pixels = torch.arange(5.0).expand((1, 1, *(5,) * rank)).clone().requires_grad_()
    row = interpolate(pixels, scale_factor=1.1, mode="nearest")[(0,) * (rank + 1)]
    gradients = [torch.autograd.grad(one, pixels, retain_graph=True)[0][(0,) * (rank + 1)] for one in row]
    print(rank, [int(one) for one in row], [int(gradient.argmax()) for gradient in gradients])
PYTHON
"$work/env/bin/python" "$work/show.py" >"$work/seen"
cat "$work/seen"
diff "$work/seen" <(sed -n 's/^#     //p' "$0")
