"""Tables and figures that can be run, by name."""

from __future__ import annotations

from collections.abc import Callable

from nnunet_anatomix.reproduce.plan import Table
from nnunet_anatomix.reproduce.pretraining_tables import figure_7, table_3
from nnunet_anatomix.reproduce.registration_tables import figure_5, table_2, table_4, table_5
from nnunet_anatomix.reproduce.segmentation_tables import figure_8, table_1, table_6
from nnunet_anatomix.reproduce.settings import Settings

TABLES: dict[str, Callable[[Settings], Table]] = {
    "table1": table_1,
    "table2": table_2,
    "table3": table_3,
    "table4": table_4,
    "table5": table_5,
    "table6": table_6,
    "figure5": figure_5,
    "figure7": figure_7,
    "figure8": figure_8,
}
