#!/usr/bin/env bash
# safetensors 0.8.0, numpy.save of arrays that are not C-contiguous.
#
# Expected: the values come back as they were, since the file holds a shape and no strides; else an error.
# Behaviour: 0.7.0 makes a contiguous copy and gives the values back. 0.8.0 writes the buffer as it lies in memory under the
# array's shape, without an error: a transposed array comes back with its values in other places, and every second
# column of an array comes back as its first elements.
# Seen:
#     0.7.0 transposed [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#     0.7.0 strided [[0.0, 2.0], [4.0, 6.0]]
#     0.8.0 transposed [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#     0.8.0 strided [[0.0, 1.0], [2.0, 3.0]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/show.py" <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load, save

arrays = {
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2],
}
for name, array in arrays.items():
    print(safetensors.__version__, name, load(save({"x": array}))["x"].tolist())
PYTHON

for version in 0.7.0 0.8.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet "safetensors==$version" numpy==2.2.6
    "$work/$version/bin/python" "$work/show.py"
done >"$work/seen"
cat "$work/seen"
diff "$work/seen" <(sed -n 's/^#     //p' "$0")
