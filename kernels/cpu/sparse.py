"""What sparse coding does element by element: shrinkage, and the sums and steps of conjugate gradients.

    z, x, r, d, q (N, M) hold the M numbers of each of N images   penalty, sums (N,) in float64

Every image has step sizes and sums of its own, so that its result does not depend on its batch. A task is a block of
one image; its sum is kept in LANES partial sums, as in a single one every addition would wait for the one before.

Shrinkage by p < 1 leaves 0 up to a threshold. Above it, with n = 1 / (1 - p), c = p / beta and z > 0, the derivative
vanishes at x = z - c y where y = x^(-1 / n), so that y is a root of

    1 - y^n (z - c y) = 0,   y * z^(1 / n) a function of s = c * z^(p - 2) alone, for which a polynomial is near enough.

z^(-1 / n) comes from the bits of z and a step of Householder's; then Newton's steps for y, one in float32 and two in
float64, end at the last bits of x: there is one division, and no root. x must not be z.
Source: Krishnan and Fergus 2009 for the shrinkage; Zeiler, Krishnan, Taylor and Fergus 2010 for its use.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.runtime.workspace import scratch

BLOCK = 1 << 15  # elements of a task
LANES = 256  # partial sums of a task: enough vectors that none waits for its last addition
WIDE = np.dtype(np.float64)  # of sums, but for the lanes of shrinkage: two widths in its loop cost half of its speed
SMALL_SHARE = 1e-12  # of 1: float64 sees it, float32 does not
DEGREE = 7  # of the polynomial that starts Newton's steps, within 3e-5

# The bits of a float, read as a whole number, are nearly its logarithm: a constant - bits / n are those of a number
# within 4% of the inverse root, with the bias of the exponent lowered by 0.05 to halve the largest error.
BIAS_LOWERED = 0.05
LAYOUTS = {4: (np.int32, 127, 23), 8: (np.int64, 1023, 52)}  # bits as integers, bias, bits of the mantissa


@jit(inner=True)
def block_of(task, partial, size):
    """Return the image of a task, its block there, and the block's first and last element."""
    n, block = task // partial.shape[1], task % partial.shape[1]
    return n, block, block * BLOCK, min(size, block * BLOCK + BLOCK)


@jit(inner=True)
def in_order(lanes):
    """Return the sum of the partial sums."""
    total = 0.0
    for l in range(LANES):
        total += lanes[l]
    return total


@jit(inner=True)
def add_blocks(partial, sums):
    """Fill sums with those of each image's blocks, in order."""
    for n in range(sums.size):
        total = 0.0
        for block in range(partial.shape[1]):
            total += partial[n, block]
        sums[n] = total


def sum_space(a: np.ndarray, kind: np.dtype = WIDE) -> tuple[np.ndarray, np.ndarray]:
    """Return scratch for the sums of an (N, M) array: lanes of each thread, and the sums of each block."""
    N, M = a.shape
    threads, blocks = threads_for(a.size > SERIAL_ELEMENTS), max(1, -(-M // BLOCK))
    lanes = scratch("sparse lanes", threads * LANES, kind)[: threads * LANES]
    partial = scratch("sparse sums", N * blocks, WIDE)[: N * blocks]
    return lanes.reshape(threads, LANES), partial.reshape(N, blocks)


@jit(inner=True)
def soft_block(task, thread, z, threshold, x, lanes, partial):
    """Shrink a block by p = 1: the soft threshold."""
    n, block, first, last = block_of(task, partial, z.shape[1])
    given, found, sums, zero = z[n], x[n], lanes[thread], x.dtype.type(0)
    sums[:] = 0
    for start in range(first, last, LANES):
        for l in range(min(LANES, last - start)):
            v = given[np.uintp(start + l)]
            a = abs(v)
            over = zero if a <= threshold else a - threshold
            found[np.uintp(start + l)] = -over if v < zero else over
            sums[np.uintp(l)] += over
    partial[n, block] = in_order(sums)


@jit(inner=True)
def near(w, s):
    """Return the polynomial with these coefficients, the constant first."""
    return w[0] + s * (w[1] + s * (w[2] + s * (w[3] + s * (w[4] + s * (w[5] + s * (w[6] + s * w[7]))))))


@jit(inner=True)
def root_block(task, thread, z, bits, numbers, x, guess, lanes, partial):
    """Shrink a block by p = 1/2 (n = 2) or, with `cubic`, p = 2/3 (n = 3); bits and guess are z and x as integers."""
    magic, wrap, threshold, c, cubic, w = numbers
    at, block, first, last = block_of(task, partial, z.shape[1])
    given, found, sums, pattern, guessed = z[at], x[at], lanes[thread], bits[at], guess[at]
    kind = x.dtype.type
    zero, one, n = kind(0), kind(1), kind(3) if cubic else kind(2)
    h1 = one / n
    h2, h3 = h1 * (one + h1) / kind(2), h1 * (one + h1) * (kind(2) + h1) / kind(6)
    double = one + kind(SMALL_SHARE) > one  # known when this is compiled
    sums[:] = 0
    for begin in range(first, last, LANES):
        count = min(LANES, last - begin)
        for l in range(count):
            b = kind(pattern[np.uintp(begin + l)])
            guessed[np.uintp(begin + l)] = guess.dtype.type(magic - h1 * (b + wrap if b < zero else b))
        for l in range(count):
            v, k = given[np.uintp(begin + l)], found[np.uintp(begin + l)]
            a = abs(v)
            power = k * k * (k if cubic else one)
            e = one - a * power
            k += k * e * (h1 + e * (h2 + e * h3))
            y = k * near(w, c * k * k * k * (k if cubic else one))
            power = y * y * (y if cubic else one)
            y += y * (one - power * (a - c * y)) / (n - c * y * power)
            if double:
                power = y * y * (y if cubic else one)
                y += y * (one - power * (a - c * y)) / (n - c * y * power)
            over = zero if a <= threshold else a - c * y
            found[np.uintp(begin + l)] = -over if v < zero else over
            sums[np.uintp(l)] += zero if a <= threshold else over * y
    partial[at, block] = in_order(sums)


@jit
def shrink_soft(team, z, threshold, x, lanes, partial, penalty):
    """Do `shrink` for p = 1."""
    share(team, partial.size, soft_block, (z, x.dtype.type(threshold), x, lanes, partial))
    add_blocks(partial, penalty)


@jit
def shrink_root(team, z, bits, numbers, x, guess, lanes, partial, penalty):
    """Do `shrink` for p < 1, with the numbers in the arrays' own precision."""
    (magic, wrap, threshold, c, cubic, w), kind = numbers, x.dtype.type
    narrow = kind(magic), kind(wrap), kind(threshold), kind(c), cubic, w
    share(team, partial.size, root_block, (z, bits, narrow, x, guess, lanes, partial))
    add_blocks(partial, penalty)


def largest_s(p: float) -> float:
    """Return s at the threshold, where x = 2 (1 - p) / (2 - p) * z costs as much as 0."""
    kept = 2 * (1 - p) / (2 - p)  # x / z
    return (1 - kept) * kept ** (1 - p)


def start_polynomial(p: float) -> np.ndarray:
    """Return the coefficients of a polynomial in s that is near y * |z|^(1 / n) from 0 to the largest s."""
    points = (np.cos(np.pi * (np.arange(200) + 0.5) / 200) + 1) / 2  # Chebyshev's: the fit there is nearly the best
    s = points * largest_s(p)
    kept = np.ones_like(s)  # x / z, from (1 - kept) * kept^(1 - p) = s
    for _ in range(50):  # from above, Newton's steps fall to the root
        slope = (1 - p) * (1 - kept) * kept**-p - kept ** (1 - p)
        kept -= ((1 - kept) * kept ** (1 - p) - s) / slope
    fitted = np.polynomial.Chebyshev.fit(s, kept ** (p - 1), DEGREE)
    return fitted.convert(kind=np.polynomial.Polynomial).coef


STARTS = {p: start_polynomial(p) for p in (1 / 2, 2 / 3)}


def shrink(z: np.ndarray, beta: float, p: float, x: np.ndarray, penalty: np.ndarray) -> None:
    """Fill x with argmin over x of beta / 2 * (z - x)^2 + |x|^p, for p = 1, 1/2 or 2/3, and penalty with sums of |x|^p.

    Where 0 costs as much as another x, x is 0.
    """
    worth, space = z.size > SERIAL_ELEMENTS, sum_space(z, z.dtype)
    if p == 1:
        call_parallel(worth, shrink_soft, z, 1 / beta, x, *space, penalty)
        return
    c, n = p / beta, round(1 / (1 - p))
    whole, bias, mantissa = LAYOUTS[z.itemsize]
    magic, wrap = (1 + 1 / n) * (bias - BIAS_LOWERED) * 2.0**mantissa, 2.0 ** (8 * z.itemsize - 1)
    threshold = (c / largest_s(p)) ** (1 / (2 - p))
    numbers = magic, wrap, threshold, c, n == 3, tuple(z.dtype.type(each) for each in STARTS[p])
    call_parallel(worth, shrink_root, z, z.view(whole), numbers, x, x.view(whole), *space, penalty)


@jit(inner=True)
def distance_block(task, thread, a, b, lanes, partial):
    """Sum (a - b)^2 over a block."""
    n, block, first, last = block_of(task, partial, a.shape[1])
    left, right, sums = a[n], b[n], lanes[thread]
    sums[:] = 0
    for begin in range(first, last, LANES):
        for l in range(min(LANES, last - begin)):
            d = np.float64(left[np.uintp(begin + l)]) - np.float64(right[np.uintp(begin + l)])
            sums[np.uintp(l)] += d * d
    partial[n, block] = in_order(sums)


@jit
def distances(team, a, b, lanes, partial, sums):
    """Do `squared_distance`."""
    share(team, partial.size, distance_block, (a, b, lanes, partial))
    add_blocks(partial, sums)


def squared_distance(a: np.ndarray, b: np.ndarray, sums: np.ndarray) -> None:
    """Fill sums with the sum of (a - b)^2 of each image."""
    call_parallel(a.size > SERIAL_ELEMENTS, distances, a, b, *sum_space(a), sums)


@jit(inner=True)
def start_block(task, thread, x, z, lam, beta, r, d, lanes, partial):
    """Do `conjugate_start` on a block."""
    n, block, first, last = block_of(task, partial, z.shape[1])
    aim, given, rest, way, sums = x[n], z[n], r[n], d[n], lanes[thread]
    sums[:] = 0
    for begin in range(first, last, LANES):
        for l in range(min(LANES, last - begin)):
            i = np.uintp(begin + l)
            v = lam * rest[i] + beta * (aim[i] - given[i])
            rest[i] = v
            way[i] = v
            sums[np.uintp(l)] += np.float64(v) * np.float64(v)
    partial[n, block] = in_order(sums)


@jit
def conjugate_starts(team, x, z, lam, beta, r, d, lanes, partial, squares):
    """Do `conjugate_start` with the numbers in the arrays' own precision."""
    share(team, partial.size, start_block, (x, z, z.dtype.type(lam), z.dtype.type(beta), r, d, lanes, partial))
    add_blocks(partial, squares)


def conjugate_start(
    x: np.ndarray, z: np.ndarray, lam: float, beta: float, r: np.ndarray, d: np.ndarray, squares: np.ndarray
) -> None:
    """Turn r, which holds F'(y - F z), into the residual lam * r + beta * (x - z); d is the same, squares its sums."""
    call_parallel(
        z.size > SERIAL_ELEMENTS, conjugate_starts, x, z, float(lam), float(beta), r, d, *sum_space(z), squares
    )


@jit(inner=True)
def product_block(task, thread, d, lam, beta, q, lanes, partial):
    """Do `conjugate_product` on a block."""
    n, block, first, last = block_of(task, partial, d.shape[1])
    way, product, sums = d[n], q[n], lanes[thread]
    sums[:] = 0
    for begin in range(first, last, LANES):
        for l in range(min(LANES, last - begin)):
            i = np.uintp(begin + l)
            v = lam * product[i] + beta * way[i]
            product[i] = v
            sums[np.uintp(l)] += np.float64(v) * np.float64(way[i])
    partial[n, block] = in_order(sums)


@jit
def conjugate_products(team, d, lam, beta, q, lanes, partial, dots):
    """Do `conjugate_product` with the numbers in the arrays' own precision."""
    share(team, partial.size, product_block, (d, d.dtype.type(lam), d.dtype.type(beta), q, lanes, partial))
    add_blocks(partial, dots)


def conjugate_product(d: np.ndarray, lam: float, beta: float, q: np.ndarray, dots: np.ndarray) -> None:
    """Turn q, which holds F'F d, into the product lam * q + beta * d; fill dots with the sums of d * q."""
    call_parallel(d.size > SERIAL_ELEMENTS, conjugate_products, d, float(lam), float(beta), q, *sum_space(d), dots)


@jit(inner=True)
def step_block(task, thread, alpha, d, q, z, r, lanes, partial):
    """Do `conjugate_step` on a block."""
    n, block, first, last = block_of(task, partial, z.shape[1])
    way, product, found, rest, sums = d[n], q[n], z[n], r[n], lanes[thread]
    step = z.dtype.type(alpha[n])
    sums[:] = 0
    for begin in range(first, last, LANES):
        for l in range(min(LANES, last - begin)):
            i = np.uintp(begin + l)
            found[i] += step * way[i]
            v = rest[i] - step * product[i]
            rest[i] = v
            sums[np.uintp(l)] += np.float64(v) * np.float64(v)
    partial[n, block] = in_order(sums)


@jit
def conjugate_steps(team, alpha, d, q, z, r, lanes, partial, squares):
    """Do `conjugate_step`."""
    share(team, partial.size, step_block, (alpha, d, q, z, r, lanes, partial))
    add_blocks(partial, squares)


def conjugate_step(
    alpha: np.ndarray, d: np.ndarray, q: np.ndarray, z: np.ndarray, r: np.ndarray, squares: np.ndarray
) -> None:
    """Take the step z + alpha * d, r - alpha * q, with one alpha (N,) an image; fill squares with the sums of r^2."""
    call_parallel(z.size > SERIAL_ELEMENTS, conjugate_steps, alpha, d, q, z, r, *sum_space(z), squares)


@jit(inner=True)
def direction_block(task, thread, ratio, r, d, blocks):
    """Do `conjugate_direction` on a block."""
    n, first = task // blocks, task % blocks * BLOCK
    rest, way, share_kept = r[n], d[n], d.dtype.type(ratio[n])
    for i in range(first, min(d.shape[1], first + BLOCK)):
        way[np.uintp(i)] = rest[np.uintp(i)] + share_kept * way[np.uintp(i)]


@jit
def conjugate_directions(team, ratio, r, d, blocks):
    """Do `conjugate_direction`."""
    share(team, d.shape[0] * blocks, direction_block, (ratio, r, d, blocks))


def conjugate_direction(ratio: np.ndarray, r: np.ndarray, d: np.ndarray) -> None:
    """Turn d into the next direction r + ratio * d, with one ratio (N,) an image."""
    call_parallel(d.size > SERIAL_ELEMENTS, conjugate_directions, ratio, r, d, -(-d.shape[1] // BLOCK))
