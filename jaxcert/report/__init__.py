"""What a run writes and shows: its files, a table for the terminal, an HTML report."""

from jaxcert.report.boxes import BOX_KEYS
from jaxcert.report.files import RunFiles
from jaxcert.report.page import write_report
from jaxcert.report.stored import (
    GROWN_KEYS,
    RECORD_KEYS,
    STATUSES,
    Record,
    Run,
    read_run,
)
from jaxcert.report.summary import sentence, summarise
from jaxcert.report.table import table

__all__ = [
    "BOX_KEYS",
    "GROWN_KEYS",
    "RECORD_KEYS",
    "STATUSES",
    "Record",
    "Run",
    "RunFiles",
    "read_run",
    "sentence",
    "summarise",
    "table",
    "write_report",
]
