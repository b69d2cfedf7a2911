"""Whatever is written is read back, and whatever is not a pattern is refused in one line."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from unimat_powder.pattern import PatternError
from unimat_powder.reading import parse_text, read_pattern

points = st.lists(
    st.tuples(st.floats(0, 180), st.floats(-1e6, 1e12)),
    min_size=2,
    max_size=30,
    unique_by=lambda p: p[0],
).filter(lambda rows: max(y for _, y in rows) > 0)


@settings(max_examples=100)
@given(
    rows=points,
    separator=st.sampled_from([",", ";", "\t", " ", " , ", "  "]),
    header=st.sampled_from(["", "2theta intensity\n", "# comment\n", "x;y\n"]),
)
def test_what_is_written_is_read_back(rows, separator, header):
    rows = sorted(rows)
    text = header + "".join(f"{x!r}{separator}{y!r}\n" for x, y in rows)
    pattern = parse_text(text)
    assert list(zip(pattern.two_theta.tolist(), pattern.intensity.tolist(), strict=True)) == rows


@settings(max_examples=50)
@given(rows=points, separator=st.sampled_from([";", "\t", " "]))
def test_decimal_commas_are_read_back(rows, separator):
    rows = [(round(x, 4), round(y, 2)) for x, y in sorted(rows)]
    rows = [row for i, row in enumerate(rows) if i == 0 or row[0] > rows[i - 1][0]]
    text = "".join(f"{x:.4f}{separator}{y:.2f}\n" for x, y in rows).replace(".", ",")
    try:
        pattern = parse_text(text)
    except PatternError:  # rounding left one point, or no positive intensity
        assert len(rows) < 2 or max(y for _, y in rows) <= 0
    else:
        assert pattern.two_theta.tolist() == [x for x, _ in rows]
        assert pattern.intensity.tolist() == [y for _, y in rows]


numeric_noise = st.text(alphabet="0123456789.,;-+eE \t\n#naif", max_size=120)


number_text = st.one_of(
    st.sampled_from(
        ["10", "10.", ".5", "-2", "+3.5", "1e3", "1E-2", "10,5", "'7'", "nan", "#", ""]
    ),
    st.floats(0, 180).map(repr),
)
line_text = st.builds(
    "{0}{1}{2}{3}{4}{5}".format,
    st.sampled_from(["", " ", "\t", "# "]),
    number_text,
    st.sampled_from([" ", "\t", ",", ";", " , ", "; ", "  ", ""]),
    number_text,
    st.sampled_from(["", " ", " 3", ",4"]),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r", "\x0c", "\u2028"]),
)


@settings(max_examples=500)
@given(text=st.one_of(numeric_noise, st.lists(line_text, max_size=5).map("".join)))
@example(text="0. ,0")
def test_files_read_at_once_are_read_as_line_by_line(text):
    """A comment at the end makes the reader look at each line; it must not change anything else."""
    assert what_is_read(text) == what_is_read(text.rstrip() + "\n# the end")


def what_is_read(text):
    try:
        pattern = parse_text(text)
    except PatternError as error:
        return str(error).replace("is empty", "has no line with two numbers (2theta, intensity)")
    return pattern.two_theta.tolist(), pattern.intensity.tolist()


@settings(max_examples=200)
@given(text=st.one_of(st.text(max_size=120), numeric_noise))
def test_arbitrary_text_raises_nothing_but_pattern_errors(text):
    try:
        pattern = parse_text(text)
    except PatternError:
        return
    assert pattern.two_theta.isfinite().all()
    assert (pattern.two_theta.diff() > 0).all()
    assert pattern.intensity.max() > 0


@settings(max_examples=100)
@given(data=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_arbitrary_bytes_raise_nothing_but_pattern_errors(data, tmp_path_factory):
    for name in ("a.xy", "a.xrdml"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        try:
            read_pattern(path)
        except PatternError:
            continue
