"""How the cpu room compiles its kernels, and where their machine code is kept.

Numba's own cache watches only the file a function stands in, so an edited helper in another file would leave stale
code behind, and it numbers its files, so two processes that fill one cache can take each other's code. Here the
folder's name holds a hash of the whole `kernels/` tree, of the CPU and of the compilers' versions, and each
file is named by a hash of its own key and replaced atomically: any number of processes may fill it.
"""

import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
from numba.core import caching
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.serialize import dumps

config: Any = numba.config  # its names come from the environment when Numba is imported
if config.CPU_NAME and config.CPU_FEATURES is None and llvm.get_host_cpu_name() != config.CPU_NAME:
    config.CPU_FEATURES = ""  # a named CPU has its own features, not the host's

if config.DISABLE_JIT:
    raise ValueError(
        'the device "cpu" runs compiled kernels, and NUMBA_DISABLE_JIT keeps Numba from compiling: unset it, or choose '
        'the device "reference".'
    )

KERNELS = Path(__file__).resolve().parent.parent
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def jit(function: Callable[..., Any] | None = None, *, inner: bool = False, reorder: bool = False) -> Any:
    """Compile a kernel: no GIL, fused multiply-adds allowed, NaN and infinity kept, code cached on disk.

    `inner` functions are called by kernels alone: they get no entry from Python, which would cost half of their
    compile time, and no machine code of their own (`_Inlined`). In functions compiled with `reorder` the compiler may
    sum in the order of vector lanes, one order for good once it is compiled; what they call keeps its own order.
    """
    if function is None:
        return lambda f: jit(f, inner=inner, reorder=reorder)
    options = OPTIONS | {"fastmath": {"contract", "reassoc"}} if reorder else OPTIONS
    njit: Any = numba.njit
    compiler = _InnerCompiler if inner else Compiler
    dispatcher: Any = njit(**options, no_cpython_wrapper=inner, no_cfunc_wrapper=True, pipeline_class=compiler)(
        function
    )
    dispatcher._cache = KernelCache(function)
    return dispatcher


class _Inlined(JITCodeLibrary):
    """The code of an inner function, as kernels take it in: they optimize it in full and compile it, with their own.

    A body of tasks, its functions and theirs would else be turned into machine code once at every level.
    """

    def _optimize_final_module(self) -> None:
        passes, builder = self._codegen._module_pass_manager(
            loop_vectorize=self._codegen._loopvect, slp_vectorize=False, opt=self._codegen._opt_level, cost="cheap"
        )
        passes.run(self._final_module, builder)

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    @property
    def codegen(self) -> "_Inlined":
        return self

    def set_env(self, name: str, env: object) -> None:
        """Leave the environment of Python objects alone: no code holds it."""

    def serialize_using_object_code(self) -> Any:
        return self.serialize_using_bitcode()


class _InnerCompiler(Compiler):
    """Numba's compiler, for inner functions."""

    def define_pipelines(self) -> Any:
        codegen = self.state.targetctx.codegen()
        self.state.library = _Inlined(codegen, self.state.func_id.func_qualname)
        return super().define_pipelines()


def host() -> tuple[str, str]:
    """Return the CPU name and feature string to compile for, as NUMBA_CPU_NAME and NUMBA_CPU_FEATURES allow."""
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    if config.CPU_FEATURES is not None:
        return name, config.CPU_FEATURES
    return name, llvm.get_host_cpu_features().flatten()


@cache
def cache_folder() -> Path:
    """Return the folder of this build's machine code, made if need be.

    It stands under FASTCNN_CACHE_DIR, else under the user's cache folder, else (neither can be written) under
    the folder for temporary files.
    """
    digest = hashlib.sha256()
    for path in sorted(KERNELS.rglob("*.py")):
        digest.update(path.relative_to(KERNELS).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(repr((host(), numba.__version__, llvmlite.__version__, sys.version_info[:2])).encode())
    name = "kernels-" + digest.hexdigest()[:20]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    chosen = os.environ.get("FASTCNN_CACHE_DIR")
    roots = [Path(chosen)] if chosen else [Path(home) / "fastcnn"]
    roots.append(Path(tempfile.gettempdir()) / f"fastcnn-{os.getuid() if hasattr(os, 'getuid') else 'cache'}")
    for root in roots:
        try:
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root / name):
                return root / name
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="fastcnn-"))


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at path by data in one step; a full or read-only disk leaves things as they were."""
    try:
        number, part = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return
    try:
        with open(number, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
    except BaseException:  # Ctrl-C, too
        Path(part).unlink(missing_ok=True)
        raise


class _Locator(caching._CacheLocator):
    """Points Numba's cache at `cache_folder`; freshness is in the folder's name."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> int:
        return 0

    def get_disambiguator(self) -> str:
        return str(self._lineno)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func, py_file)


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012 - declared so by the base class


class _Files:
    """One file per compiled signature, named by a hash of the signature's key."""

    def __init__(self, folder: str, base: str) -> None:
        self._folder, self._base = Path(folder), base

    def _path(self, key: Any) -> Path:
        return self._folder / f"{self._base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"

    def save(self, key: Any, data: Any) -> None:
        write_atomically(self._path(key), dumps((key, data)))

    def load(self, key: Any) -> Any:
        try:
            stored, data = pickle.loads(self._path(key).read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError, ValueError):
            return None
        return data if stored == key else None

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)


class KernelCache(caching.FunctionCache):
    """Numba's function cache over `cache_folder` and `_Files`."""

    _impl_class = _Implementation

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        module = py_func.__module__.removeprefix("fastcnn.kernels.")
        self._cache_file: Any = _Files(
            self._cache_path, f"{module}.{py_func.__qualname__}".replace("<locals>", "local")
        )
