"""Devices: `get("cpu")`, `get("reference")` return a backend, by which all else reaches kernels and memory."""

from functools import partial

from fastcnn.backend.base import Backend, Call, import_kernels
from fastcnn.backend.fusions import Fused
from fastcnn.backend.host import CACHE_LINE, CpuBackend, HostBackend
from fastcnn.backend.registry import check_device, get, register, registered

__all__ = [
    "CACHE_LINE",
    "DEVICES",
    "Backend",
    "Call",
    "Fused",
    "check_device",
    "get",
    "import_kernels",
    "register",
    "registered",
]

DEVICES = ("cpu", "reference")

register("cpu", partial(CpuBackend, "cpu"))
register("reference", partial(HostBackend, "reference"))
