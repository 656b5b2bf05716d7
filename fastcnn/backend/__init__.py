"""Devices: `get("cpu")`, `get("reference")` return a backend, by which all else reaches kernels and memory."""

from fastcnn.backend.base import CACHE_LINE, DEVICES, Backend, Call, check_device, get, import_kernels

__all__ = ["CACHE_LINE", "DEVICES", "Backend", "Call", "check_device", "get", "import_kernels"]
