"""Rules by which a receiver combines what it received with what it had."""

from tacit.aggregation.mean import Mean
from tacit.aggregation.rule import Aggregation

__all__ = ["Aggregation", "Mean"]
