#!/usr/bin/env bash
# PyTorch 2.13.0, gradients of activations at NaN, float32 on the CPU.
#
# Expected: one function has one gradient at NaN, wherever in an array the NaN stands.
# Behaviour: the vector body and the scalar remainder of a loop disagree: for the first elements of an array of 33, which are
# computed in vectors, relu6 and hardtanh give 0 and elu and hardswish NaN; for the last one, the remainder, all give 1, as
# they do for an array of one element. Whether a NaN passes depends on its position and on the array's length.
# Seen (function, gradient of the first and of the last of 33, and of a single element):
#     relu 1.0 1.0 1.0
#     relu6 0.0 1.0 1.0
#     hardtanh 0.0 1.0 1.0
#     elu nan 1.0 1.0
#     hardswish nan 1.0 1.0
#     silu nan nan nan
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6

cat >"$work/show.py" <<'PYTHON'
import torch
import torch.nn.functional as functions


def gradient(name, length):
    x = torch.full((length,), float("nan"), requires_grad=True)
    getattr(functions, name)(x).sum().backward()
    return x.grad.tolist()


for name in ("relu", "relu6", "hardtanh", "elu", "hardswish", "silu"):
    many = gradient(name, 33)
    print(name, many[0], many[-1], *gradient(name, 1))
PYTHON
# Vectors of 256 bits, which nearly all processors have: the same code on any of them.
ATEN_CPU_CAPABILITY=avx2 "$work/env/bin/python" "$work/show.py" >"$work/seen"
cat "$work/seen"
diff "$work/seen" <(sed -n 's/^#     //p' "$0")
