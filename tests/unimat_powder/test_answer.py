"""What a search found becomes an answer: verdict, classes, cells, words, JSON, pages."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from small import make_pattern

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, crystal_system_index
from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.answer import (
    CONFIDENT,
    PERCENTAGES,
    TENTATIVE,
    Answer,
    Curves,
    Lattice,
    Match,
    SearchResult,
    make_answer,
    percent,
    space_group_prior,
    symbol_of,
    system_of,
    verdict_of,
)
from unimat_powder.bravais import lines_of
from unimat_powder.index.observed import Observed, to_two_theta
from unimat_powder.report import draw, index_row, page_name, write_index, write_page

RUTILE = Match("mp-2657", "TiO2", 136, (2.959, 4.594, 4.594), (90.0,) * 3, 62.45, 0.95, 0.6, 31.0)
ANATASE = Match("mp-390", "TiO2", 141, (3.78, 5.44, 5.44), (92.0, 110, 110), 68.0, 0.8, 0.2, 12.0)
EVEN = space_group_prior(np.arange(1, 231))


def answer_of(*matches, none=0.0, prior=EVEN, **more):
    result = SearchResult(matches, none, **more)
    return make_answer(result, make_pattern(), file="scan.xy", prior=prior)


@pytest.mark.parametrize(
    "probability, verdict",
    [(1.0, "confident"), (CONFIDENT, "confident"), (0.8999, "tentative"), (TENTATIVE, "tentative"),
     (0.4999, "none"), (0.0, "none")],
)  # fmt: skip
def test_verdict_follows_the_best_match(probability, verdict):
    assert verdict_of(probability) == verdict
    found = answer_of(replace(RUTILE, probability=probability), none=1 - probability)
    assert found.verdict == verdict


def test_doubt_keeps_a_sure_answer_from_being_confident():
    sure = replace(RUTILE, probability=0.97)
    found = answer_of(sure, none=0.03, doubts=("so few lines prove no cell",))
    assert found.verdict == "tentative" and found.probability == pytest.approx(0.97)
    assert "so few lines prove no cell" in found.verdict_text
    assert "alternatives" not in found.verdict_text
    assert found.to_json()["verdict_text"] == found.verdict_text
    assert found.to_json()["doubts"] == ["so few lines prove no cell"]
    assert answer_of(sure, none=0.03).verdict == "confident"
    assert "doubts" not in answer_of(sure, none=0.03).to_json()
    both = answer_of(replace(RUTILE, probability=0.7), none=0.3, doubts=("few lines",))
    assert "few lines; check it against the alternatives" in both.verdict_text
    unlikely = answer_of(replace(RUTILE, probability=0.2), none=0.8, doubts=("few lines",))
    assert unlikely.verdict == "none"


def test_one_lattice_with_its_axes_in_another_order_is_one_cell():
    one = replace(
        RUTILE, lengths=(7.113, 7.613, 7.618), angles=(115.0, 106.8, 100.7), space_group=2
    )
    other = replace(one, lengths=(7.111, 7.617, 7.621), angles=(115.1, 100.7, 106.8))
    found = answer_of(*(replace(x, probability=0.45) for x in (one, other)), none=0.1)
    assert len(found.cells) == 1 and found.probability == pytest.approx(0.9)


def test_systems_of_space_groups():
    numbers = range(1, 231)
    expected = [CRYSTAL_SYSTEMS[i] for i in crystal_system_index(list(numbers)).tolist()]
    assert [system_of(number) for number in numbers] == expected


def test_symbols_of_space_groups():
    expected = {1: "P1", 14: "P21/c", 15: "C2/c", 62: "Pnma", 152: "P3121", 166: "R-3m"}
    assert {number: symbol_of(number) for number in expected} == expected


def test_classes_gather_their_matches_and_the_prior():
    prior = space_group_prior(np.repeat([225, 62], [3000, 1000]))
    found = answer_of(RUTILE, ANATASE, none=0.2, prior=prior)
    systems = found.crystal_system
    assert tuple(systems) == CRYSTAL_SYSTEMS
    assert sum(systems.values()) == pytest.approx(1)
    assert systems["tetragonal"] == pytest.approx(0.8, abs=1e-3)
    assert systems["cubic"] == pytest.approx(0.2 * 0.75, rel=0.02)
    assert systems["orthorhombic"] == pytest.approx(0.2 * 0.25, rel=0.02)
    assert 0 < systems["triclinic"] < 1e-3  # unseen, not impossible
    groups = dict(found.space_group)
    assert list(groups)[:3] == [136, 141, 225] and len(groups) == 10
    assert groups[136] == pytest.approx(0.6, abs=1e-3)


def test_what_the_list_leaves_out_counts_as_unknown():
    # Ten matches are shown; those beyond are as unknown as what the library lacks.
    found = answer_of(replace(RUTILE, probability=0.3), none=0.1)
    assert found.crystal_system["tetragonal"] < 0.3 + 0.7 * 0.4
    assert sum(found.crystal_system.values()) == pytest.approx(1)
    too_sure = answer_of(replace(RUTILE, probability=0.9), replace(ANATASE, probability=0.3))
    assert sum(too_sure.crystal_system.values()) == pytest.approx(1)


def test_no_match_is_an_answer():
    found = answer_of(none=1.0)
    assert found.verdict == "none" and found.phases == () and found.cells == ()
    assert sum(found.crystal_system.values()) == pytest.approx(1)
    assert "no confident answer" in str(found) and "crystal system" not in str(found)
    assert json.loads(json.dumps(found.to_json()))["phases"] == []


def test_matches_with_one_cell_share_it():
    tin = replace(
        RUTILE, material_id="mp-856", formula="SnO2", lengths=(2.965, 4.6, 4.6), probability=0.25
    )
    found = answer_of(replace(RUTILE, probability=0.3), replace(ANATASE, probability=0.4), tin)
    assert [cell.lengths for cell in found.cells] == [RUTILE.lengths, ANATASE.lengths]
    assert [cell.probability for cell in found.cells] == pytest.approx([0.55, 0.4])
    assert [match.material_id for match in found.phases] == ["mp-390", "mp-2657", "mp-856"]
    turned = replace(RUTILE, angles=(90.0, 90.0, 92.0))
    assert len(answer_of(replace(RUTILE, probability=0.4), turned).cells) == 2


def test_lists_have_at_most_ten():
    many = [
        replace(RUTILE, material_id=f"m{i}", lengths=(3.0 + i, 20.0, 21.0), probability=0.05)
        for i in range(15)
    ]
    found = answer_of(*many).to_json()
    assert [len(found[name]) for name in ("phases", "cells", "space_group")] == [10, 10, 10]


def test_json_has_the_promised_fields():
    found = answer_of(RUTILE, ANATASE, none=0.2).to_json()
    assert list(found) == [
        *("file", "wavelength", "wavelength_from", "verdict", "probability", "verdict_text"),
        *("crystal_system", "space_group", "cells", "phases", "warnings"),
    ]
    assert found["probability"] == 0.6 and "tetragonal, 60 %" in found["verdict_text"]
    assert found["wavelength_from"] == "default" and found["wavelength"] == 1.54184
    assert sum(found["crystal_system"].values()) == pytest.approx(1, abs=1e-9)
    assert found["space_group"][0] == {"number": 136, "probability": pytest.approx(0.6, abs=0.01)}
    cell = found["cells"][0]
    assert list(cell) == [
        *("a", "b", "c", "alpha", "beta", "gamma"),
        *("volume", "probability", "figure_of_merit", "from", "lattice", "conventional"),
    ]
    assert (cell["a"], cell["gamma"], cell["from"]) == (2.959, 90.0, "library")
    assert cell["lattice"] == "tP"
    assert cell["conventional"] == {
        **{"a": 4.594, "b": 4.594, "c": 2.959, "alpha": 90.0, "beta": 90.0, "gamma": 90.0},
        "volume": pytest.approx(62.45, abs=0.01),
    }
    assert found["phases"][1] == {
        **{"material_id": "mp-390", "formula": "TiO2", "space_group": 141},
        **{"probability": 0.2, "score": 0.8},
    }


def test_json_holds_finite_numbers_only():
    odd = replace(RUTILE, figure_of_merit=math.inf, volume=np.float64(62.4))
    text = json.dumps(answer_of(odd).to_json(), allow_nan=False)
    assert json.loads(text)["cells"][0]["figure_of_merit"] is None


def test_a_failure_says_only_what_failed():
    failed = Answer("bad.xy", error="bad.xy: no numbers")
    assert failed.to_json() == {"file": "bad.xy", "error": "bad.xy: no numbers"}
    assert "no numbers" in str(failed) and failed.verdict == "none"


def test_everything_known_is_said_once():
    pattern = replace(make_pattern(), notes=("two scans were summed",))
    strained = replace(RUTILE, warnings=("strained by 2 %", "two scans were summed"))
    result = SearchResult([strained], 0.4, second_phase=[ANATASE], warnings=("weak texture",))
    found = make_answer(
        result, pattern, file="x.xy", prior=EVEN, warnings=["few lines"], elements=["O", "Ti"],
        formula="TiO2",
    )  # fmt: skip
    assert found.warnings[:4] == (
        *("two scans were summed", "few lines", "weak texture", "strained by 2 %"),
    )
    assert "second phase" in found.warnings[4] and len(found.warnings) == 5
    answer = found.to_json()
    assert answer["second_phase"][0]["material_id"] == "mp-390"
    assert answer["elements"] == ["O", "Ti"] and answer["formula"] == "TiO2"
    for text in ("P42/mnm (136)", "I41/amd (141)", "exactly O, Ti, as TiO2", "few lines"):
        assert text in str(found)


@pytest.mark.parametrize(
    "origin, words", [("file", "stated by the file"), ("argument", "given"), ("default", "assumed")]
)
def test_the_wavelength_and_its_origin_are_said(origin, words):
    pattern = replace(make_pattern(), wavelength_from=origin)
    found = make_answer(SearchResult([RUTILE], 0.4), pattern, file="x.xy", prior=EVEN)
    assert words in str(found) and "1.5418" in str(found)
    assert found.to_json()["wavelength_from"] == origin


def test_the_conventional_cell_stands_beside_the_niggli_cell():
    said = str(answer_of(RUTILE, ANATASE))
    assert "4.5940  4.5940  2.9590 angstrom" in said and "conventional cell, tP, " in said
    assert "2.9590  4.5940  4.5940 angstrom" in said and "its Niggli cell of 62.45 cubic" in said
    cubic = replace(RUTILE, space_group=221, lengths=(4.1,) * 3, volume=68.92)
    assert "conventional and Niggli cell of 68.92 cubic angstrom, cP, " in str(answer_of(cubic))


def test_a_lattice_of_two_systems_has_the_letters_of_the_likelier():
    square = {"lengths": (5.0, 5.0, 7.0), "angles": (90.0,) * 3, "volume": 175.0}
    for system, letters in (("orthorhombic", "oP"), ("tetragonal", "tP"), ("monoclinic", "mP")):
        one = Lattice(**square, system=system, groups={}, probability=0.6, figure_of_merit=1.0)
        other = replace(one, system="triclinic", probability=0.3)
        (cell,) = answer_of(lattices=(one, other)).cells
        assert cell.lattice == letters and cell.probability == pytest.approx(0.9)


def test_a_metric_of_more_symmetry_than_its_lattice_is_named(tmp_path):
    cube = {"lengths": (2.486,) * 3, "angles": (90.0,) * 3, "volume": 15.36}
    one = Lattice(**cube, system="monoclinic", groups={4: 1.0}, probability=0.6, figure_of_merit=1)
    found = answer_of(lattices=(one,))
    assert "angstrom, mP (metrically cubic), probability" in str(found)
    assert found.to_json()["cells"][0]["metrically"] == "cubic"
    write_page(found, tmp_path / "page.html")
    assert "mP (metrically cubic)" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for system in ("cubic", "monoclinic"):  # and where they agree nothing is said
        plain = replace(one, system=system)
        if system == "monoclinic":
            plain = replace(plain, lengths=(2.4, 2.5, 2.6), angles=(90.0, 95.0, 90.0))
        assert "metrically" not in str(answer_of(lattices=(plain,)))


@pytest.mark.parametrize("elements", [(), ("O", "Ti")])
def test_a_likely_phase_with_another_cell_is_no_silence(elements):
    first = replace(RUTILE, probability=0.87)
    found = replace(answer_of(first, lattices=(UNKNOWN,)), elements=elements)
    assert found.verdict == "confident" and not found.agrees(first)
    said = found.verdict_text
    assert "likeliest phase, TiO2 (P42/mnm, 87 %), has another cell" in said
    assert "one of the two is wrong" in said and "none of the library" not in said
    assert said.endswith("check the elements") == bool(elements)
    unlikely = replace(found, phases=(replace(first, probability=0.04),), elements=())
    assert "none of the library with this cell is likely" in unlikely.verdict_text


def test_the_first_cell_has_standard_errors_and_lines(tmp_path):
    rutile = torch.tensor([4.5937, 4.5937, 2.9587]), torch.full((3,), 90.0)
    angles = to_two_theta(lines_of(*rutile, 1.0).numpy(), CU_K_ALPHA)[:12]
    observed = Observed.from_lines([*angles, 30.7], sigma=0.01)
    found = make_answer(
        SearchResult([RUTILE], 0.0), make_pattern(), file="x.xy", prior=EVEN, observed=observed
    )
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    refined = said["refined"]
    assert (refined["lattice"], refined["explained"], refined["lines"]) == ("tP", 12, 13)
    assert (refined["a"], refined["c"]) == pytest.approx((4.5937, 2.9587), abs=1e-4)
    assert 0 < refined["errors"]["a"] == refined["errors"]["b"] < 0.01
    assert refined["errors"]["alpha"] is None
    assert said["lines"][0] == {
        **{"two_theta": pytest.approx(angles[0], abs=1e-5), "hkl": [1, 0, 0]},
        **{
            "computed": pytest.approx(angles[0], abs=1e-3),
            "difference": pytest.approx(0, abs=1e-3),
        },
    }
    strange = [line for line in said["lines"] if line["hkl"] is None]
    assert strange == [{"two_theta": 30.7, "hkl": None, "computed": None, "difference": None}]
    assert re.search(
        r"4\.59\d+\(\d+\)  4\.59\d+\(\d+\)  2\.9\d+\(\d+\) angstrom  90  90  90", str(found)
    )
    assert "12 of 13 lines" in str(found)
    write_page(found, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "1 0 0" in page and page.count("not explained") == 1 and "standard errors" in page


def test_too_few_lines_for_standard_errors_are_said_to_be(tmp_path):
    observed = Observed.from_lines([27.4, 36.1], sigma=0.01)
    found = make_answer(
        SearchResult([RUTILE], 0.0), make_pattern(), file="x.xy", prior=EVEN, observed=observed
    )
    assert found.to_json()["refined"]["errors"] is None
    assert "no standard errors: the cell explains" in str(found)
    write_page(found, tmp_path / "page.html")
    assert "no standard errors" in (tmp_path / "page.html").read_text(encoding="utf-8")


UNKNOWN = Lattice((5.0, 6.0, 7.0), (90.0,) * 3, 210.0, "orthorhombic", {62: 1.0}, 0.97, 30.0)


@pytest.mark.parametrize("probability", [0.97, 0.6])
@pytest.mark.parametrize(
    "phases",
    [(), (replace(RUTILE, probability=0.4),), (replace(RUTILE, volume=210.0, probability=0.4),)],
    ids=["none", "another cell", "another system"],
)
def test_elements_that_no_likely_crystal_has_are_doubted(probability, phases, tmp_path):
    lattices = (replace(UNKNOWN, probability=probability),)
    found = answer_of(*phases, none=0.97, lattices=lattices)
    assert "check the elements" not in found.verdict_text
    asked = replace(found, elements=("O", "Ti"))
    assert asked.verdict == verdict_of(probability)
    assert asked.verdict_text.endswith("check the elements")
    assert asked.to_json()["verdict_text"] == asked.verdict_text
    assert "check the formula" in replace(asked, formula="TiO2").verdict_text
    alike = replace(RUTILE, volume=211.0, space_group=62, probability=0.06)
    assert "check the elements" not in replace(asked, phases=(alike,)).verdict_text
    unlikely = replace(alike, probability=0.03)
    assert "check the elements" in replace(asked, phases=(unlikely,)).verdict_text
    write_page(asked, tmp_path / "page.html")  # also where the library has nothing to name
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Orthorhombic <small>oP 5.000" in source and "check the elements" in source
    assert "<td>orthorhombic " in index_row(asked, "page.html")


def test_each_percentage_of_a_page_is_explained_once(tmp_path):
    write_page(answer_of(RUTILE, ANATASE), tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert [text.count(f"probability {what}.") for what in PERCENTAGES.values()] == [1] * 5


def test_a_table_ends_where_nothing_is_likely():
    few = [replace(RUTILE, material_id=f"m{i}", probability=0.001) for i in range(8)]
    said = str(answer_of(replace(RUTILE, probability=0.9), *few))
    assert "m1" in said and "m2" not in said and "and 6 more, each of less than 1 %" in said
    assert len(answer_of(*few).to_json()["phases"]) == 8


def test_a_second_phase_is_no_certainty(tmp_path):
    found = answer_of(RUTILE, second_phase=[ANATASE])
    write_page(found, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    for text in (str(found), page):
        assert "erhaps a second phase" in text and "may hold a second phase" in text


@pytest.mark.parametrize(
    "probability, text",
    [(0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.994, "99 %"), (0.9999, ">99 %"), (1, "100 %")],
)
def test_percent_claims_no_certainty(probability, text):
    assert percent(probability) == text


def test_a_name_cannot_write_to_the_terminal():
    found = replace(answer_of(RUTILE), file="a\x1b[2J\nb\udcff.xy")
    assert "\x1b" not in str(found) and str(found).splitlines()[0] == r"a\x1b[2J\nb\udcff.xy"


# Pages.


class Page(HTMLParser):
    """Text of a page, and whether its elements close in order."""

    void = frozenset({"meta", "br", "img", "link"})

    def __init__(self, source):
        super().__init__()
        self.open, self.text, self.ids, self.links = [], "", [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids += [known["id"]] if "id" in known else []
        self.links += [known[x] for x in ("src", "href", "xlink:href") if x in known]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def curves(points=4000, background=True):
    x = np.linspace(10, 90, points)
    level = 50 + 300 * np.exp(-x / 20)
    peaks = 900 * np.exp(-((x - 27.4) ** 2) / 0.02)
    noise = np.random.default_rng(0).normal(0, 3, points)
    return Curves(
        x,
        peaks * 1.1 + level + noise,
        peaks + level,
        level if background else None,
        np.array([27.4, 200.0]),
    )


def test_a_page_is_whole_and_needs_nothing_else(tmp_path):
    tag = "<script>alert(1)</script> \x1b.xy"
    found = replace(answer_of(RUTILE, ANATASE, none=0.2, curves=curves()), file=tag)
    write_page(found, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(source)
    assert "<script" not in source and "<script>alert(1)</script> \\x1b.xy" in page.text
    for text in ("TiO2", "mp-2657", "mp-390", "2.9590", "60\xa0%", "tetragonal", "1.54184"):
        assert text in page.text
    assert len(page.ids) == len(set(page.ids)), "one name twice in a page"
    outside = [x for x in page.links if not x.startswith("#")]
    assert outside == ["index.html"]
    assert "http" not in re.sub(r"(<!DOCTYPE|xmlns)[^>]*>", "", source)
    assert len(source) < 600_000


@pytest.mark.parametrize("matches", [(), (replace(RUTILE, probability=0.1),)])
def test_a_page_without_a_confident_answer_says_so(matches, tmp_path):
    write_page(answer_of(*matches, none=0.9), tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "No confident answer" in text


def test_a_page_says_what_confident_means_and_why_an_answer_is_not(tmp_path):
    doubted = answer_of(replace(RUTILE, probability=0.97), doubts=("so few lines prove no cell",))
    write_page(doubted, tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "so few lines prove no cell" in text
    rule = "90\xa0%, and that of 6 lines or more the cell leaves at most 15\xa0% unexplained"
    assert rule in " ".join(text.split(" "))


def test_a_page_names_no_crystal_that_is_one_of_many(tmp_path):
    alike = [replace(RUTILE, formula=f"Ti{x}O2", probability=0.31) for x in (2, 3, 4)]
    found = answer_of(*alike, none=0.07)
    assert found.verdict == "confident"
    write_page(found, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<p class="best">Tetragonal <small>tP 4.594 × 4.594 × 2.959 Å' in source
    write_page(answer_of(replace(RUTILE, probability=0.95)), tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<p class="best">TiO<sub>2</sub>' in source


def test_the_same_answer_gives_the_same_page(tmp_path):
    found = answer_of(RUTILE, curves=curves())
    for name in ("one.html", "two.html"):
        write_page(found, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_drawn_curves_keep_their_peaks():
    dense = curves(points=100_000)
    main, ticks, below = draw(dense, (8, 5)).axes
    lines = {line.get_label(): line.get_xydata() for line in main.get_lines()}
    assert set(lines) == {"measured", "background", "computed"}
    assert len(lines["measured"]) < 5000
    assert lines["measured"][:, 1].max() == dense.measured.max()
    assert lines["measured"][:, 1].min() == dense.measured.min()
    assert (np.diff(lines["measured"][:, 0]) > 0).all()
    assert len(ticks.collections[0].get_segments()) == 1  # the line at 200 degrees lies outside
    difference = np.sqrt(dense.measured) - np.sqrt(dense.computed)
    assert below.get_lines()[1].get_ydata().max() == difference.max()
    assert len(draw(replace(dense, computed=None), (4, 4)).axes) == 1


def test_index_lists_every_file(tmp_path):
    answers = [
        answer_of(replace(RUTILE, probability=0.95)),
        answer_of(none=1.0),
        Answer("<bad>.xy", error="line 3: <nothing>"),
    ]
    pages = [page_name(i, found.file) for i, found in enumerate(answers, 1)]
    rows = [index_row(found, page) for found, page in zip(answers, pages, strict=True)]
    write_index(rows, tmp_path / "index.html")
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.links == pages[:2]
    assert page.text.count("scan.xy") == 2 and "tetragonal 96\xa0%TiO2, P42" in page.text
    for text in ("3 files", "scan.xy", "confident", "<bad>.xy", "line 3: <nothing>", "not read"):
        assert text in page.text


def test_names_of_pages_are_safe_and_differ():
    names = [page_name(i, x) for i, x in enumerate(("a/b.xy", "a/b.xy", "../..", "ü\n?.xy"), 1)]
    assert len(set(names)) == 4 and names[0] == "001-b.xy.html"
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+\.html", name) for name in names)
    assert len(page_name(1, "x" * 500)) < 80


def test_counts_below_zero_can_be_drawn(tmp_path):
    x = np.linspace(5, 60, 300)
    below = Curves(x, np.sin(x) - 0.5, np.sin(x), np.zeros(300), np.zeros(0))
    write_page(answer_of(RUTILE, curves=below), tmp_path / "page.html")
    assert "TiO2" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
