"""Reports of a model on labelled images: numbers, tables, pictures and a page. One
module for every kind of labels."""

from ._classes import (
    calibration_error as calibration_error,
    class_measures as class_measures,
    ClassEvaluation as ClassEvaluation,
    joined as joined,
    matrix_of as matrix_of,
    score as score,
    Scores as Scores,
    top as top,
)
from ._evaluation import Evaluation as Evaluation, evaluation as evaluation
from ._report import (
    page as page,
    Picture as Picture,
    Report as Report,
    Table as Table,
    write_page as write_page,
    write_report as write_report,
)
from ._rows import RowEvaluation as RowEvaluation
from ._run import report_run as report_run
