"""Kafka as a log: its topics, records and readers, and what can be wrong with it. Knows no rule and no PostgreSQL."""

from creditfold.common.extras import require

require("read")
