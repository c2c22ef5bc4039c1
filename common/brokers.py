"""Reports whether a client of librdkafka still finds Kafka: the work-around of confluentinc/librdkafka, issue 5301.

librdkafka from 2.11 on may forget every broker when Kafka restarts, and then never looks for one again. The owner
of a client that has received nothing for long asks here, and replaces one that finds no broker by a new one. Owns the
question; when it is asked, and what becomes of the client's records, is the owner's decision.
"""

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer


def finds_kafka(client: Consumer | Producer, topic: str, timeout_s: float) -> bool:
    """Whether a client reaches a broker within some seconds. One that is connected and slow counts as reached."""
    try:
        client.list_topics(topic, timeout_s)
    except KafkaException as error:
        return bool(error.args[0].code() != KafkaError._TRANSPORT)
    return True
