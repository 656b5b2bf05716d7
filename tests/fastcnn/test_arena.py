"""The arena: arrays that share places give the same bits as arrays that lie apart, and none is read after its time."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_networks import networks
from sweeps import examples

import fastcnn as fc
from fastcnn.backend import CACHE_LINE
from fastcnn.engine import liveness
from fastcnn.engine.arena import Slot, place
from fastcnn.engine.plan import Plan, run

BATCH = 2
RETURNS = ("nothing", "parameters", "inputs")


def lying_apart(slots, alignment):
    """Give every slot a place of its own."""
    end = 0
    for slot in slots:
        slot.offset = end
        end += -(-slot.size // alignment) * alignment
    return end


def make_plan(net, places, training, returns, fuse):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liveness, "place", places)
        plan = Plan(net.nodes, net.inputs, net.outputs, net.own_store(), BATCH, fuse, training, returns)
    plan.arena._bytes[:] = 0xFF  # NaN in both dtypes: what is read before it is written shows
    return plan


def results(plan, images, gradients, kept, between=lambda moment: None):
    """Run a plan as a step does, from the same states; return copies of all it fills."""
    states = [a for arrays in plan.store.state.values() for a in arrays.values()]
    for array, value in zip(states, kept, strict=True):
        array[...] = value
    plan.store.gradients[...] = 0
    plan.load(images)
    for step, calls in plan.forward_parts:
        run(calls)
        between((step, "forward"))
    filled = [y.copy() for y in plan.outputs]
    if plan.output_gradients:
        plan.load_gradients(gradients)
        for step, calls in plan.backward_parts:
            run(calls)
            between((step, "backward"))
    return [
        *filled,
        *(dx.copy() for dx in plan.input_gradients),
        plan.store.gradients.copy(),
        *(a.copy() for a in states),
    ]


def poisoner(plan):
    """Return what overwrites, after a step, the slots that are not needed any more."""
    steps = plan.steps
    times = {(step, "forward"): time for time, step in enumerate(steps, 1)}
    times |= {(step, "backward"): time for time, step in enumerate(reversed(steps), len(steps) + 1)}

    def poison(moment):
        for slot in plan._layout._slots:
            if slot.last == times[moment]:
                plan.arena._bytes[slot.offset : slot.offset + slot.size] = 0xFF

    return poison


def node_by_node(net, images, gradients, kept, training):
    """Return what `results` does, each node by a plan of its own: no array is shared, overwritten or handed on."""
    store, states = net.own_store(), [a for arrays in net.own_store().state.values() for a in arrays.values()]
    for array, value in zip(states, kept, strict=True):
        array[...] = value
    values, plans, sums = dict(zip(net.inputs, images, strict=True)), {}, np.zeros_like(store.gradients)
    for node in net.nodes:
        if node.layer is not None:
            ends = [fc.Input(*source.shape) for source in node.inputs]
            alone = node.layer(*ends)
            plans[node] = Plan([*ends, alone], ends, [alone], store, BATCH, False, training, "inputs")
            plans[node].load([values[source] for source in node.inputs])
            plans[node].forward()
            values[node] = plans[node].outputs[0].copy()
    totals = {node: np.zeros_like(value) for node, value in values.items()}
    for node, gradient in zip(net.outputs, gradients, strict=True):
        totals[node] += gradient
    for node in reversed(net.nodes):
        if node.layer is not None:
            store.gradients[...] = 0
            plans[node].load_gradients([totals[node]])
            plans[node].backward()
            sums += store.gradients
            for source, dx in zip(node.inputs, plans[node].input_gradients, strict=True):
                totals[source] += dx
    ys, dxs = ([found[node] for node in nodes] for found, nodes in ((values, net.outputs), (totals, net.inputs)))
    return [*ys, *dxs, sums, *(a.copy() for a in states)]


def check_against_nodes(net, images, gradients, kept):
    """Compare whole plans with `node_by_node`, up to the order of sums in float64."""
    ends = len(net.outputs)
    for training in (True, False):
        everything = node_by_node(net, images, gradients, kept, training)
        ys, dxs, (sums, *states) = everything[:ends], everything[ends:][: len(images)], everything[ends + len(images) :]
        for returns, filled in zip(RETURNS, ([0 * sums], [sums], [*dxs, sums]), strict=True):
            expected = [*ys, *filled, *states]
            for fuse in (True, False):
                found = results(make_plan(net, place, training, returns, fuse), images, gradients, kept)
                for ours, theirs in zip(found, expected, strict=True):
                    largest = max(1, abs(theirs).max(initial=0))
                    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * largest)


def arrays_for(net, seed):
    """Return images, gradients by the outputs, and copies of the states."""
    rng = np.random.default_rng(seed)
    images, gradients = (
        [rng.standard_normal((BATCH, *node.shape)).astype(net.dtype) for node in ends]
        for ends in (net.inputs, net.outputs)
    )
    return images, gradients, [a.copy() for arrays in net.own_store().state.values() for a in arrays.values()]


@pytest.mark.parametrize("device", ["cpu", "reference"])
@examples(200)
@given(network=networks(), seed=st.integers(0, 99))
def test_a_plan_does_what_its_nodes_do(device, network, seed):
    net = fc.Graph(*network).to(device).astype("float64")
    net.initialize(0)
    check_against_nodes(net, *arrays_for(net, seed))


@pytest.mark.parametrize("device", ["cpu", "reference"])
@examples(60)
@given(network=networks(), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99))
def test_sharing_places_changes_no_bit(device, network, dtype, seed):
    net = fc.Graph(*network).to(device).astype(dtype)
    net.initialize(0)
    images, gradients, kept = arrays_for(net, seed)
    for training in (True, False):
        for returns in RETURNS:
            for fuse in (True, False):
                how = training, returns, fuse
                shared, apart = (make_plan(net, places, *how) for places in (place, lying_apart))
                expected = results(apart, images, gradients, kept)
                assert all(np.isfinite(array).all() for array in expected), how
                runs = [(shared, None), (shared, None), (apart, poisoner(apart))]
                for plan, between in runs:
                    found = results(plan, images, gradients, kept, *([between] if between else []))
                    for ours, theirs in zip(found, expected, strict=True):
                        np.testing.assert_array_equal(ours, theirs, str(how))
                if returns == "inputs":
                    again = results(shared, images, gradients, kept)
                    shared.load_gradients(gradients)
                    shared.backward()
                    for dx, first in zip(shared.input_gradients, again[len(net.outputs) :], strict=False):
                        np.testing.assert_array_equal(dx, first, str(how))


@pytest.mark.parametrize("sources", ["aa", "aaa", "aab", "aba", "baa", "aabbb"])
def test_a_sum_may_hold_a_source_several_times(sources):
    x = fc.Input(3, 3, 2)
    nodes = {"a": fc.Gain(2)(x), "b": fc.Gain(2)(x)}
    joined = fc.Add()(*(nodes[name] for name in sources))
    net = fc.Graph(x, [joined, fc.ReLU()(nodes["b"])]).to("reference")  # b has a gradient before the sum goes back
    images = np.ones((BATCH, 3, 3, 2))
    net.forward(images)
    dx = net.backward(images, images)
    np.testing.assert_array_equal(dx, (len(sources) + 1) * images)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 6), st.integers(0, 4)), max_size=12))
def test_slots_alive_together_lie_apart(drawn):
    slots = [Slot(size, first, first + length) for size, first, length in drawn]
    end = place(slots, CACHE_LINE)
    assert end <= sum(-(-slot.size // CACHE_LINE) * CACHE_LINE for slot in slots)
    for number, one in enumerate(slots):
        assert one.offset % CACHE_LINE == 0
        assert one.offset + one.size <= end
        for other in slots[:number]:
            together = one.first <= other.last and other.first <= one.last
            if together and one.size and other.size:
                assert one.offset + one.size <= other.offset or other.offset + other.size <= one.offset


def test_a_chain_needs_far_less_than_its_arrays():
    layers = [
        layer for _ in range(8) for layer in (fc.Conv2d(4, 4, 3, padding=1, bias=False), fc.BatchNorm2d(4), fc.ReLU())
    ]
    net = fc.Sequential(*layers, input_shape=(16, 16, 4))
    plan = net.plan(4, training=False)
    assert plan.arena.size <= 4 * 4 * prod((16, 16, 4)) * 4
