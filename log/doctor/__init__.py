"""What loses commands in Kafka, or makes balances wrong: the facts, and the judgement of them."""
