"""PyTorch's side of a comparison: `python -m fastcnn.bench.peer.torch_worker THREADS`, run by `peer`.

Each request is made ready in PyTorch's two memory layouts, contiguous (NCHW) and channels_last, and
each turn measures both; the faster one counts. Every turn begins with a call that is not timed, and every call
allocates its result anew, as PyTorch does for its users. Arrays hold random normals of their own:
times are compared here, results in the tests.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import torch

from fastcnn.bench.peer import torch_layers, torch_model
from fastcnn.bench.peer.torch_layers import LAYOUTS, Calls
from fastcnn.bench.timing import Effort, fall_asleep, take_turn


def model_calls(request: dict[str, Any]) -> Calls:
    """Return a training step or an inference of a network's twin in each layout."""
    torch.manual_seed(0)
    images, labels = torch_model.random_batch(request)
    calls: Calls = {}
    for layout, formats in LAYOUTS.items():
        form = formats.get(images.dim(), torch.contiguous_format)
        layout_argument: dict[str, Any] = {"memory_format": form}  # which torch's types leave out
        twin = torch_model.build(request["network"]).to(dtype=images.dtype)
        if images.dim() in formats:
            twin = twin.to(**layout_argument)
        batch = images.contiguous(memory_format=form)
        calls[layout] = (
            torch_model.training_step(twin, batch, labels, request)
            if request["pass"] == "train"
            else torch_model.inference(twin, batch)
        )
    return calls


WORK: dict[str, Callable[[dict[str, Any]], Calls]] = torch_layers.WORK | {"model": model_calls}


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
