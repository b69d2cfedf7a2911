"""The command ``unimat`` and its Python twin, with a stand-in for the search."""

import io
import itertools
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import make_pattern, write_scan
from test_answer import ANATASE, RUTILE, curves

import unimat_powder.command
from unimat_book.measured import simulated_measurements
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder import pattern as pattern_module
from unimat_powder.answer import PERCENTAGES, Answer, Cell, SearchResult
from unimat_powder.command import identify, main
from unimat_powder.library.file import Library, embedded_library
from unimat_powder.pattern import PatternError

FIELDS = [
    *("file", "wavelength", "wavelength_from", "verdict", "probability", "verdict_text"),
    *("crystal_system", "space_group", "cells", "phases", "warnings"),
    *("refined", "lines"),
    "doubts",  # so few lines stand out of the scan
]


@pytest.fixture(autouse=True)
def no_library_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("UNIMAT_LIBRARY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture
def library():
    return embedded_library()


@pytest.fixture
def asked(monkeypatch):
    """What the search was asked; it answers rutile, or what ``asked.answer`` says."""
    record = SimpleNamespace(calls=[], answer=lambda: SearchResult([RUTILE, ANATASE], 0.2))

    def search(pattern, library, *, elements=None, formula=None):
        record.calls.append(SimpleNamespace(pattern=pattern, elements=elements, formula=formula))
        return record.answer()

    stand_in = SimpleNamespace(search=search)
    monkeypatch.setitem(sys.modules, "unimat_powder.search.search", stand_in)
    return record


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.xy")


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.xy"
    path.write_text("10.0 5\n10.1 six\n")
    return path


def run(*arguments):
    return main(["identify", *map(str, arguments)])


def objects(capsys):
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


def refusal(capsys, *arguments):
    """The one line on standard error with which arguments are refused."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "") and shown.err.count("\n") == 1
    return shown.err


def test_json_is_a_list_with_an_object_a_file(scan, library, asked, capsys):
    assert run(scan, scan, "--json", "--library", library) == 0
    one, two = objects(capsys)
    assert one == two and list(one) == FIELDS
    assert one["file"] == str(scan) and one["wavelength_from"] == "default"
    assert tuple(one["crystal_system"]) == CRYSTAL_SYSTEMS
    assert one["phases"][0]["material_id"] == RUTILE.material_id
    assert one["verdict"] == "tentative"


def test_the_table_says_what_counts(scan, library, asked, capsys):
    assert run(scan, "--library", library, "--wavelength", "1.5406") == 0
    shown = capsys.readouterr().out
    for text in (str(scan), "1.54060", "given by you", "tentative", "mp-2657", "2.9590", "60 %"):
        assert text in shown
    for name, what in PERCENTAGES.items():
        assert (what in shown) == (name != "space group")
    asked.answer = lambda: SearchResult([], 1.0)
    assert run(scan, "--library", library) == 0
    shown = capsys.readouterr().out
    assert "no confident answer" in shown and "assumed" in shown


def test_bad_files_do_not_stop_the_others(scan, bad, library, asked, tmp_path, capsys):
    gone = tmp_path / "gone.xy"
    assert run(bad, scan, gone, tmp_path, scan, "--json", "--library", library) == 2
    found = objects(capsys)
    assert [list(x) == ["file", "error"] for x in found] == [True, False, True, True, False]
    assert "line 2" in found[0]["error"]
    assert "no such file" in found[2]["error"]
    assert "folder" in found[3]["error"] and "give its files" in found[3]["error"]
    assert len(asked.calls) == 2


def test_a_bad_file_is_seen_in_the_table(bad, library, asked, capsys):
    assert run(bad, "--library", library) == 2
    shown = capsys.readouterr().out
    assert "error" in shown and "percentages" not in shown  # there are none


@pytest.mark.parametrize("error", [PatternError("bad.xy: too few lines"), KeyError("q"), OSError()])
def test_a_search_that_fails_costs_one_file(error, scan, library, asked, capsys):
    def fail():
        raise error

    asked.answer = fail
    assert run(scan, "--json", "--library", library) == 2
    assert set(objects(capsys)[0]) == {"file", "error"}


def test_elements_and_formula_reach_the_search(scan, library, asked, capsys):
    assert run(scan, "--json", "--elements", "Ti,O", "--library", library) == 0
    assert asked.calls[0].elements == {"Ti", "O"} and asked.calls[0].formula is None
    assert objects(capsys)[0]["elements"] == ["O", "Ti"]
    assert run(scan, "--json", "--formula", "Ti2O4", "--library", library) == 0
    assert asked.calls[1].elements == {"Ti", "O"}
    assert asked.calls[1].formula == "TiO2"
    answer = objects(capsys)[0]
    assert answer["elements"] == ["O", "Ti"] and answer["formula"] == "Ti2O4"


def test_a_formula_without_amounts_gives_its_elements(scan, library, asked, capsys):
    assert run(scan, "--json", "--formula", "(Fe,Mg)2SiO4", "--library", library) == 0
    assert asked.calls[0].elements == {"Fe", "Mg", "Si", "O"} and asked.calls[0].formula is None
    assert any("only its elements" in x for x in objects(capsys)[0]["warnings"])


def test_the_wavelength_wins(tmp_path, scan, library, asked, capsys):
    scan.write_text("# wavelength 1.789\n" + scan.read_text())
    assert run(scan, "--json", "--library", library) == 0
    assert run(scan, "--json", "--library", library, "--wavelength", "1.5406") == 0
    assert [x.pattern.wavelength for x in asked.calls] == [1.789, 1.5406]
    assert [x.pattern.wavelength_from for x in asked.calls] == ["file", "argument"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--elements", "Xx"], "Xx"),
        (["--elements", ""], "element"),
        (["--elements", "Ti,Ti O2;"], "element"),
        (["--formula", "TIO2"], "TiO2"),
        (["--formula", ""], "formula"),
        (["--formula", "((("], "formula"),
        (["--elements", "Ti", "--formula", "TiO2"], "not allowed with"),
        (["--wavelength", "nan"], "0.01 to 100 such as 1.5406, but 'nan' came"),
        (["--wavelength", "-1"], "0.01 to 100"),
        (["--wavelength", "1,54"], "0.01 to 100"),
        (["--wavelength", "inf"], "0.01 to 100"),
        (["--wavelength", "Xx"], "anode of the tube, such as Co"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message, scan, capsys):
    assert message in refusal(capsys, "identify", scan, *arguments)


def test_no_command_or_file_is_refused(capsys):
    assert "COMMAND" in refusal(capsys)
    assert "FILE" in refusal(capsys, "identify")
    assert "invalid choice" in refusal(capsys, "identity")


def test_a_tube_names_its_wavelength(scan, library, asked):
    assert run(scan, "--library", library, "--wavelength", "Co") == 0
    (call,) = asked.calls
    assert call.pattern.wavelength == pytest.approx(1.79028, abs=1e-5)
    assert call.pattern.wavelength_from == "argument"


def test_an_assumed_wavelength_that_no_crystal_vouches_for_is_doubted(scan, capsys, monkeypatch):
    cell = Cell(RUTILE.lengths, RUTILE.angles, RUTILE.volume, 0.9, 30.0, "indexing", "tP")
    cell = replace(cell, conventional=(4.594, 4.594, 2.959, 90.0, 90.0, 90.0))
    tetragonal = {"crystal_system": {"tetragonal": 0.9}, "cells": [cell]}
    answers = [
        Answer("a.xy", 1.54, "default", "tentative", phases=[], **tetragonal),
        Answer("b.xy", 1.54, "file", "tentative", phases=[], **tetragonal),
        Answer("c.xy", 1.54, "default", "none", phases=[], **tetragonal),
        Answer("d.xy", 1.54, "default", "tentative", phases=[RUTILE], **tetragonal),
    ]
    monkeypatch.setattr(unimat_powder.command, "_answers", lambda *_: iter(answers))
    assert run(*[scan] * 4, "--json") == 0
    said = [one["warnings"] for one in json.loads(capsys.readouterr().out)]
    assert [any("wavelength is assumed" in x for x in one) for one in said] == [1, 0, 0, 0]


def test_the_limits_of_a_wavelength_are_those_of_a_pattern():
    assert unimat_powder.command._WAVELENGTHS == pattern_module._WAVELENGTHS


def test_a_library_that_is_not_there(scan, tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone.safetensors"
    for place in (gone, tmp_path):
        said = refusal(capsys, "identify", scan, "--library", place)
        assert "unimat library build mp" in said and str(place) in said
    monkeypatch.setenv("UNIMAT_LIBRARY", str(gone))
    assert "unimat library build mp" in refusal(capsys, "identify", scan)


def test_a_damaged_library_is_refused(scan, library, tmp_path, capsys):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(library.read_bytes()[:-100])
    assert str(cut) in refusal(capsys, "identify", scan, "--library", cut)
    assert str(scan) in refusal(capsys, "identify", scan, "--library", scan)


def test_a_small_library_is_said_to_be_small(scan, library, asked, capsys):
    assert run(scan, "--json", "--library", library) == 0
    said = objects(capsys)[0]["warnings"]
    number = f"only {len(Library.open(library))} crystals"
    assert any(number in x and "unimat library build mp" in x for x in said)


def test_the_library_that_comes_along_is_the_default(scan, asked, capsys):
    assert run(scan, "--json") == 0
    assert any("crystals; 'unimat library build mp'" in x for x in objects(capsys)[0]["warnings"])


def test_a_report_has_a_page_for_each_answer(scan, bad, library, asked, tmp_path, capsys):
    asked.answer = lambda: SearchResult([RUTILE], 0.4, curves())
    folder = tmp_path / "new" / "report"
    assert run(scan, bad, scan, "--json", "--library", library, "--report", folder) == 2
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)) == 3 and "index.html" in shown.err
    pages = {"001-scan.xy.html", "003-scan.xy.html", "index.html"}
    assert {path.name for path in folder.iterdir()} == pages
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert "bad.xy" in index and "003-scan.xy.html" in index


def test_a_report_over_a_file_is_refused_at_once(scan, capsys):
    said = refusal(capsys, "identify", scan, "--report", scan)
    assert "expected a folder" in said and str(scan) in said


def test_library_commands_are_passed_on(library, capsys):
    assert main(["library", "show", str(library)]) == 0
    assert f"{len(Library.open(library))} crystals" in capsys.readouterr().out


def test_names_beyond_the_terminal_are_shown(scan, library, asked, monkeypatch):
    odd = scan.with_name("scän\udcff\x1b.xy")
    scan.rename(odd)
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run(odd, "--library", library) == 0
    assert run(odd, "--json", "--library", library) == 0
    out.flush()
    shown = out.buffer.getvalue().decode("ascii")
    assert r"sc\xe4n\udcff\x1b.xy" in shown


def test_rutile_is_recognised(tmp_path, library, capsys):
    """No stand-in: a computed pattern with noise, read and searched as any other."""
    grid = Grid(10.0, 90.0, 4001)
    lines = bragg_reflections(worked_crystal(), g_max=g_max_of(grid))
    clean = render(lines, torch.tensor([0]), grid, fwhm=0.15)[0].double()
    noise = torch.randn(len(clean), generator=torch.Generator().manual_seed(0))
    counts = 1e4 * clean + 200 + 15 * noise
    path = tmp_path / "rutile.xy"
    rows = zip(grid.two_theta.tolist(), counts.tolist(), strict=True)
    path.write_text("\n".join(f"{x:.3f} {y:.1f}" for x, y in rows))
    assert run(path, "--json", "--library", library, "--elements", "Ti,O") == 0
    (found,) = objects(capsys)
    best = found["phases"][0]
    assert (best["formula"], best["space_group"]) == ("TiO2", 136)
    cell = [found["cells"][0][name] for name in ("a", "b", "c", "alpha", "beta", "gamma")]
    assert cell == pytest.approx([2.958, 4.594, 4.594, 90, 90, 90], rel=0.01)
    assert sum(found["crystal_system"].values()) == pytest.approx(1)


# The Python twin.


def test_identify_takes_files_and_patterns(scan, bad, library, asked):
    pattern = make_pattern()
    found = identify([scan, pattern, str(bad)], library=library, elements=["Ti", "O"])
    assert [x.file for x in found] == [str(scan), "pattern 2", str(bad)]
    assert [x.error is None for x in found] == [True, True, False]
    assert asked.calls[1].pattern is pattern and asked.calls[1].elements == {"Ti", "O"}
    assert [x.verdict for x in identify(pattern, library=library)] == ["tentative"]
    assert identify([], library=library) == []


def test_identify_gives_a_pattern_another_wavelength(library, asked):
    pattern = replace(make_pattern(), wavelength=1.789, wavelength_from="file")
    assert identify(pattern, library=library)[0].wavelength_from == "file"
    found = identify(pattern, library=library, wavelength=1.5406)[0]
    assert (found.wavelength, found.wavelength_from) == (1.5406, "argument")


@pytest.mark.parametrize(
    "wrong",
    [{"elements": "Ti", "formula": "TiO2"}, {"elements": "Xx"}, {"wavelength": math.nan}],
)
def test_identify_refuses_wrong_arguments(wrong, library):
    with pytest.raises(ValueError):
        identify(make_pattern(), library=library, **wrong)


# As a process.

COMMAND = [sys.executable, "-m", "unimat_powder.command"]


def test_help_and_mistakes_are_answered_at_once(scan):
    for arguments in (["--help"], ["identify", "--help"], ["identify", scan, "--wavelength", "0"]):
        times = [children_seconds()]
        for _ in range(3):
            subprocess.run([*COMMAND, *arguments], capture_output=True, check=False)
            times.append(children_seconds())
        # 0.1 s on an idle core, 1.8 s with an import of torch.
        assert min(after - before for before, after in itertools.pairwise(times)) < 0.5


def children_seconds() -> float:
    """What the processes that this one started and that have ended took of a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_slow_imports_wait(scan):
    code = (
        "import sys; from unimat_powder.command import main\n"
        "try: main(['identify', 'x.xy', '--elements', 'Xx'])\n"
        "except SystemExit: pass\n"
        "print([x for x in ('torch', 'numpy', 'pandas', 'matplotlib') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_closed_pipe_is_quiet(scan, library):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*COMMAND, "identify", *[scan] * 2, "--library", library],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    os.close(writer)
    assert process.stderr.read() == b""
    assert process.wait(240) == 141
    process.stderr.close()


@pytest.mark.parametrize("moment", ["within an import", "after an answer"])
def test_ctrl_c_is_one_line(moment, scan, library):
    process = subprocess.Popen(
        [*COMMAND, "identify", *[scan] * 500, "--library", library],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if moment == "after an answer":
        assert process.stdout.readline()
    else:
        maps = Path(f"/proc/{process.pid}/maps")
        until = time.monotonic() + 240
        while "libtorch" not in maps.read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.stderr.read().decode().strip() == "interrupted"
    assert process.wait(240) == 130
    process.stdout.close()
    process.stderr.close()


def test_a_report_replaces_its_own_pages_only(tmp_path, scan, capsys):
    foreign = tmp_path / "site"
    foreign.mkdir()
    (foreign / "index.html").write_text("precious")
    assert main(["identify", str(scan), "--report", str(foreign)]) == 2
    assert "is not a report of unimat" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["index.html"]
    assert (foreign / "index.html").read_text() == "precious"
    for _ in range(2):  # the second one replaces the first
        assert main(["identify", str(scan), "--report", str(tmp_path / "own")]) == 0
    with pytest.raises(SystemExit):
        main(["identify", str(scan), "--report", ""])
    assert "expected the name of a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("wavelength", "said"), [("0.5", "left out"), ("100", "check the wave")])
def test_a_wavelength_that_cannot_be_is_no_fault_of_the_program(scan, wavelength, said, capsys):
    main(["identify", str(scan), "--wavelength", wavelength, "--json"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert "fault of the program" not in str(answer) and said in str(answer)


def test_noise_without_a_line_is_answered_by_nothing(tmp_path: Path) -> None:
    two_theta = np.linspace(10, 80, 3501)
    for seed in range(3):
        counts = np.random.default_rng(seed).poisson(100, len(two_theta))
        path = tmp_path / f"noise{seed}.xy"
        np.savetxt(path, np.column_stack([two_theta, counts]), fmt="%.3f")
        (answer,) = identify(path, library=embedded_library(), elements="Ti,O" if seed else None)
        assert answer.error is None and answer.verdict == "none"
        assert not any("elements" in text for text in answer.warnings)  # they are not to blame
        assert not answer.cells and not answer.phases and not answer.second_phase
        assert any("no line stood out" in text for text in answer.warnings)


def test_a_given_wavelength_is_named_as_what_everything_rests_on(tmp_path: Path) -> None:
    (measured,) = simulated_measurements(Library.open(embedded_library()), 1, seed=0)
    told, plain = (identify(measured.pattern, wavelength=w)[0] for w in (1.5418, None))
    said = [one.to_json()["warnings"] for one in (told, plain)]
    about = [any("everything here" in x and "1.5418 angstrom" in x for x in one) for one in said]
    assert about == [True, False]


def test_a_pattern_far_below_zero_is_raised(tmp_path: Path, library, asked) -> None:
    pattern = make_pattern()
    low = replace(pattern, intensity=pattern.intensity - 0.9 * pattern.intensity.max())
    (found,) = identify(low, library=library)
    assert any("negative" in text and "raised by" in text for text in found.warnings)
    seen = asked.calls[-1].pattern.intensity
    assert float(seen.min()) > -1e-6 * float(pattern.intensity.max())
    assert torch.allclose(seen.diff(), pattern.intensity.diff())
    identify(pattern, library=library)
    assert asked.calls[-1].pattern is pattern


@pytest.mark.parametrize(
    ("points", "said"),
    [([10.0, 10.01], "but came 2$"), ([10.0, 20.0], "but came 2$"), (range(1, 50), "but came 49$"),
     (np.linspace(10, 10.5, 60), "but came 60 within 0.5 degrees, as few as 26 in steps of 0.02")],
)  # fmt: skip
def test_points_are_counted_as_they_came(points, said, library):
    angles = torch.tensor(list(points), dtype=torch.float64)
    (found,) = identify(pattern_module.Pattern(angles, angles), library=library)
    assert "at least 50 points" in found.error and re.search(said, found.error)
