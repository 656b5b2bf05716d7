"""Machine code that this project writes itself, compiled once and kept in the cache."""

import os
import platform
import threading
from collections.abc import Callable
from typing import TypeVar

import llvmlite.binding as llvm
from llvmlite import ir

from fastcnn.kernels.cpu.runtime.compiler import host, machine_code
from fastcnn.kernels.cpu.runtime.compiling import watch

Key = TypeVar("Key")
Code = TypeVar("Code")

i8, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

_loading = threading.Lock()
_engines: list[llvm.ExecutionEngine] = []  # the engines own the code, for as long as the process lives


def target_machine() -> llvm.TargetMachine:
    """Return LLVM's code generator for the host."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = host()
    if platform.machine().lower() in ("x86_64", "amd64"):
        # LLVM keeps to 256-bit vectors on some AVX-512 hosts unless told otherwise.
        features = ",".join(filter(None, [features, "-prefer-256-bit"]))
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, codemodel="jitdefault", jit=True
    )


def function_type(arguments: int) -> ir.FunctionType:
    """Return the type of a function of so many int64 arguments and no result."""
    return ir.FunctionType(ir.VoidType(), [i64] * arguments)


def _renew_lock() -> None:
    global _loading
    _loading = threading.Lock()  # the fork may have copied one that another thread held


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def load_once(loaded: dict[Key, Code], key: Key, load: Callable[[], Code]) -> Code:
    """Return loaded[key]; where it is missing, one thread at a time loads it."""
    if key not in loaded:
        with _loading:
            if key not in loaded:
                loaded[key] = load()
    return loaded[key]


def load_functions(name: str, emit: Callable[[ir.Module], None]) -> Callable[[str], int]:
    """Return a look-up of addresses in the compiled module that `emit` writes, kept on disk under `name`."""
    machine = target_machine()
    code = machine_code.load(f"{name}.o")
    if code is None:
        watch.begin()
        code = _compile(machine, emit)
        watch.end()
        machine_code.save(f"{name}.o", code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address


def _compile(machine: llvm.TargetMachine, emit: Callable[[ir.Module], None]) -> bytes:
    """Return the object code of the module that `emit` writes."""
    module = ir.Module()
    emit(module)
    compiled = llvm.parse_assembly(str(module))
    compiled.triple = machine.triple
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(compiled, passes)
    code: bytes = machine.emit_object(compiled)
    return code
