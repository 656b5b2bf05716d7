"""What is said of compilations, by a clock made up here."""

import pytest

from fastcnn.kernels.cpu.runtime import compiling
from fastcnn.kernels.cpu.runtime.compiling import NOTICEABLE, SENTENCE, Watch


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set, as clock["now"]."""
    time = {"now": 100.0}
    monkeypatch.setattr(compiling, "perf_counter", lambda: time["now"])
    return time


@pytest.fixture
def watch():
    """A watch, and the list of what it says."""
    made, said = Watch(), []
    made.say = said.append
    return made, said


def compile_for(seconds, watch, clock):
    watch.begin()
    clock["now"] += seconds
    watch.end()


def test_short_compilations_are_not_worth_a_word(watch, clock):
    compile_for(NOTICEABLE / 4, watch[0], clock)
    clock["now"] += 1000.0  # other work
    compile_for(NOTICEABLE / 4, watch[0], clock)
    compile_for(0.0, watch[0], clock)
    assert watch[1] == []


def test_it_is_said_once_and_before_the_next_one(watch, clock):
    for _ in range(4):
        compile_for(NOTICEABLE / 2, watch[0], clock)
    assert watch[1] == [SENTENCE]


def test_it_is_said_within_a_long_one_when_its_parts_are_compiled(watch, clock):
    watch[0].begin()
    compile_for(NOTICEABLE / 2, watch[0], clock)
    assert watch[1] == []
    compile_for(NOTICEABLE / 2, watch[0], clock)
    watch[0].begin()
    assert watch[1] == [SENTENCE]


def test_by_default_only_a_terminal_sees_it(capsys, monkeypatch):
    compiling.say_on_terminal("one")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    compiling.say_on_terminal("two")
    assert capsys.readouterr() == ("", "two\n")


def test_who_says_it_is_chosen_for_a_while(monkeypatch):
    monkeypatch.setattr(compiling, "watch", Watch())
    said = []
    with compiling.announced(said.append):
        compiling.watch.say("one")
    assert (said, compiling.watch.say) == (["one"], compiling.say_on_terminal)
