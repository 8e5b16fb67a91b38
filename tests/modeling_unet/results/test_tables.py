"""Tables: read back, they are what was written, and no spreadsheet takes a name for a formula or for two cells."""

import csv
import io
from pathlib import Path

import pytest

from modeling_unet.journal import Journal, Outcome, Source
from modeling_unet.tables import to_csv


def test_what_is_written_is_read_back():
    rows = [
        {"path": Path("a.png"), "found": True, "area": -1.5, "none": None},
        {"path": 'b, "c"; d.png', "found": False},
        {"path": "line\nbreak.png", "area": 0},
    ]
    table = to_csv(("path", "found", "area", "none"), iter(rows))
    assert table.splitlines()[:2] == ["path,found,area,none", "a.png,True,-1.5,"]
    assert list(csv.reader(io.StringIO(table))) == [
        ["path", "found", "area", "none"],
        ["a.png", "True", "-1.5", ""],
        ['b, "c"; d.png', "False", "", ""],
        ["line\nbreak.png", "", "0", ""],
    ]
    assert to_csv(("path",), []) == "path\n"


@pytest.mark.parametrize("name", ["=1+2.png", "+1.png", "-1.png", "@sum.png", "\t=1.png", "\r=1.png", "\n=1.png"])
@pytest.mark.parametrize("kind", [str, Path])
def test_names_are_no_formulas(name, kind):
    ((cell,),) = list(csv.reader(io.StringIO(to_csv(("path",), [{"path": kind(name)}]))))[1:]
    assert cell == f"'{name}"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["x{}=1+2{}.png", 'x"{}=1+2{}".png', '"{}=1+2'])
def test_names_are_one_cell_whatever_a_spreadsheet_separates_by(name, separator):
    name = name.replace("{}", separator)
    table = to_csv(("path", "area"), [{"path": name, "area": 1}])
    (cells,) = list(csv.reader(io.StringIO(table), delimiter=separator))[1:]
    assert cells[0].startswith(name)
    assert not any(cell.startswith("=") for cell in cells)


def test_the_table_of_the_command_line_has_no_formulas_either(tmp_path):
    journal = Journal(tmp_path, {"=1+2": Source.of_slice(Path("=1+2.png"))}, {})
    journal.add(Outcome("=1+2", {"error": "=1+2.png: the file is empty"}))
    journal.close()
    (row,) = csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text()))
    assert (row["path"], row["error"]) == ("'=1+2.png", "'=1+2.png: the file is empty")
