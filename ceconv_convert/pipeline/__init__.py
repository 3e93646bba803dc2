"""One run of the command line: load, plan, convert, verify, write, measure; or judge what is there."""

from ceconv_convert.pipeline.job import BenchJob, Job
from ceconv_convert.pipeline.run import run

__all__ = ["BenchJob", "Job", "run"]
