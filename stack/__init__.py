"""The settings, and the servers that they name: the topic, and the embedded Kafka and PostgreSQL."""

from creditfold.common.extras import require

require("read")
