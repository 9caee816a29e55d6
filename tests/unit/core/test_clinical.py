"""Clinical values as hospitals write them, and the 20 columns, each by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stic_core.data.clinical import (
    COLUMNS,
    MARKERS,
    VARIABLES,
    Levels,
    encode,
    level_of,
    read_levels,
)
from stic_core.data.clinical_texts import number_readings
from stic_core.errors import DataError

LEAST = {"age": "30", "gender": "female"}


def _ones(**values: str) -> set[str]:
    row = encode({**LEAST, **values})
    assert row.shape == (1, 20)
    assert set(np.unique(row)) <= {0.0, 1.0}
    return {COLUMNS[index] for index in np.flatnonzero(row[0])}


def test_columns_are_the_papers() -> None:
    """The order is part of the model: it is spelled out once more here."""
    assert ", ".join(COLUMNS) == (
        "Age_age2, Age_age3, Age_age4, Age_age5, Gender_male, PLT_abnormal, PLT_normal, TBIL_abnormal, "
        "TBIL_normal, AFP_abnormal1, AFP_abnormal2, AFP_normal, CA199_abnormal, CA199_normal, CEA_abnormal, "
        "CEA_normal, CA125_abnormal, CA125_normal, HBsAg_negative, HBsAg_positive"
    )
    assert ", ".join(VARIABLES) == "age, gender, plt, tbil, afp, ca199, cea, ca125, hbsag"


def test_a_patient_by_hand() -> None:
    """One value of each kind; the reference levels (below 40, female) have no column."""
    assert _ones() == set()
    assert _ones(
        age="061Y",
        gender="male",
        plt="95",
        tbil="17.1",
        afp="1,210.0",
        ca199="38.9",
        cea=">1000",
        hbsag="阳性",
    ) == {
        "Age_age4",
        "Gender_male",
        "PLT_abnormal",
        "TBIL_abnormal",
        "AFP_abnormal1",
        "CA199_normal",
        "CEA_abnormal",
        "HBsAg_positive",
    }
    assert _ones(hbsag="-", plt="101", ca125="36") == {"HBsAg_negative", "PLT_normal", "CA125_abnormal"}


@pytest.mark.parametrize(("variable", "value", "level"), [
    ("plt", "0", "abnormal"), ("plt", "100", "abnormal"), ("plt", "100.1", "normal"),
    ("tbil", "17.09", "normal"), ("tbil", "17.1", "abnormal"),
    ("afp", "0", "normal"), ("afp", "6.99", "normal"), ("afp", "7", "abnormal2"), ("afp", "399.9", "abnormal2"), ("afp", "400", "abnormal1"),
    ("ca199", "38.9", "normal"), ("ca199", "39", "abnormal"),
    ("cea", "9.9", "normal"), ("cea", "10", "abnormal"),
    ("ca125", "34.9", "normal"), ("ca125", "35", "abnormal"),
])  # fmt: skip
def test_thresholds(variable: str, value: str, level: str) -> None:
    """Both sides of every cut."""
    (reading,) = number_readings(value)
    assert level_of(variable, reading) == level


@pytest.mark.parametrize(("variable", "value", "strict", "authors"), [
    ("afp", ">500", "abnormal1", "abnormal1"),
    ("afp", ">=400", "abnormal1", "abnormal1"),
    ("afp", ">20", None, "abnormal1"),
    ("afp", "<7", "normal", "normal"),
    ("afp", "<=7", None, "normal"),
    ("afp", "<0.6", "normal", "normal"),
    ("afp", "<500", None, "normal"),
    ("plt", "<100", "abnormal", "abnormal"),
    ("plt", "<=100", "abnormal", "abnormal"),
    ("plt", ">100", "normal", "normal"),
    ("plt", ">=100", None, "normal"),
    ("plt", ">50", None, "normal"),
    ("cea", ">=10", "abnormal", "abnormal"),
    ("cea", "<10", "normal", "normal"),
])  # fmt: skip
def test_censored_values(variable: str, value: str, strict: str | None, authors: str | None) -> None:
    """A bound counts if it settles the level; the authors took any `>` for the highest one."""
    (reading,) = number_readings(value)
    assert level_of(variable, reading) == strict
    assert level_of(variable, reading, compat="authors") == authors


def test_units_are_converted() -> None:
    """1 mg/dL of bilirubin is 17.1 umol/L; an unknown unit is an error."""
    assert encode({**LEAST, "tbil": "1.0"}, units={"tbil": "mg/dL"})[0, COLUMNS.index("TBIL_abnormal")] == 1
    assert encode({**LEAST, "tbil": "0.99"}, units={"tbil": "mg/dL"})[0, COLUMNS.index("TBIL_normal")] == 1
    assert encode({**LEAST, "plt": "99000"}, units={"plt": "/uL"})[0, COLUMNS.index("PLT_abnormal")] == 1
    with pytest.raises(DataError, match="unit of afp") as caught:
        encode({**LEAST, "afp": "5"}, units={"afp": "umol/L"})
    assert (caught.value.got, caught.value.expected) == ("umol/L", "ng/mL or ug/L")


@pytest.mark.parametrize(("variable", "unit", "below", "above", "levels"), [
    ("plt", "/uL", "100000", "100001", ("abnormal", "normal")),
    ("plt", "10^9/L", "100", "100.001", ("abnormal", "normal")),
    ("tbil", "mg/dL", "0.999", "1", ("normal", "abnormal")),
    ("tbil", "umol/L", "17", "17.1", ("normal", "abnormal")),
    ("afp", "ug/L", "6.99", "7", ("normal", "abnormal2")),
    ("afp", "ng/mL", "6.99", "7", ("normal", "abnormal2")),
    ("ca199", "kU/L", "38.9", "39", ("normal", "abnormal")),
    ("ca199", "U/mL", "38.9", "39", ("normal", "abnormal")),
    ("cea", "ug/L", "9.9", "10", ("normal", "abnormal")),
    ("cea", "ng/mL", "9.9", "10", ("normal", "abnormal")),
    ("ca125", "kU/L", "34.9", "35", ("normal", "abnormal")),
    ("ca125", "U/mL", "34.9", "35", ("normal", "abnormal")),
])  # fmt: skip
def test_thresholds_in_each_unit(
    variable: str, unit: str, below: str, above: str, levels: tuple[str, str]
) -> None:
    """Both sides of a cut in every unit that a site may name."""
    readings = [one for text in (below, above) for one in number_readings(text, decimal="point")]
    assert tuple(level_of(variable, one, unit=unit) for one in readings) == levels


def test_a_value_below_every_bound_has_the_lowest_level() -> None:
    """Rounding may leave less than nothing; that is no tumour marker."""
    assert MARKERS["afp"].level(-1e-9) == "normal"
    assert MARKERS["plt"].level(-1e-9) == "abnormal"


def test_a_censored_value_is_encoded_as_the_site_reads_it() -> None:
    """`>20` of AFP settles nothing, unless it is read as the authors did."""
    assert encode({**LEAST, "afp": ">20"}).sum() == 0
    assert encode({**LEAST, "afp": ">20"}, compat="authors")[0, COLUMNS.index("AFP_abnormal1")] == 1


@pytest.mark.parametrize(("age", "column"), [("39", None), ("40", "Age_age2"), ("49", "Age_age2"), ("50", "Age_age3"), ("59", "Age_age3"), ("60", "Age_age4"), ("69", "Age_age4"), ("70", "Age_age5")])  # fmt: skip
def test_age_groups(age: str, column: str | None) -> None:
    """Cuts at 40, 50, 60, 70; below 40 is the reference."""
    assert _ones(age=age) == ({column} if column else set())


def test_missing_and_unsettled_are_told_apart() -> None:
    """Both are zero in all columns; the second deserves a warning."""
    levels = read_levels({**LEAST, "afp": ">20", "cea": "3"})
    assert levels == Levels(("CEA_normal",), ("plt", "tbil", "ca199", "ca125", "hbsag"), ("afp",))


def test_an_error_names_the_variable_and_not_the_value() -> None:
    """What stands in a cell may be a note about the patient."""
    for variable in ("age", "gender"):
        with pytest.raises(DataError) as caught:
            encode({**LEAST, variable: "Mrs. Smith"})
        assert "Smith" not in str(caught.value)
        assert variable in str(caught.value)


@pytest.mark.parametrize("variable", [*MARKERS, "hbsag"])
@pytest.mark.parametrize("text", ["Mrs. Smith", "haemolysed", "2024-03-05", "5-7", "20240305000"])
def test_a_text_that_is_not_understood_is_missing_and_listed(variable: str, text: str) -> None:
    """One note in a cell does not cost the patient, and is not passed over either."""
    levels = read_levels({**LEAST, variable: text})
    assert levels.columns == ()
    assert levels.unread == (variable,)
    assert variable in levels.missing


@pytest.mark.parametrize("text", ["", "  ", "NA", "n/a", "nan", "unbekannt", "未查"])
def test_words_for_no_value_are_missing_without_a_warning(text: str) -> None:
    """As an empty cell."""
    levels = read_levels({**LEAST, "afp": text, "hbsag": text})
    assert (levels.columns, levels.unread) == ((), ())
    assert {"afp", "hbsag"} <= set(levels.missing)


@pytest.mark.parametrize(("variable", "text", "readings"), [
    ("afp", "2,345", "2.345 or 2345"),
    ("afp", "6,500", "6.5 or 6500"),
    ("afp", ">1,000", "1 or 1000"),
    ("plt", "1.210", "1.21 or 1210"),
    ("cea", "６．５００", "6.5 or 6500"),
])  # fmt: skip
def test_a_number_with_two_readings_is_refused_with_both(variable: str, text: str, readings: str) -> None:
    """Until the site says which decimal mark its laboratory writes."""
    with pytest.raises(DataError, match=variable) as caught:
        read_levels({**LEAST, variable: text})
    assert caught.value.got == readings
    assert "dataset.decimal" in (caught.value.advice or "")


def test_a_number_with_two_readings_of_one_level_is_read() -> None:
    """Nobody is refused for a difference that makes none: 400.123 and 400123 are both above 400."""
    assert _ones(afp="401.123") == {"AFP_abnormal1"}
    assert _ones(plt="150.000") == {"PLT_normal"}


def test_the_decimal_mark_of_a_site_or_a_column_decides() -> None:
    """`6,500` is 6.5 in a laboratory that writes commas, and 6500 in one that writes points."""
    row = {**LEAST, "afp": "6,500", "cea": "1.210"}
    assert read_levels(row, decimal="comma").columns == ("AFP_normal", "CEA_abnormal")
    assert read_levels(row, decimal="point").columns == ("AFP_abnormal1", "CEA_normal")
    assert read_levels(row, decimal={"afp": "comma", "cea": "point"}).columns == ("AFP_normal", "CEA_normal")
    with pytest.raises(DataError, match="cea"):
        read_levels(row, decimal={"afp": "comma"})


def test_a_unit_in_the_cell_counts_more_than_the_sites() -> None:
    """1.2 mg/dL of bilirubin is 20.5 umol/L, whatever site.yaml says; an unknown unit is not guessed."""
    assert _ones(tbil="1.2 mg/dL") == {"TBIL_abnormal"}
    assert (
        encode({**LEAST, "tbil": "17 µmol/l"}, units={"tbil": "mg/dL"})[0, COLUMNS.index("TBIL_normal")] == 1
    )
    assert read_levels({**LEAST, "tbil": "1.2 mmol/L"}).unread == ("tbil",)


def test_a_value_that_no_patient_has_is_unread() -> None:
    """Platelets of 95000 are of another unit, and would be taken for normal."""
    assert read_levels({**LEAST, "plt": "95000"}).unread == ("plt",)
    assert _ones(plt="95000 /µl") == {"PLT_abnormal"}


def test_every_level_has_its_column() -> None:
    """No marker names a level that the vector lacks."""
    for marker in MARKERS.values():
        for level, _ in marker.levels:
            assert f"{marker.prefix}_{level}" in COLUMNS
