"""Compiled kernels that outlive the process. Imports tinygrad: engine.py imports it after a backend is set.

tinygrad keeps compilers' output on disk, but the lowering before it (for the X86 renderer: all of it) is repeated by
every process and is half of a small shard's load time. Its in-process table of lowered kernels is keyed by content, so
we back that table with tinygrad's own disk cache (CACHEDB, else XDG_CACHE_HOME): SQLite, safe between processes.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tinygrad.codegen as codegen
from tinygrad.helpers import diskcache_get, diskcache_put

_log = logging.getLogger(__name__)
# What a damaged, unwritable or foreign cache file raises. None of it may stop a load: the kernel is compiled instead.
_UNUSABLE = (sqlite3.Error, OSError, pickle.PickleError, EOFError, AttributeError, ImportError, KeyError, TypeError)


class PersistentKernels(dict[Any, Any]):
    """tinygrad's `to_program_cache` with a disk behind it. Keys hold the kernel's hash, renderer, target, options."""

    def __init__(self, table: str) -> None:
        super().__init__()
        self._table: str | None = table
        self.compiled = 0
        self.reused = 0

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self:
            return self[key]
        if self._table is None:
            return default
        try:
            found = diskcache_get(self._table, _digest(key))
        except _UNUSABLE as error:
            self._give_up(error)
            return default
        if found is None:
            return default
        self.reused += 1
        super().__setitem__(key, found)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.compiled += 1
        if self._table is None:
            return
        try:
            diskcache_put(self._table, _digest(key), value)
        except _UNUSABLE as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.warning("tinygrad's kernel cache cannot be used, kernels are compiled anew: %s", error)
        self._table = None


def persist_kernels(generation: str) -> PersistentKernels:
    """Put the disk behind tinygrad's table of lowered kernels, once per process; returns that table.

    `generation` names how code is generated, where that is not tinygrad's own way alone (lanes.py).
    """
    table = codegen.to_program_cache
    if not isinstance(table, PersistentKernels):
        table = PersistentKernels(f"exo_kernels_{version('tinygrad').replace('.', '_')}_{_machine()}_{generation}")
        table.update(codegen.to_program_cache)
        codegen.to_program_cache = table
    return table


def _digest(key: Any) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()


def _machine() -> str:
    """Tells CPUs apart: kernels are compiled for this one, and a home folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        description = "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        description = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {description}".encode()).hexdigest()[:12]
