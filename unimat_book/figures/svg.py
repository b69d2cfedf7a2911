"""A figure in, a compact SVG out, the same bytes each time.

Letters are outlines, so that they look the same everywhere. What matplotlib writes is halved:
coordinates get two decimals and count from the one before, names are short, metadata are left out.
"""

import hashlib
import io
import re
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MAX_BYTES = 120_000
DENSE = 400  # points above which an artist of a figure that is too large becomes a picture
RASTER_DPI = (180, 144, 100)  # the finest that is small enough

_SETTINGS = {"svg.fonttype": "path", "svg.hashsalt": "unimat", "path.simplify_threshold": 0.25}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"


def compact_svg(figure: Figure) -> str | None:
    """SVG of a figure below `MAX_BYTES`; None where that cannot be.

    Where it would be larger, artists of more than `DENSE` points become pictures inside it.
    """
    text = _compact(_written(figure, RASTER_DPI[0]))
    if len(text) > MAX_BYTES:
        dense = [artist for artist in figure.findobj() if _points(artist) > DENSE]
        before = [artist.get_rasterized() for artist in dense]
        for artist in dense:
            artist.set_rasterized(True)
        for dpi in RASTER_DPI:
            if len(text) > MAX_BYTES:
                text = _compact(_written(figure, dpi))
        for artist, old in zip(dense, before, strict=True):
            artist.set_rasterized(old)
    return text if len(text) <= MAX_BYTES else None


def _written(figure: Figure, dpi: float) -> str:
    """What matplotlib writes."""
    buffer = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, dpi=dpi)
    return buffer.getvalue()


def _points(artist: Artist) -> int:
    """How many points an artist writes."""
    if isinstance(artist, Line2D):
        return len(artist.get_xdata(orig=False))
    if isinstance(artist, Collection):
        paths = artist.get_paths()
        return max(sum(len(path) for path in paths), len(artist.get_offsets()))
    return 0


def _compact(text: str) -> str:
    """The same drawing in fewer letters."""
    text = text[text.index("<svg") :]
    text = re.sub(r'\bd="([^"]*)"', lambda found: f'd="{_relative(found[1])}"', text)
    text = re.sub(r'clip-path="(url[^"]*)" style="([^"]*)"', r'style="\2;clip-path:\1"', text)
    text = re.sub(r'style="([^"]*)"', lambda found: f'style="{_tight(found[1])}"', text)
    text = re.sub(r'(\b(?:x|y|width|height)=")([^"]+)(?=")', _rounded, text)
    text = re.sub(rf'transform="translate\(({_NUMBER}) 0\)"', _shifted, text)
    text = re.sub(r"\(([-\d. ]+)\)", _rounded_all, text)
    text = re.sub(r">\s+<", "><", text).replace("xlink:href=", "href=")
    text = re.sub(r"<!--.*?-->|<g>\s*</g>", "", text)
    text = re.sub(r'\s+(?=/>)|(?<=[\w"])\n\s*(?=/?>)', "", text)
    # Two figures may share a page: a mark of what is drawn, as matplotlib's names are of chance.
    mark = "u" + hashlib.sha256(_short_names(text, "").encode()).hexdigest()[:4]
    return _short_names(_classes(text, mark), mark) + "\n"


def _tight(style: str) -> str:
    return re.sub(r"\s*([:;,])\s*", r"\1", style).strip("; ")


def _plain(value: float, digits: int = 2) -> str:
    """A number in as few letters as it takes."""
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return re.sub(r"^(-?)0\.", r"\1.", "0" if text == "-0" else text)


def _rounded(found: re.Match[str]) -> str:
    try:
        return found[1] + _plain(float(found[2]))
    except ValueError:  # with a unit
        return found[0]


def _shifted(found: re.Match[str]) -> str:
    return f'x="{_plain(float(found[1]))}"'


def _rounded_all(found: re.Match[str]) -> str:
    return (
        "("
        + " ".join(_plain(float(x), 5 if abs(float(x)) < 2 else 2) for x in found[1].split())
        + ")"
    )


def _relative(path: str) -> str:
    """Path data with coordinates that count from the point before, in hundredths."""
    written, here, start, last = [], (0, 0), (0, 0), ""
    for command, numbers in _commands(path):
        points = [
            tuple(round(100 * x) for x in pair)
            for pair in zip(numbers[::2], numbers[1::2], strict=True)
        ]
        if command in "Zz":
            written.append("z")
            here, last = start, "z"
            continue
        shifts = [value - old for point in points for value, old in zip(point, here, strict=True)]
        if command == "M":
            name, shifts = "M", list(points[0])
            start = points[0]
        else:
            name = command.lower()
            if name == "l" and shifts == [0, 0]:
                continue
            if name == "l" and 0 in shifts:
                name, shifts = ("v", shifts[1:]) if shifts[0] == 0 else ("h", shifts[:1])
        here = points[-1]
        words = _joined(shifts)
        repeated = name == last and name != "M"
        written.append(
            ("" if not repeated else "" if words[0] == "-" else " ") + words
            if repeated
            else name + words
        )
        last = name
    return "".join(written)


def _joined(hundredths: list[int]) -> str:
    words = ""
    for number in hundredths:
        word = _plain(number / 100)
        words += word if not words or word[0] == "-" else f" {word}"
    return words


def _commands(path: str) -> Iterator[tuple[str, list[float]]]:
    for found in re.finditer(r"([MLQCZz])([^MLQCZz]*)", path):
        yield found[1], [float(number) for number in found[2].split()]


def _classes(text: str, mark: str) -> str:
    """Looks that many elements have, written once."""
    looks = re.findall(r' style="([^"]*)"', text)
    often = [look for look in dict.fromkeys(looks) if looks.count(look) * len(look) > 80]
    often = [look for look in often if looks.count(look) > 2]
    names = {look: f"{mark}{chr(97 + k // 26)}{chr(97 + k % 26)}" for k, look in enumerate(often)}

    def named(found: re.Match[str]) -> str:
        return f' class="{names[found[1]]}"' if found[1] in names else found[0]

    text = re.sub(r' style="([^"]*)"', named, text)
    rules = "".join(f".{name}{{{look}}}" for look, name in names.items())
    return text.replace("</style>", rules + "</style>", 1)


def _short_names(text: str, mark: str) -> str:
    """Names only for what is used, and short."""
    used = list(dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', text)))
    names = {old: f"{mark}{k:x}" for k, old in enumerate(used)}

    def kept(found: re.Match[str]) -> str:
        return f' id="{names[found[1]]}"' if found[1] in names else ""

    text = re.sub(r'\s*\bid="([^"]*)"', kept, text)
    text = re.sub(r'(href="|url\()#([^")]+)', lambda m: f"{m[1]}#{names[m[2]]}", text)
    for _ in range(3):  # groups that say nothing, from the inside out
        text = re.sub(r"<g>((?:<(?!g\b|/g>)[^>]*>)*)</g>", r"\1", text)
    return text
