"""PyTorch's side of a comparison: `python -m fastcnn.bench.peer_torch THREADS`, run by `peer`.

Each request is made ready in PyTorch's two memory layouts, contiguous (NCHW) and channels_last, and
each turn measures both; the faster one counts. Arrays hold random normals of their own: times are
compared here, results in the tests.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import torch

from fastcnn.bench import twin_torch
from fastcnn.bench.descriptor import Convolution, parse
from fastcnn.bench.timing import Effort, fall_asleep, take_turn

Calls = dict[str, Callable[[], object]]

LAYOUTS = {
    "nchw": {4: torch.contiguous_format, 5: torch.contiguous_format},
    "channels_last": {4: torch.channels_last, 5: torch.channels_last_3d},
}


def conv_calls(request: dict[str, Any]) -> Calls:
    """Return one pass of a convolution in each layout."""
    c, dtype = parse(request["descriptor"]), getattr(torch, request["dtype"])
    rank = max(c.rank, 2)  # PyTorch lays no 1-D image out channels last: those run as images of one row
    window, stride, dilation = (list(t[3 - rank :]) for t in (c.window, c.stride, c.dilation))
    padding, image = torch_padding(c, rank)
    torch.manual_seed(0)
    x = torch.randn(c.batch, c.channels, *image, dtype=dtype)
    w = torch.randn(c.filters, c.channels // c.groups, *window, dtype=dtype)
    dy = torch.randn(c.batch, c.filters, *c.output[3 - rank :], dtype=dtype)
    calls: Calls = {}
    for layout, formats in LAYOUTS.items():
        arrays = [a.contiguous(memory_format=formats[a.dim()]) for a in (x, w, dy)]
        calls[layout] = conv_call(request["pass"], arrays[0], arrays[1], arrays[2], stride, padding, dilation, c.groups)
    return calls


def torch_padding(c: Convolution, rank: int) -> tuple[list[int], list[int]]:
    """Return (padding, image size) for PyTorch, which pads both sides alike.

    Where the same padding behind gives the same output size, that is it. Else the image is taken as
    padded beforehand, with no padding left to do, outside what is timed.
    """
    axes = list(zip(c.image, c.output, c.window, c.stride, c.dilation, c.pads, strict=True))[3 - rank :]
    if all((i + 2 * before - (k - 1) * d - 1) // s + 1 == o for i, o, k, s, d, (before, _) in axes):
        return [before for *_, (before, _) in axes], [axis[0] for axis in axes]
    return [0] * rank, [i + before + after for i, *_, (before, after) in axes]


def conv_call(
    pass_name: str,
    x: torch.Tensor,
    w: torch.Tensor,
    dy: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Callable[[], object]:
    """Return a call that runs one pass and returns its result, allocated anew as PyTorch does."""
    none, backward = [0] * len(stride), torch.ops.aten.convolution_backward
    if pass_name == "forward":
        return lambda: torch.convolution(x, w, None, stride, padding, dilation, False, none, groups)
    wanted = [pass_name == "backward_input", pass_name == "backward_weight", False]
    return lambda: backward(dy, x, w, None, stride, padding, dilation, False, none, groups, wanted)


def model_calls(request: dict[str, Any]) -> Calls:
    """Return a training step or an inference of a network's twin in each layout."""
    torch.manual_seed(0)
    images, labels = twin_torch.random_batch(request)
    calls: Calls = {}
    for layout, formats in LAYOUTS.items():
        form = formats.get(images.dim(), torch.contiguous_format)
        layout_argument: dict[str, Any] = {"memory_format": form}  # which torch's types leave out
        twin = twin_torch.build(request["network"]).to(dtype=images.dtype)
        if images.dim() in formats:
            twin = twin.to(**layout_argument)
        batch = images.contiguous(memory_format=form)
        calls[layout] = (
            twin_torch.training_step(twin, batch, labels, request)
            if request["pass"] == "train"
            else twin_torch.inference(twin, batch)
        )
    return calls


WORK: dict[str, Callable[[dict[str, Any]], Calls]] = {"conv": conv_calls, "model": model_calls}


def serve(questions: TextIO, answers: TextIO) -> None:
    """Answer questions until there are no more."""

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say({"version": torch.__version__})
    calls: Calls = {}
    for line in questions:
        question = json.loads(line)
        try:
            if "prepare" in question:
                calls.clear()
                request = question["prepare"]
                calls.update(WORK[request["work"]](request))
                say({})
            else:
                effort = Effort(**question["turn"])
                samples = {layout: take_turn(call, effort) for layout, call in calls.items()}
                fall_asleep()
                say({"samples": samples})
        except (RuntimeError, MemoryError, TypeError, ValueError) as error:
            say({"error": " ".join(str(error).split()) or type(error).__name__})


def main() -> None:
    """Serve standard input; what PyTorch itself prints goes to standard error."""
    torch.set_num_threads(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
