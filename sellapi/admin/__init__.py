"""Every act of an operator, one method each, used by the command line and the screens alike."""

from sellapi.admin.service import Admin
from sellapi.admin.views import to_json
from sellapi.admin.words import clean, csv_cell

__all__ = ["Admin", "clean", "csv_cell", "to_json"]
