"""Scratch memory: it grows to what was asked for, and goes when released."""

import threading

import numpy as np
import pytest

from fastcnn.kernels.cpu import workspace

KIND = np.dtype(np.float64)


@pytest.fixture(autouse=True)
def empty():
    workspace.release()
    yield
    workspace.release()


def test_a_buffer_is_kept_until_more_is_asked_for():
    first = workspace.scratch("a", 100, KIND)
    assert workspace.scratch("a", 50, KIND) is first
    assert workspace.held_bytes() == 800
    assert workspace.scratch("a", 200, KIND).size == 200
    workspace.scratch("b", 1, np.dtype(np.float32))
    assert workspace.held_bytes() == 1604


def test_release_drops_the_buffers_of_this_thread_alone():
    held = []

    def other():
        workspace.scratch("a", 10, KIND)
        ready.set()
        released.wait(10)
        held.append(workspace.held_bytes())

    ready, released = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(10)
    workspace.scratch("a", 100, KIND)
    workspace.release()
    released.set()
    thread.join()
    assert (workspace.held_bytes(), held) == (0, [80])


def test_buffers_start_on_a_cache_line():
    assert all(workspace.aligned_empty(size, KIND).ctypes.data % workspace.LINE == 0 for size in (1, 7, 1000))
