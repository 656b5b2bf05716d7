"""Who imports whom, read from the syntax trees of all files.

    cli -> bench, fastcnn    bench -> fastcnn, kernels    fastcnn -> kernels    kernels -> itself

Imports inside functions count as others do; those for types alone do not.

The engine reaches a fast room only from inside functions of the files that pick one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastcnn", "kernels", "cli", "bench")
ALLOWED = {
    "cli": {"cli", "bench", "fastcnn"},
    "bench": {"bench", "fastcnn", "kernels"},
    "fastcnn": {"fastcnn", "kernels"},
    "kernels": {"kernels"},
}
KERNEL_LIBRARIES = {"numpy", "numba", "llvmlite"}
SHARED = "fastcnn.kernels.problem."  # what layers hand to every room
ROOM_PICKERS = {"backend/base.py", "threads.py"}
HEAVY = {"numba", "llvmlite", "rich", "PIL", "pooch", "safetensors", "matplotlib", "torch"}


def files(folder: str) -> list[Path]:
    links = {ROOT / "fastcnn" / name for name in FOLDERS}
    found = (ROOT / folder).rglob("*.py")
    return [path for path in found if folder != "fastcnn" or not links & set(path.parents)]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "fastcnn" else ("fastcnn", *parts))


def imports(path: Path, top_only: bool = False, types: bool = True) -> Iterator[str]:
    """Yield the full names of imported modules; those inside functions too unless `top_only`.

    Those under TYPE_CHECKING are left out where `types` is False, or `top_only` True.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                keep = len(module_name(path).split(".")) - node.level
                base = ".".join([*module_name(path).split(".")[:keep], base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.body if types and not top_only else []
            waiting += node.orelse
        elif not (top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)


def arrows() -> dict[str, set[str]]:
    """Return the modules that each module of the project imports, wherever it does, but for types."""
    modules = {module_name(path).removesuffix(".__init__"): path for folder in FOLDERS for path in files(folder)}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        wanted = {module if module in modules else module.rpartition(".")[0] for module in imports(path, types=False)}
        found[name] = (wanted & modules.keys()) - {name}
    return found


def folder_of(module: str) -> str | None:
    """Return which of the project's folders a module lies in."""
    parts = module.split(".")
    if parts[0] != "fastcnn":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS[1:] else "fastcnn"


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_follow_the_arrows(folder):
    assert files(folder)
    wrong = {
        (str(path.relative_to(ROOT)), module)
        for path in files(folder)
        for module in imports(path)
        if folder_of(module) is not None and folder_of(module) not in ALLOWED[folder]
    }
    assert not wrong


def test_kernels_use_nothing_but_numpy_and_numba():
    import sys

    wrong = {
        (path.name, module)
        for path in files("kernels")
        for module in imports(path)
        if folder_of(module) is None and module.split(".")[0] not in KERNEL_LIBRARIES | sys.stdlib_module_names
    }
    assert not wrong


def test_global_names_of_the_folders_are_never_imported():
    wrong = {
        (path.name, module)
        for folder in (*FOLDERS, "tests")
        for path in files(folder)
        for module in imports(path)
        if module.split(".")[0] in FOLDERS[1:]
    }
    assert not wrong


def is_of_a_room(module: str) -> bool:
    return module.startswith("fastcnn.kernels") and not module.startswith(SHARED)


def test_engine_picks_its_room_in_one_place_and_late():
    for path in files("fastcnn"):
        rooms = set(filter(is_of_a_room, imports(path)))
        assert not rooms or path.relative_to(ROOT / "fastcnn").as_posix() in ROOM_PICKERS, (path, rooms)
        early = set(imports(path, top_only=True))
        assert not set(filter(is_of_a_room, early))
        assert not {module for module in early if module.split(".")[0] in HEAVY}, path.name


def circles(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the modules from which imports lead back to themselves: those left when ends are taken off in turn."""
    left = dict(graph)
    while ends := {name for name, wanted in left.items() if not wanted & left.keys()}:
        left = {name: wanted for name, wanted in left.items() if name not in ends}
    return {name: wanted & left.keys() for name, wanted in left.items()}


def test_no_import_closes_a_circle_not_even_inside_a_function():
    assert not circles(arrows())


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) == {"a": {"b"}, "b": {"c"}, "c": {"b"}}


FLOORS = (
    {"runtime"},
    {"simd"},
    {"reduction"},
    {"matmul", "elementwise"},
    {"normalization"},
    {"pooling", "losses"},
    {"convolution"},
    {"operations"},
)
"""The folders of `kernels/cpu` from the ground up: each imports from its own floor's folder and those beneath."""


def test_the_floors_of_the_cpu_room():
    room = "fastcnn.kernels.cpu."
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}

    def folder(module: str) -> str:
        parts = module.removeprefix(room).split(".")
        return parts[0] if len(parts) > 1 or parts[0] in floor else "operations"

    wrong = {
        (name, module)
        for name, wanted in arrows().items()
        for module in wanted
        if name.startswith(room) and module.startswith(room) and folder(name) != folder(module)
        if floor[folder(module)] >= floor[folder(name)]
    }
    assert not wrong


ROOMS = {"reference": {"definition", "losses"}, "cpu": set().union(*FLOORS) - {"operations"}}
"""What lies beside the operations in each room: the folders of how it does them."""


def test_rooms_have_the_same_operations_and_nothing_beside_them():
    operations = {room: {path.name for path in (ROOT / "kernels" / room).glob("*.py")} for room in ROOMS}
    assert operations["cpu"] == operations["reference"]
    for room, folders in ROOMS.items():
        beside = {path.name for path in (ROOT / "kernels" / room).iterdir() if path.is_dir()}
        assert beside - {"__pycache__"} == folders


DEVICE_FOLDERS = ("layers", "losses", "engine", "optimizers", "training")
TYPES = {
    "dtype",
    "ndarray",
    "random",
    "floating",
    "errstate",
    "float32",
    "float64",
    "int64",
    "int32",
    "int8",
    "uint8",
    "uint64",
}
"""Names of NumPy's that work on no array."""

HOST_WORK = {
    "first_values": {"ones", "zeros", "array"},
    "check_targets": {"asarray", "ascontiguousarray", "where", "argwhere"},
    "_are_probabilities": {"asarray"},
    "check_probabilities": {"ascontiguousarray"},
    "class_weights": {"array", "atleast_1d", "empty", "isfinite"},
    "kernel_weights": {"append", "ones"},
    "weights": {"arange", "exp", "square", "where"},
    "check_exact": {"finfo"},
    "_is_exact": {"array_equal"},
    "targets_of": {"empty"},
    "__setitem__": {"asarray"},
    "forward": {"asarray", "shape"},
    "bind": {"argsort", "ascontiguousarray", "broadcast_to", "ones"},
    "__init__": {"append", "ones"},
    "end": {"array", "zeros"},
    "_check_all": {"ascontiguousarray"},
    "_not_finite": {"isfinite"},
    "_evaluate": {"arange"},
}
"""What functions do with NumPy: checks of what users give, first values and tables before they are uploaded, counts."""


def numpy_uses(node: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """Yield (function, name) for every name of NumPy's that works on arrays."""
    function = node.name if isinstance(node, ast.FunctionDef) else function
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np" and node.attr not in TYPES:
        yield function, node.attr
    for child in ast.iter_child_nodes(node):
        yield from numpy_uses(child, function)


def test_the_engine_leaves_arrays_of_the_device_to_the_backend():
    """`test_strict_device.py` runs the engine on arrays that NumPy cannot read; this says where it works at all."""
    for folder in DEVICE_FOLDERS:
        for path in files("fastcnn"):
            if path.parent == ROOT / "fastcnn" / folder:
                for function, name in numpy_uses(ast.parse(path.read_text())):
                    assert name in HOST_WORK.get(function, ()), (path.name, function, name)


def test_the_engine_knows_no_device_by_name():
    for path in files("fastcnn"):
        compared = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare)]
        texts = {part.value for node in compared for part in ast.walk(node) if isinstance(part, ast.Constant)}
        assert not texts & {"cpu", "reference"}, path


WRITERS = {"files.py": "write_bytes", "plotting.py": "savefig"}  # the door, and a picture drawn into memory


def test_files_are_written_through_one_door():
    for path in (path for folder in ("fastcnn", "cli", "bench") for path in files(folder)):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        named = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        wrote = named & {"write_text", "write_bytes", "savefig", "save_file", "savez", "savez_compressed", "tofile"}
        assert wrote == {WRITERS[path.name]} & wrote if path.name in WRITERS else not wrote, path


MOST_ARGUMENTS, MOST_LINES = 12, 60


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, number of arguments and of lines without the docstring; an object's first values are its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef) or node.name == "__init__":
            continue
        first, given = node.body[0], node.args
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            lines -= first.end_lineno - first.lineno + 1
        yield node.name, len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs), lines


def test_functions_are_short():
    long = {
        f"{path.relative_to(ROOT / 'kernels').as_posix()} {name}"
        for path in files("kernels")
        for name, arguments, lines in functions(path)
        if arguments > MOST_ARGUMENTS or lines > MOST_LINES
    }
    assert not long


def test_reference_room_never_calls_what_it_checks():
    for path in files("kernels/reference"):
        assert not {module for module in imports(path) if "kernels.cpu" in module}


def test_readers_see_relative_and_nested_imports(tmp_path):
    """The reader itself: a missed form would make the tests above pass by blindness."""
    path = ROOT / "kernels" / "cpu" / "imagined.py"
    text = "import a.b\nfrom . import c\nfrom ..reference import d\ndef f():\n    import e\n"
    (tmp_path / "imagined.py").write_text(text)

    class Fake(type(path)):
        def read_text(self, *arguments, **keywords):
            return text

    fake = Fake(path)
    everything = {"a.b", "fastcnn.kernels.cpu.c", "fastcnn.kernels.reference.d", "e"}
    assert set(imports(fake)) == everything
    assert set(imports(fake, top_only=True)) == everything - {"e"}
