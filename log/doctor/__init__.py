"""What loses commands in Kafka, or makes balances wrong: the facts, and the checks of them."""
