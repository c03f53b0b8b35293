"""Understudy: synthetic MR slices that stand in for patients' images - are they useful, and are they copies?"""

from importlib.metadata import version

__version__ = version("understudy")
