"""Explorers: pictures to take hold of. A cell ends with one, such as ``windows()``; see `base.py`."""

from pglearn.learn.explorers.certificate import Certificate as certificate
from pglearn.learn.explorers.fields import Fields as fields
from pglearn.learn.explorers.masking import Masking as masking
from pglearn.learn.explorers.tradeoff import Tradeoff as tradeoff
from pglearn.learn.explorers.windows import Windows as windows

__all__ = ["certificate", "fields", "masking", "tradeoff", "windows"]
