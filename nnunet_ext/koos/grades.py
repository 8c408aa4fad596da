"""Grades on disk: the challenge's CSV (`"case","class"`), and a JSON that also has the probabilities."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from nnunet_ext.errors import InputError
from nnunet_ext.files import atomic_path, write_json

COLUMNS = ("case", "class")


class Grade(NamedTuple):
    """A predicted grade; `probabilities` (class -> probability) is empty where no tumour was found."""

    grade: int
    probabilities: dict[int, float]


def read_grades(source: Path, classes: Collection[int], columns: tuple[str, str] = COLUMNS) -> dict[str, int]:
    """Case -> grade from a CSV with a header; further columns are left alone, and rows with an empty grade left out.

    Raises:
        InputError: naming the line, for a missing column, a grade that is no declared class, or a case named twice.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{source}: no such file, a CSV of grades is needed") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not readable as text ({error}), a CSV of grades is needed") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    if missing := [c for c in columns if c not in (reader.fieldnames or ())]:
        found = ", ".join(reader.fieldnames or ()) or "nothing"
        raise InputError(
            f"{source}: no column {missing[0]} in its first line ({found}), {' and '.join(columns)} needed"
        )
    grades: dict[str, int] = {}
    for row in reader:
        case, value = ((row[column] or "").strip() for column in columns)
        where = f"{source}, line {reader.line_num}"
        if not value:
            continue
        if not case:
            raise InputError(f"{where}: a grade {value} without a case, a name is needed")
        if case in grades:
            raise InputError(f"{where}: a second grade for {case}, exactly one is needed")
        try:
            grade = float(value)
        except ValueError:
            grade = float("nan")
        if grade not in classes:
            raise InputError(f"{where}: grade {value} of {case}, one of {', '.join(map(str, classes))} is needed")
        grades[case] = int(grade)
    if not grades:
        raise InputError(f"{source}: holds no grades, at least one is needed")
    return grades


def write_csv(grades: Mapping[str, int], target: Path) -> None:
    """The challenge's form: a header, then a line per case with its name in quotes."""
    with atomic_path(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(grades.items())


def write_predictions(predictions: Mapping[str, Grade], classes: Collection[int], target: Path) -> None:
    """Both files: `target`, and beside it the same name ending in `.json`, with probabilities."""
    write_csv({case: p.grade for case, p in predictions.items()}, target)
    content = {case: as_json(p) for case, p in predictions.items()}
    write_json(target.with_suffix(".json"), {"classes": list(classes), "cases": content})


def as_json(prediction: Grade) -> dict[str, object]:
    """One case's entry; `probabilities` is null where no tumour was found."""
    probabilities = {str(c): round(p, 6) for c, p in prediction.probabilities.items()} or None
    return {"class": prediction.grade, "probabilities": probabilities, "tumour_found": probabilities is not None}
