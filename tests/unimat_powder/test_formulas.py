"""Formulas and lists of elements as people type them: read right, or refused with a reading."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition

from unimat_lib.views.composition import magpie_features
from unimat_powder.formulas import MAX_CHARACTERS, parse_elements, parse_formula

READ = {
    "TiO2": "Ti O2",
    "Ti O2": "Ti O2",
    "Fe 2 O 3": "Fe2 O3",
    "TiO₂": "Ti O2",
    "Fe_{2}O_{3}": "Fe2 O3",
    "Fe<sub>2</sub>O<sub>3</sub>": "Fe2 O3",
    **dict.fromkeys(
        [
            *("CuSO4.5H2O", "CuSO4·5H2O", "CuSO4•5H2O", "CuSO4*5H2O", "CuSO4∙5H2O", "CuSO4⋅5H2O"),
            *("CuSO4 . 5H2O", "CuSO4 · 5 H2O", "CuSO4 5H2O", "CuSO₄·5H₂O", "CuSO4(H2O)5"),
        ],
        "Cu S O9 H10",
    ),
    "CaSO4.0.5H2O": "Ca S O4.5 H",
    "CaSO4·1/2H2O": "Ca S O4.5 H",
    "Mg(OH)2.4H2O": "Mg O6 H10",
    "Al0.5H2O": "Al0.5 H2 O",
    "3CaO.2SiO2.3H2O": "Ca3 O10 Si2 H6",
    "CuO.Fe2O3": "Cu Fe2 O4",
    "Mn2+TiO3": "Mn Ti O3",
    "Fe²⁺TiO₃": "Fe Ti O3",
    "Fe2+2Ge4+O4": "Fe2 Ge O4",
    "Fe^2+^_2_Ge^4+^O_4_": "Fe2 Ge O4",
    "Mn2+Mn3+6O8(SiO4)": "Mn7 O12 Si",
    "Ca2Fe3+2O5": "Ca2 Fe2 O5",
    "Fe(III)2O3": "Fe2 O3",
    "[Cu(NH3)4]SO4": "Cu N4 H12 S O4",
    "K4[Fe(CN)6]·3H2O": "K4 Fe C6 N6 H6 O3",
    "(Fe0.6,Mg0.4)2SiO4": "Fe1.2 Mg0.8 Si O4",
    "Li(Ni1/2Mn1/2)O2": "Li Ni0.5 Mn0.5 O2",
    "D2O": "H2 O",
    "NaOD": "Na O H",
    "KD2PO4": "K H2 P O4",
    "Dy2O3": "Dy2 O3",
    "DyBO3": "Dy B O3",
    "C O": "C O",
    "CO2": "C O2",
    "K2CO3": "K2 C O3",
    "KH2PO4": "K H2 P O4",
    "VPO5": "V P O5",
    "Y(HO)3": "Y H3 O3",
    "Sn": "Sn",
    "C60": "C60",
    "Fe11.24 H2 O": "Fe11.24 H2 O",  # whose echo must not become iron and 24 water
}


@pytest.mark.parametrize("text", READ)
def test_formulas_are_read(text):
    expected = {e.symbol: n for e, n in Composition(READ[text]).items()}
    found = parse_formula(text)
    assert found.amounts_known
    assert dict(found) == pytest.approx(expected)
    assert dict(parse_formula(str(found))) == pytest.approx(expected)
    assert Composition(found.reduced).almost_equals(
        Composition(READ[text]).reduced_composition
    ) or (
        Composition(found.reduced).fractional_composition.almost_equals(
            Composition(READ[text]).fractional_composition
        )
    )


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("La1-xSrxMnO3", "La Sr Mn O"),
        ("YBa2Cu3O7-δ", "Y Ba Cu O"),
        ("YBa2Cu3O7-delta", "Y Ba Cu O"),
        ("YBa2Cu3O7-d", "Y Ba Cu O"),
        ("Fe1−xS", "Fe S"),
        ("Li1+xMn2O4", "Li Mn O"),
        ("LixCoO2", "Li Co O"),
        ("Lix", "Li"),
        ("(Fe,Mg)2SiO4", "Fe Mg Si O"),
        ("Ca5(PO4)3(OH,F,Cl)", "Ca P O H F Cl"),
        ("(Na,□)Al", "Na Al"),
        ("MgSO4·nH2O", "Mg S O H"),
        ("MgSO4.xH2O", "Mg S O H"),
    ],
)
def test_unknown_amounts_leave_the_elements(text, elements):
    found = parse_formula(text)
    assert not found.amounts_known
    assert list(found) == elements.split()
    assert all(map(math.isnan, found.values()))
    again = parse_formula(str(found))
    assert list(again) == elements.split() and not again.amounts_known
    with pytest.raises(ValueError, match="but not their amounts: give a number for each"):
        _ = found.reduced


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("TIO2", "write TiO2 if that is meant, or part the elements by spaces"),
        ("PBTIO3", "write PbTiO3 if"),
        ("SIO2", "SI may be one element or two: write SiO2 if"),
        ("COO", "write CoO if"),
        ("CO", "write Co if"),
        ("CDS", "write CdS if"),
        ("ND2O3", "write Nd2O3 if"),
        ("CD4", "write Cd4 if"),
        ("YB6", "write Yb6 if"),
        ("NACL", "write NaCl if"),
        ("FEO", "write FeO if"),
        ("tio2", "write TiO2 if"),
        ("CaSio3", "write CaSiO3 if"),
        ("T2O", "no element is written 'T2O'"),
        ("LiT", "no element is written 'T'"),
        ("X", "no element is written 'X'"),
        ("TiO2 rutile", "no element is written 'rutile'"),
        ("Na1.5H2O", "write the water with ·"),
        ("CaO.2SiO2", "may part or divide"),
        ("Fe.95O", "may part or divide"),
        ("Fe0,9O", "write decimals with a point"),
        ("Fe,Mg", "a comma outside brackets"),
        ("NO3-", "leave charges out"),
        ("H²O", "a superscript that is no charge"),
        ("水", "means nothing in it"),
        ("H0", "amounts from 0.001 to 1e[+]06"),
        ("H1/0", "amounts from 0.001"),
        ("H" + "9" * 180, "amounts from 0.001"),
        ("((H1000)1000)2", "amounts from 0.001"),
        ("()", "a bracket is empty"),
        ("(□)", "it names no element"),
        ("(H", r"a closing '\)' is missing"),
        ("(H]", r"a closing '\)' is missing"),
        ("H)", r"a bracket '\)' was never opened"),
        ("(" * 50 + "H" + ")" * 50, "more than 20 brackets"),
        ("H" * 500, "at most 200 characters"),
        ("TiO2.", "no element is written"),
        ("·TiO2", "nothing stands before or behind a dot"),
        ("", "an empty one came"),
        ("nan", "write NaN if"),
    ],
)
def test_what_is_unclear_is_refused_with_a_remedy(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_formula(text)
    assert str(caught.value).startswith("expected a chemical formula")


def test_something_else_than_text_is_refused():
    with pytest.raises(ValueError, match="expected a chemical formula such as TiO2, not NoneType"):
        parse_formula(None)


SYMBOLS = ["H", "B", "C", "N", "O", "F", "P", "S", "K", "V", "Y", "I", "W", "U", "Co", "Si", "Fe"]
SYMBOLS += ["Sn", "Dy", "Ho", "Hf", "Pb", "Os", "In", "Xe", "Po", "Pu"]
AMOUNTS = st.integers(1, 99) | st.integers(1, 9999).map(lambda n: n / 1000)


def written(amount):
    return "" if amount == 1 else f"{amount:g}"


@given(st.dictionaries(st.sampled_from(SYMBOLS), AMOUNTS, min_size=1, max_size=6))
def test_what_is_echoed_is_read_as_the_same(amounts):
    text = " ".join(name + written(n) for name, n in amounts.items())
    found = parse_formula(text)
    assert list(found) == list(amounts)
    assert dict(found) == pytest.approx(amounts)
    again = parse_formula(str(found))
    assert dict(again) == pytest.approx(amounts, abs=1e-6)
    assert str(again) == str(found)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 9), min_size=1, max_size=3),
            st.integers(1, 9),
            st.sampled_from(["()", "[]", "{}"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_brackets_multiply_as_in_pymatgen(groups):
    inner = [(" ".join(f"{e}{n}" for e, n in names.items()), k, b) for names, k, b in groups]
    text = " ".join(f"{b[0]}{names}{b[1]}{k}" for names, k, b in inner)
    reference = Composition(" ".join(f"({names}){k}" for names, k, _ in inner).replace(" ", ""))
    assert dict(parse_formula(text)) == {e.symbol: n for e, n in reference.items()}


@settings(max_examples=400)
@given(
    st.text(alphabet="HOTiFeDCax()[]{}0123456789.e+-*·, /\n\0éδ□₂²⁺^_<>", max_size=60)
    | st.text(max_size=20)
)
@example("Fe" * 100)
@example("(H)9" * 40)
def test_any_text_is_read_or_refused_in_one_line(text):
    for parse in (parse_formula, parse_elements):
        try:
            found = parse(text)
        except ValueError as error:
            assert 10 < len(str(error)) < 400 and str(error).isprintable()
        else:
            assert len(found) > 0
    if len(text) <= MAX_CHARACTERS:
        try:
            found = parse_formula(text)
        except ValueError:
            return
        again = parse_formula(str(found))
        assert list(again) == list(found) and again.amounts_known == found.amounts_known
        assert all(0 < n < math.inf for n in found.values()) or not found.amounts_known


def test_lists_of_elements():
    for text in ("Ti,O", "O, Ti", "Ti O", "Ti;O;", "Ti-O", "Ti/O", "Ti + O"):
        assert parse_elements(text) == {"Ti", "O"}
    assert parse_elements("D,O") == {"H", "O"}
    for text, reason in [
        ("", "but none came"),
        (" ,,", "but none came"),
        ("ti,o", r"but ti came: Ti\?"),
        ("SI,O", r"but SI came: Si\?"),
        ("Ti,Oo", "'Oo' came"),
        ("TiO", r"'TiO' came: Ti,O\?"),
        ("TiO2", "a formula is given as such"),
        ("T,O", "'T' came"),
        (None, "something else or too much"),
        ("O," * 1000, "something else or too much"),
    ]:
        with pytest.raises(ValueError, match=reason):
            parse_elements(text)


@pytest.mark.data
def test_formulas_of_the_data_are_read_as_pymatgen_reads_them(real_data_dir):
    """All of the measured patterns; of MP-20 all but those in capitals that could be another."""
    measured = pd.read_csv(real_data_dir / "experimental" / "rruff_labelled.csv")["formula"]
    columns = (
        pd.read_csv(path, usecols=["pretty_formula"], keep_default_na=False)["pretty_formula"]
        for path in sorted((real_data_dir / "mp_20").glob("*.csv*"))
    )
    names = sorted(set(itertools.chain(*columns)))[::10]
    refused = []
    for text in [*measured, *names]:
        try:
            found = parse_formula(text)
        except ValueError:
            refused.append(text)
            continue
        assert dict(found) == {e.symbol: n for e, n in Composition(text).items()}, text
    assert all(text.upper() == text for text in refused)
    assert not set(refused) & set(measured)
    assert len(refused) < 0.005 * len(names)


STRANGE = [
    *(
        "",
        " ",
        "((((",
        "))",
        "()",
        "Xx",
        "x" * 300,
        "H-1",
        "H0",
        "H{",
        "2",
        "*",
        "\0",
        "\n",
        "H\n(",
    ),
    *("H99999999999999999999", "H" + "9" * 180, "H1e400", "H1e-400", "Hnan", "Fe3+", "O2-", "H..2"),
    *("é", "H²O", "水", "𝐇2O", "\ud800", "H" * 10_000, "1" * 10_000, "TiO2;rm -rf", "%s{0}"),
    *("(" * 1000 + "H" + ")" * 1000, "[" * 90 + "H" + "]" * 90, "(H" * 90, "(H)9" * 40),
]


@pytest.mark.parametrize("formula", STRANGE, ids=lambda formula: ascii(formula[:12]))
def test_strange_formulas_are_read_or_refused_in_one_line(formula):
    check_one_line(formula)


@settings(max_examples=100)
@given(st.text(alphabet="HOTiFe()[]{}0123456789.e+-*·, \n\0é", max_size=60) | st.text(max_size=20))
def test_any_text_as_a_formula_is_read_or_refused_in_one_line(formula):
    check_one_line(formula)


def check_one_line(formula):
    """Features of the composition, or an error that fits into a line; nothing else is raised."""
    try:
        features = magpie_features([parse_formula(formula).reduced])
        assert bool(features.isfinite().all())
    except ValueError as error:
        assert 10 < len(str(error)) < 400 and str(error).isprintable()
