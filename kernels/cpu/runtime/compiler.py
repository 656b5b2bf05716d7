"""How the cpu room compiles its kernels, and where their machine code is kept.

Numba's own cache watches only the file a function stands in, so an edited helper in another file would leave stale
code behind, and it numbers its files, so two processes that fill one cache can take each other's code. Here the
folder's name holds a hash of this room and of what the rooms share, of the CPU and of the compilers' versions, and each
file is named by a hash of its own key and replaced atomically: any number of processes may fill it (`cache.py`).
"""

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
from numba.core import caching
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompileResult
from numba.core.serialize import dumps

from fastcnn.kernels.cpu.runtime.cache import Cache
from fastcnn.kernels.cpu.runtime.compiling import watch

config: Any = numba.config  # its names come from the environment when Numba is imported
if config.CPU_NAME and config.CPU_FEATURES is None and llvm.get_host_cpu_name() != config.CPU_NAME:
    config.CPU_FEATURES = ""  # a named CPU has its own features, not the host's

if config.DISABLE_JIT:
    raise ValueError(
        'the device "cpu" runs compiled kernels, and NUMBA_DISABLE_JIT keeps Numba from compiling: unset it, or choose '
        'the device "reference".'
    )

ROOM = Path(__file__).resolve().parents[1]
BESIDE = ("problem", "sampling")  # modules that the rooms share
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def jit(
    function: Callable[..., Any] | None = None, *, inner: bool = False, inline: bool = False, reorder: bool = False
) -> Any:
    """Compile a kernel: no GIL, fused multiply-adds allowed, NaN and infinity kept, code cached on disk.

    `inner` functions are called by kernels alone: they get no entry from Python, which would cost half of their
    compile time, and no machine code of their own (`_Inlined`). With `inline`, LLVM must take them in where they are
    called: a plan is some hundred words, which a call would copy. In functions compiled with `reorder` the compiler may
    sum in the order of vector lanes, one order for good once it is compiled; what they call keeps its own order.
    """
    if function is None:
        return lambda f: jit(f, inner=inner, inline=inline, reorder=reorder)
    options = OPTIONS | {"fastmath": {"contract", "reassoc"}} if reorder else OPTIONS
    options = options | {"forceinline": inline}
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


def build_name() -> str:
    """Return the name of the folder of this build's machine code."""
    digest = hashlib.sha256()
    for path in (*sorted(ROOM.rglob("*.py")), *(ROOM.parent / f"{name}.py" for name in BESIDE)):
        digest.update(path.relative_to(ROOM.parent).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(repr((host(), numba.__version__, llvmlite.__version__, sys.version_info[:2])).encode())
    return "kernels-" + digest.hexdigest()[:20]


machine_code = Cache(build_name)
cache_folder = machine_code.folder


class _Locator(caching._CacheLocator):
    """Points Numba's cache at `cache_folder`; freshness is in the folder's name."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return ""  # `machine_code` knows, once it is asked

    def ensure_cache_path(self) -> None:
        """Leave it to `machine_code`, which goes on without a folder that can be written."""

    def get_source_stamp(self) -> int:
        return 0

    def get_disambiguator(self) -> str:
        return str(self._lineno)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func, py_file)


class _InnerContext:
    """Numba's context, to read the code of an inner function in: as kernels take it in, not turned into machine code.

    Numba would do that, which changes the code itself: a kernel compiled with it had other bits than one compiled with
    an inner function that was not kept yet.
    """

    def __init__(self, context: Any) -> None:
        self._codegen = context.codegen()
        self.typing_context, self.get_executable = context.typing_context, context.get_executable

    def codegen(self) -> "_InnerContext":
        return self

    def unserialize_library(self, state: tuple[str, str, bytes]) -> _Inlined:
        name, _, code = state
        library: Any = _Inlined(self._codegen, name)
        library._final_module = llvm.parse_bitcode(code)
        library._finalize_final_module()
        return library


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012 - declared so by the base class

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Return what was kept as it was when it had just been compiled."""
        if payload[0][1] != "bitcode":
            return super().rebuild(target_context, payload)
        return CompileResult._rebuild(_InnerContext(target_context), *payload)._replace(target_context=target_context)


class _Files:
    """One file per compiled signature, named by a hash of the signature's key."""

    def __init__(self, base: str) -> None:
        self._base = base

    def _name(self, key: Any) -> str:
        return f"{self._base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"

    def save(self, key: Any, data: Any) -> None:
        machine_code.save(self._name(key), dumps((key, data)))

    def load(self, key: Any) -> Any:
        content = machine_code.load(self._name(key))
        if content is None:
            return None
        try:
            stored, data = pickle.loads(content)
        except Exception:  # whole, but of something that is no longer there: compiled anew, as if it were not
            return None
        return data if stored == key else None

    def flush(self) -> None:
        for path in cache_folder().glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)


class KernelCache(caching.FunctionCache):
    """Numba's function cache over `machine_code`."""

    _impl_class = _Implementation

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        module = py_func.__module__.removeprefix("fastcnn.kernels.")
        name = f"{module}.{py_func.__qualname__}".replace("<locals>", "local")
        source = Path(py_func.__code__.co_filename).resolve()
        if ROOM not in source.parents:  # the folder's name does not tell of other files
            name += "." + hashlib.sha256(source.read_bytes()).hexdigest()[:8]
        self._cache_file: Any = _Files(name)

    @property
    def cache_path(self) -> str:
        """The folder, as Numba shows it."""
        return str(cache_folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what is kept of a signature; where that is nothing, Numba compiles next."""
        found = super().load_overload(sig, target_context)
        if found is None:
            watch.begin()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what Numba has compiled."""
        watch.end()
        super().save_overload(sig, data)
