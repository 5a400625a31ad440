"""One self-contained HTML file about a run or a comparison."""

from tacit.report.page import write

__all__ = ["write"]
