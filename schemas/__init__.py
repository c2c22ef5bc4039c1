"""The Avro records of the log and their wire format. Knows neither Kafka, nor PostgreSQL, nor the rules.

One `.avsc` a record holds its current schema; `lock.json` holds every version ever written, with its id, so that
no registry server is needed and a replay reads all of history.
"""
