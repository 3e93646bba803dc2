"""What a person, or a pipeline, reads."""

from ceconv_convert.report.data import SCHEMA, VERSION, make_report
from ceconv_convert.report.write import REPORT_SUFFIXES, write_report

__all__ = ["REPORT_SUFFIXES", "SCHEMA", "VERSION", "make_report", "write_report"]
