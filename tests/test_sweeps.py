"""What every run takes of the sweeps, what the exhaustive one takes, and over how many processes they are spread."""

from types import SimpleNamespace

import pytest
import workers
from hypothesis import given
from hypothesis import strategies as st
from sweeps import crossed, examples, run, selected

TESTPATHS, ARGS = pytest.Config.ArgsSource.TESTPATHS, pytest.Config.ArgsSource.ARGS


def values(parameters, exhaustive):
    """Return the values of the parameters that are exhaustive, or of those that are not."""
    sets = [p if hasattr(p, "marks") else pytest.param(p) for p in parameters]
    return [p.values for p in sets if any(mark.name == "exhaustive" for mark in p.marks) == exhaustive]


def test_every_file_has_tests_in_every_run():
    wholly = [str(path) for path, counts in run.files.items() if counts.keys() == {"exhaustive"}]
    assert wholly == []


def test_the_exhaustive_run_is_not_empty(pytestconfig):
    if pytestconfig.args_source is not TESTPATHS:
        pytest.skip("some tests were asked for, which may be no part of a sweep")
    assert sum(counts["exhaustive"] for counts in run.files.values()) > 100


def test_a_selection_holds_every_value_of_every_axis():
    parameters = crossed("abc", [1, 2], [None])
    taken, left = values(parameters, False), values(parameters, True)
    assert taken == [("a", 1, None), ("b", 2, None), ("c", 1, None)]
    assert len(taken) + len(left) == 6
    assert not {*taken} & {*left}


def test_what_is_kept_is_selected():
    parameters = selected(range(4), 2, 0)
    assert (values(parameters, False), values(parameters, True)) == ([(0,), (2,)], [(1,), (3,)])
    for kept in ((), (7,)):
        with pytest.raises(ValueError, match="must be some of"):
            selected(range(4), *kept)


@pytest.mark.parametrize(("exhaustive", "count"), [(True, 40), (False, 10)])
def test_a_property_stands_in_both_runs(monkeypatch, exhaustive, count):
    monkeypatch.setattr(run, "exhaustive", exhaustive)
    seen = []

    @given(st.floats())
    @examples(40)
    def holds(number):
        seen.append(number)

    holds()
    assert len(seen) == count
    assert [mark.name for mark in getattr(holds, "pytestmark", [])] == ["exhaustive"] * exhaustive


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ({}, True),
        ({"args_source": ARGS}, False),
        ({"numprocesses": 0}, False),
        ({"numprocesses": 3}, False),
        ({"usepdb": True}, False),
        ({"collectonly": True}, False),
        ({"worker": "gw0"}, False),
    ],
    ids=str,
)
def test_only_all_tests_are_spread_and_only_once(monkeypatch, given, spread):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if "worker" in given:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", given["worker"])
    option = SimpleNamespace(**{"numprocesses": None, "dist": "no", "usepdb": False, "collectonly": False} | given)
    workers.spread(SimpleNamespace(option=option, args_source=given.get("args_source", TESTPATHS)))
    assert (option.dist == "worksteal") == spread
    assert option.numprocesses == (min(workers.MOST, workers.cores()) if spread else given.get("numprocesses"))


def test_without_xdist_one_process_runs_all():
    option = SimpleNamespace(usepdb=False, collectonly=False)
    workers.spread(SimpleNamespace(option=option, args_source=TESTPATHS))
    assert not hasattr(option, "numprocesses")
