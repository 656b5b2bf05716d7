"""Measuring: shapes, timing, the machine's roofs, the peer library in its own process, reports."""
