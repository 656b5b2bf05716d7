#!/usr/bin/env bash
# Numba 0.68.1, a compiled function called from Python with a named tuple (typing.NamedTuple) of eight integers.
#
# Expected (the guess written down before the run): the call takes about as long as with a plain tuple of the same
# integers, since both have one type for good and the dispatcher knows it; at most twice as long.
# Behaviour: 0.64 us against 0.18 us, and with an array in the place of the last integer 0.76 us against 0.24 us: the
# class alone makes a call more than three times as long. (Why was not traced.)
# Seen (what is passed, and whether its call takes more than twice that with a plain tuple of the same):
#     integers True
#     integers and an array True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6

cat >"$work/show.py" <<'PYTHON'
import sys
from timeit import repeat
from typing import NamedTuple

import numba
import numpy as np


class Eight(NamedTuple):
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    g: int
    h: object


@numba.njit
def first(values):
    return values[0]


for name, last in (("integers", 8), ("integers and an array", np.zeros(3))):
    named = Eight(1, 2, 3, 4, 5, 6, 7, last)
    times = []
    for values in (tuple(named), named):
        first(values)
        times.append(min(repeat(lambda: first(values), number=5000, repeat=9)) / 5000)
    print(f"{name}: {times[0] * 1e6:.2f} and {times[1] * 1e6:.2f} us", file=sys.stderr)
    print(name, times[1] > 2 * times[0])
PYTHON
"$work/env/bin/python" "$work/show.py" >"$work/seen"
cat "$work/seen"
diff "$work/seen" <(sed -n 's/^#     //p' "$0")
