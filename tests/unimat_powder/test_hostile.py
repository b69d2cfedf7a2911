"""Files that no diffractometer wrote: read or refused in one line, in seconds and little memory."""

from __future__ import annotations

import functools
import os
import random
import resource
import time

import pytest

from unimat_powder import reading, xrdml
from unimat_powder.pattern import PatternError
from unimat_powder.reading import parse_text, read_pattern
from unimat_powder.xrdml import parse_xrdml

GOOD = "".join(f"{10 + i / 5:.2f} {100 + 900 * (i % 40 == 0)}\n" for i in range(350))
XRDML = """<?xml version="1.0" encoding="UTF-8"?>
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/1.3"><xrdMeasurement>
<usedWavelength intended="K-Alpha 1"><kAlpha1 unit="Angstrom">1.540598</kAlpha1></usedWavelength>
<scan><dataPoints><positions axis="2Theta" unit="deg"><startPosition>10.0</startPosition>
<endPosition>80.0</endPosition></positions><intensities unit="counts">5 8 {} 7</intensities>
</dataPoints></scan></xrdMeasurement></xrdMeasurements>""".format("3 9 200 8 " * 90)
NUMBERS = [
    "1e400",
    "-1e400",
    "1e308",
    "9" * 100_000,
    "nan",
    "-inf",
    "0x1F",
    "1_0",
    "1e",
    "--1",
]
BOMB = (
    "<!DOCTYPE a [<!ENTITY b0 'ha'>"
    + "".join(f"<!ENTITY b{i} '{f'&b{i - 1};' * 10}'>" for i in range(1, 12))
    + "]>"
)
SECRET = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file://{}'>]>"


# ------------------------------------------------------------------------------- many broken files


STRANGE = [
    *(
        "\0",
        "\r",
        "\r\n",
        "\x1a",
        "\x0c",
        "\u2028",
        "\ufeff",
        "<",
        "&b9;",
        "<!--",
        "]]>",
        ";",
        "#",
        "é",
    ),
    *(
        " " * 10_000,
        "\t" * 999,
        "," * 999,
        '"' * 99,
        "1 " * 999,
        "\n" * 999,
        "٣",
        "1e-400",
        *NUMBERS,
    ),
]


def with_one_change(text: str, draw: random.Random) -> str:
    """A text with one place changed: cut, doubled, shuffled, or with something strange in it."""
    a, b = sorted(draw.randrange(len(text) + 1) for _ in range(2))
    strange = draw.choice(STRANGE)
    lines = text.splitlines(keepends=True)
    return draw.choice(
        [
            text[:a],
            text[a:],
            text[:a] + text[b:],
            text[:b] + text[a:],
            text[:a] + strange + text[a:],
            text[:a] + strange + text[b:],
            "".join(draw.sample(lines, len(lines))),
            text.replace(draw.choice(" .01"), draw.choice([",", ";", "", "\t", strange])),
        ]
    )


def broken_file(seed: int, secret: str) -> tuple[str, bytes]:
    """Suffix and content of one of all kinds of broken files."""
    draw = random.Random(seed)
    suffix = draw.choice([".xy", ".txt", ".dat", ".csv", ".xrdml", ".xrdml"])
    if draw.random() < 0.1:
        return suffix, draw.randbytes(draw.choice([0, 1, 2, 50, 4096]))
    text = XRDML if draw.random() < 0.5 else GOOD
    if draw.random() < 0.2:
        doctype = draw.choice([BOMB, SECRET.format(secret)])
        text = XRDML.replace("<xrdM", doctype + "<xrdM", 1).replace(
            "5 8", draw.choice(["&b11;", "&x;"])
        )
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        text = with_one_change(text, draw)
    encoding = draw.choice(
        ["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-7"]
    )
    text = text.replace("UTF-8", draw.choice(["UTF-8", encoding, "utf-99", "ascii"]))
    data = text.encode(encoding, "replace")
    for _ in range(draw.choice([0, 0, 0, 1, 9])):
        place = draw.randrange(len(data) + 1)
        data = data[:place] + draw.randbytes(draw.choice([1, 4])) + data[place + 1 :]
    return suffix, data


def check_broken_files(seeds, folder):
    secret = folder / "secret.txt"
    secret.write_text("5 8 7 4711")
    answers = 0
    for seed in seeds:
        suffix, data = broken_file(seed, str(secret))
        path = folder / f"scan{suffix}"
        path.write_bytes(data)
        begin = time.process_time()
        try:
            pattern = read_pattern(path)
        except PatternError as error:
            said = " ".join(str(error).split())  # as the command prints it
            assert said.isprintable() and "4711" not in said and len(said) < 600, seed
        else:
            answers += 1
            assert bool(pattern.two_theta.isfinite().all()), seed
            assert bool(pattern.intensity.isfinite().all()), seed
        assert time.process_time() - begin < 10, seed
        path.unlink()
    assert list(folder.iterdir()) == [secret]
    assert 0.02 < answers / len(seeds) < 0.9  # some are harmless: else nothing was tried


@pytest.mark.filterwarnings("error")
def test_two_hundred_broken_files(tmp_path):
    check_broken_files(range(200), tmp_path)


@pytest.mark.longer
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("error")
def test_two_thousand_broken_files(tmp_path):
    check_broken_files(range(1000, 3000), tmp_path)


# ---------------------------------------------------------------------------------- single attacks


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "ascii"])
@pytest.mark.parametrize("doctype", [BOMB, SECRET, "<!DOCTYPE a SYSTEM 'http://localhost/a.dtd'>"])
def test_a_document_type_is_refused_in_any_encoding(doctype, encoding):
    text = XRDML.replace("UTF-8", encoding).replace("<xrdM", doctype + "<xrdM", 1)
    with pytest.raises(PatternError, match=r"DOCTYPE a is not allowed|encoding"):
        parse_xrdml(text.replace("5 8", "&b11;").encode(encoding))


def test_large_files_are_refused_before_they_are_read(tmp_path):
    for suffix in (".xy", ".xrdml"):
        path = tmp_path / f"sparse{suffix}"
        path.touch()
        os.truncate(path, 2**40)  # a terabyte that takes no place
        with pytest.raises(PatternError, match="at most 16 MiB"):
            read_pattern(path)
    link = tmp_path / "endless.xy"
    link.symlink_to("/dev/zero")
    with pytest.raises(PatternError, match="folder or a device"):
        read_pattern(link)
    with pytest.raises(PatternError, match="folder or a device"):
        read_pattern(
            functools.reduce(lambda _, path: path.mkdir() or path, [tmp_path / "a.xy"], None)
        )
    os.mkfifo(tmp_path / "pipe.xy")
    with pytest.raises(PatternError, match="folder or a device"):
        read_pattern(tmp_path / "pipe.xy")


LONG = {
    "spaces": lambda n: " " * n,
    "digits": lambda n: "1" * n,
    "digits and a letter": lambda n: "1" * n + "x",
    "commas": lambda n: "," * n,
    "a gap": lambda n: "1" + " " * n + "x",
    "tabs and commas": lambda n: "1" + "\t," * (n // 2) + "x",
    "one line of numbers": lambda n: "10 " * (n // 3),
    "one line with commas": lambda n: "1,5," * (n // 4),
    "quotes": lambda n: "1" + '"' * n,
    "exponents": lambda n: "1e" * (n // 2),
    "points": lambda n: "1." * (n // 2),
    "signs": lambda n: "+" * n,
    "empty lines": lambda n: "\n" * n,
    "form feeds": lambda n: "1" + "\x0c" * n + "1",
    "short lines": lambda n: "1 1\n" * (n // 4),
    "short words": lambda n: "a\n" * (n // 2),
}


@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
@pytest.mark.parametrize("size", [2**20, pytest.param(50 * 10**6, marks=pytest.mark.longer)])
def test_no_text_takes_long(make, size):
    """The time grows with the length, not with its square: 30 s for 20,000 digits, once."""
    text = make(size)
    begin = time.process_time()
    with pytest.raises(PatternError) as raised:
        parse_text(text)
    assert time.process_time() - begin < (1 if size < 10**7 else 10)  # 0.6 s, 1 s
    assert len(str(raised.value)) < 300


TAGS = {
    "deep": lambda n: b"<a>" * (n // 7) + b"</a>" * (n // 7),
    "wide": lambda n: b"<s>" + b"<a/>" * (n // 4) + b"</s>",
    "scans": lambda n: b"<s>" + b"<scan/>" * (n // 7) + b"</s>",
    "attributes": lambda n: b"<s " + b" ".join(b"a%d=''" % i for i in range(n // 14)) + b"/>",
    "one tag": lambda n: b"<" + b"a" * n,
    "spaces": lambda n: b"<s>" + b" " * n + b"</s>",
    "a comment": lambda n: b"<!--" + b"- " * (n // 2),
    "numbers": lambda n: XRDML.replace("5 8", "10 " * (n // 3)).encode(),
}


@pytest.mark.parametrize("make", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize(
    "size", [2**20, pytest.param(reading._MAX_BYTES, marks=pytest.mark.longer)]
)
def test_no_document_takes_long(make, size):
    data = make(size)[:size]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with pytest.raises(PatternError) as raised:
        parse_xrdml(data)
    assert time.process_time() - begin < (1 if size < 10**7 else 10)  # 0.6 s, 1 s
    assert len(str(raised.value)) < 300
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert more < 1.5 * 2**20


def test_endless_documents_are_refused_by_their_tags(monkeypatch):
    monkeypatch.setattr(xrdml, "_MAX_TAGS", 40)
    with pytest.raises(PatternError, match="more than 40 tags"):
        parse_xrdml(b"<s>" + b"<a/>" * 40 + b"</s>")
    assert len(parse_xrdml(XRDML.encode()).two_theta) == 363


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_that_are_none_are_refused(number):
    for text in (GOOD.replace("100\n", f"{number}\n", 1), GOOD.replace("10.40 ", f"{number} ", 1)):
        with pytest.raises(PatternError) as raised:
            parse_text(text)
        assert len(str(raised.value)) < 300
