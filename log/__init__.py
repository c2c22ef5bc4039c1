"""Kafka as a log: its topics, its records, readers and what can be wrong with it. Knows no rule and no PostgreSQL."""

from creditfold.common.extras import require

require("read")
