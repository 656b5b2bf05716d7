"""Where machine code is kept: in folders that are the user's own and closed to others, in files that are whole."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcnn.kernels.cpu.runtime import cache
from fastcnn.kernels.cpu.runtime.cache import Cache, find, unsealed

NAME = "kernels-test"
DATA = bytes(range(256)) * 3
OWNED = hasattr(os, "geteuid")
needs_owners = pytest.mark.skipif(not OWNED, reason="files have no owners and modes here")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A machine of one's own: a home, a folder for temporary files, and one to choose."""
    for name in ("home", "temporary", "chosen"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("FASTCNN_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


@pytest.fixture
def chosen(place, monkeypatch):
    """The folder that FASTCNN_CACHE_DIR names."""
    monkeypatch.setenv("FASTCNN_CACHE_DIR", str(place / "chosen"))
    return place / "chosen"


def fallback(place):
    return place / "temporary" / f"fastcnn-{os.geteuid() if OWNED else 'cache'}"


def no_home():
    raise RuntimeError("Could not determine home directory.")


def locked(monkeypatch, *roots):
    """Have folders that others filled: what is in these roots can be read and not written, by root neither."""
    right = tempfile.TemporaryFile

    def refuse(*arguments, dir, **keywords):
        if any(root in Path(dir).parents for root in roots):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return right(*arguments, dir=dir, **keywords)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_the_order_of_folders(place, chosen, monkeypatch):
    assert find(NAME).written == chosen / NAME
    monkeypatch.setenv("FASTCNN_CACHE_DIR", "")
    assert find(NAME).written == place / "home/.cache/fastcnn" / NAME
    monkeypatch.setenv("XDG_CACHE_HOME", "no/absolute/path")
    assert find(NAME).written == place / "home/.cache/fastcnn" / NAME
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "xdg"))
    assert find(NAME) == ((place / "xdg/fastcnn" / NAME,), place / "xdg/fastcnn" / NAME, "", True)


def test_without_a_home(place, chosen, monkeypatch):
    monkeypatch.setattr(Path, "home", no_home)
    assert find(NAME).written == chosen / NAME
    monkeypatch.delenv("FASTCNN_CACHE_DIR")
    assert find(NAME) == ((fallback(place) / NAME,), fallback(place) / NAME, "this user has no home folder", False)


@needs_owners
def test_folders_are_made_closed_whatever_the_mask(chosen):
    chosen.rmdir()
    before = os.umask(0)
    try:
        folder = find(NAME).written
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]


@needs_owners
def test_a_users_cache_folder_that_its_group_may_write_is_closed(place):
    root = place / "home/.cache/fastcnn"
    root.mkdir(parents=True)
    root.chmod(0o775)
    assert find(NAME) == ((root / NAME,), root / NAME, "", True)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    root.chmod(0o777)  # no umask does that
    assert "fastcnn can be written by others (chmod go-w closes it)" in find(NAME).reason


def open_root(root):
    root.mkdir(exist_ok=True)
    root.chmod(0o777)
    (root / NAME).mkdir()


def open_folder(root):
    (root / NAME).mkdir(parents=True)
    (root / NAME).chmod(0o770)


def linked_folder(root):
    root.mkdir(exist_ok=True)
    (root.parent / "elsewhere").mkdir()
    (root / NAME).symlink_to(root.parent / "elsewhere")


def linked_root(root):
    (root.parent / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(root.parent / "elsewhere")


@needs_owners
@pytest.mark.parametrize("trap", [open_root, open_folder, linked_folder, linked_root])
def test_a_trap_in_the_folder_of_temporary_files_is_left_alone(place, monkeypatch, trap):
    monkeypatch.setattr(Path, "home", no_home)
    trap(fallback(place))
    code = Cache(lambda: NAME)
    with pytest.warns(RuntimeWarning, match=r"Kernels are kept in .*, because .*: set FASTCNN_CACHE_DIR to a"):
        folder = code.folder()
    assert fallback(place) not in (folder, *folder.parents)
    assert code.places.read == (folder,)
    assert not code.lasts()
    assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (os.geteuid(), 0o700)


@needs_owners
@pytest.mark.parametrize("trap", [open_root, open_folder, linked_folder])
def test_a_chosen_folder_that_is_open_to_others_is_not_used(place, chosen, trap):
    trap(chosen)
    with pytest.warns(RuntimeWarning, match="chosen.*(can be written by others.*|is a symbolic link): set"):
        assert Cache(lambda: NAME).folder() == place / "home/.cache/fastcnn" / NAME


@needs_owners
def test_folders_and_files_of_another_user_are_not_used(place, chosen, monkeypatch):
    code = Cache(lambda: NAME)
    code.save("a.o", DATA)
    user = os.geteuid()
    monkeypatch.setattr(cache, "_user", lambda: user + 1)
    monkeypatch.setattr(cache, "_is_ours", lambda status: status.st_uid == user + 1)
    assert unsealed(chosen / NAME / "a.o") is None
    assert "chosen belongs to another user" in find(NAME).reason


@needs_owners
def test_a_users_own_link_to_a_larger_disk_is_followed(place, chosen):
    chosen.rmdir()
    (place / "disk").mkdir(mode=0o700)
    chosen.symlink_to(place / "disk")
    assert find(NAME) == ((chosen / NAME,), chosen / NAME, "", True)
    assert (place / "disk" / NAME).is_dir()


@needs_owners
def test_below_a_sticky_folder_ones_own_is_used(chosen):
    chosen.chmod(0o1777)
    assert find(NAME).written == chosen / NAME


def test_a_folder_that_others_filled_is_read_and_new_code_goes_to_ones_own(place, chosen, monkeypatch):
    Cache(lambda: NAME).save("a.o", DATA)
    locked(monkeypatch, chosen)
    code = Cache(lambda: NAME)
    assert code.load("a.o") == DATA  # without a warning: there is nothing to be done
    with pytest.warns(RuntimeWarning, match="chosen.* cannot be written"):
        code.save("b.o", DATA[1:])
    assert (code.load("a.o"), code.load("b.o")) == (DATA, DATA[1:])
    assert code.folder() == place / "home/.cache/fastcnn" / NAME
    assert [path.name for path in code.folder().iterdir()] == ["b.o"]
    (chosen / NAME / "a.o").write_bytes(b"")
    assert code.kept()[::2] == (1, [chosen / NAME / "a.o"])
    code.save("a.o", DATA)
    assert (code.load("a.o"), code.kept()[::2]) == (DATA, (2, []))


@needs_owners
def test_a_folder_that_only_its_owner_reads_is_told_as_such(place, chosen, monkeypatch):
    Cache(lambda: NAME).save("a.o", DATA)
    right = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: chosen not in Path(path).parents and right(path, mode))
    code = Cache(lambda: NAME)
    with pytest.warns(RuntimeWarning, match=r"chosen.* cannot be read \(its owner lets others by chmod"):
        assert code.load("a.o") is None
    assert code.places.read == (place / "home/.cache/fastcnn" / NAME,)


def test_with_no_folder_at_all_nothing_is_kept(place, monkeypatch):
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "absent" / "file"))
    (place / "absent").write_text("no folder")
    code = Cache(lambda: NAME)
    with pytest.warns(RuntimeWarning, match="compiled in every process"):
        code.save("a.o", DATA)
    assert code.load("a.o") is None
    assert code.kept() == (0, 0, [])
    assert not code.lasts()
    code.mend()


def test_what_is_saved_is_loaded(chosen):
    code = Cache(lambda: NAME)
    code.save("a.o", DATA)
    code.save("b.nbc", DATA[1:])
    assert (code.load("a.o"), code.load("b.nbc"), code.load("c.o")) == (DATA, DATA[1:], None)
    assert code.kept()[::2] == (2, [])
    assert code.lasts()


@given(st.data())
def test_a_damaged_file_counts_as_missing_until_it_is_kept_anew(tmp_path_factory, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTCNN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        code = Cache(lambda: NAME)
        code.save("a.o", DATA)
        path = code.folder() / "a.o"
        whole = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del whole[data.draw(st.integers(0, len(whole) - 1)) :]
        path.write_bytes(whole)
        assert code.load("a.o") is None
        assert code.kept().damaged == [path]
        code.save("a.o", DATA)
        assert code.load("a.o") == DATA
        path.write_bytes(whole)
        code.mend()
        assert not list(code.folder().iterdir())


def test_a_file_under_anothers_name_is_not_read(chosen):
    code = Cache(lambda: NAME)
    code.save("a.o", DATA)
    os.replace(code.folder() / "a.o", code.folder() / "b.o")
    assert code.load("b.o") is None


@needs_owners
def test_a_file_that_others_may_write_and_a_link_are_not_read(chosen):
    code = Cache(lambda: NAME)
    for name in ("a.o", "b.o"):
        code.save(name, DATA)
    (code.folder() / "a.o").chmod(0o620)
    os.replace(code.folder() / "b.o", chosen / "b.o")
    (code.folder() / "b.o").symlink_to(chosen / "b.o")
    os.mkfifo(code.folder() / "c.o")
    assert [code.load(name) for name in ("a.o", "b.o", "c.o")] == [None] * 3
    assert len(code.kept().damaged) == 3


def test_a_full_disk_leaves_nothing_behind_and_is_told_once(chosen, monkeypatch):
    code = Cache(lambda: NAME)
    folder = code.folder()
    right = tempfile.NamedTemporaryFile

    def full(*arguments, **keywords):
        file = right(*arguments, **keywords)

        def write(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        file.write = write
        return file

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.warns(RuntimeWarning, match="no space left on device") as told:
        code.save("a.o", DATA)
    code.save("b.o", DATA)  # a second warning would be an error
    assert len(told) == 1
    assert not list(folder.iterdir())


def test_what_was_left_half_written_is_removed_once_it_is_old(chosen):
    code = Cache(lambda: NAME)
    old, new = (code.folder() / f"tmp{n}{cache.PART}" for n in (1, 2))
    for path in (old, new):
        path.write_bytes(DATA)
    os.utime(old, (0, 0))
    code.mend()
    assert list(code.folder().iterdir()) == [new]
    assert code.kept().files == 0
