"""Descriptors: benchdnn's defaults, the sizes that follow, and a sentence for what is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn.bench.shapes.convolution import Convolution, parse
from fastcnn.errors import ShapeError


def test_full_descriptor():
    c = parse('mb16ic64ih56iw56oc64oh56ow56kh3kw3sh1sw1ph1pw1dh0dw0g1n"name"*4')
    assert c == Convolution(
        16,
        64,
        64,
        (1, 56, 56),
        (1, 56, 56),
        (1, 3, 3),
        (1, 1, 1),
        (0, 1, 1),
        (1, 1, 1),
        1,
        2,
        "name",
        4,
    )
    assert c.pads == ((0, 0), (1, 1), (1, 1))
    assert c.x_shape == (16, 1, 56, 56, 64)
    assert c.w_shape == (1, 3, 3, 64, 64)
    assert c.y_shape == (16, 1, 56, 56, 64)
    assert c.multiply_adds == 16 * 56 * 56 * 64 * 64 * 9
    assert c.elements == 2 * 16 * 56 * 56 * 64 + 9 * 64 * 64
    assert str(c) == 'mb16ic64ih56oc64oh56kh3ph1n"name"*4'


def test_short_descriptor_is_the_worked_value():
    c = parse("ic3ih32oc10kh5ph2").with_batch(1)
    assert c.output == (1, 32, 32)
    assert c.multiply_adds == 768_000


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ic1ih5oc1kh3", "mb2_ic1_ih5iw5_oc1oh3ow3_kh3kw3_sh1sw1_ph0pw0_dh0dw0"),
        ("oc1kh3ih5ic1", "ic1ih5oc1kh3"),
        ("ic2ih7oc2kh3sh2ph1dh1", "ic2ih7iw7oc2kh3kw3sh2sw2ph1pw1dh1dw1"),
        ("ic1ih5oc1oh5kh3", "ic1ih5oc1kh3ph1"),  # the padding that gives this output
        ("ic1id5oc1kd3", "ic1id5ih5iw5oc1kd3kh3kw3"),
        ("ic1ih5oc1kh3nplain", 'ic1ih5oc1kh3n"plain"'),
        ('ic1ih5oc1kh3n"old*3"', 'ic1ih5oc1kh3n"old"*3'),
        ("ic1ih5oc1kh3*2", 'ic1ih5oc1kh3n""*2'),
        (" ic1ih5oc1kh3\n", "ic1ih5oc1kh3"),
    ],
)
def test_equal_descriptors(text, same):
    assert parse(text) == parse(same)


def test_an_axis_with_keys_of_its_own_copies_nothing():
    c = parse("ic1ih9iw7oc1kh3kw2sh2")
    assert c.stride == (1, 2, 1)
    assert c.output == (1, 4, 6)


def test_rank_follows_the_largest_axis():
    assert [parse(t).rank for t in ("ic1iw5oc1kw3", "ic1ih5oc1kh3", "ic1id5oc1kd3")] == [1, 2, 3]
    signal = parse("mb3ic4iw50oc8kw5pw2")
    assert (signal.x_shape, signal.y_shape) == ((3, 1, 1, 50, 4), (3, 1, 1, 50, 8))


def test_padding_behind_follows_from_the_output():
    assert parse("ic3ih224oc64oh112kh7sh2ph3").pads[1] == (3, 2)
    assert parse("ic3ih224oc64oh113kh7sh2ph3").pads[1] == (3, 4)
    assert parse("ic8ih56oc8oh28kh1sh2ph0").pads[1] == (
        0,
        0,
    )  # the last column of pixels is never read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks ic"),
        ("ic3ih5kh3", "lacks oc"),
        ("ic3oc4", "lacks the image"),
        ("ic3ih5oc4", "lacks kh"),
        ("ic3kh5oc4", "lacks ih"),
        ("ic3ih5oc4kh3pw1", "lacks iw"),
        ("ic3ih5oc4kh3zz1", "'zz1'"),
        ("ic3ih5oc4kh", "'kh'"),
        ("ic3ih5oc4kh-3", "'kh-3'"),
        ("resnet51", "'resnet51'"),
        ("ic3ih5oc4kh3kh3", "kh is given twice"),
        ("ic3ih5oc4kh0", "kh is 0"),
        ("mb0ic3ih5oc4kh3", "mb is 0"),
        ("ic3ih5oc4kh3sh0", "sh is 0"),
        ("g2ic3ih5oc4kh3", "ic (=3) must be divisible by g (=2)"),
        ("g3ic3ih5oc4kh3", "oc (=4) must be divisible by g (=3)"),
        ("ic3ih5oc4kh6", "spans 6 along h, more than the padded image (5)"),
        ("ic3ih5oc4kh3dh4", "spans 11"),
        ("ic3ih5oc4oh7kh3ph1", "oh (=7) must lie between 4 and 6"),
        ("ic3ih5oc4oh3kh3ph1", "oh (=3) must lie between 4 and 6"),
        ("ic3ih5oc4oh500kh3", "oh (=500) must lie"),
        ('ic3ih5oc4kh3n"a"*0', "count is 0"),
        ('ic3ih5oc4kh3n"a"b', "is not a name and a count"),
    ],
)
def test_refused(text, words):
    with pytest.raises(ShapeError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"The descriptor '{text}' cannot be used")


@st.composite
def descriptors(draw):
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels, filters = (groups * draw(st.integers(1, 5)) for _ in range(2))
    text = f"mb{draw(st.integers(1, 4))}g{groups}ic{channels}oc{filters}"
    for axis in "dhw"[3 - rank :] if draw(st.booleans()) else "dhw"[3 - rank]:
        k, d, p = draw(st.integers(1, 5)), draw(st.integers(0, 2)), draw(st.integers(0, 3))
        i = draw(st.integers(max(1, (k - 1) * (d + 1) + 1 - 2 * p), 20))
        text += f"i{axis}{i}k{axis}{k}s{axis}{draw(st.integers(1, 4))}p{axis}{p}d{axis}{d}"
    return text + draw(st.sampled_from(["", 'n"x:1"', 'n"x:1"*7', "*3"]))


@given(descriptors())
def test_printing_and_parsing_are_inverse(text):
    c = parse(text)
    assert parse(str(c)) == c
    for i, o, k, s, d, (before, after) in zip(c.image, c.output, c.window, c.stride, c.dilation, c.pads, strict=True):
        assert (i + before + after - (k - 1) * d - 1) // s + 1 == o


@settings(deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3)
)  # fmt: skip
def test_needed_products_are_those_inside_the_image(i, o, k, s, before, d):
    c = Convolution(2, 3, 4, (1, 1, i), (1, 1, o), (1, 1, k), (1, 1, s), (0, 0, before), (1, 1, d))
    inside = sum(0 <= out * s + tap * d - before < i for out in range(o) for tap in range(k))
    assert c.needed_multiply_adds == inside * 2 * 3 * 4 <= c.multiply_adds
