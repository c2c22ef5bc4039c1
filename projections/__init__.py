"""Balances, journal, dead letters and progress in PostgreSQL. Owns all SQL; knows neither Faust nor HTTP."""

from creditfold.common.extras import require

require("read")
